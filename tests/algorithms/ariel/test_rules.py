"""Bundles, open slots, conflicts, reliability, proposals and vetoes, one rule a test."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.algorithms.ariel import oracle
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.types import (
    ANY,
    SLOTS,
    UNSPEC,
    Edge,
    Policy,
)
from ariel_jax.errors import ConfigError, InvalidRequestError, UnknownNodeError

from .cases import (
    PROPOSED,
    ask,
    case,
    random_request,
    replaced,
    said,
)

SEED = st.integers(0, 2**31)
BARE = Policy(reliability="off")


@settings(max_examples=40, deadline=None)
@given(SEED)
def test_approving_a_set_covers_its_subsets_and_denying_it_its_supersets(seed):
    rng, ontology, closures, _ = case(seed)
    items = list(ontology.index("data"))
    chosen = tuple(rng.choice(items, min(2, len(items)), replace=False))
    base = random_request(rng, ontology, bundles=0.0)
    base = dataclasses.replace(
        base, data=chosen, **{slot: ontology.nodes[slot][0].id for slot in SLOTS[1:]}
    )
    for value, others in (
        ("yes", [chosen[:1], chosen[1:] or chosen, chosen]),
        ("no", [(*chosen, item) for item in items]),
    ):
        history = said((base, value))
        for data in others:
            request = dataclasses.replace(base, data=data)
            wanted = "share" if value == "yes" else "withhold"
            assert judge(request, history, closures, BARE).verdict == wanted


def test_items_that_are_approved_one_by_one_are_not_approved_together(closures):
    history = said((ask("location.city"), "yes"), (ask("contact.phone"), "yes"))
    both = ask(("location.city", "contact.phone"))
    outcome = judge(both, history, closures)
    assert (outcome.verdict, outcome.reason) == ("ask", "partial")
    assert outcome.approved == ("contact.phone", "location.city")
    itemwise = Policy(bundle="itemwise")
    outcome = judge(both, history, closures, itemwise)
    assert (outcome.verdict, outcome.rule) == ("share", "R1-itemwise")
    assert set(outcome.premises) == {1, 2}
    more = ask(("location.city", "contact.phone", "health"))
    outcome = judge(more, history, closures, itemwise)
    assert (outcome.verdict, outcome.reason, outcome.undecided) == ("ask", "partial", ("health",))
    denied = [*history, *said((ask("health"), "no"))]
    denied[2] = replaced(denied[2], id=3)
    outcome = judge(more, denied, closures, itemwise)
    assert (outcome.verdict, outcome.denied) == ("withhold", ("health",))


def test_unspecified_is_covered_by_any_alone_and_any_only_where_the_user_chose_it(closures):
    open_request = ask("location.city", UNSPEC)
    history = said((ask("location.city", "organisation"), "yes"))
    assert judge(open_request, history, closures).verdict == "ask"
    history = said((ask("location.address", ANY, purpose=ANY), "yes"))
    assert judge(open_request, history, closures).verdict == "share"
    assert (
        judge(ask("location.city", "bank", purpose="dining"), history, closures).verdict == "share"
    )
    repeated = said((open_request, "yes"))
    assert judge(open_request, repeated, closures).rule == "R0"
    assert judge(ask("location.city", "bank"), repeated, closures).verdict == "ask"
    assert judge(ask("location.city", ANY), history, closures).reason == "unmapped"
    assert judge(ask("shoe.size"), history, closures).reason == "unmapped"


def test_scoped_trust_holds_for_its_data_alone(ontology):
    scoped = ontology.with_edges(
        Edge(id=90, slot="recipient", type="trust", src="doctor", dst="bank", scope="health")
    )
    history = said((ask("health.blood", "bank"), "yes"), (ask("contact.phone", "bank"), "yes"))
    closures = Closures(scoped)
    assert judge(ask("health.blood", "doctor"), history, closures).verdict == "share"
    assert judge(ask("contact.phone", "doctor"), history, closures).verdict == "ask"
    together = [(("health.blood", "contact.phone"), "yes")]
    history = said(*((ask(data, "bank"), value) for data, value in together))
    assert (
        judge(ask(("health.blood", "contact.phone"), "doctor"), history, closures).verdict == "ask"
    )


CONFLICT = said(
    (ask("health", "organisation"), "yes"),
    (ask("health", "shop"), "no"),
    (ask("health", "bistro"), "yes"),
)


@pytest.mark.parametrize(
    ("policy", "n", "verdict"),
    [
        ("escalate", 2, "ask"),
        ("deny_overrides", 2, "withhold"),
        ("latest", 2, "withhold"),
        ("latest", 3, "share"),
        ("majority", 2, "ask"),
        ("majority", 3, "share"),
        ("most_specific", 2, "withhold"),
        ("most_specific", 3, "share"),
    ],
)
def test_conflicts(closures, policy, n, verdict):
    request = ask("health.blood", "bistro")
    outcome = judge(request, CONFLICT[:n], closures, Policy(conflict=policy, reliability="off"))
    assert outcome.verdict == verdict
    assert outcome.reason == ("conflict" if verdict == "ask" else "")
    assert outcome.against


def test_unreliable_premises_are_dropped_and_named(closures):
    """An approval for all organisations that the user's own denial contradicts."""
    history = CONFLICT[:2]
    request = ask("health", "employer")
    assert judge(request, history, closures, BARE).verdict == "share"
    outcome = judge(request, history, closures)
    assert (outcome.verdict, outcome.dropped) == ("ask", ((1, "bad=1"),))
    assert judge(request, history, closures, Policy(reliability=0.3)).verdict == "share"
    outcome = judge(request, history, closures, Policy(reliability=0.4))
    assert outcome.dropped == ((1, "ok=0, bad=1"),)
    again = judge(ask("health", "organisation"), history, closures)
    assert (again.verdict, again.rule) == ("share", "R0")


