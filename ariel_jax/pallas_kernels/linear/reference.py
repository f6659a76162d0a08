"""The meaning of `linear`, in plain jnp."""

import jax
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from ariel_jax.pallas_kernels.linear.packing import dequantize


def linear(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    *,
    scale: jax.Array | None,
    precision: lax.PrecisionLike,
    out_dtype: DTypeLike,
) -> jax.Array:
    """Returns `x @ w.T + b`; see `api.linear` for the shapes and what is guaranteed."""
    # Sums are formed in at least float32; asking for it is free where the hardware does so anyway.
    accumulate = np.promote_types(x.dtype, np.float32)
    if scale is not None:
        # A weight times its scale has more bits than bfloat16: products in the wider type.
        x, w = x.astype(accumulate), dequantize(w, scale, accumulate)
    y = lax.dot_general(
        x,
        w.astype(x.dtype),
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=precision,
        preferred_element_type=accumulate,
    )
    if b is not None:
        y = y + lax.broadcast_in_dim(b.astype(accumulate), y.shape, (y.ndim - 1,))
    return y.astype(out_dtype)
