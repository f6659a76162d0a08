"""The jitted programs of ARIEL's language model: a prompt read, labels scored, a trie walked."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax.layers.kv_cache import KVCache, init_cache
from ariel_jax.models import decoder, encoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.encoder import EncoderConfig, EncoderParams
from ariel_jax.models.params import DecoderParams

TRACES: collections.Counter[str] = collections.Counter()
"""How often each program has been traced in this process."""


class Read(struct.PyTreeNode):
    """A prompt that was read: the cache of one row, and the logits of what follows."""

    cache: KVCache
    logits: jax.Array  # [V] float


class Walk(struct.PyTreeNode):
    """What a walk through a trie came to."""

    state: jax.Array  # [] int32, a leaf
    logprob: jax.Array  # [] float32, of its tokens among the allowed ones
    is_finite: jax.Array  # [] bool, whether all logits that were compared are numbers


def read(
    cfg: DecoderConfig,
    params: DecoderParams,
    tokens: jax.Array,
    length: jax.Array,
    *,
    capacity: int,
) -> Read:
    """Reads a prompt `tokens` [1, T] of `length` [1] into a cache with `capacity` rows."""
    T = tokens.shape[1]
    dtype = params.precision.dtype("cache")
    cache = init_cache(cfg.n_layers, 1, cfg.n_kv_heads, capacity, cfg.head_dim, dtype)
    positions = jnp.arange(T, dtype=jnp.int32)[None]
    attend, carry = cache.attend(cfg.attention, positions, jnp.ones(1, bool), fresh=True)
    at = jnp.minimum(positions, cfg.max_positions - 1)
    logits, carry = decoder.apply(cfg, params, tokens, at, attend, carry, logits_at=length - 1)
    return Read(cache=cache.commit(carry, length), logits=logits[0])


def label_logprobs(
    cfg: DecoderConfig,
    params: DecoderParams,
    prompt: Read,
    labels: jax.Array,
    lengths: jax.Array,
) -> jax.Array:
    """Log-probability of every label behind one prompt, which is read once for all.

    Args:
        cfg: the decoder.
        params: its weights.
        prompt: read before, with room for T more rows.
        labels: [n, T] int32.
        lengths: [n] int32, at least 1.

    Returns:
        [n] float32, summed over the tokens of each.
    """
    n, T = labels.shape
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, n, axis=0), prompt.cache)
    positions = cache.length[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    attend, carry = cache.attend(cfg.attention, positions, jnp.ones(n, bool))
    at = jnp.minimum(positions, cfg.max_positions - 1)
    logits, _ = decoder.apply(cfg, params, labels, at, attend, carry)
    first = jnp.broadcast_to(prompt.logits[None, None], (n, 1, logits.shape[-1]))
    before = jnp.concatenate([first, logits[:, :-1]], axis=1).astype(jnp.float32)
    chosen = jnp.take_along_axis(before, labels[..., None], axis=-1)[..., 0]
    logprobs = chosen - jax.nn.logsumexp(before, axis=-1)
    is_token = jnp.arange(T, dtype=jnp.int32)[None] < lengths[:, None]
    return jnp.where(is_token, logprobs, jnp.float32(0)).sum(axis=1)


def walk(
    cfg: DecoderConfig,
    params: DecoderParams,
    prompt: Read,
    moves: jax.Array,
    tokens: jax.Array,
    leaf: jax.Array,
) -> Walk:
    """Takes the likeliest allowed token from the root of a trie to a leaf, on the device.

    Args:
        cfg: the decoder.
        params: its weights.
        prompt: read before, with room for as many rows as the trie is deep.
        moves: [S, F] int32, the state behind each allowed token; 0 where `tokens` is -1.
        tokens: [S, F] int32, allowed tokens, -1 for none. Every state but a leaf allows one.
        leaf: [S] bool.

    Returns:
        A leaf whatever the weights are: logits that are no numbers count as the lowest ones.
    """

    def go_on(carry: tuple[jax.Array, Read, jax.Array, jax.Array]) -> jax.Array:
        return ~leaf[carry[0]]

    def step(
        carry: tuple[jax.Array, Read, jax.Array, jax.Array],
    ) -> tuple[jax.Array, Read, jax.Array, jax.Array]:
        state, now, total, finite = carry
        is_allowed = tokens[state] >= 0
        found = now.logits[jnp.maximum(tokens[state], 0)].astype(jnp.float32)
        finite &= (jnp.isfinite(found) | ~is_allowed).all()
        low = jnp.finfo(jnp.float32).min
        found = jnp.where(is_allowed, jnp.nan_to_num(found, nan=low, neginf=low), -jnp.inf)
        choice = jnp.argmax(found)
        total += found[choice] - jax.nn.logsumexp(found)
        token = tokens[state, choice][None, None]
        positions = now.cache.length[:, None]
        attend, kept = now.cache.attend(cfg.attention, positions, jnp.ones(1, bool))
        at = jnp.minimum(positions, cfg.max_positions - 1)
        logits, kept = decoder.apply(cfg, params, token, at, attend, kept)
        cache = now.cache.commit(kept, jnp.ones(1, jnp.int32))
        return moves[state, choice], Read(cache=cache, logits=logits[0, 0]), total, finite

    start = (jnp.int32(0), prompt, jnp.float32(0), jnp.bool_(True))
    state, _, total, finite = jax.lax.while_loop(go_on, step, start)
    return Walk(state=state, logprob=total, is_finite=finite)


def masked_step(
    cfg: DecoderConfig, params: DecoderParams, now: Read, bits: jax.Array
) -> tuple[jax.Array, Read]:
    """The likeliest token whose bit is set, and the prompt with it.

    Args:
        cfg: the decoder.
        params: its weights.
        now: what was read so far, with room for one more row.
        bits: [W] int32, W = ceil(V / 32); bit i of word w is token 32 w + i.

    Returns:
        (token [] int32, what was read with it behind). A token with a bit, if one is set, whatever
        the weights are.
    """
    V = now.logits.shape[0]
    words = jax.lax.bitcast_convert_type(bits, jnp.uint32)
    shifts = jnp.arange(32, dtype=jnp.uint32)
    allowed = ((words[:, None] >> shifts[None]) & jnp.uint32(1)).reshape(-1)[:V] > 0
    low = jnp.finfo(jnp.float32).min
    logits = jnp.nan_to_num(now.logits.astype(jnp.float32), nan=low, neginf=low)
    token = jnp.argmax(jnp.where(allowed, logits, -jnp.inf)).astype(jnp.int32)
    positions = now.cache.length[:, None]
    attend, kept = now.cache.attend(cfg.attention, positions, jnp.ones(1, bool))
    at = jnp.minimum(positions, cfg.max_positions - 1)
    logits, kept = decoder.apply(cfg, params, token[None, None], at, attend, kept)
    cache = now.cache.commit(kept, jnp.ones(1, jnp.int32))
    return token, Read(cache=cache, logits=logits[0, 0])


def embed(cfg: EncoderConfig, params: EncoderParams, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, D] float32 of length 1: the mean over the tokens of each text, ids and mask [B, T]."""
    with params.precision.scope():
        pooled = encoder.pool(encoder.encode(cfg, params, ids, mask), mask).astype(jnp.float32)
        length = jnp.sqrt(jnp.square(pooled).sum(axis=-1, keepdims=True))
        return pooled / jnp.maximum(length, jnp.float32(1e-12))


