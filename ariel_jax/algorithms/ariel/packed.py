"""The rules on premises as bits, for programs: what `bulk` compiles is judged here.

All functions take arrays on the device, [B] requests, and can be called without a program.
"""

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS, INAPPROPRIATE
from ariel_jax.algorithms.ariel.metrics import ASK, SHARE, WITHHOLD
from ariel_jax.pallas_kernels.bitset_judge import bitset_judge
from ariel_jax.pallas_kernels.bitset_judge.reference import masks

FORMS = ("packed", "matmul")
BLOCK = 4096
"""Requests whose premises are told apart at once, where they have to be."""


class CompiledHistory(struct.PyTreeNode):
    """What one user's judgements cover; made by `compile_history`.

    Bits are judgements: approvals, then denials, then what is to be asked, of each kind the one to show first
    in front. An approval's bits follow the closures of approvals, a denial's those of denials, so that one
    table serves both.
    """

    table: jax.Array  # uint32 [K, C * (V + 1), W]: row c * (V + 1) + v; v = V for what is no node
    approving: jax.Array  # uint32 [W], approvals that count
    denying: jax.Array  # uint32 [W], denials that count
    context: jax.Array  # int32 [V + 1], of each data node (slot 0), below C
    nodes: jax.Array  # int32 [N, K] by bit, N = 32 W; -4 where there is no judgement
    value: jax.Array  # int8 [N]: INAPPROPRIATE, APPROPRIATE or ASKS
    keys: jax.Array  # uint32 [N] hashes of `nodes`, rising
    bit_of_key: jax.Array  # int32 [N]
    mix: jax.Array  # uint32 [K] odd, of the hash
    row: jax.Array  # int32 [N], where the judgement stood among those given; -1 for none
    kinds: jax.Array  # uint32 [K, V + 1, W] or [K, 0, W]: as `table`, what is a kind of what
    defeated: (
        jax.Array
    )  # bool [N, N] or [0, 0]: column defeats row where a request is a kind of both
    n_nodes: int = struct.field(pytree_node=False)  # V

    @property
    def n_contexts(self) -> int:
        """C."""
        return self.table.shape[1] // (self.n_nodes + 1)


class Numbers(struct.PyTreeNode):
    """What of a policy may change without compiling again."""

    min_support: jax.Array  # int32
    veto_share: jax.Array  # float32, NaN: no veto
    veto_withhold: jax.Array


class BatchVerdict(struct.PyTreeNode):
    """Verdicts [B] and what they rest on."""

    verdict: jax.Array  # int8: WITHHOLD, SHARE or ASK
    n_app: jax.Array  # int32, surviving approvals that cover the request
    n_den: jax.Array  # int32, denials
    wit_app: (
        jax.Array
    )  # int32, the bit of the first of them, -1; `CompiledHistory.row` says which that is
    wit_den: jax.Array
    repeated: (
        jax.Array | None
    )  # int32, the bit of a judgement on the same nodes (R0), -1; None: not looked for


def hashed(nodes: jax.Array, mix: jax.Array) -> jax.Array:
    """A number for each row of nodes [B, K], uint32 [B]; NumPy's arrays too."""
    found = nodes.astype("uint32")[:, 0] * mix[0]
    for k in range(1, nodes.shape[1]):
        found = (found ^ (found >> found.dtype.type(15))) + nodes[:, k].astype("uint32") * mix[k]
    return found


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
    """Judges requests; arguments as for `bulk.judge_batch`, results too."""
    V, rows = history.n_nodes, nodes
    if history.n_contexts > 1:  # else what is no row of the table is covered by nothing anyway
        place = history.context[jnp.clip(nodes[:, 0], 0, V)] * (V + 1)
        rows = jnp.where(_known(history, nodes)[:, None], nodes + place[:, None], -1)
    told_apart = form == "matmul" or conflict in ("latest", "most_specific")
    if told_apart:
        shares, decided, winners, counts = _told_apart(history, nodes, rows, conflict, form)
    else:
        shares, decided, winners, counts = _counted(history, rows, conflict)
    decided = decided & (winners >= numbers.min_support)
    if score is not None:
        vetoed = jnp.where(shares, score <= numbers.veto_share, score >= numbers.veto_withhold)
        decided = decided & ~vetoed
    verdict = jnp.where(decided, jnp.where(shares, SHARE, WITHHOLD), ASK).astype(jnp.int8)
    bit = None
    if repeats:
        bit = jnp.where(_known(history, nodes), _repeated(history, nodes), -1)
        told = history.value[jnp.maximum(bit, 0)]
        said = jnp.where(
            told == APPROPRIATE, SHARE, jnp.where(told == INAPPROPRIATE, WITHHOLD, ASK)
        )
        verdict = jnp.where(bit >= 0, said.astype(jnp.int8), verdict)
    return BatchVerdict(
        verdict=verdict,
        n_app=counts[0],
        n_den=counts[1],
        wit_app=counts[2],
        wit_den=counts[3],
        repeated=bit,
    )


Support = tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]
"""Whether it shares, whether somebody wins, by how many premises; counts and first premises of each side."""


