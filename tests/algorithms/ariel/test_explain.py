import dataclasses

import pytest

from ariel_jax.algorithms.ariel import proof
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.explain import explain, why_not
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.types import ANY, UNSPEC, Policy
from ariel_jax.errors import ConfigError

from .cases import PROPOSED, ask, replaced, said


def told(request, history, ontology, policy=None):
    policy = policy or Policy()
    packed = History(Closures(ontology), history)
    outcome = judge(request, packed, packed.closures, policy)
    return explain(proof.build(outcome, request, packed, policy), ontology)


def dated(rows):
    return [replaced(j, created_at=f"2026-05-0{j.id}T10:00:00+00:00") for j in rows]


def test_a_share_names_the_decision_its_day_and_the_fact(ontology):
    history = dated(
        said((ask("health"), "no"), (ask("contact"), "no"), (ask("location.address"), "yes"))
    )
    assert told(ask("location.city"), history, ontology) == (
        "Shared your city for bistro (dining) [notified], because on 3 May 2026 you approved your "
        "address for bistro (dining) [notified], and address already reveals city."
    )


def test_a_denial_a_repeat_and_a_question(ontology):
    history = said((ask("health", "organisation"), "no"), (ask("location.city", UNSPEC), "yes"))
    assert told(ask("health.blood"), history, ontology) == (
        "Withheld your blood for bistro (dining) [notified], because you refused your health for "
        "organisation (dining) [notified], and blood is a kind of health, bistro is a kind of shop "
        "and shop is a kind of organisation."
    )
    assert "for an unknown recipient (dining) [notified], which is the same request." in told(
        ask("location.city", UNSPEC), history, ontology
    )
    assert told(ask("contact.phone"), history, ontology) == (
        "Asks about your phone for bistro (dining) [notified], because nothing that you decided before "
        "covers it."
    )
    assert "it is not in" not in told(ask("contact.phone"), history, ontology)


def test_conflicts_bundles_and_whose_data_are_said(ontology):
    history = said((ask("health", "organisation"), "yes"), (ask("health", "shop"), "no"))
    bare = Policy(reliability="off")
    assert "for it and against it. Against it: judgements 2." in told(
        ask("health"), history, ontology, bare
    )
    overrides = dataclasses.replace(bare, conflict="deny_overrides")
    assert told(ask("health"), history, ontology, overrides).endswith(
        "Judgements 1 said otherwise; the policy is deny_overrides."
    )
    pair = said((ask("location.city"), "yes"), (ask("contact.phone"), "yes"))
    itemwise = Policy(bundle="itemwise")
    text = told(ask(("location.city", "contact.phone")), pair, ontology, itemwise)
    assert text.startswith("Shared your phone and city for bistro")
    assert text.endswith("Each item was approved by itself, not all of them together.")
    child = dataclasses.replace(ask("health", ANY), subject="child")
    text = told(dataclasses.replace(child, recipient="doctor"), said((child, "yes")), ontology)
    assert text.startswith("Shared health of child for doctor")
    assert "health of child for anyone" in text


@pytest.mark.parametrize(
    ("judged", "value", "request_", "verdict", "edge"),
    [
        (
            "contact.phone",
            "yes",
            ask("age.range"),
            "share",
            ("data", "reveals", "contact.phone", "age.range"),
        ),
        (
            "age.range",
            "no",
            ask("contact.phone"),
            "withhold",
            ("data", "reveals", "contact.phone", "age.range"),
        ),
        (
            "health",
            "yes",
            ask("health", "doctor"),
            "share",
            ("recipient", "trust", "doctor", "bistro"),
        ),
        (
            "health",
            "no",
            ask("health", "doctor"),
            "withhold",
            ("recipient", "trust", "bistro", "doctor"),
        ),
        (
            "health",
            "yes",
            ask("health", purpose="treatment"),
            "share",
            ("purpose", "narrower", "treatment", "dining"),
        ),
        ("health", "no", ask("health", principle="none"), "withhold", None),
    ],
)
def test_the_edge_that_is_named_closes_the_gap(ontology, judged, value, request_, verdict, edge):
    history = said((ask(judged), value))
    packed = History(Closures(ontology), history)
    gaps = why_not(request_, verdict, packed)
    if edge is None:  # a denial of what is notified covers what is not
        assert gaps == ()
        return
    (gap,) = gaps
    assert (gap.edge.slot, gap.edge.type, gap.edge.src, gap.edge.dst) == edge
    assert gap.failed == (edge[0],)
    assert gap.edge.status == "proposed"
    more = Closures(ontology.with_edges(dataclasses.replace(gap.edge, status="confirmed")))
    assert judge(request_, packed, packed.closures).verdict == "ask"
    assert judge(request_, history, more).verdict == verdict


def test_the_closest_judgements_come_first_and_those_too_far_name_their_slots(ontology):
    history = said(
        (ask("location.address", "doctor", "treatment"), "yes"),
        (ask("health", "doctor"), "yes"),
        (ask("location.city", "doctor"), "yes"),
        (ask("location.city", "doctor"), "no"),
    )
    packed = History(Closures(ontology), history)
    gaps = why_not(ask("location.city"), "share", packed)
    assert [(gap.judgement_id, gap.failed) for gap in gaps] == [
        (2, ("data", "recipient")),
        (1, ("recipient", "purpose")),
    ]
    assert all(gap.edge is None for gap in gaps)
    assert gaps[0].text.endswith(
        "differs in data (health, not city) and recipient (doctor, not bistro)."
    )
    assert len(why_not(ask("location.city"), "share", packed, limit=1)) == 1


def test_no_edge_is_named_that_would_close_a_cycle_or_join_what_is_open(ontology):
    packed = History(Closures(ontology), said((ask("location.city"), "yes")))
    (gap,) = why_not(ask("location.address"), "share", packed)
    assert (gap.failed, gap.edge) == (("data",), None)  # a city would reveal the address
    (gap,) = why_not(ask("location.city", UNSPEC), "share", packed)
    assert (gap.failed, gap.edge) == (("recipient",), None)


def test_what_covers_a_request_and_does_not_decide_says_why(ontology):
    history = said((ask("health", "organisation"), "yes"), (ask("health", "shop"), "no"))
    packed = History(Closures(ontology), history)
    (gap,) = why_not(ask("health", "employer"), "share", packed)
    assert gap.text.endswith("It covers the request, but it is not relied on (bad=1).")
    (gap,) = why_not(ask("health"), "share", packed, Policy(reliability="off"))
    assert "speaks for it and against it" in gap.text or "speak for it and against it" in gap.text
    assert why_not(ask("health"), "withhold", packed) == ()
    with pytest.raises(ConfigError, match="verdict='ask'"):
        why_not(ask("health"), "ask", packed)


def test_a_proposed_edge_is_said_to_wait_for_the_user(ontology):
    proposed = ontology.with_edges(PROPOSED)
    text = told(ask("age.range"), said((ask("contact.phone"), "yes")), proposed)
    assert "by a fact that you have not confirmed" in text
