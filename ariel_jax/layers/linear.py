"""The one door for matrix products with weights."""

import jax
from flax import struct
from jax.typing import DTypeLike

from ariel_jax.pallas_kernels.linear import dequantize
from ariel_jax.pallas_kernels.linear import linear as linear_op

__all__ = ["Linear", "dequantize", "linear"]


class Linear(struct.PyTreeNode):
    """Weights of `y = x @ w.T + b`, stored as in Hugging Face files."""

    w: jax.Array  # [out, in]; quantised: int8 [out, in], or uint8 [out, in / 2] of 4-bit numbers
    b: jax.Array | None = None  # [out]
    scale: jax.Array | None = None  # [out, groups] float32, of quantised weights only


def linear(x: jax.Array, p: Linear, *, out_dtype: DTypeLike | None = None) -> jax.Array:
    """`x @ w.T + b` in x's dtype: every projection of every model goes through here.

    Args:
        x: [..., in] float.
        p: weights; stored dtype may differ from x's, the product is rounded to x's.
        out_dtype: of the result; a wider one than x's saves a rounding. None keeps x's.

    Returns:
        [..., out].
    """
    return linear_op(x, p.w, p.b, scale=p.scale, out_dtype=out_dtype)
