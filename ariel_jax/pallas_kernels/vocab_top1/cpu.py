"""`vocab_top1` by the native CPU kernels: no logits leave the processor's cache."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.pallas_kernels import native, tune
from ariel_jax.pallas_kernels.linear.cpu import is_narrow, shape_key, why_not_product
from ariel_jax.pallas_kernels.vocab_top1 import reference


def why_not(
    x: Any, w: Any, b: Any, *, scale: Any, softcap: float | None, piece: int | None = None
) -> str | None:
    """Why it cannot take these arguments, or None."""
    return why_not_product(x, w, b, scale)


def why_not_auto(
    x: Any, w: Any, b: Any, *, scale: Any, softcap: float | None, piece: int | None = None
) -> str | None:
    """Why it is not known to pay for these arguments, or None; as for `linear`.

    Records compare it with all logits at once. Where those may not exist the alternative is a loop over
    pieces of XLA's, and the kernel is taken.
    """
    if piece is not None:
        return None
    recorded = tune.why_not("vocab_top1", "native", shape_key(x, w, jnp.float32))
    return None if recorded == tune.UNKNOWN and is_narrow(x, w, scale) else recorded


def vocab_top1(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    *,
    scale: jax.Array | None,
    softcap: float | None,
    piece: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (index, logit, lse); see `api.vocab_top1`. Gradients are those of the reference."""
    nothing = jnp.zeros(0, jnp.float32)
    b, scale = nothing if b is None else b, nothing if scale is None else scale
    found: Any = _top1(x, w, scale, b, float(softcap or 0.0))
    return found


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _top1(x: jax.Array, w: jax.Array, scale: jax.Array, b: jax.Array, softcap: float) -> Any:
    rows = x.shape[:-1]
    shapes = [jax.ShapeDtypeStruct(rows, d) for d in (jnp.int32, jnp.float32, jnp.float32)]
    call = jax.ffi.ffi_call(native.target("ariel_top1"), shapes, vmap_method="sequential")
    return tuple(call(x, w, scale, b, softcap=np.float32(softcap)))


@_top1.defjvp
def _slope(softcap: float, primals: Any, tangents: Any) -> Any:
    def slow(x: jax.Array, w: jax.Array, scale: jax.Array, b: jax.Array) -> Any:
        return reference.vocab_top1(
            x,
            w,
            b if b.size else None,
            scale=scale if scale.size else None,
            softcap=softcap or None,
        )

    return _top1(*primals, softcap), jax.jvp(slow, primals, tangents)[1]
