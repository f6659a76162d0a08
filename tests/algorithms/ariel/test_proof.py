"""Proofs pass an independent checker, and nothing that was changed does."""

import copy
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import checker, proof, recount
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.types import ANY, UNSPEC, Edge, Policy
from ariel_jax.errors import IntegrityError

from .cases import (
    PROPOSED,
    ask,
    narrowed,
    random_history,
    random_ontology,
    random_policy,
    random_request,
    replaced,
    said,
)

HISTORY = said(
    (ask("location.address", "shop"), "yes"),
    (ask("location.trace"), "yes"),
    (ask("health", "organisation"), "no"),
    (ask("contact", "organisation", principle="none"), "yes"),
    (ask("contact", "shop", principle="none"), "no"),
    (ask("age.exact", "advertiser", "booking", "none"), "yes"),
)
ITEMWISE = Policy(bundle="itemwise")
CASES = {
    "share": (ask("location.city", purpose="booking", principle="asked"), Policy()),
    "share of two": (ask("age.range", principle="asked", purpose="booking"), Policy()),
    "withhold": (ask("health.blood"), Policy()),
    "repeat": (ask("location.trace"), Policy()),
    "ask": (ask("age.exact", "doctor"), Policy()),
    "conflict": (ask("contact.phone", "bistro", principle="none"), Policy(reliability="off")),
    "two premises": (ask("location.city"), Policy(min_support=2)),
    "a denied item": (ask(("location.city", "health.blood")), Policy()),
    "itemwise": (ask(("location.city", "location.trace"), "bistro"), ITEMWISE),
    "a set": (ask(("age.range", "location.city"), principle="asked", purpose="booking"), ITEMWISE),
}


def prove(request, policy, ontology, history, **more):
    packed = History(Closures(ontology), history)
    outcome = judge(request, packed, packed.closures, policy)
    return outcome, proof.build(outcome, request, packed, policy, **more)


def test_the_cases_reach_every_rule(ontology):
    found = {name: prove(*case, ontology, HISTORY)[0] for name, case in CASES.items()}
    rules = {name: outcome.rule or outcome.reason for name, outcome in found.items()}
    assert rules == {
        "share": "R1",
        "share of two": "R1",
        "withhold": "R2",
        "repeat": "R0",
        "ask": "no_premise",
        "conflict": "conflict",
        "two premises": "R1",
        "a denied item": "R2",
        "itemwise": "R1",
        "a set": "R1-itemwise",
    }


@pytest.mark.parametrize("name", CASES)
def test_a_proof_passes_the_checker(ontology, name):
    _, made = prove(*CASES[name], ontology, HISTORY)
    checker.verify_proof(made, ontology.edges, HISTORY)
    checker.verify_proof(json.loads(proof.canonical(made)), ontology.edges, HISTORY)


@pytest.mark.parametrize("seed", range(40))
def test_proofs_of_random_verdicts_pass(seed):
    rng = np.random.default_rng(seed)
    ontology = random_ontology(rng, size=3, n_edges=14, proposed=0.25, scoped=0.3)
    ontology = narrowed(ontology, 1 + seed % 3)
    history = random_history(rng, ontology, int(rng.integers(26)))
    packed = History(Closures(ontology), history)
    for _ in range(4):
        request, policy = random_request(rng, ontology), random_policy(rng)
        score = (None, -1.0, 0.2, 2.0)[rng.integers(4)]
        outcome = judge(request, packed, packed.closures, policy, score=score)
        made = proof.build(outcome, request, packed, policy, score=score)
        checker.verify_proof(made, ontology.edges, history)


