"""The jitted programs of decoding, and the plain functions inside them.

`segment_loop` and `prefill` may also be called inside a user's own jit.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from ariel_jax.decode.state import DecodeState, StepInfo
from ariel_jax.decode.strategy import Strategy
from ariel_jax.layers.attention import causal
from ariel_jax.layers.kv_cache import CacheOps, KVCache, resize_rows
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

TRACES: collections.Counter[str] = collections.Counter()
"""How often each program has been traced in this process, by a call or ahead of one."""


def segment_loop(
    cfg: DecoderConfig,
    params: DecoderParams,
    extra: Any,
    state: DecodeState,
    *,
    strategy: Strategy,
    max_steps: jax.Array | int,
) -> tuple[DecodeState, StepInfo]:
    """Steps on the device until all rows are done, `max_steps` are taken, or a row lacks space.

    Args:
        cfg: static.
        params: weights.
        extra: the strategy's read-only arrays (draft weights, thresholds), or None.
        state: after prefill.
        strategy: static.
        max_steps: traced int32 scalar.

    Returns:
        (state, info): info sums emitted, proposed and accepted over the steps, flags are or-ed.

    Cost: no host transfer inside; the cache is updated in place when the caller donates the state.
    """
    zero = jnp.zeros(state.batch, jnp.int32)
    info = StepInfo(emitted=zero, proposed=zero, accepted=zero, flags=zero.astype(jnp.uint32))

    def go_on(carry: tuple[jax.Array, DecodeState, StepInfo]) -> jax.Array:
        step, state, _ = carry
        fits = (state.cache.capacity_left() >= strategy.rows) | state.done
        return (~state.done).any() & fits.all() & (step < max_steps)

    def body(
        carry: tuple[jax.Array, DecodeState, StepInfo],
    ) -> tuple[jax.Array, DecodeState, StepInfo]:
        step, state, total = carry
        state, new = strategy.step(cfg, params, extra, state)
        total = StepInfo(
            emitted=total.emitted + new.emitted,
            proposed=total.proposed + new.proposed,
            accepted=total.accepted + new.accepted,
            flags=total.flags | new.flags,
        )
        return step + 1, state, total

    with params.precision.scope(), jax.named_scope("segment"):
        _, state, info = jax.lax.while_loop(go_on, body, (jnp.int32(0), state, info))
    return state, info


@functools.cache
def segment(options: tuple[tuple[str, bool], ...] = ()) -> Callable[..., Any]:
    """`segment_loop` jitted.

    Static: cfg, strategy (and the shapes, hence batch, capacity and Nmax).
    Traced: params, extra, max_steps, and every per-request setting inside the state.
    Donated: state.

    Args:
        options: compiler options as a tuple of pairs, from `backend.compiler_options`.
    """

    def run(cfg, params, extra, state, *, strategy, max_steps):
        TRACES["segment"] += 1
        return segment_loop(cfg, params, extra, state, strategy=strategy, max_steps=max_steps)

    return jax.jit(
        run,
        static_argnames=("cfg", "strategy"),
        donate_argnames=("state",),
        compiler_options=dict(options) or None,
    )


@functools.cache
def prefill() -> Callable[..., Any]:
    """`strategy.prefill` jitted.

    Static: cfg, strategy. Traced: params, extra, tokens [B, T], lengths [B]. Donated: state.
    """

    def run(cfg, params, extra, state, tokens, lengths, *, strategy):
        TRACES["prefill"] += 1
        with params.precision.scope(), jax.named_scope("prefill"):
            return strategy.prefill(cfg, params, extra, state, tokens, lengths)

    return jax.jit(run, static_argnames=("cfg", "strategy"), donate_argnames=("state",))


@functools.cache
def _grow_leaf() -> Callable[..., jax.Array]:
    def run(leaf: jax.Array, *, capacity: int) -> jax.Array:
        TRACES["grow"] += 1
        return resize_rows(leaf, capacity)

    return jax.jit(run, static_argnames=("capacity",))


def grow(cache: CacheOps, capacity: int) -> CacheOps:
    """The cache with room for `capacity` rows, more or fewer; the old leaves go one by one.

    Static: capacity. Traced: one leaf. Donated: nothing (the shapes differ); instead each old leaf
    is freed as soon as its copy exists, so the peak is the larger cache and one leaf of the smaller.
    Sharding is kept: the capacity axis is never sharded. Other caches than the dense one grow by
    their own `grow`.
    """
    if not isinstance(cache, KVCache):
        return cache.grow(capacity)

    def move(leaf: jax.Array) -> jax.Array:
        if isinstance(leaf, Tracer):  # only the shape is asked for
            return resize_rows(leaf, capacity)
        new = _grow_leaf()(leaf, capacity=capacity)
        new.block_until_ready()
        leaf.delete()
        return new

    k, v = [], []
    for old_k, old_v in zip(cache.k, cache.v, strict=True):
        k.append(move(old_k))
        v.append(move(old_v))
    return KVCache(k=tuple(k), v=tuple(v), length=cache.length)


def forward(
    cfg: DecoderConfig, params: DecoderParams, tokens: jax.Array, positions: jax.Array
) -> jax.Array:
    """Logits [B, T, V] of whole sequences without a cache, jitted.

    Static: cfg. Traced: params, tokens [B, T] int32, positions [B, T] int32. Donated: nothing.
    """
    return _forward()(cfg, params, tokens, positions)


@functools.cache
def _forward() -> Callable[..., jax.Array]:
    def run(cfg, params, tokens, positions):
        TRACES["forward"] += 1
        return decoder.apply(cfg, params, tokens, positions, causal(cfg.attention), None)[0]

    return jax.jit(run, static_argnames=("cfg",))
