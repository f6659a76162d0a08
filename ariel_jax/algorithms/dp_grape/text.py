"""Records of text for private training: read, encoded to one length, and the loss of one of them."""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import positive_int, seed
from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf import Tokenizer
from ariel_jax.models.params import DecoderParams
from ariel_jax.training.step import IGNORE, LMBatch, lm_loss

Record = tuple[str, str | None]


@dataclasses.dataclass(frozen=True)
class TextLoss:
    """The mean cross-entropy of one record's learned tokens, in nats: a loss of one example.

    Attributes:
        cfg: the decoder.
        remat: blocks are computed again on the way back instead of kept.
    """

    cfg: DecoderConfig
    remat: bool = False

    def __call__(
        self, params: DecoderParams, example: Mapping[str, jax.Array], key: jax.Array
    ) -> jax.Array:
        """[] float32 of `tokens` and `targets`, [T] int32 each; targets are -1 where nothing is learned."""
        tokens, targets = example["tokens"][None], example["targets"][None]
        batch = LMBatch(tokens=tokens, targets=targets, step=jnp.zeros((), jnp.int32))
        here = jnp.zeros(1, bool)
        return lm_loss(self.cfg, params, batch, here, key=key, remat=self.remat)[0]


def read_records(path: pathlib.Path) -> list[Record]:
    """The records of a JSONL or CSV file, each with a `text` and, in all or in none, a `label`.

    Args:
        path: `.csv` with a header, anything else as one JSON object a line; UTF-8.

    Raises:
        ConfigError: the file cannot be read, a line is no record (its number is named), or there is none.
    """
    try:
        lines = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8: {error}"
        raise ConfigError(
            f"cannot read records from {path}: {reason}. Pass a readable JSONL or CSV file."
        ) from error
    rows = _csv_rows(path, lines) if path.suffix.lower() == ".csv" else _json_rows(path, lines)
    records = [_record(path, number, row) for number, row in rows]
    if not records:
        raise ConfigError(f"{path} holds no records: give it one line for each.")
    labelled = [label is not None for _, label in records]
    if any(labelled) and not all(labelled):
        raise ConfigError(
            f"{path}: {sum(labelled)} of {len(records)} records have a label: give all of them one, or none."
        )
    return records


def _json_rows(path: pathlib.Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: no JSON ({error}). Write one object a line, such as "
                '{"text": "..."}.'
            ) from error


def _csv_rows(path: pathlib.Path, text: str) -> Iterator[tuple[int, Any]]:
    # Lines as the format has them: other characters that Unicode counts as line ends stay in the text.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(
            f"{path}, line {reader.reader.line_num}: no CSV ({error}). Use a header with the column text."
        ) from error


def _record(path: pathlib.Path, number: int, row: Any) -> Record:
    text = row.get("text") if isinstance(row, dict) else None
    label = row.get("label") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text or not (label is None or isinstance(label, str)):
        raise ConfigError(
            f'{path}, line {number}: no record. It must have a "text" that is not empty, and may have '
            'a "label", both as text.'
        )
    if label == "":
        raise ConfigError(
            f"{path}, line {number}: the label is empty. Give it at least one letter."
        )
    return text, label


def encode_records(
    records: Sequence[Record], tokenizer: Tokenizer, *, max_tokens: int
) -> dict[str, np.ndarray]:
    """Records as arrays of one length, whatever is in them: the length would tell of the longest.

    Without a label every token after the first is learned, and the end of the text. With one the label
    follows the text after a space, and its tokens alone are learned. What is too long loses the end of
    its text, or with a label the beginning.

    Args:
        records: texts and labels.
        tokenizer: the model's.
        max_tokens: T, predictions that a record has room for.

    Returns:
        `tokens` and `targets`, [N, T] int32; targets are -1 where nothing is learned.

    Raises:
        ConfigError: a label alone has more than `max_tokens` tokens, or a record fewer than two in all.
    """
    positive_int(max_tokens=max_tokens)
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    tokens = np.zeros((len(records), max_tokens), np.int32)
    targets = np.full((len(records), max_tokens), IGNORE, np.int32)
    for row, (text, label) in enumerate(records):
        ids = tokenizer.encode(text)
        if label is None:
            ids = [*ids, *end][: max_tokens + 1]
            first = 1
        else:
            answer = tokenizer.encode(f" {label}", add_special_tokens=False)
            if len(answer) > max_tokens:
                raise ConfigError(
                    f"the label {label!r} has {len(answer)} tokens and max_tokens={max_tokens}: pass more."
                )
            ids = [*ids[-(max_tokens + 1 - len(answer)) :], *answer]
            first = len(ids) - len(answer)
        n = len(ids) - 1
        if n < 1 or first < 1:
            raise ConfigError(
                f"record {row + 1} has too few tokens to predict one from another ({len(ids)}): leave out "
                f"records as short as {text!r}, or use a tokenizer that marks the beginning."
            )
        tokens[row, :n] = ids[:-1]
        targets[row, first - 1 : n] = ids[first:]
    return {"tokens": tokens, "targets": targets}


def made_up_records(
    n: int, *, vocabulary: int, max_tokens: int, seed_of_all: int
) -> dict[str, np.ndarray]:
    """Records of tokens by chance, all of which are learned: nobody's, and unlike any text.

    What a model knows of such a record it knows from the record itself, so they serve as canaries.

    Args:
        n: how many.
        vocabulary: tokens are below it.
        max_tokens: T.
        seed_of_all: the same one makes the same records.

    Returns:
        `tokens` and `targets`, [n, T] int32, as of `encode_records`.
    """
    positive_int(n=n, vocabulary=vocabulary, max_tokens=max_tokens)
    seed(seed_of_all=seed_of_all)
    ids = np.random.default_rng([seed_of_all, 1]).integers(0, vocabulary, (n, max_tokens + 1))
    ids = ids.astype(np.int32)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:]}
