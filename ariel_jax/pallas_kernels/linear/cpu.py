"""`linear` by the native CPU kernels: for few rows, weights are read once for several of them."""

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
from ariel_jax.pallas_kernels.linear.packing import BLOCK, n_inputs

MOST_ROWS = 32  # more only in bfloat16, where the processor multiplies it


def why_not(
    x: Any, w: Any, b: Any, *, scale: Any, precision: lax.PrecisionLike, out_dtype: DTypeLike
) -> str | None:
    """Why it cannot take these arguments, or None."""
    rows = math.prod(x.shape[:-1])
    if (reason := why_not_product(x, w, b, scale, out_dtype=out_dtype)) is not None:
        return reason
    if rows > MOST_ROWS and {x.dtype, w.dtype} == {jnp.dtype(jnp.bfloat16)}:
        return None if native.has_bf16_matmul() else "this processor multiplies no bfloat16"
    if not 1 <= rows <= MOST_ROWS:
        return f"takes 1 to {MOST_ROWS} rows (more if all is bfloat16), not {rows}"
    return None


def why_not_product(x: Any, w: Any, b: Any, scale: Any, **dtypes: DTypeLike) -> str | None:
    """Why the kernels cannot read these rows and weights, whatever the number of rows, or None.

    Args:
        x: rows.
        w: weights.
        b: bias or None.
        scale: of quantised weights, or None.
        dtypes: further ones that must be known, by name.
    """
    dtypes |= {} if b is None else {"b": b.dtype}
    dtypes |= {"w": w.dtype} if scale is None else {}
    if 0 in (math.prod(x.shape[:-1]), x.shape[-1], w.shape[0]):
        return "takes no empty arrays"
    unknown = native.why_not_with(x=x.dtype, **dtypes)
    if unknown is not None:
        return unknown
    if scale is None:
        narrower = x.dtype.itemsize < w.dtype.itemsize
        return f"it does not round w from {w.dtype} to {x.dtype}" if narrower else None
    n_in, groups = n_inputs(w), scale.shape[-1]
    if scale.dtype != jnp.float32:
        return f"scales must be float32, not {scale.dtype}"
    if groups > 1 and n_in // groups % BLOCK:
        return f"groups must be multiples of {BLOCK} inputs, not {n_in // groups}"
    return None


def shape_key(x: Any, w: Any, out_dtype: DTypeLike) -> str:
    """What a recorded time belongs to: rows (rounded up), shape and dtypes."""
    rows = tune.bucket(math.prod(x.shape[:-1]))
    dtypes = "/".join(_name(d) for d in (x.dtype, w.dtype, out_dtype))
    return f"{rows} x {n_inputs(w)} to {w.shape[0]}, {dtypes}"


def _name(dtype: DTypeLike) -> str:
    name = jnp.dtype(dtype).name
    return "int4" if name == "uint8" else name


def why_not_auto(
    x: Any, w: Any, b: Any, *, scale: Any, precision: lax.PrecisionLike, out_dtype: DTypeLike
) -> str | None:
    """Why it is not known to pay for these arguments, or None.

    Without a record it is taken for quantised weights, of which the reference makes a float32 copy
    in every call, and for up to 8 rows of bfloat16 weights.
    """
    recorded = tune.why_not("linear", "native", shape_key(x, w, out_dtype))
    if w.dtype == jnp.int8 and scale.shape[-1] > 1:  # records are of a scale a row
        recorded = tune.UNKNOWN
    return None if recorded == tune.UNKNOWN and is_narrow(x, w, scale) else recorded


def is_narrow(x: Any, w: Any, scale: Any) -> bool:
    """Whether the kernel pays without a record: quantised, or up to 8 rows of bfloat16 weights."""
    return scale is not None or (w.dtype.itemsize < 4 and math.prod(x.shape[:-1]) <= 8)


def linear(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    *,
    scale: jax.Array | None,
    precision: lax.PrecisionLike,
    out_dtype: DTypeLike,
) -> jax.Array:
    """Returns `x @ w.T + b`; see `api.linear`. Sums are in float32 whatever `precision` says.

    With AVX512-VNNI, sums over int8 weights with a scale a row and over int4 weights are whole
    numbers of x rounded to 24 bits of the largest number of its row. With AVX512-BF16 or AMX, products
    of bfloat16 flush subnormal numbers to zero. A row has the same bits whatever rows are beside it,
    up to 32; with AMX and bfloat16, whatever their number. Gradients are those of the reference.
    """
    nothing = jnp.zeros(0, jnp.float32)
    b, scale = nothing if b is None else b, nothing if scale is None else scale
    return _linear(x, w, scale, b, jnp.dtype(out_dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _linear(
    x: jax.Array, w: jax.Array, scale: jax.Array, b: jax.Array, out_dtype: np.dtype
) -> jax.Array:
    shape = jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[0]), out_dtype)
    call = jax.ffi.ffi_call(native.target("ariel_linear"), shape, vmap_method="sequential")
    return call(x, w, scale, b)


@_linear.defjvp
def _slope(out_dtype: np.dtype, primals: Any, tangents: Any) -> Any:
    def slow(x: jax.Array, w: jax.Array, scale: jax.Array, b: jax.Array) -> jax.Array:
        return reference.linear(
            x,
            w,
            b if b.size else None,
            scale=scale if scale.size else None,
            precision=None,
            out_dtype=out_dtype,
        )

    return _linear(*primals, out_dtype), jax.jvp(slow, primals, tangents)[1]
