"""Random weights that cost one pass of writing: a fixed block of normal draws, repeated.

A billion fresh draws would take longer than the measurement. No time depends on the values.
"""

import functools

import numpy as np

_BLOCK = 1 << 20


@functools.cache
def _block(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(_BLOCK, dtype=np.float32) * np.float32(0.02)


def fill(out: np.ndarray, *, seed: int = 0) -> None:
    """Fill a contiguous float32 array with the repeated block of `seed`."""
    flat, block = out.reshape(-1), _block(seed)
    whole = flat.size // _BLOCK * _BLOCK
    flat[:whole].reshape(-1, _BLOCK)[:] = block
    flat[whole:] = block[: flat.size - whole]


def prompt(batch: int, length: int, n_vocab: int, *, seed: int = 0) -> list[list[int]]:
    """[batch][length] random token ids of a fixed seed, the same for both sides."""
    return np.random.default_rng(seed).integers(0, n_vocab, (batch, length)).tolist()
