"""The programs that time one implementation of an operation beside another."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax.pallas_kernels.decode_attention import decode_attention
from ariel_jax.pallas_kernels.linear import linear
from ariel_jax.pallas_kernels.vocab_top1 import vocab_top1


@functools.cache
def linears(impl: str) -> Callable[..., jax.Array]:
    """Products of the same rows with several weights, one after the other, as layers do it.

    Static: impl. Traced: x [rows, in], weights (each [out, in] and scales or None). Donated: nothing.
    """

    def run(x: jax.Array, weights: Sequence[Any]) -> jax.Array:
        total = jnp.zeros((), jnp.float32)
        for w, scale in weights:
            # Each waits for the one before.
            y = linear(x + total.astype(x.dtype) * 0, w, scale=scale, impl=impl)
            total = total + y[0, 0].astype(jnp.float32)
        return total

    return jax.jit(run)


@functools.cache
def heads(impl: str) -> Callable[..., jax.Array]:
    """The likeliest tokens of the same rows under several output heads, one after the other.

    Static: impl. Traced: x [rows, in], weights (each [tokens, in] and scales or None). Donated:
    nothing.
    """

    def run(x: jax.Array, weights: Sequence[Any]) -> jax.Array:
        total = jnp.zeros((), jnp.float32)
        for w, scale in weights:
            index, _, lse = vocab_top1(x + total.astype(x.dtype) * 0, w, scale=scale, impl=impl)
            total = total + index[0].astype(jnp.float32) * 1e-9 + lse[0]
        return total

    return jax.jit(run)


@functools.cache
def attentions(impl: str, scale: float) -> Callable[..., jax.Array]:
    """Attention of the same queries over several caches, one after the other.

    Static: impl, scale. Traced: q [B, T, N, H], caches (pairs [B, K, C, H]), length [B]. Donated:
    nothing.
    """

    def run(q: jax.Array, caches: Sequence[Any], length: jax.Array) -> jax.Array:
        total = jnp.zeros((), jnp.float32)
        positions = length[:, None] - q.shape[1] + jnp.arange(q.shape[1], dtype=jnp.int32)[None]
        for k, v in caches:
            out, _ = decode_attention(
                q + total.astype(q.dtype) * 0,
                *(k, v),
                length=length,
                scale=scale,
                q_positions=positions,
                impl=impl,
            )
            total = total + out[0, 0, 0, 0].astype(jnp.float32)
        return total

    return jax.jit(run)
