"""The jitted programs of bulk judging."""

import collections
import functools

import jax

from ariel_jax.algorithms.ariel import packed
from ariel_jax.algorithms.ariel.packed import BatchVerdict, CompiledHistory, Numbers

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
    found = jax.lax.map(lambda piece: rule(history, *piece, numbers), pieces)
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
