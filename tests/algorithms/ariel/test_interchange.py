"""Ontologies as JSON, the rules as clingo reads them, and policies for Cedar."""

import dataclasses
import json
import re

import clingo
import numpy as np
import pytest

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.interchange import (
    load_ontology,
    save_ontology,
    to_asp,
    to_cedar,
)
from ariel_jax.algorithms.ariel.judge import judge
from ariel_jax.algorithms.ariel.types import ANY, UNSPEC, Policy
from ariel_jax.errors import ConfigError

from .cases import ask, narrowed, random_history, random_ontology, random_request, said

BARE = Policy(reliability="off")


def test_an_ontology_comes_back_from_its_file(ontology, tmp_path):
    save_ontology(tmp_path / "o.json", ontology)
    assert load_ontology(tmp_path / "o.json") == ontology


@pytest.mark.parametrize(
    ("text", "says"), [(None, "No such file"), ("{", "Expecting"), ("[]", "no object")]
)
def test_a_file_that_is_no_ontology_is_refused(tmp_path, text, says):
    if text is not None:
        (tmp_path / "o.json").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_ontology(tmp_path / "o.json")


def solved(program):
    """Verdict by request, of the only answer set."""
    control = clingo.Control(["0", "--warn=none"])
    control.add("base", [], program)
    control.ground([("base", [])])
    with control.solve(yield_=True) as models:
        (answer,) = [
            {atom.arguments[0].string: atom.name for atom in model.symbols(shown=True)}
            for model in models
        ]
    return answer


def test_clingo_reads_the_example_of_city_address_and_trace(ontology):
    history = said((ask("location.address"), "yes"), (ask("location.address", "advertiser"), "no"))
    requests = {
        "city": ask("location.city"),
        "trace": ask("location.trace"),
        "trace to advertiser": ask("location.trace", "advertiser"),
        'a "quoted" one': ask("location.city", "advertiser"),
    }
    assert solved(to_asp(ontology, history, requests)) == {
        "city": "share",
        "trace": "ask",
        "trace to advertiser": "withhold",
        'a "quoted" one': "ask",
    }


@pytest.mark.parametrize("seed", range(12))
def test_the_judge_says_what_clingo_says(seed):
    rng = np.random.default_rng(seed)
    scoped = seed % 3 == 0
    ontology = random_ontology(rng, size=3, n_edges=14, proposed=0.2, scoped=0.5 * scoped)
    ontology = narrowed(ontology, 1 + seed % 4)
    history = random_history(rng, ontology, 14)
    closures = Closures(ontology)
    requests = {str(i): random_request(rng, ontology, bundles=0.0) for i in range(8)}
    groups = [{name: r} for name, r in requests.items()] if scoped else [requests]
    found = {}
    for group in groups:
        found |= solved(to_asp(ontology, history, group))
    assert found == {n: judge(r, history, closures, BARE).verdict for n, r in requests.items()}


def test_the_clingo_cases_reach_every_verdict():
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        ontology = narrowed(random_ontology(rng, size=3, n_edges=14), 1 + seed % 4)
        history = random_history(rng, ontology, 14)
        for _ in range(8):
            outcome = judge(
                random_request(rng, ontology, bundles=0.0), history, Closures(ontology), BARE
            )
            seen.add(outcome.rule or outcome.reason)
    assert seen >= {"R0", "R1", "R2", "conflict", "no_premise"}


def test_scoped_edges_take_one_request_a_program():
    rng = np.random.default_rng(0)
    ontology = random_ontology(rng, scoped=1.0, n_edges=20, retracted=0.0)
    requests = {str(i): random_request(rng, ontology, bundles=0.0) for i in range(2)}
    with pytest.raises(ConfigError, match="one program for each request"):
        to_asp(ontology, [], requests)


