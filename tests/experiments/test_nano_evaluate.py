"""Bits per byte of a model on held-out files, against sums made by hand; the model card."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax import testing
from ariel_jax.decode import programs
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import load_pretrained
from experiments.nano import evaluate, train
from experiments.nano.tokenizer import byte_lengths


@pytest.fixture(scope="module")
def model(built, tmp_path_factory):
    """A random model of the corpus's vocabulary, in 3 layers."""
    folder = tmp_path_factory.mktemp("models") / "toy"
    testing.write_toy_checkpoint(folder, n_layers=3, vocab_size=512, max_positions=256)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((built[0] / "tokenizer" / name).read_bytes())
    return folder


def bits_by_hand(model, document, lengths):
    """Costs of a document's tokens from plain logits, and how many bytes each stands for."""
    loaded = load_pretrained(model, precision=Precision.f32())
    ids = np.concatenate([[0], document]).astype(np.int32)
    positions = np.arange(ids.size - 1, dtype=np.int32)[None]
    logits = programs.forward(loaded.cfg, loaded.params, jnp.asarray(ids[None, :-1]), positions)
    wide = np.asarray(logits[0], np.float64)
    wide -= wide.max(-1, keepdims=True)
    log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    nats = -log_p[np.arange(ids.size - 1), ids[1:]]
    return nats / math.log(2), lengths[document]


def test_bits_are_those_of_the_documents_one_by_one(built, model):
    out, _, _ = built
    lengths = byte_lengths(out)
    found = evaluate.scores(out, model, "english")
    costs = [bits_by_hand(model, d, lengths) for d in evaluate.documents(out, "english")]
    want = sum(bits[size > 0].sum() for bits, size in costs)
    assert found["bytes"] == len("Words.\n")
    assert found["bits"].shape == (3,)
    assert found["bits"][-1] == pytest.approx(want, rel=1e-5)
    by_range = sum(bits for bits, _ in found["ranges"].values())
    np.testing.assert_allclose(by_range, found["bits"], rtol=1e-6)
    assert len({round(float(b), 3) for b in found["bits"]}) == 3, "every exit has its own costs"


def test_all_is_the_sum_over_domains(built, model):
    out, _, _ = built
    whole = evaluate._total(out, model, "all")
    parts = [evaluate.scores(out, model, name) for name in evaluate.DOMAINS]
    assert whole["bytes"] == sum(part["bytes"] for part in parts)
    np.testing.assert_allclose(whole["bits"], sum(part["bits"] for part in parts))


def test_the_command_writes_rows_and_a_card_that_names_every_yardstick(built, model, tmp_path):
    out, _, _ = built
    made = tmp_path / "results"
    code = evaluate.main(
        ["--corpus", str(out), "--model", str(model), "--twin", str(model), "--out", str(made)]
    )
    assert code == 0
    card = (made / "README.md").read_text()
    for text in ("last layer", "exit after 2 layers", "xz -9e", "5-gram", "plain twin", "Answer:"):
        assert text in card
    assert "| layers run | 1 to 64 |" in card
    assert card.count("Prompt:") == 3
    assert (made / "nano_evaluate.png").stat().st_size > 10_000
    assert "FAIL" in (made / "nano_evaluate.md").read_text()  # random weights lose against xz


def test_a_missing_corpus_is_said_and_not_a_traceback(model, tmp_path, capsys):
    where = ["--corpus", str(tmp_path), "--model", str(model), "--out", str(tmp_path / "out")]
    assert evaluate.main(where) == 2
    assert "experiments.nano.corpus --out" in capsys.readouterr().err


def test_stages_of_training_cover_every_step_once():
    assert train._stages(train.STEPS) == [(2000, 256), (2300, 512), (train.STEPS, 2048)]
    assert train._stages(2100) == [(2000, 256), (2100, 512)]
    assert train._stages(7) == [(7, 256)]
    assert train.STEPS * train.TOKENS_PER_BATCH >= 10_000_000