def test_min_support_counts_premises(closures):
    history = said((ask("location.address"), "yes"), (ask("location.trace"), "yes"))
    request = ask("location.city")
    assert judge(request, history[:1], closures, Policy(min_support=2)).reason == "min_support"
    assert judge(request, history, closures, Policy(min_support=2)).verdict == "share"


def test_a_proposed_edge_may_withhold_but_not_share(ontology):
    proposed = ontology.with_edges(PROPOSED)
    closures = Closures(proposed)
    shares = said((ask("contact.phone"), "yes"))
    outcome = judge(ask("age.range"), shares, closures)
    assert (outcome.verdict, outcome.reason, outcome.suggestion) == (
        "ask",
        "proposed_only",
        "share",
    )
    assert judge(ask("age.range"), shares, closures, Policy(trust_proposed=True)).verdict == "share"
    assert (
        judge(ask("contact.phone"), said((ask("age.range"), "no")), closures).verdict == "withhold"
    )
    sure = Closures(proposed.confirm(90))
    assert judge(ask("age.range"), shares, sure).verdict == "share"
    gone = Closures(proposed.retract(90))
    assert judge(ask("age.range"), shares, gone).reason == "no_premise"


def test_a_score_turns_entailed_verdicts_into_questions_and_makes_none(closures):
    history = said((ask("location.address"), "yes"), (ask("health"), "no"))
    cautious = Policy.profile("cautious")
    shared, withheld = ask("location.city"), ask("health.blood")
    for score, verdicts in (
        (2.0, ("share", "ask")),
        (-2.0, ("ask", "withhold")),
        (None, ("share", "withhold")),
    ):
        found = [judge(r, history, closures, cautious, score=score) for r in (shared, withheld)]
        assert tuple(f.verdict for f in found) == verdicts
        assert all(f.reason == ("veto" if f.verdict == "ask" else "") for f in found)
    assert judge(ask("contact"), history, closures, cautious, score=9.0).verdict == "ask"
    assert judge(ask("location.address"), history, closures, cautious, score=-9.0).rule == "R0"
    with pytest.raises(ConfigError, match="score=nan"):
        judge(shared, history, closures, score=float("nan"))


