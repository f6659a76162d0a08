"""The jitted programs of mixed decoding: prefixes read into a store, a query read, a block decoded.

Shapes and numbers of iterations depend on public sizes and on the released tokens only.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax.algorithms.mozo import bits, sampling
from ariel_jax.algorithms.mozo.config import Config
from ariel_jax.layers.kv_cache import KVCache, init_cache, resize_rows
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

TRACES: collections.Counter[str] = collections.Counter()
"""How often each program has been traced in this process."""


Step = Callable[..., tuple[jax.Array, Any]]
"""`step(logits [N + 1, V], mask [N], key, config, parameters) -> (token, info)`, as `sampling.step`."""


class Prefixes(struct.PyTreeNode):
    """Keys and values of prefixes of at most S tokens; a row for each."""

    k: tuple[jax.Array, ...]  # L x [n, K, S, H]
    v: tuple[jax.Array, ...]  # L x [n, K, S, H]
    length: jax.Array  # [n] int32


class Block(struct.PyTreeNode):
    """What a block of a query's answer came to."""

    tokens: jax.Array  # [R] int32, the first n are drawn
    n: jax.Array  # [] int32
    done: jax.Array  # [] bool, the last one ends the answer
    flags: jax.Array  # [] uint32 of `sampling.step`, or-ed
    logits: jax.Array  # [N + 1, V] that the last token was drawn from; secret


def read_rows(
    cfg: DecoderConfig, params: DecoderParams, tokens: jax.Array, lengths: jax.Array
) -> Prefixes:
    """Keys and values of prefixes `tokens` [B, S] of `lengths` [B], which may be 0."""
    B, S = tokens.shape
    dtype = params.precision.dtype("cache")
    cache = init_cache(cfg.n_layers, B, cfg.n_kv_heads, S, cfg.head_dim, dtype)
    positions = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32)[None], (B, S))
    attend, carry = cache.attend(cfg.attention, positions, jnp.ones(B, bool), fresh=True)
    at = jnp.minimum(positions, cfg.max_positions - 1)
    _, carry = decoder.apply(cfg, params, tokens, at, attend, carry, ending=_nothing)
    cache = cache.commit(carry, lengths)
    return Prefixes(k=cache.k, v=cache.v, length=cache.length)


def _nothing(cfg: DecoderConfig, params: DecoderParams, x: jax.Array) -> None:
    """No head: only the cache is wanted."""


def read_each(
    cfg: DecoderConfig, params: DecoderParams, tokens: jax.Array, lengths: jax.Array
) -> Prefixes:
    """`read_rows` of one prefix after the other: no bit of a row depends on its place among the others.

    Without one record those behind it move up, and in a batch the last bits may depend on the place.
    """

    def alone(row: tuple[jax.Array, jax.Array]) -> Prefixes:
        found = read_rows(cfg, params, row[0][None], row[1][None])
        return jax.tree.map(lambda leaf: leaf[0], found)

    return jax.lax.map(alone, (tokens, lengths))


@functools.cache
def read_batch() -> Callable[..., Prefixes]:
    """`read_each` jitted.

    Static: cfg. Traced: params, tokens [B, S], lengths [B]. Donated: nothing.
    """

    def run(cfg, params, tokens, lengths):
        TRACES["read_batch"] += 1
        with jax.named_scope("prefixes"):
            return read_each(cfg, params, tokens, lengths)

    return jax.jit(run, static_argnames=("cfg",))


@functools.cache
def read_prefixes() -> Callable[..., Prefixes]:
    """`read_rows` jitted.

    Static: cfg. Traced: params, tokens [B, S], lengths [B]. Donated: nothing.
    """

    def run(cfg, params, tokens, lengths):
        TRACES["read_prefixes"] += 1
        with jax.named_scope("prefixes"):
            return read_rows(cfg, params, tokens, lengths)

    return jax.jit(run, static_argnames=("cfg",))


@functools.cache
def fill_store() -> Callable[..., Prefixes]:
    """A store with the rows from `at` on replaced by B prefixes, read by `read_each`.

    Static: cfg. Traced: params, tokens [B, S], lengths [B], at [] int32. Donated: store.
    """

    def run(cfg, params, store, tokens, lengths, at):
        TRACES["fill_store"] += 1
        with jax.named_scope("prefixes"):
            new = read_each(cfg, params, tokens, lengths)
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=at, axis=0)
            return jax.tree.map(put, store, new)

    return jax.jit(run, static_argnames=("cfg",), donate_argnames=("store",))


