import contextlib
import errno
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


def killed(*arguments):
    process = start(*arguments)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL, errors


def rows(folder):
    """What the metrics say, but for the times."""
    stored = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "s_per_step"} for row in stored]


def complete(folder):
    """The steps of the checkpoints in a folder, oldest first."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def test_killed_and_continued_equals_uninterrupted(make_run, folder, token_files, tmp_path):
    killed(folder, *token_files, "--kill-at", 6)
    assert [row["step"] for row in rows(folder)] == [1, 2, 3, 4, 5, 6]
    continued = make_run(8)
    whole = make_run(8, into=tmp_path / "whole")
    assert bits(continued.params) == bits(whole.params)
    assert rows(folder) == rows(tmp_path / "whole")
    # The steps matter: one step fewer gives other bits.
    assert bits(make_run(7, into=tmp_path / "seven").params) != bits(whole.params)


def test_killed_between_checkpoints_computes_the_lost_steps_again(
    make_run, folder, token_files, tmp_path
):
    make_run(3)
    killed(folder, *token_files, "--kill-at", 6, "--checkpoint-every-s", 1e9)
    assert complete(folder / "checkpoints") == [3]
    assert [row["step"] for row in rows(folder)] == [1, 2, 3, 4, 5, 6]
    seen = []

    def watch(tree, step):
        seen.append((step, [row["step"] for row in rows(folder)]))
        return identity(tree, step)

    continued = make_run(8, reduce=watch)
    # Step 3, the fourth, is computed anew, and the rows after the third are gone by then.
    assert seen[0] == (3, [1, 2, 3])
    whole = make_run(8, into=tmp_path / "whole")
    assert bits(continued.params) == bits(whole.params)
    assert rows(folder) == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    ("call", "number", "left"),
    [
        ("mkdir", 4, [2, 3]),  # while arrays are being written
        ("rename", 3, [2, 3]),  # all is written, but not under its name
        ("rmdir", 2, [2, 3, 4]),  # the oldest is removed in part
    ],
)
def test_killed_in_a_save_equals_uninterrupted(
    make_run, folder, token_files, tmp_path, call, number, left
):
    killed(folder, *token_files, "--kill-saving", 4, "--kill-in", call, number)
    assert complete(folder / "checkpoints") == left
    assert (len(list((folder / "checkpoints").iterdir())) > len(left)) == (call != "rmdir")
    assert [row["step"] for row in rows(folder)] == [1, 2, 3, 4]
    continued = make_run(8)
    whole = make_run(8, into=tmp_path / "whole")
    assert bits(continued.params) == bits(whole.params)
    assert rows(folder) == rows(tmp_path / "whole")
    # Nothing of the save that was cut short stays.
    assert len(list((folder / "checkpoints").iterdir())) == 2


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


def numbered(step):
    """A small state that differs from step to step."""
    noise = np.random.default_rng(step).standard_normal(5_000).astype(np.float32)
    return {"a": noise, "b": STATE["b"]}


def save(checkpoints, step):
    checkpoints.save(step, device(numbered(step)), {"at": step})


def check_newest(checkpoints, step):
    found, state, cursor = checkpoints.restore(device(numbered(0)))
    assert (found, cursor) == (step, {"at": step})
    assert bits(state) == bits(numbered(step))


@contextlib.contextmanager
def file_size_limit(n_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # The limit holds for the whole process: the compile cache must not write meanwhile.
    jax.config.update("jax_enable_compilation_cache", False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_previous_checkpoint(folder):
    checkpoints = Checkpoints(folder, keep=1)
    save(checkpoints, 1)
    sizes = {path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    # Below half of a file's size that file and all larger ones fail; the largest holds the arrays.
    limits = sorted({size // 2 for size in sizes})
    assert len(limits) >= 6
    assert limits[-1] >= 5_000
    for step, limit in enumerate(limits, start=1):
        with (
            file_size_limit(limit),
            pytest.raises(CheckpointError, match=r"(?s)cannot write.*Earlier.*free some space"),
        ):
            save(checkpoints, step + 1)
        assert complete(folder) == [step]
        again = Checkpoints(folder)
        check_newest(again, step)
        again.close()
        save(checkpoints, step + 1)
        check_newest(checkpoints, step + 1)
    checkpoints.close()
    Checkpoints(folder).close()
    assert [path.name for path in folder.iterdir()] == [str(len(limits) + 1)]


@pytest.mark.parametrize(("code", "once"), [(errno.ENOSPC, True), (errno.EROFS, False)])
def test_a_disk_that_fails_at_any_write_call_leaves_the_previous_checkpoint(
    folder, failing_disk, code, once
):
    checkpoints = Checkpoints(folder, keep=1)
    save(checkpoints, 1)
    with failing_disk(code, 10**9) as disk:
        save(checkpoints, 2)
    n_calls = len(disk.calls)
    assert {"mkdir", "open", "write", "rename"} == set(disk.calls)
    assert n_calls >= 20
    assert disk.calls[-1] == "rename"
    for step, fail_at in enumerate(range(1, n_calls + 1), start=2):
        with (
            failing_disk(code, fail_at, once=once),
            pytest.raises(CheckpointError, match=rf"cannot write.*{os.strerror(code)}.*Earlier"),
        ):
            save(checkpoints, step + 1)
        assert complete(folder) == [step]
        again = Checkpoints(folder)
        check_newest(again, step)
        again.close()
        # A second try works at once, also while writers of the first are still at work.
        save(checkpoints, step + 1)
        check_newest(checkpoints, step + 1)
    checkpoints.close()
    Checkpoints(folder).close()
    assert [path.name for path in folder.iterdir()] == [str(n_calls + 2)]


def test_an_old_checkpoint_that_cannot_be_removed_does_not_hide_that_the_new_one_is_complete(
    folder, failing_disk
):
    checkpoints = Checkpoints(folder, keep=1)
    save(checkpoints, 1)
    with failing_disk(errno.EROFS, 10**9, removals=True) as disk:
        save(checkpoints, 2)
    n_written = len(disk.calls) - disk.calls[::-1].index("rename")
    assert {"unlink", "rmdir"} == set(disk.calls[n_written:])
    step = 2
    for fail_at in range(n_written + 1, len(disk.calls) + 1, 4):
        with (
            failing_disk(errno.EROFS, fail_at, removals=True),
            pytest.raises(CheckpointError, match=rf"step {step + 1} .* is complete.*older one"),
        ):
            save(checkpoints, step + 1)
        again = Checkpoints(folder)
        check_newest(again, step + 1)
        again.close()
        step += 2
        save(checkpoints, step)
        check_newest(checkpoints, step)
        assert complete(folder) == [step]
    checkpoints.close()


def test_a_second_try_does_not_meet_the_writers_of_the_first(folder, monkeypatch):
    checkpoints = Checkpoints(folder)
    save(checkpoints, 1)
    mkdir, made = os.mkdir, []

    def fourth_fails(path, *args, **options):
        made.append(pathlib.Path(path))
        if len(made) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", fourth_fails)
        with pytest.raises(CheckpointError, match="cannot write"):
            save(checkpoints, 2)
    done = threading.Event()

    def write_on():
        late = next(path for path in made if path.name.startswith("state")) / "ocdbt.process_0"
        while not done.is_set():
            with contextlib.suppress(OSError):
                late.mkdir(parents=True, exist_ok=True)
                (late / "manifest.ocdbt").write_bytes(b"late")

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        save(checkpoints, 2)
    finally:
        done.set()
        writer.join()
    check_newest(checkpoints, 2)
    checkpoints.close()
    again = Checkpoints(folder)
    check_newest(again, 2)
    again.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_remnant_that_cannot_be_removed_hinders_no_save(folder, monkeypatch):
    remnant, rmdir = folder / "7.orbax-checkpoint-tmp-0", os.rmdir
    (remnant / "state").mkdir(parents=True)

    def refuse(path, **options):
        if os.fspath(path) == str(remnant):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rmdir(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        checkpoints = Checkpoints(folder, keep=1)
        for step in (1, 2):
            save(checkpoints, step)
            check_newest(checkpoints, step)
        checkpoints.close()
    assert remnant.exists()
    Checkpoints(folder).close()
    assert [path.name for path in folder.iterdir()] == ["2"]


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
