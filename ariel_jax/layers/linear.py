"""The one door for matrix products with weights."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from ariel_jax.layers.ghost import Ghost, observed
from ariel_jax.pallas_kernels.linear import dequantize
from ariel_jax.pallas_kernels.linear import linear as linear_op

__all__ = ["Linear", "dequantize", "linear"]


class Linear(struct.PyTreeNode):
    """Weights of `y = x @ w.T + b`, stored as in Hugging Face files."""

    w: jax.Array  # [out, in]; quantised: int8 [out, in], or uint8 [out, in / 2] of 4-bit numbers
    b: jax.Array | None = None  # [out]
    scale: jax.Array | None = None  # [out, groups] float32, of quantised weights only
    tap: jax.Array | None = (
        None  # [out, r] or [r, in]: a correction in a random projection, see `linear`
    )
    proj: jax.Array | None = None  # [in, r] or [out, r]: that projection
    ghost: Ghost | None = None  # while a norm of w's gradient is taken, see `layers.ghost`


def linear(x: jax.Array, p: Linear, *, out_dtype: DTypeLike | None = None) -> jax.Array:
    """`x @ w.T + b` in x's dtype: every projection of every model goes through here.

    Args:
        x: [..., in] float.
        p: weights; stored dtype may differ from x's, the product is rounded to x's.
        out_dtype: of the result; a wider one than x's saves a rounding. None keeps x's.

    Returns:
        [..., out]. With a tap [out, r] and a projection P [in, r], `(x @ P) @ tap.T` is added; with a tap
        [r, in] and P [out, r], `(x @ tap.T) @ P.T`: the weight stands for `w + tap @ P.T` or
        `w + P @ tap`, and the gradient of a tap of zeros is the projected gradient of w.

    Raises:
        ConfigError: x is narrower than float32 where a ghost is.
    """
    if p.ghost is not None:
        y = observed(x, p.w, p.b, p.ghost, out_dtype=out_dtype)
    else:
        y = linear_op(x, p.w, p.b, scale=p.scale, out_dtype=out_dtype)
    if p.tap is None or p.proj is None:
        return y
    return y + _tapped(x, p.tap, p.proj, p.w.shape[0]).astype(y.dtype)


def _tapped(x: jax.Array, tap: jax.Array, proj: jax.Array, n_out: int) -> jax.Array:
    tap, proj = tap.astype(x.dtype), proj.astype(x.dtype)
    if tap.shape == (n_out, proj.shape[1]):
        return jnp.einsum("...r,or->...o", jnp.einsum("...i,ir->...r", x, proj), tap)
    return jnp.einsum("...r,or->...o", jnp.einsum("...i,ri->...r", x, tap), proj)