def test_a_proof_that_passes_over_a_denial_is_found(ontology):
    """It was made without the denial, and claims to have seen all."""
    request = ask("contact.phone", "bistro", principle="none")
    history = [replaced(j, id=i) for i, j in ((1, HISTORY[3]), (2, HISTORY[4]))]
    history[0] = replaced(history[0], request=ask("contact", "organisation", principle=ANY))
    outcome, made = prove(request, Policy(reliability="off"), ontology, history[:1])
    assert outcome.verdict == "share"
    checker.verify_proof(made, ontology.edges, history)  # at that time there was no denial
    forged = {**made, "last_judgement": 2}
    with pytest.raises(IntegrityError, match="passed over"):
        checker.verify_proof(forged, ontology.edges, history)
    with pytest.raises(IntegrityError, match="the policy says 'ask'"):
        checker.verify_proof({**forged, "against": [2]}, ontology.edges, history)
    dropped = {**forged, "dropped": [{"judgement_id": 2, "why": "bad=1"}]}
    with pytest.raises(IntegrityError, match="is not unreliable"):
        checker.verify_proof(dropped, ontology.edges, history)


def test_what_is_said_of_the_items_of_a_set_is_checked(ontology):
    request, policy = CASES["a denied item"]
    _, made = prove(request, policy, ontology, HISTORY)
    assert made["items"]["denied"] == ["health.blood"]
    forged = {**made, "items": {"approved": request.slot("data"), "denied": [], "undecided": []}}
    with pytest.raises(IntegrityError, match="alone is not approved"):
        checker.verify_proof(forged, ontology.edges, HISTORY)


def test_items_that_are_approved_do_not_outweigh_a_denial_of_all_together(ontology):
    request, policy = CASES["a set"]
    _, made = prove(request, policy, ontology, HISTORY)
    about = dataclasses.replace(request, purpose=ANY)
    history = [*HISTORY, replaced(HISTORY[4], id=7, request=about)]
    assert judge(request, history, Closures(ontology), policy).verdict == "withhold"
    forged = {**made, "last_judgement": 7, "against": [7]}
    with pytest.raises(IntegrityError, match="passed over"):
        checker.verify_proof(forged, ontology.edges, history)


@pytest.mark.parametrize(
    "change",
    [{"source": "agent_claimed"}, {"superseded_by": 4}, {"value": "ask"}, {"created_at": "x"}],
)
def test_a_premise_that_does_not_stand_is_found(ontology, change):
    _, made = prove(*CASES["share"], ontology, HISTORY)
    number = made["premises"][0]["judgement_id"]
    history = [replaced(j, **change) if j.id == number else j for j in HISTORY]
    with pytest.raises(IntegrityError):
        checker.verify_proof(made, ontology.edges, history)


def test_a_judgement_that_came_later_does_not_undo_a_proof(ontology):
    _, made = prove(*CASES["share"], ontology, HISTORY)
    number = made["premises"][0]["judgement_id"]
    later = [replaced(j, superseded_by=9) if j.id == number else j for j in HISTORY]
    later.append(replaced(HISTORY[number - 1], id=9, value="inappropriate"))
    checker.verify_proof(made, ontology.edges, later)


@pytest.mark.parametrize("status", ["retracted", "proposed"])
def test_an_edge_that_may_not_support_a_share_is_found(ontology, status):
    """Also with a hash that was made to fit."""
    _, made = prove(*CASES["share"], ontology, HISTORY)
    number = next(step["edge"] for path in made["paths"] for step in path["steps"])
    edges = [dataclasses.replace(e, status=status) if e.id == number else e for e in ontology.edges]
    with pytest.raises(IntegrityError, match="hash"):
        checker.verify_proof(made, edges, HISTORY)
    forged = copy.deepcopy(made)
    for path in forged["paths"]:
        for step in path["steps"]:
            step["status"] = status if step["edge"] == number else step["status"]
    forged["ontology_hash"] = type(ontology)(ontology.nodes, tuple(edges)).hash
    with pytest.raises(IntegrityError, match="may not be used"):
        checker.verify_proof(forged, edges, HISTORY)