def cedar_says(policies, entities, request):
    """What Cedar's rules say, read by hand: forbid wins, no permit is a denial."""
    parents = {
        f"{e['uid']['type']}::{json.dumps(e['uid']['id'])}": {
            f"{p['type']}::{json.dumps(p['id'])}" for p in e["parents"]
        }
        for e in entities
    }
    at = {"principal": ("recipient", request.recipient), "resource": ("data", request.data[0])}
    for slot in ("subject", "sender", "purpose", "principle"):
        at[f"context.{slot}"] = (slot, getattr(request, slot))

    def holds(test):
        if test == "true":
            return True
        if test.startswith("context has "):
            return at["context." + test.removeprefix("context has ")][1] != UNSPEC
        if left_out := re.fullmatch(r"\(!\((.*)\) \|\| (.*)\)", test):
            return not holds(left_out[1]) or holds(left_out[2])
        place, entity = re.fullmatch(r"(\S+) in (\S+)", test).groups()
        slot, node = at[place]
        me = f"{slot.title()}::{json.dumps(node)}"
        return entity in {me} | parents.get(me, set())

    effects = set()
    for effect, condition in re.findall(r"(permit|forbid) \(.*\)\nwhen \{ (.*) \};", policies):
        if all(holds(test) for test in condition.split(" && ")):
            effects.add(effect)
    return "forbid" if "forbid" in effects else "permit" if effects else "neither"


@pytest.mark.parametrize("seed", range(8))
def test_cedar_permits_what_is_approved_and_forbids_what_is_denied(seed):
    """Read by a small evaluator of what is written, not by Cedar itself."""
    rng = np.random.default_rng(seed)
    ontology = narrowed(random_ontology(rng, size=3, n_edges=14), 1 + seed % 3)
    history = random_history(rng, ontology, 12)
    policies, entities = to_cedar(ontology, history)
    closures, overrides = Closures(ontology), Policy(reliability="off", conflict="deny_overrides")
    checked = 0
    for _ in range(60):
        request = random_request(rng, ontology, bundles=0.0)
        if UNSPEC in (request.data[0], request.recipient):
            continue  # in Cedar there is always somebody who wants something
        outcome = judge(request, history, closures, overrides)
        says = cedar_says(policies, entities, request)
        if says == "permit":
            assert outcome.verdict == "share"
        if outcome.rule in ("R1", "R2"):
            checked += 1
            wide = [
                j for j in history if j.value == "inappropriate" and UNSPEC in str(j.request.key)
            ]
            assert says == ("permit" if outcome.rule == "R1" else "forbid") or wide
            assert says != "permit" or outcome.rule == "R1"
        if outcome.reason in ("no_premise", "always_ask"):
            assert says != "permit"
    assert checked


def test_cedar_policies_are_written_as_cedar_reads_them(ontology):
    history = said(
        (ask(("location.address", "contact"), ANY), "yes"), (ask("health", UNSPEC), "no")
    )
    policies, entities = to_cedar(ontology, history)
    assert policies.splitlines()[:3] == [
        '@id("judgement-1-contact")',
        'permit (principal, action == Action::"disclose", resource)',
        'when { resource in Approved::Data::"contact" && context has subject && '
        'context.subject in Approved::Subject::"self" && context has sender && '
        'context.sender in Approved::Sender::"self" && context has purpose && '
        'context.purpose in Approved::Purpose::"dining" && context has principle && '
        'context.principle in Approved::Principle::"notified" };',
    ]
    assert policies.count("permit") == 2
    assert policies.count("forbid") == 1
    assert "principal in Denied" not in policies  # a recipient that was left open is every one
    assert cedar_says(policies, entities, ask("health.blood", "bank")) == "forbid"
    phone = next(e for e in entities if e["uid"] == {"type": "Data", "id": "contact.phone"})
    assert {"type": "Approved::Data", "id": "contact"} in phone["parents"]


def test_cedar_forbids_what_asking_always_blocks(ontology):
    history = said(
        (ask("contact", "organisation", ANY, ANY), "yes"),
        (ask("contact.phone", "shop", UNSPEC, "notified"), "ask"),
    )
    policies, entities = to_cedar(ontology, history)
    says = {
        ask("contact.phone", "bistro"): "forbid",
        ask("contact.phone", "bistro", UNSPEC, UNSPEC): "forbid",
        ask("contact.phone", "employer"): "permit",
        ask("contact.phone", "bistro", "dining", "asked"): "permit",
    }
    assert {r: cedar_says(policies, entities, r) for r in says} == says


def test_a_name_cannot_end_a_cedar_policy_and_write_one_of_its_own(ontology):
    history = said((ask("contact"), "yes"))
    odd = dataclasses.replace(
        history[0], request=ask('x"\nwhen { true };\npermit (principal, action, resource);//')
    )
    policies, _ = to_cedar(ontology, [odd])
    assert policies.count("\n") == to_cedar(ontology, history)[0].count("\n")
    assert policies.startswith('@id("judgement-1-x\\"\\nwhen {')