def _jitted(function: Callable[..., Any], *static: str, donate: str | None = None) -> Any:
    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        TRACES[function.__name__] += 1
        return function(*args, **options)

    donated = () if donate is None else (donate,)
    return jax.jit(run, static_argnames=("cfg", *static), donate_argnames=donated)


@functools.cache
def read_program() -> Callable[..., Read]:
    """`read` jitted. Static: cfg, capacity. Traced: params, tokens, length. Donated: nothing."""
    return _jitted(read, "capacity")


@functools.cache
def label_program() -> Callable[..., jax.Array]:
    """`label_logprobs` jitted. Static: cfg. Traced: all else. Donated: nothing."""
    return _jitted(label_logprobs)


@functools.cache
def walk_program() -> Callable[..., Walk]:
    """`walk` jitted. Static: cfg. Traced: params, prompt, moves, tokens, leaf. Donated: nothing."""
    return _jitted(walk)


@functools.cache
def masked_program() -> Callable[..., tuple[jax.Array, Read]]:
    """`masked_step` jitted. Static: cfg. Traced: params, now, bits. Donated: now."""
    return _jitted(masked_step, donate="now")


@functools.cache
def embed_program() -> Callable[..., jax.Array]:
    """`embed` jitted. Static: cfg. Traced: params, ids, mask. Donated: nothing."""
    return _jitted(embed)