def test_a_proposed_edge_may_support_a_denial(ontology):
    proposed = ontology.with_edges(PROPOSED)
    history = said((ask("age.range"), "no"))
    outcome, made = prove(ask("contact.phone"), Policy(), proposed, history)
    assert outcome.verdict == "withhold"
    checker.verify_proof(made, proposed.edges, history)


def test_a_path_may_not_use_an_edge_outside_its_scope(ontology):
    scoped = ontology.with_edges(
        Edge(id=90, slot="recipient", type="trust", src="doctor", dst="bank", scope="health")
    )
    history = said((ask("health", "bank"), "yes"), (ask("contact", "bank"), "yes"))
    outcome, made = prove(ask("health.blood", "doctor"), Policy(), scoped, history)
    assert outcome.verdict == "share"
    checker.verify_proof(made, scoped.edges, history)
    text = proof.canonical(made).decode()
    assert text.count("health") > 3
    forged = json.loads(
        text.replace("health.blood", "contact.phone").replace('"health"', '"contact"')
    )
    forged["premises"][0]["judgement_id"] = 2
    for path in forged["paths"]:
        path["premise"] = 2
        for step in path["steps"]:
            step.update(dataclasses.asdict(scoped.edge(4)) if path["slot"] == "data" else {})
            for extra in ("id", "slot", "reason"):
                step.pop(extra, None)
            step["edge"] = 4 if path["slot"] == "data" else step["edge"]
            step["scope"] = "health" if step["edge"] == 90 else None
    with pytest.raises(IntegrityError, match="edge 90 may not be used"):
        checker.verify_proof(forged, scoped.edges, history)


def test_the_same_judgements_ontology_and_request_give_the_same_bytes(ontology):
    rng = np.random.default_rng(0)
    for request, policy in CASES.values():
        mapping = [
            {"slot": "data", "input": "city", "node": "location.city", "by": "alias", "score": 1.0}
        ]
        first, again = (
            proof.canonical(
                prove(
                    request, policy, ontology, order, user="u1", mapping=mapping, mapper="lexicon@1"
                )[1]
            )
            for order in (HISTORY, [HISTORY[i] for i in rng.permutation(len(HISTORY))])
        )
        assert first == again
        assert json.loads(first)["user"] == "u1"


def test_a_proof_holds_a_keyed_digest_of_a_text_and_not_the_text(ontology):
    request = dataclasses.replace(
        ask("location.city"), task_text="table at Bistro X, call 555-1234"
    )
    _, made = prove(request, Policy(), ontology, HISTORY, text_key=b"k" * 32)
    assert b"555" not in proof.canonical(made)
    assert len(made["request"]["text_hmac"]) == 64
    for silent, key in ((ask("location.city"), b"k" * 32), (request, None)):
        _, made = prove(silent, Policy(), ontology, HISTORY, text_key=key)
        assert made["request"]["text_hmac"] == ""


def test_repeats_of_requests_that_leave_something_open_are_proven(ontology):
    request = ask("location.city", UNSPEC)
    history = said((request, "no"))
    for data in ("location.city", ("location.city", "health")):
        outcome, made = prove(ask(data, UNSPEC), Policy(), ontology, history)
        assert outcome.verdict == "withhold"
        checker.verify_proof(made, ontology.edges, history)
    history = said((ask("location.address", ANY), "yes"))
    outcome, made = prove(request, Policy(), ontology, history)
    assert outcome.verdict == "share"
    checker.verify_proof(made, ontology.edges, history)


def test_the_checker_uses_nothing_of_the_engine():
    source = pathlib.Path(checker.__file__).read_text(encoding="utf-8")
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert [line for line in imports if "ariel_jax" in line] == [
        "from ariel_jax.algorithms.ariel.recount import SLOTS, Found, Rules, Travel, nodes_of, ways",
        "from ariel_jax.errors import IntegrityError",
    ]
    source = pathlib.Path(recount.__file__).read_text(encoding="utf-8")
    assert not [
        line
        for line in source.splitlines()
        if line.startswith(("import ", "from ")) and "ariel_jax" in line
    ]
