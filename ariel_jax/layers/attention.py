"""Attention behind one seam: a block hands q, k, v to an `attend` and gets the mixed values back.

An `attend` is a closure built inside a program from state and options. Layers never see a cache.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32
from ariel_jax.pallas_kernels.decode_attention import decode_attention

Carry = Any
HIDDEN = -1e30  # finite: a row of minus infinities would have no softmax


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """What one layer's attention computes beside softmax(q k) v.

    Attributes:
        scale: factor on the scores.
        softcap: scores become `softcap * tanh(scores / softcap)`; None leaves them.
        window: a query sees the last `window` positions, itself included; None sees all.
    """

    scale: float
    softcap: float | None = None
    window: int | None = None


class Attend(Protocol):
    """How one layer's queries meet keys and values, and what is kept of the new ones."""

    def __call__(
        self, layer: int, q: jax.Array, k: jax.Array, v: jax.Array, carry: Carry, /
    ) -> tuple[jax.Array, Carry]:
        """`(out [B, T, N, H], carry)` from q [B, T, N, H] and the new k, v [B, T, K, H]."""
        ...


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, options: AttentionOptions
) -> jax.Array:
    """Each position attends to itself and earlier ones of the same T rows.

    Args:
        q: [B, T, N, H] float.
        k: [B, T, K, H] keys, N a multiple of K.
        v: [B, T, K, H] values.
        options: scale, cap and window.

    Returns:
        [B, T, N, H] in q's dtype.
    """
    B, T = q.shape[:2]
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    out, _ = decode_attention(
        q,
        jnp.swapaxes(k, 1, 2),
        jnp.swapaxes(v, 1, 2),
        length=jnp.full((B,), T, jnp.int32),
        q_positions=positions,
        scale=options.scale,
        softcap=options.softcap,
        window=options.window,
    )
    return out


def blocked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, options: AttentionOptions, *, block: int
) -> jax.Array:
    """Causal attention over one sequence of T rows, without the upper half of the score matrix.

    Args:
        q: [B, T, N, H] float.
        k: [B, T, K, H], N a multiple of K.
        v: [B, T, K, H].
        options: scale, cap and window.
        block: queries handled at once; a smaller one skips more of the invisible scores.

    Returns:
        [B, T, N, H] in q's dtype; scores, softmax and sums run in at least float32.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    G = N // K
    wide = at_least_f32(q.dtype)
    # Scaling q is cheaper than scaling scores; in a narrow dtype it would round once more than
    # decoding does.
    scales_q = q.dtype == wide
    rows = (q * jnp.asarray(options.scale, q.dtype) if scales_q else q).reshape(B, T, K, G, H)
    rows = rows.transpose(0, 2, 3, 1, 4).reshape(B * K, G, T, H)
    keys = k.transpose(0, 2, 1, 3).reshape(B * K, T, H)
    values = v.transpose(0, 2, 1, 3).reshape(B * K, T, H)
    parts = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        first = 0 if options.window is None else max(0, start - options.window + 1)
        size = stop - start
        part = rows[:, :, start:stop].reshape(B * K, G * size, H)
        scores = jnp.einsum("xth,xsh->xts", part, keys[:, first:stop], preferred_element_type=wide)
        if not scales_q:
            scores = scores * jnp.asarray(options.scale, wide)
        if options.softcap is not None:
            cap = jnp.asarray(options.softcap, wide)
            scores = cap * jnp.tanh(scores / cap)
        scores = scores + _bias(start, stop, first, options.window, G, wide)
        top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        out = jnp.einsum(
            "xts,xsh->xth",
            weights.astype(v.dtype),
            values[:, first:stop],
            preferred_element_type=wide,
        )
        parts.append((out / total).astype(q.dtype).reshape(B, K, G, size, H))
    return jnp.concatenate(parts, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _bias(
    start: int, stop: int, first: int, window: int | None, groups: int, dtype: jnp.dtype
) -> jax.Array:
    """[1, G * (stop - start), stop - first]: 0 where a query sees a key, else a large negative."""
    query = jnp.arange(start, stop, dtype=jnp.int32)[:, None]
    key = jnp.arange(first, stop, dtype=jnp.int32)[None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    return jnp.tile(jnp.where(seen, 0, HIDDEN).astype(dtype), (groups, 1))[None]


def prompt_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, options: AttentionOptions
) -> jax.Array:
    """`causal_attention` of a whole prompt, in blocks of queries that grow with its length.

    Shapes as in `causal_attention`. Up to 256 rows it is one block; beyond, the scores of at most
    16 blocks are formed one after the other and those that no query sees not at all, so that a
    prompt of T rows needs memory for T / 16 rows of scores.
    """
    return blocked_attention(q, k, v, options, block=max(256, -(-q.shape[1] // 16)))


def causal(options: Callable[[int], AttentionOptions]) -> Attend:
    """The `attend` of training and scoring: no cache, the carry passes through unchanged.

    Right-padded batches need nothing more: padding comes after every real position.
    """

    def attend(layer: int, q: jax.Array, k: jax.Array, v: jax.Array, carry: Carry):
        return causal_attention(q, k, v, options(layer)), carry

    return attend


def bidirectional_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None, *, scale: float
) -> jax.Array:
    """Each position attends to all positions that exist, before and after it.

    Args:
        q: [B, T, N, H] float.
        k: [B, S, K, H] keys, N a multiple of K.
        v: [B, S, K, H] values.
        mask: [B, S] bool, which keys exist; None for all.
        scale: factor on the scores.

    Returns:
        [B, T, N, H] in q's dtype; scores, softmax and sums run in at least float32.

    Guarantees:
        A key that does not exist has a weight of exactly 0. Where no key of a row exists, the result
        is finite and means nothing.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    wide = at_least_f32(q.dtype)
    rows = q.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("btkgh,bskh->bkgts", rows, k, preferred_element_type=wide)
    scores = scores * jnp.asarray(scale, wide)
    if mask is not None:
        scores = jnp.where(mask[:, None, None, None, :], scores, jnp.asarray(HIDDEN, wide))
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v, preferred_element_type=wide)
    return out.astype(q.dtype).reshape(B, T, N, H)


def bidirectional(scale: float, mask: jax.Array | None = None) -> Attend:
    """The `attend` of encoders: every position sees every other; the carry passes through unchanged.

    Args:
        scale: factor on the scores, of all layers.
        mask: [B, T] bool, which positions exist; None for all.
    """

    def attend(layer: int, q: jax.Array, k: jax.Array, v: jax.Array, carry: Carry):
        return bidirectional_attention(q, k, v, mask, scale=scale), carry

    return attend


def merge_attention(
    out_a: jax.Array, lse_a: jax.Array, out_b: jax.Array, lse_b: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Attention over the union of two disjoint sets of keys, from the two partial results.

    Args:
        out_a: [B, T, N, H] normalised attention over the first set.
        lse_a: [B, N, T] log-sum-exp of its scores.
        out_b: the same over the second set.
        lse_b: the same over the second set.

    Returns:
        (out [B, T, N, H], lse [B, N, T]), equal to one joint softmax up to rounding.
    """
    lse = jnp.logaddexp(lse_a, lse_b)
    weight_a = jnp.swapaxes(jnp.exp(lse_a - lse), 1, 2)[..., None]
    weight_b = jnp.swapaxes(jnp.exp(lse_b - lse), 1, 2)[..., None]
    wide = out_a.astype(lse.dtype) * weight_a + out_b.astype(lse.dtype) * weight_b
    return wide.astype(out_a.dtype), lse
