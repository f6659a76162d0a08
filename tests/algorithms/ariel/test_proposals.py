"""Edges that a model proposes: asked both ways, and they wait for the user."""

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import prompts
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import judge
from ariel_jax.algorithms.ariel.lm import Chooser, ask, neighbours, propose
from ariel_jax.algorithms.ariel.lm.proposals import Answers, decide
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Edge, Judgement, Policy, Request
from ariel_jax.errors import ConfigError

from .lm_cases import few_nodes


def test_edges_are_proposed_only_where_both_answers_agree(chooser, monkeypatch):
    nodes = {node.id: node for node in few_nodes()["data"]}
    pairs = [
        (nodes["location.address"], nodes["location.city"]),
        (nodes["contact.phone"], nodes["location.city"]),
        (nodes["contact.phone"], nodes["contact.email"]),
        (nodes["location.city"], nodes["location.address"]),
    ]
    said = {
        ("Address", "City"): 3.0,
        ("City", "Address"): -3.0,
        ("Phone number", "City"): 3.0,
        ("City", "Phone number"): 0.1,  # not sure
        ("Phone number", "Email address"): 3.0,
        ("Email address", "Phone number"): 3.0,
    }

    def logprobs(self, prompt, labels):
        odds = 0.5  # of the question about nothing
        for (x, y), value in said.items():
            if prompt == prompts.edge_prompt("reveals", by_label[x], by_label[y]):
                odds = 0.5 + value
        return np.array([odds, 0.0])

    by_label = {node.label: node for node in nodes.values()}
    monkeypatch.setattr(Chooser, "logprobs", logprobs)
    found = propose(chooser, "reveals", pairs, first_id=1000)
    assert [(e.id, e.type, e.src, e.dst) for e in found] == [
        (1000, "reveals", "location.address", "location.city"),
        (1001, "same", "contact.phone", "contact.email"),
        (1002, "reveals", "location.address", "location.city"),
    ]
    assert all(edge.status == "proposed" and edge.origin.startswith("lm:") for edge in found)


@pytest.mark.parametrize(
    ("forth", "back", "expected"),
    [(2, -2, 1), (-2, 2, -1), (2, 2, 2), (2, 0, 0), (0, -2, 0), (-2, -2, 0), (1, -2, 0)],
)
def test_only_clear_answers_count(forth, back, expected):
    assert decide(Answers(forth=forth, back=back), 1.0) == expected


def test_the_model_is_really_asked_about_pairs(chooser):
    nodes = few_nodes()["data"]
    answers = ask(chooser, "isa", nodes[0], nodes[2])
    assert answers.forth != answers.back
    with pytest.raises(ConfigError, match="edge_type"):
        ask(chooser, "same", nodes[0], nodes[2])
    with pytest.raises(ConfigError, match="slot"):
        propose(chooser, "trust", [(nodes[0], nodes[1])], first_id=1)


def test_neighbours_are_siblings_and_names_alike_each_once():
    pairs = neighbours(few_nodes(), "data", n=1)
    ids = [(a.id, b.id) for a, b in pairs]
    assert ("contact.email", "contact.phone") in ids
    assert ("location.address", "location.city") in ids
    assert len(ids) == len(set(ids))
    assert all(a < b for a, b in ids)


def test_a_proposed_edge_cannot_make_a_share():
    nodes = [node for found in few_nodes().values() for node in found]
    edge = Edge(
        id=1,
        slot="data",
        type="reveals",
        src="location.address",
        dst="location.city",
        status="proposed",
    )
    closures = Closures(Ontology.of([*nodes], [edge]))
    past = Judgement(
        id=1, request=Request(data=("location.address",), recipient="self"), value="appropriate"
    )
    outcome = judge(Request(data=("location.city",), recipient="self"), [past], closures, Policy())
    assert outcome.verdict == "ask"
