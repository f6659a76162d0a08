"""Normalisation over the last axis, in at least float32."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._numerics import at_least_f32


class Norm(struct.PyTreeNode):
    """Scale and, for layer norm, bias."""

    scale: jax.Array  # [D]
    bias: jax.Array | None = None  # [D]


def norm(
    kind: Literal["rms", "rms_plus_one", "layer"], eps: float, p: Norm, x: jax.Array
) -> jax.Array:
    """`x` normalised over its last axis and scaled.

    Args:
        kind: `rms` (Zhang and Sennrich 2019, arXiv 1910.07467), `rms_plus_one` (Gemma: the stored
            weight is scale - 1) or `layer` (Ba et al. 2016, arXiv 1607.06450).
        eps: added to the mean square or variance.
        p: scale [D] and bias [D] or None.
        x: [..., D] float.

    Returns:
        [..., D] in x's dtype; the arithmetic runs in at least float32.
    """
    wide = x.astype(at_least_f32(x.dtype))
    if kind == "layer":
        wide = wide - jnp.mean(wide, -1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps)
    scale = p.scale.astype(wide.dtype)
    wide = wide * _last(1 + scale if kind == "rms_plus_one" else scale, wide)
    if p.bias is not None:
        wide = wide + _last(p.bias.astype(wide.dtype), wide)
    return wide.astype(x.dtype)


def _last(v: jax.Array, like: jax.Array) -> jax.Array:
    return v.reshape((1,) * (like.ndim - 1) + v.shape)
