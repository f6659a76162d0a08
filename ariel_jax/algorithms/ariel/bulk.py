"""Millions of judgements at once: a user's premises as bits, requests as rows of node numbers.

For evaluation, sweeps and judging a log again after an edit; one request is judged on the host by `judge`.
The rules are the same: repeat (R0), approval (R1), denial (R2), conflict policy, support, veto.
Requests have one item each; bundles go through `judge`.
"""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel import packed, programs
from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS, INAPPROPRIATE
from ariel_jax.algorithms.ariel.packed import BatchVerdict, CompiledHistory, Numbers
from ariel_jax.algorithms.ariel.types import Policy
from ariel_jax.errors import ConfigError

__all__ = [
    "ANYTHING",
    "NOT_SAID",
    "UNMAPPED",
    "BatchVerdict",
    "CompiledHistory",
    "compile_history",
    "judge_batch",
    "judge_users",
    "reliable",
    "stack",
]
ANYTHING, NOT_SAID = -1, -2
"""In a prior: whatever stands in the slot (`types.ANY`); nothing was said (`UNSPEC`). A request says the
latter with the number `history.n_nodes`."""
UNMAPPED = -3
"""In a request: a concept outside of the ontology, which is always asked about. So is every other number
that is no node."""


def numbers(policy: Policy) -> Numbers:
    """The traced part of a policy."""

    def limit(value: float | None) -> jax.Array:
        return jnp.float32(np.nan if value is None else value)

    return Numbers(
        min_support=jnp.int32(policy.min_support),
        veto_share=limit(policy.veto_share),
        veto_withhold=limit(policy.veto_withhold),
    )