def begin_rows(
    cfg: DecoderConfig,
    params: DecoderParams,
    store: Prefixes,
    index: jax.Array,
    suffix: jax.Array,
    n_suffix: jax.Array,
    *,
    capacity: int,
) -> tuple[KVCache, jax.Array]:
    """A fresh cache with rows of the store, and the logits after the query and the answer so far.

    Args:
        cfg: the decoder.
        params: its weights.
        store: prefixes.
        index: [B] int32, which of them each row has.
        suffix: [T] int32, the same for all rows, right-padded.
        n_suffix: [] int32, at least 1.
        capacity: of the cache, at least S + T.

    Returns:
        (cache of B rows, logits [B, V]).
    """
    B, T = index.shape[0], suffix.shape[0]

    def rows(leaf: jax.Array) -> jax.Array:
        # Zeros behind them, not what an earlier block left: nothing of one draw may reach another.
        return resize_rows(jnp.take(leaf, index, axis=0), capacity)

    cache = KVCache(
        k=tuple(map(rows, store.k)),
        v=tuple(map(rows, store.v)),
        length=jnp.take(store.length, index, axis=0),
    )
    positions = cache.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    attend, carry = cache.attend(cfg.attention, positions, jnp.ones(B, bool))
    # A learned table has no row for the padding behind the last position.
    at = jnp.minimum(positions, cfg.max_positions - 1)
    tokens = jnp.broadcast_to(suffix[None], (B, T))
    last = jnp.broadcast_to(n_suffix - 1, (B,))
    logits, carry = decoder.apply(cfg, params, tokens, at, attend, carry, logits_at=last)
    return cache.commit(carry, jnp.broadcast_to(n_suffix, (B,))), logits


@functools.cache
def begin() -> Callable[..., tuple[KVCache, jax.Array]]:
    """`begin_rows` jitted.

    Static: cfg, capacity. Traced: params, store, index [B], suffix [T], n_suffix. Donated: nothing:
    the store is read again and the suffix is small.
    """

    def run(cfg, params, store, index, suffix, n_suffix, *, capacity):
        TRACES["begin"] += 1
        with jax.named_scope("begin"):
            return begin_rows(cfg, params, store, index, suffix, n_suffix, capacity=capacity)

    return jax.jit(run, static_argnames=("cfg", "capacity"))


def block_loop(
    cfg: DecoderConfig,
    params: DecoderParams,
    cache: KVCache,
    logits: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    start: jax.Array,
    limit: jax.Array,
    ends: jax.Array,
    parameters: Any,
    *,
    config: Config,
    size: int,
    step: Step = sampling.step,
) -> tuple[KVCache, Block]:
    """Up to `limit` tokens of an answer, each drawn from the mixture of all rows.

    Args:
        cfg: the decoder.
        params: its weights.
        cache: of N + 1 rows, from `begin_rows`.
        logits: [N + 1, V] for the first token; row 0 is the zero-shot one.
        mask: [N] bool, which private rows there are.
        key: [] typed key of the query; folded with the token's number, nothing else.
        start: [] int32, number of the first token in the answer.
        limit: [] int32, 1 to `size`.
        ends: [V] bool, tokens that end the answer.
        parameters: the mixture's numbers.
        config: the mixture.
        size: most tokens of a block.
        step: what draws a token; that of dps-mozo, or a baseline's.

    Returns:
        (cache, block). The loop ends early after a token in `ends`, which is released, or where row 0
        has no numbers, which the model alone decides; nothing else.
    """
    B = logits.shape[0]
    active, one = jnp.ones(B, bool), jnp.ones(B, jnp.int32)

    def drawn(block: Block, logits: jax.Array) -> Block:
        now = bits.fold_in(key, start + block.n)
        token, info = step(logits, mask, now, config, parameters)
        flags = block.flags | info.flags
        return Block(
            tokens=block.tokens.at[block.n].set(token),
            n=block.n + 1,
            done=ends[token] | (flags != 0),
            flags=flags,
            logits=logits,
        )

    def go_on(carry: tuple[KVCache, Block]) -> jax.Array:
        return ~carry[1].done & (carry[1].n < limit)

    def body(carry: tuple[KVCache, Block]) -> tuple[KVCache, Block]:
        cache, block = carry
        pending = jnp.broadcast_to(block.tokens[block.n - 1], (B, 1))
        position = cache.length[:, None]
        attend, kept = cache.attend(cfg.attention, position, active)
        logits, kept = decoder.apply(cfg, params, pending, position, attend, kept)
        return cache.commit(kept, one), drawn(block, logits[:, 0])

    empty = Block(
        tokens=jnp.zeros(size, jnp.int32),
        n=jnp.zeros((), jnp.int32),
        done=jnp.zeros((), bool),
        flags=jnp.zeros((), jnp.uint32),
        logits=logits,
    )
    return jax.lax.while_loop(go_on, body, (cache, drawn(empty, logits)))


@functools.cache
def block() -> Callable[..., tuple[KVCache, Block]]:
    """`block_loop` jitted.

    Static: cfg, config, size, step (and the shapes, hence slots and capacity). Traced: params, mask [N], key,
    start, limit, ends [V], and every number of the mixture. Donated: cache, logits.
    """

    def run(cfg, params, cache, logits, *arguments, config, size, step):
        TRACES["block"] += 1
        with params.precision.scope(), jax.named_scope("block"):
            options = {"config": config, "size": size, "step": step}
            return block_loop(cfg, params, cache, logits, *arguments, **options)

    return jax.jit(
        run,
        static_argnames=("cfg", "config", "size", "step"),
        donate_argnames=("cache", "logits"),
    )
