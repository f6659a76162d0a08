"""Attention behind one seam: a block hands q, k, v to an `attend` and gets the mixed values back.

An `attend` is a closure built inside a program from state and options. Layers never see a cache.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ariel_jax.pallas_kernels.decode_attention import decode_attention

Carry = Any


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


def causal(options: Callable[[int], AttentionOptions]) -> Attend:
    """The `attend` of training and scoring: no cache, the carry passes through unchanged.

    Right-padded batches need nothing more: padding comes after every real position.
    """

    def attend(layer: int, q: jax.Array, k: jax.Array, v: jax.Array, carry: Carry):
        return causal_attention(q, k, v, options(layer)), carry

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
