"""`decode_attention` by the native CPU kernels: only valid rows are read."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.pallas_kernels import native, tune
from ariel_jax.pallas_kernels.decode_attention import reference
from ariel_jax.pallas_kernels.decode_attention.tree import seen_bits

MOST_QUERIES = 32


def why_not(q: Any, k: Any, v: Any, **options: Any) -> str | None:
    """Why it cannot take these arguments, or None."""
    if q.shape[1] > MOST_QUERIES:
        return f"takes 1 to {MOST_QUERIES} queries of a request, not {q.shape[1]}"
    for name in ("length", "q_positions"):
        if name in options and options[name].dtype != jnp.int32:
            return f"{name} is {options[name].dtype}, not int32"
    if 0 in (*q.shape, *k.shape):
        return "takes no empty arrays"
    return native.why_not_with(q=q.dtype)


def shape_key(q: Any, k: Any) -> str:
    """What a recorded time belongs to: batch, queries and capacity (rounded up), heads and dtype."""
    B, T, N, H = q.shape
    K, C = k.shape[1:3]
    capacity = next((n for n in tune.CAPACITIES if n >= C), tune.CAPACITIES[-1])
    return f"{B} x {tune.bucket(T)} queries, {N}/{K} heads of {H}, {capacity} rows, {q.dtype}"


def why_not_auto(q: Any, k: Any, v: Any, **options: Any) -> str | None:
    """Why it is not known to pay for these arguments, or None.

    Without a record it is taken for one query over a bfloat16 cache, which XLA widens to float32.
    """
    recorded = tune.why_not("decode_attention", "native", shape_key(q, k))
    narrow = q.shape[1] == 1 and k.dtype.itemsize < 4
    return None if recorded == tune.UNKNOWN and narrow else recorded


def decode_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    length: jax.Array,
    scale: float,
    softcap: float | None,
    window: int | None,
    q_positions: jax.Array,
    parents: tuple[int, ...] | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (out, lse); see `api.decode_attention`. Gradients are those of the reference.

    A query has the same bits whatever queries are beside it, and however many threads there are.
    """
    options = (float(scale), softcap, window, parents)
    found: Any = _attend(q, k, v, length, q_positions, options)
    out, lse = found
    return out.astype(q.dtype), lse


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    q_positions: jax.Array,
    options: tuple[Any, ...],
) -> tuple[jax.Array, jax.Array]:
    scale, softcap, window, parents = options
    B, T, N, _ = q.shape
    bits = np.zeros(0, np.uint32) if parents is None else seen_bits(parents, within=window)
    shapes = (
        jax.ShapeDtypeStruct(q.shape, jnp.float32),
        jax.ShapeDtypeStruct((B, N, T), jnp.float32),
    )
    call: Any = jax.ffi.ffi_call(native.target("ariel_attend"), shapes, vmap_method="sequential")
    return call(
        q.astype(jnp.float32),
        k,
        v,
        length,
        q_positions,
        jnp.asarray(bits),
        scale=np.float32(scale),
        softcap=np.float32(softcap or 0.0),
        window=np.int64(window or 0),
    )


@_attend.defjvp
def _slope(options: tuple[Any, ...], primals: Any, tangents: Any) -> Any:
    scale, softcap, window, parents = options
    *arrays, length, q_positions = primals

    def slow(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        out, lse = reference.decode_attention(
            *(q, k, v),
            length=length,
            scale=scale,
            softcap=softcap,
            window=window,
            q_positions=q_positions,
            parents=parents,
        )
        return out.astype(jnp.float32), lse

    return _attend(*primals, options), jax.jvp(slow, tuple(arrays), tuple(tangents[:3]))[1]
