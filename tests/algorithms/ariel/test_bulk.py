"""Bulk judging: bit for bit what plain loops say, packed and as a product, one user and many."""

import jax
import numpy as np
import pytest

from ariel_jax.algorithms.ariel import bulk, many, oracle, programs
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.types import CONFLICTS, Policy
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels import dispatch

from .cases import random_history, random_ontology, random_request

V, K, N, B = 5, 3, 40, 64
YES, NO, ASKS = bulk.APPROPRIATE, bulk.INAPPROPRIATE, bulk.ASKS
NAMES = ("withhold", "share", "ask")
ARRAYS = ("verdict", "n_app", "n_den", "wit_app", "wit_den", "repeated")


def closures(rng):
    """The closure of a sparse random relation, for each slot."""
    made = []
    for _ in range(K):
        a = np.eye(V, dtype=bool) | (rng.random((V, V)) < 0.15)
        for _ in range(V):
            a |= (a.astype(int) @ a.astype(int)) > 0
        made.append(a)
    return made


class User:
    """Made-up closures, judgements and requests of one user."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.approve, self.deny, self.kind = closures(rng), closures(rng), closures(rng)
        self.nodes = rng.integers(-2, V, (N, K))
        self.value = rng.choice([YES, NO, ASKS], N, p=(0.45, 0.45, 0.1))
        self.asked = rng.integers(-1, V + 1, (B, K), np.int32)
        said = self.nodes[(self.nodes >= 0).all(1)]
        self.asked[:10] = said[rng.integers(len(said), size=10)]
        self.score = rng.standard_normal(B).astype(np.float32)

    def standing(self):
        return [
            i
            for i in range(N)
            if not any((self.nodes[j] == self.nodes[i]).all() for j in range(i + 1, N))
        ]

    def covers(self, i, asked, closure):
        """Whether judgement i covers a request, slot by slot."""
        for k in range(K):
            x, y = asked[k], self.nodes[i, k]
            if y == bulk.ANYTHING:
                continue
            if y == bulk.NOT_SAID or not 0 <= x < V or not closure[k][x, y]:
                return False
        return True

    def own(self, i):
        return self.approve if self.value[i] == YES else self.deny

    def breadth(self, i):
        return sum(
            sum(self.covers_one(self.own(i)[k], x, self.nodes[i, k]) for x in range(V))
            for k in range(K)
        )

    def covers_one(self, closure, x, y):
        return y == bulk.ANYTHING or (y >= 0 and closure[x, y])

    def reliable(self, policy):
        kept = []
        for i in range(N):
            ok = bad = 0
            for j in self.standing():
                if i == j or self.value[j] == ASKS or self.value[i] == ASKS:
                    continue
                if self.covers(i, self.nodes[j], self.own(i)):
                    ok, bad = (
                        ok + (self.value[i] == self.value[j]),
                        bad + (self.value[i] != self.value[j]),
                    )
            if policy.reliability == "strict":
                kept.append(bad == 0)
            else:
                kept.append(
                    policy.reliability == "off" or (ok + 1) / (ok + bad + 2) >= policy.reliability
                )
        return np.array(kept)

    def judge(self, asked, score, policy, keep):
        """The rules in a plain double loop: (verdict, n_app, n_den, first approval, first denial, repeated)."""
        if not all(0 <= x <= V for x in asked):
            return ("ask", 0, 0, -1, -1, -1)
        order = sorted(self.standing(), key=lambda i: (self.breadth(i), -i))
        sides = [
            [
                i
                for i in order
                if self.value[i] == side and keep[i] and self.covers(i, asked, self.own(i))
            ]
            for side in (YES, NO)
        ]
        counts = (len(sides[0]), len(sides[1]))
        told = [
            i
            for i in order
            if all(
                n == (bulk.NOT_SAID if x == V else x)
                for n, x in zip(self.nodes[i], asked, strict=True)
            )
        ]
        left, verdict = sides, None
        if all(sides):
            if policy.conflict == "most_specific":
                near = [i for side in sides for i in side if self.covers(i, asked, self.kind)]
                left = [
                    [i for i in side if not any(self.defeats(j, i) for j in near)] for side in sides
                ]
                verdict = ("share" if left[0] else "withhold") if not all(left) else "ask"
            elif policy.conflict == "majority":
                verdict = {1: "share", 0: "ask", -1: "withhold"}[
                    int(np.sign(counts[0] - counts[1]))
                ]
            elif policy.conflict == "latest":
                verdict = "share" if max(sides[0]) > max(sides[1]) else "withhold"
            else:
                verdict = {"escalate": "ask", "deny_overrides": "withhold"}[policy.conflict]
        elif any(sides):
            verdict = "share" if sides[0] else "withhold"
        winners = left[0] if verdict == "share" else left[1]
        if verdict is None or len(winners) < policy.min_support:
            verdict = "ask"
        if verdict == "share" and policy.veto_share is not None and score <= policy.veto_share:
            verdict = "ask"
        if (
            verdict == "withhold"
            and policy.veto_withhold is not None
            and score >= policy.veto_withhold
        ):
            verdict = "ask"
        if told:
            verdict = {YES: "share", NO: "withhold", ASKS: "ask"}[self.value[told[0]]]
        firsts = [(kept or side or [-1])[0] for kept, side in zip(left, sides, strict=True)]
        return (verdict, *counts, *firsts, told[0] if told else -1)

    def defeats(self, j, i):
        asked = [x if x >= 0 else -1 for x in self.nodes[j]]
        back = [x if x >= 0 else -1 for x in self.nodes[i]]
        return self.covers(i, asked, self.kind) and not self.covers(j, back, self.kind)

    def compiled(self, keep=None, **options):
        return bulk.compile_history(
            self.approve, self.deny, self.nodes, self.value, keep=keep, kind=self.kind, **options
        )


POLICIES = [
    *(Policy(conflict=conflict) for conflict in CONFLICTS),
    Policy(reliability="off"),
    Policy(reliability=0.6, min_support=2, conflict="majority"),
    Policy(reliability="off", min_support=2, conflict="most_specific"),
    Policy(veto_share=0.3, veto_withhold=-0.3, conflict="deny_overrides"),
]


@pytest.fixture(scope="module")
def users():
    return [User(seed) for seed in range(3)]


def as_rows(history, found):
    """What was found, bits turned into the rows of judgements."""
    row = np.append(np.asarray(history.row), -1)
    verdict, *rest = (np.asarray(getattr(found, name)) for name in ARRAYS)
    n_app, n_den, *bits = rest
    columns = [n_app, n_den, *(row[bit] for bit in bits)]
    return [
        (NAMES[v], *map(int, each))
        for v, each in zip(verdict, zip(*columns, strict=True), strict=True)
    ]


@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda p: f"{p.conflict}-{p.reliability}-{p.min_support}"
)
def test_packed_and_product_and_plain_loops_say_the_same(users, policy, native_kernels):
    seen = set()
    for user in users:
        keep = bulk.reliable(user.compiled(), policy)
        expected_keep = user.reliable(policy)
        np.testing.assert_array_equal(keep[user.standing()], expected_keep[user.standing()])
        history = user.compiled(keep)
        expected = [
            user.judge(a, s, policy, expected_keep)
            for a, s in zip(user.asked, user.score, strict=True)
        ]
        for form in ("packed", "matmul"):
            found = bulk.judge_batch(history, user.asked, policy, score=user.score, form=form)
            assert as_rows(history, found) == expected, form
        with dispatch.override(bitset_judge="reference"):
            jax.clear_caches()
            found = bulk.judge_batch(history, user.asked, policy, score=user.score)
        assert as_rows(history, found) == expected
        seen |= {row[0] for row in expected}
    assert seen == set(NAMES)


@pytest.mark.parametrize("n", [31, 32, 33, 64, 65, 513, 1100, 2100])
def test_no_judgement_is_lost_however_many_there_are(n, native_kernels):
    """Each of the kernel's widths, with kinds that begin inside of its registers."""
    rng = np.random.default_rng(n)
    size = 13
    order = [(w := rng.standard_normal(size))[:, None] >= w[None] for _ in range(K)]
    places = rng.permutation(size**K)[:n]
    nodes = np.stack([places // size**2, places // size % size, places % size], 1)
    value = rng.choice([YES, NO, ASKS], n, p=(0.5, 0.3, 0.2))
    asked = rng.integers(0, size, (B, K), np.int32)
    history = bulk.compile_history(order, [a.T for a in order], nodes, value)
    breadth = np.zeros(n, int)
    covers = np.ones((B, n), bool)
    for k, a in enumerate(order):
        of_side = np.where(value == YES, a[:, nodes[:, k]], a.T[:, nodes[:, k]])
        covers &= of_side[asked[:, k]]
        breadth += of_side.sum(0)
    shown = np.lexsort((-np.arange(n), breadth))
    expected = []
    for row in covers[:, shown]:
        sides = [shown[row & (value[shown] == side)] for side in (YES, NO)]
        expected.append((*map(len, sides), *(side[0] if len(side) else -1 for side in sides)))
    for impl in ("native", "reference"):
        with dispatch.override(bitset_judge=impl):
            jax.clear_caches()
            found = bulk.judge_batch(history, asked, Policy(reliability="off"), repeats=False)
        row = np.append(np.asarray(history.row), -1)
        bits = [row[np.asarray(a)] for a in (found.wit_app, found.wit_den)]
        counts = [np.asarray(a) for a in (found.n_app, found.n_den)]
        assert list(zip(*map(np.ndarray.tolist, (*counts, *bits)), strict=True)) == expected, impl


def test_a_batch_of_users_says_what_each_says_alone(users):
    policy = Policy()
    histories = [user.compiled(bulk.reliable(user.compiled(), policy)) for user in users]
    asked = np.stack([user.asked for user in users])
    score = np.stack([user.score for user in users])
    found = bulk.judge_users(bulk.stack(histories), asked, policy, score=score)
    for i, user in enumerate(users):
        alone = bulk.judge_batch(histories[i], user.asked, policy, score=user.score)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(found, name)[i], getattr(alone, name))


def test_users_are_shared_between_devices_without_talk(users):
    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("users",), axis_types=automatic)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("users"))
    stacked = bulk.stack([user.compiled() for user in users[:2]])
    asked = np.stack([user.asked for user in users[:2]])
    expected = bulk.judge_users(stacked, asked)
    with jax.set_mesh(mesh):  # the reference runs on a mesh
        placed = jax.device_put((stacked, asked), sharding)
        found = bulk.judge_users(*placed)
        lowered = programs.judge_users.lower(
            *placed, None, bulk.numbers(Policy()), conflict="escalate", repeats=True
        )
    text = lowered.compile().as_text()
    assert found.verdict.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(found.verdict, expected.verdict)
    assert not any(word in text for word in ("all-reduce", "all-gather", "collective-permute"))


