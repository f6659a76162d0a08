"""Where batches come from: sources whose whole state is a small dictionary that a checkpoint keeps."""

import bisect
import dataclasses
import functools
import io
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ariel_jax import durable
from ariel_jax._checks import positive_int, seed
from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.training.step import LMBatch

SourceState = dict[str, Any]  # JSON values only


class BatchSource(Protocol):
    """An endless, repeatable sequence of batches."""

    def init(self) -> SourceState:
        """The state before the first batch."""
        ...

    def next(self, state: SourceState) -> tuple[tuple[Any, np.ndarray], SourceState]:
        """`((batch, is_padding), state)`: the batch after `state`, and the state after it.

        The same state always gives the same batch, in this process or another; `state` itself is
        not changed. is_padding is [B] bool.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFileSource:
    """Windows of token files, drawn from each file in shuffled order without replacement.

    A file is cut into windows of the current length; an epoch visits each once in an order that
    depends on seed, file, length and epoch, and starts its cuts at another offset. Which file a
    row comes from is drawn by weight from seed and step. A window may begin and end inside a
    document, and documents in one window see each other.

    Attributes:
        files: `.npy` files of uint16 or int32 `[n]` token ids; memory-mapped.
        weights: share of the rows from each file.
        tokens_per_batch: rows x length of every batch.
        lengths: `((first_step, length), ...)`, ascending; the first entry is for step 0.
        seed: of the order.
        vocab_size: ids must be below it.
    """

    files: tuple[str, ...]
    weights: tuple[float, ...]
    tokens_per_batch: int
    lengths: tuple[tuple[int, int], ...]
    seed: int
    vocab_size: int

    def __post_init__(self) -> None:
        if not self.files or len(self.files) != len(self.weights):
            raise ConfigError(
                f"got {len(self.files)} token files and {len(self.weights)} weights; "
                "give at least one file and one weight for each."
            )
        if not all(0 <= w < math.inf for w in self.weights) or not sum(self.weights) > 0:
            raise ConfigError(
                f"weights={self.weights} must be finite, not negative and not all zero."
            )
        firsts = [first for first, _ in self.lengths]
        if not firsts or firsts[0] != 0 or firsts != sorted(set(firsts)):
            raise ConfigError(
                f"lengths={self.lengths} must be ((0, length), (step, length), ...) with rising "
                "steps."
            )
        positive_int(tokens_per_batch=self.tokens_per_batch, vocab_size=self.vocab_size)
        seed(seed=self.seed)
        for _, length in self.lengths:
            positive_int(length=length)
            if self.tokens_per_batch % length:
                raise ConfigError(
                    f"a sequence length of {length} does not divide "
                    f"tokens_per_batch={self.tokens_per_batch}; choose one that does."
                )

    def init(self) -> SourceState:
        """The state before the first batch."""
        return {"step": 0, "stage": 0, "drawn": [0] * len(self.files)}

    def next(self, state: SourceState) -> tuple[tuple[LMBatch, np.ndarray], SourceState]:
        """`((batch, is_padding), state)` after a state; no row is padding."""
        step = state["step"]
        stage = bisect.bisect_right([first for first, _ in self.lengths], step) - 1
        length = self.lengths[stage][1]
        drawn = list(state["drawn"]) if stage == state["stage"] else [0] * len(self.files)
        n_rows = self.tokens_per_batch // length
        shares = np.asarray(self.weights) / sum(self.weights)
        choice = np.random.default_rng([self.seed, 0, step]).choice(
            len(self.files), size=n_rows, p=shares
        )
        rows = np.empty((n_rows, length + 1), np.int32)
        for row, file in enumerate(choice):
            rows[row] = self._window(int(file), length, drawn[file])
            drawn[file] += 1
        if rows.min() < 0 or rows.max() >= self.vocab_size:
            raise ConfigError(
                f"the token files {list(self.files)} hold ids from {rows.min()} to {rows.max()}, "
                f"the model knows 0 to {self.vocab_size - 1}; encode them with its tokenizer."
            )
        arrays: Any = {"tokens": rows[:, :-1], "targets": rows[:, 1:], "step": np.int32(step)}
        batch = LMBatch(**arrays)  # NumPy until a program takes it
        after = {"step": step + 1, "stage": stage, "drawn": drawn}
        return (batch, np.zeros(n_rows, bool)), after

    def _window(self, file: int, length: int, index: int) -> np.ndarray:
        data = _map_tokens(self.files[file])
        # One window fewer than fit leaves room for the epoch's offset and the last target.
        per_epoch = (data.size - 1) // length - 1
        if per_epoch < 1:
            raise ConfigError(
                f"{self.files[file]} holds {data.size} tokens, too few for windows of {length}: "
                f"give at least {2 * length + 1} tokens or shorter sequences."
            )
        epoch, place = divmod(index, per_epoch)
        order, offset = _epoch_order(self.seed, file, length, epoch, per_epoch)
        start = offset + int(order[place]) * length
        return data[start : start + length + 1]


@functools.lru_cache(maxsize=64)
def _epoch_order(
    seed: int, file: int, length: int, epoch: int, n_windows: int
) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng([seed, 1, file, length, epoch])
    return generator.permutation(n_windows), int(generator.integers(length))


def _map_tokens(path: str) -> np.ndarray:
    try:
        found = os.stat(path)
        # Another file may have come in its place since the last look.
        return _mapped(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    except OSError as error:
        raise CheckpointError(
            f"cannot read token file {path}: {error}. Give a .npy file of uint16 or int32 ids."
        ) from error


@functools.lru_cache(maxsize=64)
def _mapped(path: str, identity: tuple[int, ...]) -> np.ndarray:
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CheckpointError(
            f"cannot read token file {path}: {error}. Give a .npy file of uint16 or int32 ids."
        ) from error
    if data.ndim != 1 or data.dtype not in (np.uint16, np.int32):
        raise CheckpointError(
            f"{path} holds {data.dtype}{list(data.shape)}; a token file is uint16 or int32 [n]. "
            "Write it with save_tokens."
        )
    return data


def save_tokens(
    path: str | pathlib.Path, documents: Sequence[Sequence[int]], separator: int
) -> int:
    """Writes a token file: the separator, a document, the separator, and so on, one at the end.

    Returns:
        The number of ids written, as uint16 where they fit, else int32.

    Raises:
        StorageError: the file could not be written; an earlier one is unchanged.
    """
    pieces: list[Any] = [[separator]]
    for document in documents:
        pieces += [document, [separator]]
    flat = np.concatenate([np.asarray(piece, np.int64) for piece in pieces])
    dtype = np.uint16 if flat.max() < 2**16 else np.int32
    content = io.BytesIO()
    np.save(content, flat.astype(dtype), allow_pickle=False)
    with durable.replacing(path) as file:
        file.write(content.getbuffer())
    return flat.size
