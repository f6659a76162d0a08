"""`linear` for few rows by the native CPU kernels: weights are read once for up to 8 rows."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from ariel_jax.pallas_kernels import native, tune
from ariel_jax.pallas_kernels.linear import reference

MOST_ROWS = 32


def why_not(
    x: Any, w: Any, b: Any, *, precision: lax.PrecisionLike, out_dtype: DTypeLike
) -> str | None:
    """Why it cannot take these arguments, or None."""
    rows = math.prod(x.shape[:-1])
    if not 1 <= rows <= MOST_ROWS:
        return f"takes 1 to {MOST_ROWS} rows, not {rows}"
    bias = {} if b is None else {"b": b.dtype}
    return native.why_not_with(x=x.dtype, w=w.dtype, out_dtype=out_dtype, **bias)


def shape_key(x: Any, w: Any, out_dtype: DTypeLike) -> str:
    """What a recorded time belongs to: rows (rounded up), shape and dtypes."""
    rows = tune.bucket(math.prod(x.shape[:-1]))
    dtypes = "/".join(jnp.dtype(d).name for d in (x.dtype, w.dtype, out_dtype))
    return f"{rows} x {w.shape[1]} to {w.shape[0]}, {dtypes}"


def why_not_auto(
    x: Any, w: Any, b: Any, *, precision: lax.PrecisionLike, out_dtype: DTypeLike
) -> str | None:
    """Why it is not known to pay for these arguments, or None."""
    return tune.why_not("linear", "native", shape_key(x, w, out_dtype))


def linear(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    *,
    precision: lax.PrecisionLike,
    out_dtype: DTypeLike,
) -> jax.Array:
    """Returns `x @ w.T + b`; see `api.linear`. Sums are in float32 whatever `precision` says.

    A row has the same bits whatever rows are beside it. Gradients are those of the reference.
    """
    if b is None:
        b = jnp.zeros(0, jnp.float32)
    return _linear(x, w, b, jnp.dtype(out_dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _linear(x: jax.Array, w: jax.Array, b: jax.Array, out_dtype: np.dtype) -> jax.Array:
    shape = jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[0]), out_dtype)
    call = jax.ffi.ffi_call(native.target("ariel_linear"), shape, vmap_method="sequential")
    return call(x, w, jnp.zeros(0, jnp.float32), b)


def _forward(x: jax.Array, w: jax.Array, b: jax.Array, out_dtype: np.dtype) -> Any:
    return _linear(x, w, b, out_dtype), (x, w, b)


def _backward(out_dtype: np.dtype, kept: Any, cotangent: jax.Array) -> Any:
    def slow(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        bias = b if b.size else None
        return reference.linear(x, w, bias, precision=None, out_dtype=out_dtype)

    return jax.vjp(slow, *kept)[1](cotangent)


_linear.defvjp(_forward, _backward)
