"""Interpolated modified Kneser-Ney n-gram over bytes: a yardstick for nano on the same text.

Follows Chen and Goodman, "An empirical study of smoothing techniques for language modeling"
(1999), section 4.1.6: the highest order uses counts, lower orders the number of distinct symbols
seen before a gram; three discounts per order; order zero is uniform over the 256 bytes.

Conventions. Every document begins in a context of start marks, so nothing is carried over from
the document before; the end of a document is not predicted. A context never seen in training gives
the distribution of the context one symbol shorter. Where an order has too few types to estimate
three discounts (a count of one, two, three or four that does not occur), it uses the one discount
n1 / (n1 + 2 n2) of Ney, or 0.5 if that is undefined or zero.

Run `python -m experiments.nano.ngram --corpus DIR` on a folder made by `corpus.py`.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ariel_jax.errors import ArielError, ConfigError
from experiments.nano.files import DOMAINS, read_documents

ORDER = 5
BITS = 9  # per symbol: 256 bytes and the start mark
START = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """The tables of one order, each sorted by key.

    Attributes:
        grams: uint64 `[types]`, packed symbols, the predicted byte in the lowest bits.
        shares: float64 `[types]`, discounted count over the total of the context.
        contexts: uint64 `[contexts]`, packed symbols before the predicted byte.
        backoffs: float64 `[contexts]`, weight of the next lower order.
    """

    grams: np.ndarray
    shares: np.ndarray
    contexts: np.ndarray
    backoffs: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class KneserNey:
    """A fitted model; `levels[k]` has k symbols of context."""

    levels: tuple[Level, ...]

    @property
    def order(self) -> int:
        """Length of the longest gram."""
        return len(self.levels)


def pack(document: bytes, order: int) -> np.ndarray:
    """Grams that end at each byte of a document, start marks before the first byte.

    Args:
        document: Text of n bytes.
        order: Gram length, at most 7.

    Returns:
        uint64 `[n]`; symbol i before the last one occupies bits 9 i to 9 i + 8.

    Raises:
        ConfigError: If the order does not fit into 64 bits.
    """
    if not 1 <= order <= 64 // BITS:
        raise ConfigError(f"order {order}: allowed are 1 to {64 // BITS}; choose one of these")
    symbols = np.full(len(document) + order - 1, START, np.uint64)
    symbols[order - 1 :] = np.frombuffer(document, np.uint8)
    keys = np.zeros(len(document), np.uint64)
    for age in range(order):
        start = order - 1 - age
        keys |= symbols[start : start + len(document)] << np.uint64(BITS * age)
    return keys


def discounts(counts: np.ndarray) -> np.ndarray:
    """Discounts for counts of one, two, and three or more.

    Args:
        counts: int64 `[types]`, at least 1.

    Returns:
        float64 `[4]`; entry 0 is zero.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if np.all(n > 0):
        ratio = n[0] / (n[0] + 2 * n[1])
        steps = np.arange(1.0, 4.0)
        found = steps - (steps + 1) * ratio * n[1:] / n[:3]
        if np.all(found > 0) and np.all(found < steps):
            return np.concatenate([[0.0], found])
    single = n[0] / (n[0] + 2 * n[1]) if n[0] and n[1] else 0.5
    return np.array([0.0, single, single, single])


def _level(grams: np.ndarray, counts: np.ndarray) -> Level:
    taken = discounts(counts)[np.minimum(counts, 3)]
    contexts, first = np.unique(grams >> np.uint64(BITS), return_index=True)
    totals = np.add.reduceat(counts.astype(np.float64), first)
    sizes = np.diff(np.append(first, grams.size))
    return Level(
        grams=grams,
        shares=(counts - taken) / np.repeat(totals, sizes),
        contexts=contexts,
        backoffs=np.add.reduceat(taken, first) / totals,
    )


def fit(documents: Iterable[bytes], order: int = ORDER) -> KneserNey:
    """Fits a model.

    Thirty megabytes take under a minute and about 1.5 GB.

    Args:
        documents: Training texts.
        order: Gram length.

    Returns:
        The model.

    Raises:
        ConfigError: If there is no text.
    """
    keys = [pack(document, order) for document in documents]
    if not sum(piece.size for piece in keys):
        raise ConfigError("0 bytes of training text: give at least one document that is not empty")
    joined = np.concatenate(keys)
    del keys
    joined.sort()
    grams, counts = np.unique(joined, return_counts=True)
    del joined
    levels = [_level(grams, counts)]
    for length in range(order - 1, 0, -1):
        # Each gram one longer counts once: that is the number of distinct symbols before.
        shorter = grams & np.uint64((1 << (BITS * length)) - 1)
        grams, counts = np.unique(shorter, return_counts=True)
        levels.append(_level(grams, counts))
    return KneserNey(levels=tuple(reversed(levels)))


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, absent: float) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[at] == wanted, values[at], absent)


def _probabilities(model: KneserNey, keys: np.ndarray) -> np.ndarray:
    result = np.full(keys.shape, 1 / 256)
    for length, level in enumerate(model.levels, start=1):
        wanted = keys & np.uint64((1 << (BITS * length)) - 1)
        backoff = _lookup(level.contexts, level.backoffs, wanted >> np.uint64(BITS), 1.0)
        result = _lookup(level.grams, level.shares, wanted, 0.0) + backoff * result
    return result


def distribution(model: KneserNey, context: bytes) -> np.ndarray:
    """Distribution of the byte after the beginning of a document.

    Guarantee: the 256 probabilities are positive and sum to 1, for any context, seen or not.

    Args:
        model: A fitted model.
        context: All bytes of the document so far; only the last `order - 1` matter.

    Returns:
        float64 `[256]`.
    """
    last = pack(context + b"\0", model.order)[-1:]
    return _probabilities(model, last + np.arange(256, dtype=np.uint64))


def document_bits(model: KneserNey, document: bytes) -> np.ndarray:
    """Bits that each byte of a document costs, -log2 of its probability.

    Args:
        model: A fitted model.
        document: Text of n bytes.

    Returns:
        float64 `[n]`.
    """
    return -np.log2(_probabilities(model, pack(document, model.order)))


def measure(out_dir: Path, order: int = ORDER) -> dict[str, dict[str, float]]:
    """Fits on the whole training split and measures the held-out split.

    Args:
        out_dir: Folder that `corpus.build` made.
        order: Gram length.

    Returns:
        `{domain: {"bytes", "bits_per_byte"}}` for each domain and `all`.
    """
    out = Path(out_dir)
    texts = (text.encode() for name in DOMAINS for _, text in read_documents(out, "train", name))
    model = fit(texts, order)
    result = {}
    size, bits = 0, 0.0
    for name in DOMAINS:
        parts = [text.encode() for _, text in read_documents(out, "heldout", name)]
        costs = [document_bits(model, part).sum() for part in parts]
        own = sum(map(len, parts))
        result[name] = {"bytes": own, "bits_per_byte": float(sum(costs)) / own}
        size, bits = size + own, bits + float(sum(costs))
    result["all"] = {"bytes": size, "bits_per_byte": bits / size}
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: prints one JSON line per domain."""
    parser = argparse.ArgumentParser(prog="python -m experiments.nano.ngram", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder made by corpus.py")
    parser.add_argument("--order", type=int, default=ORDER)
    options = parser.parse_args(arguments)
    try:
        rows = measure(options.corpus, options.order)
    except ArielError as error:
        print(error, file=sys.stderr)
        return 2
    for domain, row in rows.items():
        print(json.dumps({"domain": domain, "order": options.order, **row}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
