"""`ariel-jax train-private`: in seconds on a toy model, under a budget, stopped and gone on with."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys

import jax
import numpy as np
import pytest

from ariel_jax.algorithms.dp_grape import canaries, trainer
from ariel_jax.algorithms.dp_grape.text import (
    TextLoss,
    encode_records,
    made_up_records,
    read_records,
)
from ariel_jax.cli import main
from ariel_jax.models import hf
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import load_pretrained, save_pretrained
from ariel_jax.privacy import Ledger, audit, batches
from ariel_jax.testing import tiny_model, write_toy_checkpoint
from ariel_jax.training.metrics import read_metrics
from ariel_jax.training.step import LMBatch, lm_loss

WORDS = ("red", "green", "blue", "warm", "cold")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A toy model and forty records."""
    top = tmp_path_factory.mktemp("private")
    write_toy_checkpoint(top / "toy", n_layers=1)
    rows = [{"text": f"note {i} is {WORDS[i % 5]}"} for i in range(40)]
    (top / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return top / "toy", top / "notes.jsonl"


def flags(files, out, *more):
    """With a ledger of its own for each run: the data are those of all tests."""
    return words(files, out, "--ledger", out.with_name(out.name + ".ledger.sqlite"), *more)


def words(files, out, *more):
    toy, data = files
    fixed = ["--steps", 3, "--batch", 8, "--max-tokens", 12, "--rank", 4, "--epsilon", 4]
    fixed += ["--checkpoint-s", 0]
    return ["train-private", "--model", str(toy), "--data", str(data), "--out", str(out),
            *map(str, fixed), *map(str, more)]  # fmt: skip


def spent(out):
    with Ledger(out.with_name(out.name + ".ledger.sqlite")) as ledger:
        return ledger.epsilon(), len(ledger.open_tickets())


def test_a_model_is_trained_reported_and_loads(files, tmp_path, capsys):
    out = tmp_path / "run"
    assert main.main(flags(files, out)) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert result["steps"] == 3
    assert result["epsilon"] == pytest.approx(4.0, rel=1e-3)
    assert "can tell this data set from one with one record replaced" in said.err
    assert "not covered: losses" in said.err
    tuned, before = load_pretrained(result["model"]), load_pretrained(files[0])
    assert tuned.cfg == before.cfg
    moved = np.abs(tuned.params.layers[0].mlp.up.w - before.params.layers[0].mlp.up.w)
    assert moved.max() > 1e-4
    np.testing.assert_array_equal(tuned.params.embed, before.params.embed)  # frozen
    rows = read_metrics(out / "metrics.jsonl")
    assert [set(row) for row in rows] == [{"step", "epsilon", "learning_rate", "s_per_step"}] * 3
    report = json.loads((out / "privacy.json").read_text())
    assert (report["steps"], report["relation"], report["delta"]) == (3, "zero_out", 1e-5)
    assert report["epsilon_pld"] < report["epsilon"] == pytest.approx(4.0, rel=1e-3)
    assert "## It does not cover" in (out / "privacy.md").read_text()
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    ledger = out.with_name("run.ledger.sqlite")
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 0)
    # The same command once more: it is done, and spends nothing.
    assert main.main(flags(files, out)) == 0
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 0)
    # Another run wants a budget that is spent; in the folder of this one it is refused anyway.
    assert main.main(flags(files, tmp_path / "two", "--ledger", ledger)) == 2
    assert "it may spend 4 and stands at" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()
    assert main.main(flags(files, out, "--clip-norm", 2)) == 2
    assert "was made for clip_norm=1.0 and now it is 2.0" in capsys.readouterr().err
    assert main.main(flags(files, tmp_path / "two", "--ledger", ledger, "--delta", "1e-6")) == 2
    assert "Terms never change" in capsys.readouterr().err


def test_ctrl_c_leaves_a_folder_that_the_same_command_goes_on_with(
    files, tmp_path, capsys, monkeypatch
):
    out, real = tmp_path / "run", batches.PoissonSource.draw

    def draw(self, state):
        if state["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(batches.PoissonSource, "draw", draw)
        assert main.main(flags(files, out)) == 130
    assert "stopped after step 2 of 3; the same command goes on" in capsys.readouterr().err
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 1)
    assert not (out / "model").exists()
    # matplotlib is an extra: without it there is a word instead of a picture.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main.main(flags(files, out)) == 0
    said = capsys.readouterr()
    assert "pip install" in said.err
    assert json.loads(said.out.splitlines()[-1])["picture"] is None
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3]
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 0)


