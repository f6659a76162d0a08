import gc
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.testing import tiny_params
from ariel_jax.training.checkpoints import Checkpoints
from ariel_jax.training.loop import LoopConfig, identity, train
from ariel_jax.training.metrics import MetricsLog, Progress, read_metrics
from ariel_jax.training.optimizer import OptimizerConfig, make_optimizer
from ariel_jax.training.step import LayerSkip, LMGrad

PROGRAM = pathlib.Path(__file__).with_name("runs.py")

# After a failed write or read, coroutines and callbacks of Orbax and tensorstore die unheard.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.collect()  # while this module's filter holds


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def make_run(cfg, source, folder):
    """Trains as `runs.py` does, in this process; every call continues in the same folder."""

    def run(steps, *, into=folder, dropout=0.5, **changes):
        loop = {"checkpoint_every_s": 1e9, "log_every": 1} | changes.pop("loop", {})
        options = {
            "grad_fn": LMGrad(cfg=cfg, layerskip=LayerSkip(max_dropout=dropout)),
            "tx": make_optimizer(OptimizerConfig(lr=1e-2, steps=20, warmup_steps=2)),
            "source": source,
            "folder": into,
            "config": LoopConfig(steps=steps, **loop),
        }
        return train(tiny_params(cfg, seed=1), **(options | changes))

    return run


def start(*arguments, **options):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROGRAM.parents[2],
        **options,
    )


