import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from ariel_jax.cli import main, train_lm
from ariel_jax.models.hf import load_pretrained
from ariel_jax.testing import write_toy_checkpoint
from ariel_jax.training.metrics import read_metrics


@pytest.fixture
def files(tmp_path):
    model = tmp_path / "toy"
    write_toy_checkpoint(model)
    text = tmp_path / "text.txt"
    text.write_text("a small text that repeats itself. " * 60)
    return model, text


def flags(text, out, *more):
    fixed = ["--steps", "3", "--batch", "4", "--seq", "16", "--warmup", "1", "--log-every", "1"]
    return ["train-lm", "--data", str(text), "--out", str(out), *fixed, *map(str, more)]


def test_a_new_model_is_trained_continued_and_loads(files, tmp_path, capsys):
    toy, text = files
    new = ("--model", "layers=2,width=16,heads=2,ff=24,positions=32", "--tokenizer", toy)
    assert main.main(flags(text, tmp_path / "run", *new, "--layerskip")) == 0
    model = load_pretrained(tmp_path / "run" / "model")
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.d_ff) == (2, 16, 24)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all("loss_exit" in row for row in rows)
    assert main.main(flags(text, tmp_path / "run", *new, "--layerskip")) == 2
    assert "already holds" in capsys.readouterr().err
    assert main.main([*flags(text, tmp_path / "run", *new, "--layerskip"), "--resume"]) == 0
    again = load_pretrained(tmp_path / "run" / "model")
    np.testing.assert_array_equal(again.params.embed, model.params.embed)


def test_a_folder_with_an_equals_sign_is_a_folder(files, tmp_path, capsys):
    toy, text = files
    toy.rename(tmp_path / "lr=1")
    args = train_lm.Args(data=(text,), out=tmp_path / "run", model=str(tmp_path / "lr=1"))
    cfg, _, _ = train_lm._model(args)
    assert cfg == load_pretrained(tmp_path / "lr=1").cfg


def test_a_model_folder_is_fine_tuned(files, tmp_path, capsys):
    toy, text = files
    arguments = flags(text, tmp_path / "run", "--model", toy, "--dtype", "float32", "--lr", "0.01")
    assert main.main(arguments) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    tuned, before = load_pretrained(last["model"]), load_pretrained(toy)
    assert tuned.cfg == before.cfg
    assert np.max(np.abs(tuned.params.embed - before.params.embed)) > 1e-4


def test_two_processes_export_the_model_of_one(files, root, tmp_path):
    toy, text = files
    new = ("--model", "layers=1,width=16,heads=2,ff=24,positions=32", "--tokenizer", toy)
    new += ("--dtype", "float32")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    together = ("--coordinator", address, "--num-processes", 2, "--process-id")
    environment = os.environ | {"XDG_CACHE_HOME": str(root / ".cache")}
    plain = {name: value for name, value in environment.items() if name != "JAX_PLATFORMS"}
    program = [sys.executable, "-m", "ariel_jax.cli.main"]
    # The platform is named by a flag in one process, by the environment in the other.
    commands = [
        ([*program, "--backend", "cpu", *flags(text, tmp_path / "two", *new, *together, 0)], plain),
        ([*program, *flags(text, tmp_path / "two", *new, *together, 1)], environment),
    ]
    processes = [
        subprocess.Popen(
            command, env=env, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command, env in commands
    ]
    outputs = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert json.loads(outputs[0][0].splitlines()[-1])["model"] == str(tmp_path / "two" / "model")
    own_lines = [line for line in outputs[1][0].splitlines() if not line.startswith("[Gloo]")]
    assert own_lines == []
    assert main.main(flags(text, tmp_path / "one", *new)) == 0
    two, one = (load_pretrained(tmp_path / name / "model") for name in ("two", "one"))
    assert two.cfg == one.cfg
    # To the bit: each of two devices computes the same half of a batch, and a sum of two numbers
    # does not depend on their order.
    assert jax.device_count() == 2
    for ours, theirs in zip(jax.tree.leaves(two.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "layers=2,width=16"), "not understood"),
        (("--model", "layers=two,width=16,heads=2"), "not understood"),
        (("--model", "layers=2,width=16,heads=3"), "not a multiple"),
        (("--model", "layers=2,width=16,heads=2,positions=8"), "exceeds"),
        (("--model", "gpt2-124m", "--coordinator", "localhost:1"), "give all three"),
        (("--model", "gpt2-124m", "--process-id", "1"), "give all three"),
        (("--model", "gpt2-124m"), "config.json says vocab_size=50257"),
        (("--lr", "-1"), "lr=-1"),
        (("--steps", "0"), "steps"),
        (("--batch", "0"), "batch=0"),
        (("--microbatches", "3"), "multiple of"),
        (("--seed", "-1"), "seed=-1"),
        (("--model", "layers=1,width=16,heads=2", "--layerskip"), "at least 2 layers"),
    ],
)
def test_bad_flags_are_explained(files, tmp_path, capsys, more, message):
    toy, text = files
    assert main.main(flags(text, tmp_path / "run", "--tokenizer", toy, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bad_texts_are_explained(files, tmp_path, capsys):
    toy, text = files
    for name, content in (("empty.txt", b""), ("binary.txt", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
    for name in ("empty.txt", "binary.txt", "missing.txt"):
        status = main.main(flags(tmp_path / name, tmp_path / "run", "--model", toy))
        assert status == 2
        assert name in capsys.readouterr().err
    assert main.main(flags(text, tmp_path / "run", "--model", toy)) == 0
    text.write_text("another text " * 60)
    assert main.main([*flags(text, tmp_path / "run", "--model", toy), "--resume"]) == 2
    assert "other texts" in capsys.readouterr().err


def test_sizes_have_defaults():
    cfg = train_lm._sizes("layers=3,width=64,heads=4,kv_heads=2", 320)
    assert (cfg.n_kv_heads, cfg.d_ff, cfg.max_positions, cfg.head_dim) == (2, 192, 1024, 16)