def compile_history(
    approve: Sequence[np.ndarray],
    deny: Sequence[np.ndarray],
    nodes: np.ndarray,
    value: np.ndarray,
    *,
    keep: np.ndarray | None = None,
    kind: Sequence[np.ndarray] | None = None,
    context: np.ndarray | None = None,
    breadth: np.ndarray | None = None,
    n_words: int | None = None,
    n_nodes: int | None = None,
) -> CompiledHistory:
    """Packs one user's judgements.

    Args:
        approve: for each slot bool [V_k, V_k], or [C, V_k, V_k] by context: at [x, y], an approval of y
            covers x. Reflexive and transitive.
        deny: the same for denials.
        nodes: [N, K] whole numbers: what each judgement is about, the latest last. `ANYTHING` covers
            whatever is there, `NOT_SAID` nothing.
        value: [N] `APPROPRIATE`, `INAPPROPRIATE` or `ASKS`.
        keep: [N] bool, judgements that may be premises (`reliable` says which); None: all. A judgement on
            the same nodes decides all the same.
        kind: for each slot bool [V_k, V_k], at [x, y], x is a kind of y; only for `most_specific`.
        context: [V_0] the context of each data node; needed with several.
        breadth: [N] how much each judgement covers, which orders them; None: how many nodes, added up over
            slots, in the first context.
        n_words: W, at least; V, at least (`n_nodes`): so that several users fit one program.
        n_nodes: see `n_words`.

    Raises:
        ConfigError: arrays that do not fit.
    """
    nodes, value = np.asarray(nodes, np.int32), np.asarray(value, np.int8)
    sizes = [np.shape(a)[-1] for a in approve]
    K, V = len(sizes), max([*sizes, n_nodes or 0])
    if nodes.ndim != 2 or nodes.shape[1] != K or value.shape != nodes.shape[:1] or len(deny) != K:
        raise ConfigError(
            f"{len(approve)} and {len(deny)} closures, judgements about {list(nodes.shape)} and values "
            f"{list(value.shape)}: pass K of each, [N, K] and [N]."
        )
    if not ((nodes >= NOT_SAID) & (nodes < np.array(sizes))).all():
        raise ConfigError(f"a judged node is outside its slot; the sizes are {sizes}.")
    if not np.isin(value, (APPROPRIATE, INAPPROPRIATE, ASKS)).all():
        raise ConfigError(f"values are {APPROPRIATE}, {INAPPROPRIATE} or {ASKS} (to be asked).")
    standing = _standing(nodes)
    sides = [[_by_context(a[k], sizes[k]) for k in range(K)] for a in (approve, deny)]
    contexts = np.zeros(V + 1, np.int32)
    n_contexts = max(len(a) for side in sides for a in side)
    if n_contexts > 1:
        if context is None:
            raise ConfigError("closures by context need `context`: that of each data node.")
        contexts[: sizes[0]] = context
    covering = np.ones((K, n_contexts, V + 1, len(standing)), bool)
    counted = np.zeros(len(standing), np.int64)
    is_yes = value[standing] == APPROPRIATE
    for k in range(K):
        for side, of_side in zip(sides, (is_yes, ~is_yes), strict=True):
            covers = _columns(side[k], nodes[standing[of_side], k], V, n_contexts)
            covering[k][:, :, of_side] = covers
            counted[of_side] += covers[0, : sizes[k]].sum(0)
    if breadth is not None:
        counted = np.asarray(breadth)[standing]
    kind_of = np.where(value[standing] == ASKS, 2, ~is_yes)  # side by side, as the kernel likes
    order = np.lexsort((-standing, counted, kind_of))
    standing, covering = standing[order], covering[..., order]
    W = max(_next_power(-(-len(standing) // 32)), n_words or 1)
    counts = np.ones(len(standing), bool) if keep is None else np.asarray(keep, bool)[standing]
    told, row = _padded(nodes[standing], 32 * W, -4), _padded(standing.astype(np.int32), 32 * W, -1)
    as_rows = np.where(told == NOT_SAID, V, told)  # as requests would say it
    hashes, mix = _hashes(as_rows, len(standing))
    bit = np.argsort(hashes, kind="stable").astype(np.int32)
    arrays: dict[str, Any] = dict(
        table=_pack(covering.reshape(K, n_contexts * (V + 1), -1), W),
        approving=_pack(counts & (value[standing] == APPROPRIATE), W),
        denying=_pack(counts & (value[standing] == INAPPROPRIATE), W),
        context=contexts,
        nodes=as_rows,
        value=_padded(value[standing], 32 * W, ASKS),
        keys=hashes[bit],
        bit_of_key=bit,
        mix=mix,
        row=row,
        kinds=np.zeros((K, 0, W), np.uint32),
        defeated=np.zeros((0, 0), bool),
    )
    made = CompiledHistory(**arrays, n_nodes=V)
    return made if kind is None else _with_kinds(made, kind, told)


def reliable(history: CompiledHistory, policy: Policy) -> np.ndarray:
    """Which of the judgements given to `compile_history` the policy keeps, [N of those given] bool.

    A premise is held against all other judgements that stand: those that it entails and those whose
    opposite it entails (leave-one-out).
    """
    n_given = int(np.max(np.asarray(history.row), initial=-1)) + 1
    keep = np.ones(n_given, bool)
    if policy.reliability == "off" or not n_given:
        return keep
    ok, bad = (np.asarray(a) for a in programs.tally(history))
    if policy.reliability == "strict":
        kept = bad == 0
    else:
        kept = (ok + 1) / (ok + bad + 2) >= float(policy.reliability)
    row = np.asarray(history.row)
    keep[row[row >= 0]] = kept[row >= 0]
    return keep


def judge_batch(
    history: CompiledHistory,
    nodes: np.ndarray | jax.Array,
    policy: Policy | None = None,
    *,
    score: np.ndarray | jax.Array | None = None,
    form: str = "packed",
    repeats: bool = True,
) -> BatchVerdict:
    """Judges many requests of one user.

    Args:
        history: from `compile_history`; the policy's reliability is in it, as `keep`.
        nodes: int32 [B, K] below V; V (`history.n_nodes`) where nothing is said, `UNMAPPED` (or any other
            number) where the concept is none of the ontology's.
        policy: None is `Policy()`.
        score: [B] float32 log-odds of another model, for the policy's vetoes; None: none.
        form: `packed` (bits) or `matmul` (a product of one-hot requests, for many premises on an
            accelerator).
        repeats: whether to look for judgements on the same nodes; pass False where there are none.

    Returns:
        On the device, [B] each. B is padded to a power of two for the program, so few are compiled.

    Raises:
        ConfigError: arrays that do not fit, or `most_specific` with a history that has no `kind`.
    """
    policy = policy or Policy()
    one_of(packed.FORMS, form=form)
    K = history.table.shape[0]
    if nodes.ndim != 2 or nodes.shape[1] != K:
        raise ConfigError(f"requests {list(nodes.shape)}: pass [B, {K}] node numbers.")
    if score is not None and np.shape(score) != nodes.shape[:1]:
        raise ConfigError(
            f"{list(np.shape(score))} scores for {len(nodes)} requests: pass one each."
        )
    if policy.conflict == "most_specific" and not history.defeated.size:
        raise ConfigError("conflict='most_specific' needs a history compiled with `kind`.")
    B = len(nodes)
    room = max(_next_power(B), 1)
    if room != B:
        pad = np.full((room - B, K), UNMAPPED, np.int32)
        nodes = np.concatenate([np.asarray(nodes, np.int32), pad])
        score = None if score is None else np.concatenate([score, np.zeros(room - B)])
    nodes = jnp.asarray(nodes, jnp.int32)
    score = None if score is None else jnp.asarray(score, jnp.float32)
    found = programs.judge(
        history, nodes, score, numbers(policy), conflict=policy.conflict, form=form, repeats=repeats
    )
    return found if room == B else jax.tree.map(lambda a: a[:B], found)


def judge_users(
    histories: CompiledHistory,
    nodes: np.ndarray | jax.Array,
    policy: Policy | None = None,
    *,
    score: np.ndarray | jax.Array | None = None,
    repeats: bool = True,
) -> BatchVerdict:
    """Judges requests of many users, each by the user's own history.

    Args:
        histories: from `stack`: every leaf has a leading axis of users. Sharded over it, each device
            judges its users.
        nodes: int32 [U, B, K]; pad with `UNMAPPED`.
        policy: of all; None is `Policy()`.
        score: [U, B] or None.
        repeats: as for `judge_batch`.

    Returns:
        [U, B] each; as `judge_batch` says of each user alone.
    """
    policy = policy or Policy()
    score = None if score is None else jnp.asarray(score, jnp.float32)
    return programs.judge_users(
        histories, jnp.asarray(nodes, jnp.int32), score, numbers(policy),
        conflict=policy.conflict, repeats=repeats,
    )  # fmt: skip


def stack(histories: Sequence[CompiledHistory]) -> CompiledHistory:
    """One history with a leading axis of users, from those of users (same V and W).

    Raises:
        ConfigError: they differ in shape: compile them with the same `n_words` and `n_nodes`.
    """
    shapes = {tuple(np.shape(a) for a in jax.tree.leaves(h)) for h in histories}
    if len(shapes) != 1:
        raise ConfigError(
            "histories of different shapes: compile them with the same n_words and n_nodes."
        )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *histories)


def _standing(nodes: np.ndarray) -> np.ndarray:
    """The rows that no later row on the same nodes supersedes, in order."""
    if not len(nodes):
        return np.zeros(0, np.int64)
    _, last = np.unique(nodes[::-1], axis=0, return_index=True)
    return np.sort(len(nodes) - 1 - last)


def _by_context(closure: np.ndarray, size: int) -> np.ndarray:
    made = np.asarray(closure, bool)
    made = made[None] if made.ndim == 2 else made
    if made.shape[1:] != (size, size):
        raise ConfigError(f"a closure {list(np.shape(closure))}: pass [V, V] or [C, V, V] bools.")
    return made


def _columns(closure: np.ndarray, about: np.ndarray, V: int, n_contexts: int) -> np.ndarray:
    """Which nodes judgements about `about` [n] cover, bool [C, V + 1, n]; the last is no node."""
    size = closure.shape[-1]
    made = np.zeros((n_contexts, V + 1, len(about)), bool)
    named = about >= 0
    made[:, :size, named] = closure[:, :, about[named]]
    made[:, :, about == ANYTHING] = True
    made[:, size:V, about == ANYTHING] = False  # no nodes of this slot
    return made


def _padded(array: np.ndarray, n: int, fill: int) -> np.ndarray:
    made = np.full((n, *array.shape[1:]), fill, array.dtype)
    made[: len(array)] = array
    return made


def _pack(bits: np.ndarray, W: int) -> np.ndarray:
    """Words uint32 [..., W] of bools [..., n]."""
    wide = np.zeros((*bits.shape[:-1], 32 * W), bool)
    wide[..., : bits.shape[-1]] = bits
    return np.packbits(wide, axis=-1, bitorder="little").view("<u4").astype(np.uint32)


def _hashes(nodes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the first n rows, no two alike, and the numbers that mix them; the rest are the largest."""
    last = np.uint32(2**32 - 1)
    for seed in range(100):
        drawn = np.random.default_rng(seed).integers(0, 2**32, nodes.shape[1], np.uint32)
        mix = drawn | np.uint32(1)
        found: Any = packed.hashed(cast(Any, nodes), cast(Any, mix))
        found[n:] = last
        if len(np.unique(found[:n])) == n and not (found[:n] == last).any():
            return found, mix
    raise AssertionError("no hash without a collision in 100")


def _with_kinds(
    history: CompiledHistory, kind: Sequence[np.ndarray], told: np.ndarray
) -> CompiledHistory:
    """Adds which premises a request is a kind of, and which premise is about a kind of what another is."""
    V, W = history.n_nodes, len(history.approving)
    tables, below = [], np.ones((len(told), len(told)), bool)
    for k, closure in enumerate(kind):
        covers = _columns(np.asarray(closure, bool)[None], told[:, k], V, 1)[0]
        tables.append(_pack(covers, W))
        as_rows = np.where(told[:, k] < 0, V, told[:, k])
        below &= covers[as_rows].T  # [p, q]: what q is about is a kind of what p is about
    return history.replace(kinds=np.stack(tables), defeated=below & ~below.T)


def _next_power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