def test_nothing_known_asks_and_nothing_is_compiled_again(users):
    user = users[0]
    empty = bulk.compile_history(user.approve, user.deny, user.nodes[:0], user.value[:0])
    found = bulk.judge_batch(empty, user.asked)
    assert set(np.asarray(found.verdict).tolist()) == {NAMES.index("ask")}
    history = user.compiled()
    bulk.judge_batch(history, user.asked, Policy(veto_share=0.0), score=user.score)
    traced = programs.TRACES["judge"]
    for support, share, n in ((2, 0.5, B), (3, -1.0, B - 7), (1, 2.0, B // 2 + 1)):
        policy = Policy(min_support=support, veto_share=share)
        bulk.judge_batch(history, user.asked[:n], policy, score=user.score[:n])
    assert programs.TRACES["judge"] == traced


def test_large_batches_of_told_apart_premises_go_in_blocks(users):
    user, policy = users[1], Policy(conflict="latest")
    history = user.compiled()
    asked = np.resize(user.asked, (5000, K))
    found = bulk.judge_batch(history, asked, policy)
    alone = bulk.judge_batch(history, user.asked, policy)
    np.testing.assert_array_equal(found.verdict, np.resize(alone.verdict, 5000))


@pytest.mark.parametrize("conflict", CONFLICTS)
def test_many_says_what_the_oracle_says(conflict):
    rng = np.random.default_rng(CONFLICTS.index(conflict))
    verdicts = []
    for trial in range(3):
        ontology = random_ontology(rng, size=3, n_edges=14, proposed=0.2, scoped=0.2)
        history = random_history(rng, ontology, 30, bundles=0.2 * (trial > 0))
        policy = Policy(
            conflict=conflict, reliability=("off", "strict", 0.5)[trial % 3], trust_proposed=trial == 2,
            veto_share=0.0, veto_withhold=0.0,
        )  # fmt: skip
        asked = [random_request(rng, ontology) for _ in range(25)] + [
            j.request for j in history[:5]
        ]
        scores = rng.standard_normal(len(asked)).tolist()
        bulk_said = many.Many(Closures(ontology), history, policy).judge(asked, scores)
        for request, score, said in zip(asked, scores, bulk_said, strict=True):
            expected = oracle.judge(request, history, ontology, policy, score=score)
            premise = expected.premises[0] if expected.verdict != "ask" else None
            assert (said.verdict, said.rule, said.premise) == (
                expected.verdict,
                expected.rule,
                premise,
            )
            verdicts.append(said.verdict)
    assert set(verdicts) == set(NAMES)


def test_bad_input_is_refused(users):
    user = users[0]
    history = bulk.compile_history(user.approve, user.deny, user.nodes, user.value)
    with pytest.raises(ConfigError, match=r"pass \[B, 3\] node numbers"):
        bulk.judge_batch(history, user.asked[:, :2])
    with pytest.raises(ConfigError, match="scores for 64 requests"):
        bulk.judge_batch(history, user.asked, score=user.score[:3])
    with pytest.raises(ConfigError, match="compiled with `kind`"):
        bulk.judge_batch(history, user.asked, Policy(conflict="most_specific"))
    with pytest.raises(ConfigError, match="form='dense'"):
        bulk.judge_batch(history, user.asked, form="dense")
    with pytest.raises(ConfigError, match="outside its slot"):
        bulk.compile_history(user.approve, user.deny, user.nodes + V, user.value)
    with pytest.raises(ConfigError, match=r"to be asked"):
        bulk.compile_history(user.approve, user.deny, user.nodes, user.value + 2)
    with pytest.raises(ConfigError, match="n_words and n_nodes"):
        bulk.stack(
            [
                history,
                bulk.compile_history(
                    user.approve, user.deny, user.nodes[:0], user.value[:0], n_nodes=9
                ),
            ]
        )
