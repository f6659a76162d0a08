"""How quantised weights lie in memory, in plain jnp: int8, or two 4-bit numbers in a byte."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

BLOCK = 32  # 4-bit numbers that 16 bytes hold: low halves are the first 16, high halves the others


def n_inputs(w: jax.Array) -> int:
    """The in axis of quantised weights: their last axis, or twice that for packed 4-bit ones."""
    return w.shape[-1] * (2 if w.dtype == jnp.uint8 else 1)


def pack_int4(q: jax.Array) -> jax.Array:
    """Packs numbers from -8 to 7.

    Args:
        q: [..., n] int8, n a multiple of 32.

    Returns:
        [..., n / 2] uint8.
    """
    blocks = (q + 8).astype(jnp.uint8).reshape(*q.shape[:-1], -1, 2, BLOCK // 2)
    packed = blocks[..., 0, :] | (blocks[..., 1, :] << 4)
    return packed.reshape(*q.shape[:-1], q.shape[-1] // 2)


def unpack_int4(w: jax.Array) -> jax.Array:
    """The inverse of `pack_int4`: [..., n / 2] uint8 to [..., n] int8."""
    blocks = w.reshape(*w.shape[:-1], -1, 1, BLOCK // 2)
    both = jnp.concatenate([blocks & 15, blocks >> 4], axis=-2)
    return both.reshape(*w.shape[:-1], 2 * w.shape[-1]).astype(jnp.int8) - jnp.int8(8)


def dequantize(w: jax.Array, scale: jax.Array, dtype: DTypeLike) -> jax.Array:
    """The weights that quantised ones stand for.

    Args:
        w: [..., in] int8 or [..., in / 2] uint8.
        scale: [..., groups] float32, one for each `in / groups` inputs.
        dtype: of the result.

    Returns:
        [..., in].
    """
    q = unpack_int4(w) if w.dtype == jnp.uint8 else w
    groups = q.reshape(*scale.shape, -1).astype(dtype)
    return (groups * scale[..., None].astype(dtype)).reshape(q.shape)
