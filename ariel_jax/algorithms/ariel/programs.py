"""The jitted programs of bulk judging and of the in-context classifier."""

import collections
import functools

import jax
import jax.numpy as jnp

from ariel_jax.algorithms.ariel import packed
from ariel_jax.algorithms.ariel.packed import BatchVerdict, CompiledHistory, Numbers
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams
from ariel_jax.training.attention import training_attend

TRACES: collections.Counter[str] = collections.Counter()
"""How often each program has been traced in this process."""
_STATIC = ("conflict", "form", "repeats")


@functools.partial(jax.jit, static_argnames=_STATIC)
def judge(
    history: CompiledHistory,
    nodes: jax.Array,
    score: jax.Array | None,
    numbers: Numbers,
    *,
    conflict: str,
    form: str,
    repeats: bool,
) -> BatchVerdict:
    """Requests [B, K] of one user, B a power of two; see `packed.judge`.

    Static: conflict, form, repeats, V. Traced: all else. Donated: nothing.
    """
    TRACES["judge"] += 1
    rule = functools.partial(packed.judge, conflict=conflict, form=form, repeats=repeats)
    B = nodes.shape[0]
    told_apart = form == "matmul" or conflict in ("latest", "most_specific")
    if not told_apart or B <= packed.BLOCK:
        return rule(history, nodes, score, numbers)
    parts = (B // packed.BLOCK, packed.BLOCK)  # [B, N] bools of a block at a time
    pieces = jax.tree.map(lambda a: a.reshape(*parts, *a.shape[1:]), (nodes, score))
    found = jax.lax.map(lambda piece: rule(history, piece[0], piece[1], numbers), pieces)
    return jax.tree.map(lambda a: a.reshape(B), found)


@functools.partial(jax.jit, static_argnames=("conflict", "repeats"))
def judge_users(
    histories: CompiledHistory,
    nodes: jax.Array,
    score: jax.Array | None,
    numbers: Numbers,
    *,
    conflict: str,
    repeats: bool,
) -> BatchVerdict:
    """Requests [U, B, K] of U users; see `packed.judge`.

    Static: conflict, repeats, V. Traced: all else. Donated: nothing.
    """
    TRACES["judge_users"] += 1
    rule = functools.partial(packed.judge, conflict=conflict, form="packed", repeats=repeats)
    axes = (0, 0, None if score is None else 0, None)
    return jax.vmap(rule, in_axes=axes)(histories, nodes, score, numbers)


@jax.jit
def tally(history: CompiledHistory) -> tuple[jax.Array, jax.Array]:
    """Counts of reliability, see `packed.tally`.

    Static: V. Traced: the history. Donated: nothing.
    """
    TRACES["tally"] += 1
    return packed.tally(history)


@functools.partial(jax.jit, static_argnames=("cfg",))
def read(
    params: DecoderParams, tokens: jax.Array, at: jax.Array, *, cfg: DecoderConfig
) -> jax.Array:
    """Logits [B, V] after the token at `at` [B] of each row of tokens [B, T].

    Static: cfg. Traced: all else. Donated: nothing.
    """
    TRACES["read"] += 1
    B, T = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    attend = training_attend(cfg.attention, T)
    return decoder.apply(cfg, params, tokens, positions, attend, None, logits_at=at)[0]
