"""Records: one line of a file is one record, whatever characters are in it."""

import json

import pytest

from ariel_jax.algorithms.dp_grape.text import encode_records, read_records
from ariel_jax.errors import ConfigError
from ariel_jax.testing import write_toy_checkpoint

# Line ends for Unicode, but not for CSV or JSON: split there, one person's text would count twice.
ODD = "one\u2028half\u0085and\x0bthe\x0cother\x1cone"


def test_a_record_with_odd_line_ends_stays_one_record(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text(f'text,label\n{ODD},x\n"two\nlines",y\n', encoding="utf-8", newline="")
    assert read_records(table) == [(ODD, "x"), ("two\nlines", "y")]
    lines = tmp_path / "a.jsonl"
    rows = [{"text": ODD}, {"text": "two\nlines"}]
    lines.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    assert read_records(lines) == [(ODD, None), ("two\nlines", None)]


class Bare:
    """A tokenizer that marks neither beginning nor end, and drops blanks."""

    eos_id = None

    def encode(self, text, add_special_tokens=True):
        return [ord(c) % 50 for c in text if not c.isspace()]


@pytest.mark.parametrize("record", [(" ", None), ("a", None), (" ", "b")])
def test_a_record_without_anything_to_predict_is_named(record, tmp_path):
    with pytest.raises(ConfigError, match="record 2 has too few tokens"):
        encode_records([("abc", record[1]), record], Bare(), max_tokens=8)
    toy = write_toy_checkpoint(tmp_path / "toy").tokenizer
    arrays = encode_records([("to be", None)], toy, max_tokens=8)
    assert (arrays["targets"][0] >= 0).any()
