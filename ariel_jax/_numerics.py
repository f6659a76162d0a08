"""Which dtype reductions run in, and how long sums are added."""

from typing import Any

import jax
import jax.numpy as jnp

# Numbers that are added at once: the rounding of a sum grows with its length.
_BLOCK = 1024


def at_least_f32(dtype: Any) -> jnp.dtype:
    """float32 for narrower float dtypes, `dtype` itself otherwise (float64 stays float64)."""
    dtype = jnp.dtype(dtype)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def sum_of_squares(x: jax.Array) -> jax.Array:
    """[B] sums of squares of [B, ...] in at least float32, in blocks, then the blocks in blocks."""
    sums = jnp.square(x.astype(at_least_f32(x.dtype))).reshape(x.shape[0], -1)
    while sums.shape[1] > 1:
        size = min(_BLOCK, sums.shape[1])
        blocks = jnp.pad(sums, ((0, 0), (0, -sums.shape[1] % size)))
        sums = jnp.sum(blocks.reshape(x.shape[0], -1, size), axis=2)
    return sums[:, 0] if x.size else jnp.zeros(x.shape[0], sums.dtype)
