"""The byte model: its vocabulary and size, and a run on a small corpus that stops and goes on."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ariel_jax import load_pretrained
from ariel_jax.models import paths
from ariel_jax.testing import tiny_config
from experiments.del_exit import byte_model, common
from experiments.nano import corpus
from experiments.runner import Settings

TEXT = "def f(x):\n    return x\n\nWords, and ä€ too.\n"


@pytest.fixture(scope="module")
def documents():
    return [
        corpus.Document(path=f"{split}/{domain}", domain=domain, split=split, parts=(TEXT * 3,))
        for domain in ("code", "english", "templates")
        for split in ("train", "heldout")
    ]


def test_the_model_stays_below_8_megabytes():
    leaves = paths.abstract(byte_model.byte_config()).values()
    assert 2 * sum(math.prod(shape) for shape in leaves) < byte_model.MOST_BYTES
    assert math.isclose(sum(byte_model.MIXTURE.values()), 1)


def test_a_run_goes_on_where_it_stopped_and_ends_with_a_model_of_bytes(documents, tmp_path, capsys):
    small = dataclasses.replace(
        byte_model.subject(),
        cfg=tiny_config("llama", vocab_size=byte_model.VOCAB_SIZE, tie_embed=True),
        lengths=((0, 16),),
        tokens_per_batch=32,
    )
    options = {"recipe": "layerskip", "documents": documents, "what": small}
    assert byte_model.run(tmp_path, steps=1, **options)
    before = (tmp_path / "corpus" / "manifest.json").stat().st_mtime_ns
    assert byte_model.run(tmp_path, steps=2, **options)
    assert (tmp_path / "corpus" / "manifest.json").stat().st_mtime_ns == before
    done = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    assert [row["step"] for row in done] == [1, 2]
    folder = tmp_path / "layerskip" / "model"
    model = load_pretrained(folder)
    ids = model.tokenizer.encode(TEXT)
    assert len(ids) == len(TEXT.encode())
    assert model.tokenizer.decode(ids) == TEXT
    tokens = np.load(tmp_path / "corpus" / "tokens" / "train_code.npy")
    assert tokens.max() < byte_model.VOCAB_SIZE

    settings = Settings(scale="smoke", flags={"model": str(folder), "exits": "1", "twin": ""})
    config = common.config(settings)
    assert (config["exits"], len(config["weights"])) == ([1], 64)
    assert common.model(settings).cfg.vocab_size == byte_model.VOCAB_SIZE
    assert common.twin(settings) is None
    assert len(common.prompts(config, model, "code", settings, skip=3)) == config["n_prompts"]


def test_a_folder_in_the_checkout_is_refused(capsys):
    assert byte_model.main(["--out", str(byte_model.CHECKOUT / "results")]) == 2
    assert "outside" in capsys.readouterr().err
    assert not (byte_model.CHECKOUT / "results" / "corpus").exists()
