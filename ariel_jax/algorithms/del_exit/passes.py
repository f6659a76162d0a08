"""Parts of a model's layers over new rows of the cache, some of them only where asked.

A layer that is skipped must not cost a copy of the cache. XLA copies what a conditional returns, but
carries what a loop carries in place; so whatever depends on the exit is a loop of at most one turn.
"""

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ariel_jax.algorithms.del_exit.config import Config
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

Value = TypeVar("Value")


def once(wanted: jax.Array, run: Callable[[Value], Value], value: Value) -> Value:
    """`run(value)` where `wanted` [] bool, else `value`; what `value` holds stays where it is.

    A loop of one turn or none instead of `lax.cond`: arrays that `run` does not change, or changes
    in place, are not copied.
    """

    def body(carry: tuple[jax.Array, Value]) -> tuple[jax.Array, Value]:
        return jnp.zeros((), bool), run(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], body, (wanted, value))[1]


def bounds(how: Config, n_layers: int) -> list[tuple[int, int]]:
    """(first, last) layers of each piece between two exits: K + 1 pieces for K exits."""
    ends = [0, *how.exits, n_layers]
    return list(itertools.pairwise(ends))


def positions_of(cfg: DecoderConfig, rows: jax.Array) -> jax.Array:
    """Positions of cache rows; a draft beyond the last one is never kept, but must stay finite."""
    return jnp.minimum(rows, cfg.max_positions - 1)


def layers(
    cfg: DecoderConfig,
    params: DecoderParams,
    x: jax.Array,
    rows: jax.Array,
    cache: Any,
    active: jax.Array,
    piece: tuple[int, int],
) -> tuple[jax.Array, Any]:
    """Layers of `piece` over x [B, T, D] at cache rows [B, T]; (x, cache), whose length stays."""
    attend, carry = cache.attend(cfg.attention, rows, active)
    at, (first, last) = positions_of(cfg, rows), piece
    x, carry = decoder.trunk(cfg, params, x, at, attend, carry, first=first, last=last)
    return x, cache.commit(carry, jnp.zeros_like(cache.length))


def advance(cfg: DecoderConfig, cache: Any, active: jax.Array, n: jax.Array) -> Any:
    """The cache with the first n [B] of the rows kept that passes have written behind its length."""
    _, carry = cache.attend(cfg.attention, cache.length[:, None], active)
    return cache.commit(carry, n)


def to_exit(
    cfg: DecoderConfig,
    params: DecoderParams,
    how: Config,
    token: jax.Array,
    row: jax.Array,
    exit: jax.Array,
    state: tuple[Any, jax.Array],
    active: jax.Array,
) -> tuple[Any, jax.Array]:
    """The layers up to an exit over one row.

    Args:
        cfg: the decoder.
        params: its weights.
        how: with the exits.
        token: [B] int32.
        row: [] int32 number of the row in the round.
        exit: [] int32 index of the exit.
        state: the cache and the residual stream [K, B, W, D] of the round at each exit.
        active: [B] bool.

    Returns:
        `state` with the row's keys and values, and its residual stream at the exits up to this one.
    """
    cache, hidden = state
    rows = (cache.length + row)[:, None]
    x = decoder.embed(cfg, params, token[:, None], positions_of(cfg, rows))
    for i, piece in enumerate(bounds(how, cfg.n_layers)[:-1]):

        def run(carry: Any, i: int = i, piece: tuple[int, int] = piece) -> Any:
            x, cache, hidden = carry
            x, cache = layers(cfg, params, x, rows, cache, active, piece)
            zero = jnp.zeros((), jnp.int32)
            at = (jnp.full((), i, jnp.int32), zero, row, zero)
            return x, cache, jax.lax.dynamic_update_slice(hidden, x[None], at)

        carry = (x, cache, hidden)
        x, cache, hidden = run(carry) if i == 0 else once(exit >= i, run, carry)
    return cache, hidden


def from_exit(
    cfg: DecoderConfig,
    params: DecoderParams,
    how: Config,
    n_rows: int,
    exit: jax.Array,
    state: tuple[Any, jax.Array],
    active: jax.Array,
) -> tuple[jax.Array, Any, jax.Array]:
    """The layers behind an exit over the first `n_rows` rows of a round.

    Arguments as in `to_exit`, whose residual stream is where it begins.

    Returns:
        (x [B, n_rows, D] behind the last layer, cache, residual stream at all exits).
    """
    cache, hidden = state
    slot = jnp.arange(n_rows, dtype=jnp.int32)[None, :]
    rows = cache.length[:, None] + slot
    x = jax.lax.dynamic_index_in_dim(hidden, exit, 0, keepdims=False)[:, :n_rows]
    pieces = bounds(how, cfg.n_layers)
    for i, piece in enumerate(pieces[1:-1], 1):

        def run(carry: Any, i: int = i, piece: tuple[int, int] = piece) -> Any:
            x, cache, hidden = carry
            x, cache = layers(cfg, params, x, rows, cache, active, piece)
            return x, cache, hidden.at[i, :, :n_rows].set(x)

        x, cache, hidden = once(i > exit, run, (x, cache, hidden))
    x, cache = layers(cfg, params, x, rows, cache, active, pieces[-1])
    return x, cache, hidden