def test_canaries_are_audited_and_a_run_that_goes_on_keeps_their_coins(
    files, tmp_path, capsys, monkeypatch
):
    out, real = tmp_path / "run", batches.PoissonSource.draw
    given = flags(files, out, "--audit-canaries", 32)

    def draw(self, state):
        if state["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(batches.PoissonSource, "draw", draw)
        assert main.main(given) == 130
    assert not (out / "privacy.json").exists()
    # Without the canaries it is another run.
    assert main.main(flags(files, out)) == 2
    assert "was made for" in capsys.readouterr().err
    assert main.main(given) == 0
    said = capsys.readouterr()
    assert "32 canaries beside the records" in said.err
    report = json.loads((out / "privacy.json").read_text())
    found = report["audit"]
    assert report["canaries"] == 32
    assert 0 <= found["lower_bound"] < report["epsilon"] == found["epsilon"]
    assert 0 < found["n"] <= 16
    assert json.loads(said.out.splitlines()[-1])["audit_lower_bound"] == found["lower_bound"]
    assert f"audit: epsilon is at least {found['lower_bound']:.4f}" in said.err
    text = (out / "privacy.md").read_text()
    assert "| audit lower bound | epsilon is at least" in text
    assert "| canaries | 32 made-up records, nobody's" in text
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 0)
    # The finished run once more: the coins are those of its checkpoint.
    wrong = dataclasses.replace(audit.Audit(**found), lower_bound=9.0)
    asked = []

    def seen(scores, is_in, **claim):
        asked.append(canaries_audit(scores, is_in, **claim))
        return wrong

    canaries_audit = canaries.audit
    monkeypatch.setattr(canaries, "audit", seen)
    assert main.main(given) == 1  # a claim that is refuted is no success
    assert asked == [audit.Audit(**found)]
    assert "above the claim, which is wrong" in capsys.readouterr().err


def test_made_up_records_are_a_function_of_their_seed():
    one, same, other = (
        made_up_records(40, vocabulary=9, max_tokens=6, seed_of_all=seed) for seed in (3, 3, 4)
    )
    assert {name: (a.shape, str(a.dtype)) for name, a in one.items()} == dict.fromkeys(
        ("tokens", "targets"), ((40, 6), "int32")
    )
    np.testing.assert_array_equal(one["tokens"][:, 1:], one["targets"][:, :-1])
    np.testing.assert_array_equal(one["tokens"], same["tokens"])
    assert (one["tokens"] != other["tokens"]).any()
    assert set(np.unique(one["tokens"])) == set(range(9))


KILLED = """
import os, signal, sys
from ariel_jax.cli import main
from ariel_jax.privacy import batches
real = batches.PoissonSource.draw
def draw(self, state):
    if state["step"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, state)
batches.PoissonSource.draw = draw
main.main(sys.argv[1:])
"""