def test_asking_always_replaces_an_approval(closures):
    request = ask("location.address")
    history = said((request, "yes"), (request, "ask"))
    assert judge(request, history, closures).reason == "always_ask"
    assert judge(ask("location.city"), history, closures).reason == "no_premise"


ANYWAY = {"purpose": ANY, "principle": ANY}
ASKED = said(
    (ask("contact", "organisation", **ANYWAY), "yes"),
    (ask("location.trace", "organisation", **ANYWAY), "yes"),
    (ask("contact.phone", "shop", UNSPEC, UNSPEC), "ask"),
    (ask("location.city", "shop"), "ask"),
)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        (
            ask("contact", "shop", UNSPEC, UNSPEC),
            "share",
        ),  # what is asked covers what is a kind of it
        (ask("contact.phone", "shop", UNSPEC, UNSPEC), "always_ask"),
        (ask("contact.phone", "shop"), "always_ask"),  # what was left open goes for whatever stands
        (ask("contact.phone", "bistro"), "always_ask"),  # a kind of shop
        (ask("contact.phone", "employer"), "share"),
        (ask("location.city", "shop"), "always_ask"),
        (ask("location.address", "shop"), "always_ask"),  # it reveals the city
        (ask("location.city", "shop", UNSPEC, UNSPEC), "always_ask"),  # leaving out is no way round
        (ask("location.city", "shop", "booking", "none"), "always_ask"),
        (ask("location.city", "shop", "marketing"), "share"),
        (ask("location.city", "shop", "dining", "asked"), "share"),
    ],
)
@pytest.mark.parametrize("policy", [BARE, Policy(conflict="latest"), Policy(bundle="itemwise")])
def test_asking_always_blocks_what_would_tell_the_same(ontology, closures, about, says, policy):
    outcome = judge(about, ASKED, closures, policy)
    assert (outcome.reason or outcome.verdict) == says
    assert outcome == oracle.judge(about, ASKED, ontology, policy)
    if about.key not in {j.request.key for j in ASKED} and says == "always_ask":
        assert outcome.premises
        assert set(outcome.against) <= {3, 4}


def test_asking_always_goes_along_same_and_into_sets_and_not_against_a_denial(ontology):
    same = Edge(id=90, slot="data", type="same", src="contact.phone", dst="age.exact")
    closures = Closures(ontology.with_edges(same))
    history = said(
        (ask("age.exact", ANY), "yes"), (ask("contact.phone"), "ask"), (ask("location.city"), "yes")
    )
    assert judge(ask("age.exact"), history, closures).reason == "always_ask"
    assert judge(ask("age.exact", "doctor"), history, closures).verdict == "share"
    assert judge(ask("age.exact"), history[:1], closures).verdict == "share"
    both = said(
        (ask(("contact.phone", "location.city"), "shop"), "yes"), (ask("contact.phone"), "ask")
    )
    asked = ask(("contact.phone", "location.city"))
    for policy in (Policy(), Policy(bundle="itemwise"), Policy(conflict="latest")):
        assert judge(asked, both[:1], closures, policy).verdict == "share"
        assert judge(asked, both, closures, policy).reason == "always_ask"
    refused = said(
        (ask("contact.phone", "shop"), "no"), (ask("contact.phone", "organisation"), "ask")
    )
    assert judge(ask("contact.phone"), refused, closures).verdict == "withhold"


def test_asking_always_about_a_set_blocks_the_set_and_its_supersets(closures):
    pair, more = ("health", "location.city"), ("contact", "health", "location.city")
    history = said((ask(more, "shop"), "yes"), (ask(pair, "shop"), "ask"))
    assert judge(ask(more), history, closures).reason == "always_ask"
    assert judge(ask(("health", "location.address")), history, closures).reason == "partial"
    assert judge(ask("health"), history, closures).verdict == "share"


