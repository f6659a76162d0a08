"""`ariel-jax quantize`, in this process, on a toy checkpoint."""

import json

import pytest

from ariel_jax.cli import main as cli
from ariel_jax.models.hf import load_pretrained
from ariel_jax.models.quantization import is_quantized
from ariel_jax.testing import edit_json, write_toy_checkpoint

TEXT = "The quick brown fox, and so on.\n" * 4


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_toy_checkpoint(tmp_path / "toy", d_ff=64)
    (tmp_path / "text.txt").write_text(TEXT)

    def run(*arguments, command="quantize", model="toy"):
        words = [word.replace("TMP", str(tmp_path)) for word in arguments]
        status = cli.main([command, "--model", str(tmp_path / model), *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_the_folder_is_written_scored_and_generated_from(call, tmp_path):
    arguments = ("--bits", "4", "--group", "32", "--out", "TMP/small", "--text", "TMP/text.txt")
    status, out, err = call(*arguments)
    assert status == 0, err
    assert "| worst 10 of 16 weights |" in out
    assert "layers." in out
    assert "perplexity" in out
    assert is_quantized(load_pretrained(tmp_path / "small").params)
    status, again, _ = call(*arguments, "--json")
    assert status == 0
    found = json.loads(again)
    total, shown = found["bytes_after"], f"{found['bytes_after']:,} after"
    assert shown in out
    assert len(found["weights"]) == 16
    assert total < 0.35 * found["bytes_before"]
    before, after = found["before"], found["after"]
    assert before["bits_per_byte"] > 0
    assert 0 < abs(after["perplexity"] / before["perplexity"] - 1) < 0.5
    status, text, _ = call("--prompt", "The", "--max-new", "5", command="generate", model="small")
    assert status == 0
    assert text.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bits", "3", "--out", "TMP/new"), "8"),
        (("--bits", "4", "--out", "TMP/new"), "group=64"),
        (("--group", "0", "--out", "TMP/new"), "group=0"),
        (("--out", "TMP/toy"), "is the model itself"),
        (("--out", "TMP"), "would remove"),
        (("--out", "TMP/new", "--text", "TMP/none.txt"), "none.txt"),
        (("--out", "TMP/new/deep"), "does not exist"),
        (("--out", "TMP/new", "--model", "/does/not/exist"), "nano"),
    ],
)
def test_bad_input_is_a_message_and_status_2(call, tmp_path, arguments, message):
    before = (tmp_path / "toy" / "model.safetensors").read_bytes()
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "toy" / "model.safetensors").read_bytes() == before


def test_a_model_without_a_first_token_is_quantised_but_not_scored(call, tmp_path):
    for name in ("config.json", "generation_config.json"):
        edit_json(tmp_path / "toy" / name, bos_token_id=None, eos_token_id=None)
    edit_json(tmp_path / "toy" / "tokenizer_config.json", bos_token=..., eos_token=...)
    status, _, err = call("--out", "TMP/new", "--text", "TMP/text.txt")
    assert status == 2
    assert "bos_token_id" in err
    assert not (tmp_path / "new").exists()
    assert call("--out", "TMP/new")[0] == 0


def test_a_quantised_model_is_neither_trained_nor_quantised_again(call):
    assert call("--out", "TMP/small")[0] == 0
    status, _, err = call("--out", "TMP/new", model="small")
    assert (status, "quantize got quantised weights" in err) == (2, True)
    words = ("--data", "TMP/text.txt", "--out", "TMP/run", "--steps", "1")
    status, _, err = call(*words, command="train-lm", model="small")
    assert (status, "Load the original" in err) == (2, True)