def _counted(history: CompiledHistory, rows: jax.Array, conflict: str) -> Support:
    """Of policies that only count premises."""
    counts = bitset_judge(history.table, rows, history.approving, history.denying)
    n_app, n_den = counts[:2]
    both = (n_app > 0) & (n_den > 0)
    shares, decided = n_app > 0, (n_app > 0) | (n_den > 0)
    if conflict == "escalate":
        decided = decided & ~both
    elif conflict == "deny_overrides":
        shares = shares & ~both
    else:
        shares, decided = n_app > n_den, n_app != n_den
    return shares, decided, jnp.where(shares, n_app, n_den), counts


def _told_apart(
    history: CompiledHistory, nodes: jax.Array, rows: jax.Array, conflict: str, form: str
) -> Support:
    """Of policies that look at which premises there are, or from a product; [B, N] bools."""
    covering = (
        _by_product(history, rows) if form == "matmul" else bits_of(masks(history.table, rows))
    )
    yes = covering & bits_of(history.approving)[None]
    no = covering & bits_of(history.denying)[None]
    n_app, n_den = _count(yes), _count(no)
    both = (n_app > 0) & (n_den > 0)
    shares, decided = n_app > 0, (n_app > 0) | (n_den > 0)
    left_yes, left_no = yes, no
    if conflict == "escalate":
        decided = decided & ~both
    elif conflict == "deny_overrides":
        shares = shares & ~both
    elif conflict == "majority":
        shares, decided = n_app > n_den, n_app != n_den
    elif conflict == "latest":
        last = [jnp.max(jnp.where(m, history.row[None], -1), axis=1) for m in (yes, no)]
        shares = last[0] > last[1]
    else:
        near = bits_of(masks(history.kinds, nodes)) & (yes | no)
        left = ~(near.astype(jnp.float32) @ history.defeated.astype(jnp.float32).T > 0)
        left_yes, left_no = (jnp.where(both[:, None], m & left, m) for m in (yes, no))
        shares = _count(left_yes) > 0
        decided = decided & ~(shares & (_count(left_no) > 0))
    winners = jnp.where(shares, _count(left_yes), _count(left_no))
    first_yes, first_no = _first(left_yes), _first(left_no)
    # Of what was defeated the first is named all the same, as what speaks against the verdict.
    first_yes = jnp.where(first_yes < 0, _first(yes), first_yes)
    first_no = jnp.where(first_no < 0, _first(no), first_no)
    return shares, decided, winners, (n_app, n_den, first_yes, first_no)


def _by_product(history: CompiledHistory, rows: jax.Array) -> jax.Array:
    """Which premises cover each request [B, N]: one-hot requests times what covers each node."""
    K, R, _ = history.table.shape
    asked = (rows[:, :, None] == jnp.arange(R, dtype=jnp.int32)[None, None]).astype(jnp.bfloat16)
    covers = bits_of(history.table).astype(jnp.bfloat16).reshape(K * R, -1)
    slots = jnp.dot(asked.reshape(-1, K * R), covers, preferred_element_type=jnp.float32)
    return slots == K  # exact: whole numbers up to K


def tally(history: CompiledHistory) -> tuple[jax.Array, jax.Array]:
    """How many other judgements each premise entails, and the opposite of how many; int32 [N] each."""
    N = history.nodes.shape[0]
    V = history.n_nodes

    def counts(bit: jax.Array) -> tuple[jax.Array, jax.Array]:
        nodes = history.nodes[bit]
        rows = jnp.where(nodes < 0, V, nodes)  # what is no node is covered by `ANYTHING` alone
        rows = rows + history.context[rows[0]] * (V + 1)
        rows = jnp.where(history.value[bit] == ASKS, -1, rows)
        others = bits_of(masks(history.table, rows[None]))[0] & (jnp.arange(N) != bit)
        same = history.value == history.value[bit]
        return others & same, others & ~same & (history.value != ASKS)

    def add(i: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        ok, bad = counts(i)
        return found[0] + ok.astype(jnp.int32), found[1] + bad.astype(jnp.int32)

    nothing = jnp.zeros(N, jnp.int32)
    return jax.lax.fori_loop(0, N, add, (nothing, nothing))


def bits_of(words: jax.Array) -> jax.Array:
    """Bools [..., 32 W] of words [..., W]."""
    shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * words.ndim + (32,))
    bits = (words[..., None] >> shifts) & jnp.uint32(1)
    return (bits != 0).reshape(*words.shape[:-1], -1)


def _count(bits: jax.Array) -> jax.Array:
    return jnp.sum(bits, axis=1, dtype=jnp.int32)


def _first(bits: jax.Array) -> jax.Array:
    return jnp.where(jnp.any(bits, axis=1), jnp.argmax(bits, axis=1).astype(jnp.int32), -1)


def _known(history: CompiledHistory, nodes: jax.Array) -> jax.Array:
    """Which requests have a node, or nothing, in every slot."""
    return jnp.all((nodes >= 0) & (nodes <= history.n_nodes), axis=1)


def _repeated(history: CompiledHistory, nodes: jax.Array) -> jax.Array:
    """The bit of a judgement on the same nodes, -1 for none."""
    key = hashed(nodes, history.mix)
    at = jnp.searchsorted(history.keys, key).astype(jnp.int32)
    bit = history.bit_of_key[jnp.minimum(at, history.keys.shape[0] - 1)]
    same = jnp.all(history.nodes[bit] == nodes, axis=1)  # a hash may be another's
    return jnp.where(same, bit, -1)