def test_killed_and_continued_equals_uninterrupted(make_run, folder, token_files, tmp_path):
    process = start(folder, *token_files, "--kill-at", 6)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL, errors
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    continued = make_run(8)
    whole = make_run(8, into=tmp_path / "whole")
    assert bits(continued.params) == bits(whole.params)
    rows = [
        [{k: v for k, v in row.items() if k != "s_per_step"} for row in read_metrics(path)]
        for path in (folder / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1]
    # The steps matter: one step fewer gives other bits.
    assert bits(make_run(7, into=tmp_path / "seven").params) != bits(whole.params)


def test_two_processes_train_as_one(make_run, folder, token_files, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    shared = tmp_path / "shared"
    processes = [
        start(shared, *token_files, "--coordinator", address, "--process-id", i, "--steps", 7)
        for i in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    alone = make_run(7, dropout=0.0)
    together = make_run(7, into=shared, dropout=0.0)  # restores what the two processes wrote
    assert together.step == 7
    for one, other in zip(
        jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=2e-5)
    ours, theirs = (read_metrics(path / "metrics.jsonl") for path in (shared, folder))
    np.testing.assert_allclose(
        [row["loss"] for row in ours], [row["loss"] for row in theirs], rtol=1e-4
    )


def test_a_refused_reduction_applies_nothing(cfg, make_run, tmp_path):
    first = bits(tiny_params(cfg, seed=1))
    refused = make_run(3, reduce=lambda tree, step: (tree, False))
    assert bits(refused.params) == first
    assert refused.step == 3
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["applied"] for row in rows] == [False] * 3
    # Neither moments nor count moved: training on from there starts at the first update.
    once = make_run(1, into=tmp_path / "once")
    assert bits(once.params) != first


def test_the_reduction_changes_what_is_applied(make_run, tmp_path):
    seen = []

    def flip(tree, step):
        seen.append(step)
        return jax.tree.map(lambda x: -x, tree), True

    flipped = make_run(2, reduce=flip)
    assert seen == [0, 1]
    assert bits(flipped.params) != bits(make_run(2, into=tmp_path / "plain").params)


def test_a_signal_ends_the_step_and_saves(make_run, tmp_path):
    def interrupt(tree, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return identity(tree, step)

    before = signal.getsignal(signal.SIGTERM)
    stopped = make_run(6, reduce=interrupt)
    assert (stopped.step, stopped.interrupted) == (3, True)
    assert signal.getsignal(signal.SIGTERM) is before
    finished = make_run(6)
    assert not finished.interrupted
    assert bits(finished.params) == bits(make_run(6, into=tmp_path / "whole").params)


def test_training_works_off_the_main_thread(make_run):
    results = []
    thread = threading.Thread(target=lambda: results.append(make_run(1)))
    thread.start()
    thread.join()
    assert results[0].step == 1


def test_a_used_folder_is_refused_without_resume(make_run):
    make_run(1)
    with pytest.raises(ConfigError, match="already holds"):
        make_run(2, resume=False)


def test_rows_that_cannot_be_divided_are_refused(make_run):
    with pytest.raises(ConfigError, match="microbatches"):
        make_run(1, loop={"microbatches": 3})


def test_keep_limits_the_checkpoints(make_run, folder):
    make_run(5, loop={"checkpoint_every_s": 0.0, "keep": 2})
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["4", "5"]


STATE = {"a": np.arange(200_000, dtype=np.float32), "b": np.ones((2, 3), np.float32)}


def device(state):
    return jax.tree.map(jax.numpy.asarray, state)


def test_a_full_disk_leaves_the_previous_checkpoint(folder):
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(1, device(STATE), {"at": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    large = device(STATE | {"a": noise})
    # The limit holds for the whole process: the compile cache must not write meanwhile.
    jax.config.update("jax_enable_compilation_cache", False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"(?s)cannot write.*Earlier.*free some space"):
            checkpoints.save(2, large, {"at": 2})
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    checkpoints.close()
    again = Checkpoints(folder)
    assert [path.name for path in folder.iterdir()] == ["1"]
    step, state, cursor = again.restore(device(STATE))
    assert (step, cursor) == (1, {"at": 1})
    assert bits(state) == bits(STATE)
    again.save(2, device(STATE | {"a": noise}), {"at": 2})
    assert again.restore(device(STATE))[0] == 2
    again.close()


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS"])
@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_refusing_file_system_leaves_the_previous_checkpoint(folder, monkeypatch, code, call):
    import errno

    checkpoints = Checkpoints(folder)
    checkpoints.save(1, device(STATE), {"at": 1})
    number = getattr(errno, code)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(CheckpointError, match="cannot write"):
            checkpoints.save(2, device(STATE), {"at": 2})
    checkpoints.close()
    again = Checkpoints(folder)
    assert again.restore(device(STATE))[0] == 1
    again.close()


def test_a_checkpoint_of_other_shapes_is_refused(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, device(STATE), {})
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoints.restore(device({"a": np.zeros(5, np.float32), "b": STATE["b"]}))
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoints.restore(device({"a": STATE["a"]}))
    checkpoints.close()


def test_no_checkpoint_is_an_error_that_says_so(folder):
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoints.restore(device(STATE))
    checkpoints.close()


def test_metrics_drop_later_rows_and_a_torn_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    log = MetricsLog(path, step=1)
    log.write({"step": 2, "loss": 1.25})
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.25},
    ]


def test_progress_is_silent_off_a_terminal(capfd):
    for shown in (None, True):
        with Progress(5, 0, shown=shown) as progress:
            progress.update(3, "loss 1.0")
        out, err = capfd.readouterr()
        assert out == ""
        assert ("training" in err) == bool(shown)


def test_learning_rate_schedules():
    wsd = OptimizerConfig(lr=2.0, steps=100, warmup_steps=10, schedule="wsd", decay_steps=20)
    np.testing.assert_allclose(
        wsd.learning_rate(np.array([0, 4, 9, 50, 80, 90, 100])), [0.2, 1, 2, 2, 2, 1, 0], rtol=1e-5
    )
    cosine = OptimizerConfig(lr=2.0, steps=110, warmup_steps=10, final_lr=0.1)
    np.testing.assert_allclose(
        cosine.learning_rate(np.array([10, 60, 110])), [2, 1.1, 0.2], rtol=1e-5
    )
    with pytest.raises(ConfigError, match="exceed"):
        OptimizerConfig(lr=1.0, steps=10, warmup_steps=8, decay_steps=8)