def test_asking_always_about_an_item_holds_in_the_scope_of_that_item(ontology):
    """The trust holds for health alone: for both items together it would not carry the wish."""
    scoped = ontology.with_edges(
        Edge(id=90, slot="recipient", type="trust", src="doctor", dst="bank", scope="health")
    )
    history = said((ask(("health", "contact"), "bank"), "yes"), (ask("health", "doctor"), "ask"))
    closures = Closures(scoped)
    assert judge(ask(("health", "contact"), "bank"), history, closures).rule == "R0"
    history[0] = replaced(history[0], request=ask(("health", "contact"), ANY))
    outcome = judge(ask(("health", "contact"), "bank"), history, closures)
    assert (outcome.reason, outcome.against) == ("always_ask", (2,))
    assert outcome == oracle.judge(ask(("health", "contact"), "bank"), history, scoped)


@pytest.mark.parametrize("conflict", ["escalate", "latest", "majority", "most_specific"])
def test_a_set_with_an_item_that_is_withheld_is_never_shared(ontology, closures, conflict):
    history = said(
        (ask("health.blood"), "no"),
        (ask("health", "bistro", **ANYWAY), "yes"),
        (ask("health", "shop", **ANYWAY), "yes"),
        (ask(("health", "contact"), "bistro", **ANYWAY), "yes"),
    )
    request, policy = ask(("health.blood", "health")), Policy(conflict=conflict, reliability="off")
    assert judge(ask("health.blood"), history, closures, policy).rule == "R0"
    outcome = judge(request, history, closures, policy)
    assert (outcome.verdict, outcome.reason, outcome.denied) == (
        "ask",
        "conflict",
        ("health.blood",),
    )
    assert outcome == oracle.judge(request, history, ontology, policy)
    assert judge(request, history[1:], closures, policy).verdict == "share"


def test_a_request_with_too_long_a_text_or_half_a_character_is_refused():
    base = ask("location.city")
    assert dataclasses.replace(base, task_text="x" * 10_000).task_text
    assert dataclasses.replace(base, task_text="\ud800").task_text  # its proof has a hash of it
    with pytest.raises(InvalidRequestError, match="10001 characters"):
        dataclasses.replace(base, task_text="x" * 10_001)
    with pytest.raises(InvalidRequestError, match="surrogate"):
        ask("location.city", "\ud800")


@pytest.mark.parametrize("wrong", [{"veto_share": float("nan")}, {"veto_withhold": float("inf")}])
def test_a_policy_refuses_vetoes_that_are_no_number(wrong):
    with pytest.raises(ConfigError, match="finite"):
        Policy(**wrong)


def test_a_history_refuses_what_it_cannot_use(ontology, closures):
    packed = History(closures, said((ask("location.city"), "yes")))
    with pytest.raises(ConfigError, match="up to 1"):
        packed.add(said((ask("location.city"), "yes"))[0])
    with pytest.raises(UnknownNodeError, match=r"shoe\.size"):
        packed.add(replaced(said((ask("shoe.size"), "yes"))[0], id=2))
    assert (packed.last_id, len(packed)) == (1, 1)
    packed.add(replaced(said((ask("shoe.size"), "yes"), source="agent_claimed")[0], id=2))
    assert (packed.last_id, len(packed)) == (2, 1)
    with pytest.raises(ConfigError, match="another ontology"):
        judge(ask("location.city"), packed, Closures(ontology.retract(1)))


def test_strict_drops_a_denial_that_was_contradicted_elsewhere_and_off_asks(closures):
    """The limit that the documentation names."""
    history = said(
        (ask("health", "shop"), "no"),
        (ask("health.blood", "bistro"), "yes"),
        (ask("health.blood", "organisation"), "yes"),
    )
    outcome = judge(ask("health.blood", "shop"), history, closures)
    assert (outcome.verdict, outcome.dropped) == ("share", ((1, "bad=1"),))
    assert judge(ask("health.blood", "shop"), history, closures, BARE).reason == "conflict"
