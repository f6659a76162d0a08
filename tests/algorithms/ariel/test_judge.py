"""What must hold of verdicts, the fast history against plain loops, and planted faults."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.algorithms.ariel import oracle
from ariel_jax.algorithms.ariel import travel as travelling
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import (
    ANY,
    SLOTS,
    Edge,
    Judgement,
    Node,
    Policy,
    Request,
)

from .cases import (
    ask,
    case,
    random_policy,
    random_request,
    replaced,
    said,
)

SEED = st.integers(0, 2**31)
BARE = Policy(reliability="off")


@settings(max_examples=60, deadline=None)
@given(SEED)
def test_a_history_built_at_once_or_judgement_by_judgement_says_what_plain_loops_say(seed):
    rng, ontology, closures, history = case(seed, proposed=0.25, scoped=0.3)
    half = int(rng.integers(len(history)))
    grown = History(closures, history[:half])
    for _ in range(2):  # tables and counts that exist already are kept up
        judge(random_request(rng, ontology), grown, closures, random_policy(rng))
    for judgement in history[half:]:
        grown.add(judgement)
    for _ in range(4):
        request, policy = random_request(rng, ontology), random_policy(rng)
        score = (None, -1.0, 0.2, 2.0)[rng.integers(4)]
        wanted = oracle.judge(request, history, ontology, policy, score=score)
        assert judge(request, history, closures, policy, score=score) == wanted
        assert judge(request, grown, closures, policy, score=score) == wanted


def test_a_long_history_says_what_plain_loops_say():
    """More judgements than a word has bits, and tables that had to grow."""
    rng, ontology, closures, history = case(3, n=200, proposed=0.2, scoped=0.3)
    grown = History(closures, history[:2])
    judge(random_request(rng, ontology), grown, closures)
    for judgement in history[2:]:
        grown.add(judgement)
    for policy in (Policy(conflict="most_specific", reliability=0.4), BARE):
        for _ in range(8):
            request = random_request(rng, ontology)
            wanted = oracle.judge(request, history, ontology, policy)
            assert judge(request, grown, closures, policy) == wanted


@pytest.mark.parametrize("fault", ["reveals", "trust"])
def test_the_comparison_sees_an_edge_that_is_travelled_the_wrong_way(fault, monkeypatch):
    table = {p: dict(ways) for p, ways in travelling.TRAVEL.items()}
    table["approve"][fault] = {"up": "down", "down": "up"}[table["approve"][fault]]
    differs = 0
    for seed in range(12):
        rng, ontology, _, history = case(seed)
        with monkeypatch.context() as patched:
            patched.setattr(travelling, "TRAVEL", table)
            closures = Closures(ontology)
            for _ in range(6):
                request = random_request(rng, ontology)
                wanted = oracle.judge(request, history, ontology, BARE)
                differs += judge(request, history, closures, BARE) != wanted
    assert differs


def test_an_empty_history_asks(ontology, closures):
    for item in ontology.index("data"):
        outcome = judge(ask(item), [], closures)
        assert (outcome.verdict, outcome.reason) == ("ask", "no_premise")


@settings(max_examples=30, deadline=None)
@given(SEED)
def test_a_repeated_request_gets_the_latest_judgement(seed):
    rng, _, closures, history = case(seed)
    verdicts = {"appropriate": "share", "inappropriate": "withhold", "ask": "ask"}
    for judgement in oracle.standing(history):
        if any(ANY in judgement.request.slot(slot) for slot in SLOTS):
            continue
        outcome = judge(judgement.request, history, closures, random_policy(rng), score=0.1)
        assert outcome.verdict == verdicts[judgement.value]
        assert (outcome.rule or outcome.reason) in ("R0", "always_ask")


def test_the_running_example(closures):
    """Address approved for a delivery covers the city; nothing is said about the phone number."""
    history = said((ask("location.address"), "yes"), (ask("location.city", "advertiser"), "no"))
    verdicts = {
        ("location.city", "bistro"): "share",
        ("location.trace", "bistro"): "ask",
        ("contact.phone", "bistro"): "ask",
        ("location.address", "advertiser"): "withhold",
        ("location.city", "advertiser"): "withhold",
        ("location.city", "doctor"): "ask",
    }
    for (item, recipient), verdict in verdicts.items():
        assert judge(ask(item, recipient), history, closures).verdict == verdict
    history = said((ask("location.address", "advertiser"), "no"))
    assert judge(ask("location.city", "advertiser"), history, closures).verdict == "ask"


def test_age_exact_is_not_released_by_an_approval_of_age_range(ontology):
    """The Data Privacy Vocabulary has AgeExact below AgeRange; `isa` there would release it."""
    ranged, exact = ask("age.range"), ask("age.exact")
    approved = said((ranged, "yes"))
    assert judge(exact, approved, Closures(ontology)).verdict == "ask"
    assert judge(ranged, said((exact, "yes")), Closures(ontology)).verdict == "share"
    assert judge(exact, said((ranged, "no")), Closures(ontology)).verdict == "withhold"
    taxonomy = [
        dataclasses.replace(edge, type="isa") if edge.src == "age.exact" else edge
        for edge in ontology.edges
    ]
    wrong = Ontology.of([n for s in SLOTS for n in ontology.nodes[s]], taxonomy)
    assert judge(exact, approved, Closures(wrong)).verdict == "share"


@settings(max_examples=40, deadline=None)
@given(SEED)
def test_support_goes_on_to_whatever_is_covered(seed):
    """Approve support of a request is approve support of all it covers; denials likewise."""
    rng, ontology, closures, history = case(seed)
    packed, trusted = History(closures, history), ("curated", "confirmed")
    covered = 0
    for _ in range(30):
        one, other = (random_request(rng, ontology, bundles=0.0) for _ in range(2))
        for polarity in ("approve", "deny"):
            options = {"scopes": frozenset(), "statuses": trusted}
            if not oracle.entails(ontology, one, other, polarity, **options):
                continue
            of_one, of_other = (
                packed.covering(packed.rows(r), polarity, trusted, frozenset())
                for r in (one, other)
            )
            assert (of_other >= of_one).all()
            covered += one != other
    assert covered or len(ontology.edges) < 8


def monotone_user(rng):
    """Numbered nodes, a larger number discloses more or is trusted less; a hidden threshold."""
    size = 6
    kinds = {"data": "reveals", "recipient": "trust", "principle": "stricter"}
    nodes = [
        Node(slot=slot, id=f"{slot}{i}", label=slot)
        for slot in SLOTS
        for i in range(size if slot in kinds else 1)
    ]
    edges = []
    for slot, kind in kinds.items():
        for i in range(size - 1):
            src, dst = (i + 1, i) if slot == "data" else (i, i + 1)
            edges.append((slot, kind, f"{slot}{src}", f"{slot}{dst}"))
    ontology = Ontology.of(
        nodes,
        [
            Edge(id=i, slot=slot, type=kind, src=src, dst=dst)
            for i, (slot, kind, src, dst) in enumerate(edges, start=1)
        ],
    )
    risk = {slot: np.cumsum(rng.exponential(size=size)) for slot in kinds}
    limit = 0.6 * sum(values[-1] for values in risk.values())

    def draw():
        numbers = {slot: int(rng.integers(size)) for slot in kinds}
        request = Request(
            data=(f"data{numbers['data']}",),
            subject="subject0",
            sender="sender0",
            purpose="purpose0",
            recipient=f"recipient{numbers['recipient']}",
            principle=f"principle{numbers['principle']}",
        )
        return request, sum(risk[slot][i] for slot, i in numbers.items()) < limit

    return ontology, draw


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_of_a_consistent_user_are_all_right_and_never_in_conflict(seed):
    ontology, draw = monotone_user(np.random.default_rng(seed))
    closures, decided = Closures(ontology), 0
    history = said(
        *((request, "yes" if good else "no") for request, good in (draw() for _ in range(30)))
    )
    packed = History(closures, history)
    for _ in range(100):
        request, good = draw()
        outcome = judge(request, packed, closures, BARE)
        assert outcome.reason != "conflict"
        if outcome.verdict != "ask":
            decided += 1
            assert outcome.verdict == ("share" if good else "withhold")
    assert decided > 30


@settings(max_examples=25, deadline=None)
@given(SEED)
def test_the_order_of_the_history_changes_nothing(seed):
    rng, ontology, closures, history = case(seed)
    shuffled = [history[i] for i in rng.permutation(len(history))]
    for _ in range(5):
        request, policy = random_request(rng, ontology), random_policy(rng)
        assert judge(request, shuffled, closures, policy) == judge(
            request, history, closures, policy
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_judgement_that_contradicts_nothing_never_lowers_coverage_without_isa(seed):
    ontology, draw = monotone_user(np.random.default_rng(seed))
    closures = Closures(ontology)
    requests = [draw()[0] for _ in range(40)]
    packed, before, number = History(closures), set(), 0
    for _ in range(25):
        request, good = draw()
        verdict = judge(request, packed, closures, BARE).verdict
        assert verdict in ("ask", "share" if good else "withhold")
        number += 1
        value = "appropriate" if good else "inappropriate"
        packed.add(Judgement(id=number, request=request, value=value))
        decided = {r for r in requests if judge(r, packed, closures, BARE).verdict != "ask"}
        assert decided >= before
        before = decided
    assert before


def test_with_isa_it_may(ontology):
    """Two parents that were judged apart: what is a kind of both has a conflict."""
    both = ontology.with_edges(
        Edge(id=90, slot="recipient", type="isa", src="employer", dst="professional")
    )
    closures = Closures(both)
    history = said((ask("health", "organisation"), "no"), (ask("health", "professional"), "yes"))
    request = ask("health.blood", "employer")
    assert judge(request, history[:1], closures).verdict == "withhold"
    assert judge(request, history, closures, BARE).reason == "conflict"


@settings(max_examples=25, deadline=None)
@given(SEED)
def test_a_history_without_a_judgement_is_one_that_never_had_it(seed):
    """What an agent claims and what is superseded leave no trace, wherever they stand."""
    rng, ontology, closures, history = case(seed)
    at = int(rng.integers(len(history)))
    gone = replaced(history[at], superseded_by=999)
    claimed = replaced(history[at], source="agent_claimed")
    without = history[:at] + history[at + 1 :]
    for _ in range(5):
        request, policy = random_request(rng, ontology), random_policy(rng)
        wanted = judge(request, without, closures, policy)
        for instead in (gone, claimed):
            changed = [*history[:at], instead, *history[at + 1 :]]
            assert judge(request, changed, closures, policy) == wanted