def test_a_killed_command_goes_on_and_spends_once(files, tmp_path, root, capsys):
    out = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    given = flags(files, out, "--relation", "add_remove", "--records-about", 40)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *given], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 1)
    assert main.main(given) == 0
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 0)
    assert "one record more or less" in capsys.readouterr().err
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--epsilon", 0), "epsilon=0"),
        (("--epsilon", -1), "epsilon=-1"),
        (("--epsilon", 501), "epsilon=501.0 is not allowed: pass a number in (0, 500]"),
        (("--budget", 1000), "budget=1000.0 is not allowed: pass a number in (0, 500]"),
        (("--delta", 1), "delta=1"),
        (("--delta", 0), "delta=0"),
        (("--method", "dp-grap"), "method='dp-grap' is not allowed: pass one of 'dp-grape'"),
        (("--rank", 64), "rank 64 >= "),
        (("--rank", 0), "rank=0"),
        (("--steps", 0), "steps=0"),
        (("--batch", 41), "--batch 41 exceeds the 40 records"),
        (("--max-tokens", 999), "--max-tokens 999 exceeds"),
        (("--lr", -1), "lr=-1"),
        (("--seed", -1), "seed=-1"),
        (("--audit-canaries", 31), "canaries=31 is not allowed: pass a whole number from 32"),
        (("--audit-canaries", -1), "canaries=-1"),
        (("--relation", "add_remove"), "needs a public number"),
        (("--records-about", 50), "needs a public number"),
        (("--relation", "add_remove", "--records-about", 10), "is below the number of records"),
        (("--delta", 0.5, "--strict"), "delta=0.5 is not below 1 / N = 0.025 for the 40 records"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_bad_flags_are_explained(files, tmp_path, capsys, more, message):
    assert main.main(flags(files, tmp_path / "run", *more)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
    assert not list(
        tmp_path.glob("*.sqlite*")
    )  # no account, whose terms would bind the next command


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "a.jsonl, line 2: no JSON"),
        ("b.jsonl", '{"text": "x"}\n\n{"txt": "y"}\n', "b.jsonl, line 3: no record"),
        ("c.jsonl", '{"text": ""}\n', "line 1: no record"),
        ("d.jsonl", "[1]\n", "line 1: no record"),
        ("e.jsonl", '{"text": "x", "label": 3}\n', "line 1: no record"),
        ("f.jsonl", '{"text": "x", "label": "a"}\n{"text": "y"}\n', "1 of 2 records have a label"),
        ("g.jsonl", "\n", "holds no records"),
        ("h.csv", "text\n", "holds no records"),
        ("i.csv", "words\nhello\n", "line 2: no record"),
        ("j.csv", 'text\n"un"ended\n', "line 2: no CSV"),
        ("k.jsonl", b"\xff\xfe", "not UTF-8"),
        ("l.jsonl", None, "No such file"),
    ],
)
def test_bad_records_are_explained(files, tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main.main(flags((files[0], path), tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def copied(files, top):
    """The data in a folder of their own, so that the ledger beside them is this test's alone."""
    top.mkdir()
    shutil.copy(files[1], top / "notes.jsonl")
    return files[0], top / "notes.jsonl"


def test_all_runs_on_a_data_set_share_the_ledger_beside_it(files, tmp_path, capsys, monkeypatch):
    files = copied(files, tmp_path / "data")
    ledger, witness = tmp_path / "data" / "notes.jsonl.ledger.sqlite", tmp_path / "seen.json"
    one = words(files, tmp_path / "one", "--steps", 1, "--budget", 4.5, "--witness", witness)
    assert main.main(one) == 0
    said = capsys.readouterr().err
    account = f"{files[1].resolve()} by record"
    with Ledger(ledger) as opened:
        now = opened.epsilon()
    assert now == pytest.approx(4.0, rel=1e-3)
    assert (
        f"charged to {account!r} in {ledger}, which now stands at epsilon {now:.4f} of 4.5" in said
    )
    assert f"| charged to | {account}, in {ledger} |" in (tmp_path / "one/privacy.md").read_text()
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    assert json.loads(witness.read_text())["number"] == 3
    # From another folder, by a relative path through a link: the same data, the same budget.
    (tmp_path / "link.jsonl").symlink_to(files[1])
    monkeypatch.chdir(tmp_path)
    assert main.main(words((files[0], "link.jsonl"), tmp_path / "two")) == 2
    assert f"it may spend 4.5 and stands at {now:.6g}" in capsys.readouterr().err
    # A new name does not make a new budget.
    (tmp_path / "data").rename(tmp_path / "moved")
    assert main.main(words((files[0], tmp_path / "moved/notes.jsonl"), tmp_path / "two")) == 2
    assert "the file was moved or copied" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_a_run_is_given_up_and_gives_back_what_it_did_not_spend(
    files, tmp_path, capsys, monkeypatch
):
    out, fit = tmp_path / "run", trainer.fit

    def one_step(*arguments, **more):
        return fit(*arguments, **more, stop_after=1)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "fit", one_step)
        assert main.main(flags(files, out)) == 130
    assert spent(out) == (pytest.approx(4.0, rel=1e-3), 1)
    assert main.main(flags(files, out, "--abandon")) == 0
    after, n_open = spent(out)
    assert n_open == 0
    assert 0 < after < 3.5
    assert f"is given up and charged epsilon {after:.4f}" in capsys.readouterr().err
    assert main.main(flags(files, out, "--abandon")) == 2
    assert "no open reservation" in capsys.readouterr().err
    default = [w for w in flags(files, out, "--abandon") if w not in ("--out", str(out))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main.main(default) == 2
    assert str(tmp_path / "notes-private") in capsys.readouterr().err
    nowhere = tmp_path / "nowhere.sqlite"
    assert main.main(flags(files, out, "--abandon", "--ledger", nowhere)) == 2
    assert "has no account" in capsys.readouterr().err
    assert not nowhere.exists()


def test_a_bfloat16_model_is_trained_in_float32(files, tmp_path, monkeypatch):
    """Also where loading would leave it as it is, as on a GPU."""
    asked, load = [], load_pretrained

    def loads(*arguments, **more):
        asked.append(more["precision"])
        return load(*arguments, **more)

    monkeypatch.setattr(hf, "load_pretrained", loads)
    save_pretrained(load(files[0], precision=Precision.bf16()), tmp_path / "half")
    out = tmp_path / "run"
    assert main.main(flags((tmp_path / "half", files[1]), out, "--steps", 1)) == 0
    assert asked == [Precision.f32()]
    moved = load_pretrained(out / "model").params.layers[0].mlp.up.w
    assert (moved != moved.astype("bfloat16").astype("float32")).any()


def test_a_folder_of_something_else_is_refused(files, tmp_path, capsys, monkeypatch):
    files = copied(files, tmp_path / "data")
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "mine.txt").write_text("mine")
    monkeypatch.chdir(home)
    mode = home.stat().st_mode
    assert main.main(words(files, ".")) == 2
    assert "holds ['mine.txt'] and no run.json" in capsys.readouterr().err
    assert (home.stat().st_mode, os.listdir(home)) == (mode, ["mine.txt"])


def test_a_folder_of_another_run_is_refused(files, tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert main.main(flags(files, tmp_path / "run")) == 2
    assert "it is the folder of another run" in capsys.readouterr().err


def test_records_of_both_forms_are_the_same(tmp_path):
    rows = [("ham, eggs", "food"), ('a "blue"\nsky', "sky")]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    assert read_records(tmp_path / "a.csv") == read_records(tmp_path / "a.jsonl") == rows


@pytest.fixture(scope="module")
def toy():
    return tiny_model("llama", n_layers=1)


def test_encoded_records_learn_what_they_say(toy):
    tokenizer = toy.tokenizer
    for records, learned in (
        ([("to be seen", None), ("a", None)], ["o be seen", ""]),
        ([("to be seen", "yes"), ("a", "no")], [" yes", " no"]),
        ([("x" * 50, "yes"), ("y" * 50, "no")], [" yes", " no"]),  # too long: the label stays
    ):
        arrays = encode_records(records, tokenizer, max_tokens=12)
        assert arrays["tokens"].shape == arrays["targets"].shape == (2, 12)
        for row, (text, label) in enumerate(records):
            targets = arrays["targets"][row]
            kept = targets[targets >= 0].tolist()
            whole = tokenizer.encode(text)
            if label is None:
                assert kept == [*whole[1:], tokenizer.eos_id]
            else:
                assert tokenizer.decode(kept) == learned[row]
            # Each target is the token after its place.
            at = np.flatnonzero(targets >= 0)
            inside = at[at + 1 < 12]
            inside = inside[arrays["targets"][row][np.minimum(inside + 1, 11)] >= 0]
            np.testing.assert_array_equal(arrays["tokens"][row][inside + 1], targets[inside])


def test_the_loss_of_a_record_is_that_of_the_common_trainer(toy):
    """Value and gradient, where one leaf of each kind is compared."""
    arrays = encode_records([("to be seen", None), ("is it", "no")], toy.tokenizer, max_tokens=12)
    key, loss = jax.random.key(0), TextLoss(toy.cfg)

    def common(params, row):
        batch = LMBatch(
            tokens=arrays["tokens"][row][None], targets=arrays["targets"][row][None], step=np.int32(0)
        )  # fmt: skip
        return lm_loss(toy.cfg, params, batch, np.zeros(1, bool), key=key)[0]

    for row in range(2):
        example = {name: jax.numpy.asarray(array[row]) for name, array in arrays.items()}
        ours, ours_tree = jax.value_and_grad(loss)(toy.params, example, key)
        theirs, theirs_tree = jax.value_and_grad(common)(toy.params, row)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(ours_tree), jax.tree.leaves(theirs_tree), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
