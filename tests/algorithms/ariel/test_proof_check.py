"""Many proofs of one log: each is held against what stood at its time, by one checker for all."""

import dataclasses
import itertools

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import checker, proof, proof_check
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.types import Policy
from ariel_jax.errors import ConfigError, IntegrityError

from .agent_cases import ADDRESS, CITY, opened
from .cases import narrowed, random_history, random_ontology, random_policy, random_request

POLICY = Policy()
REQUESTS = [
    CITY,
    ADDRESS,
    dataclasses.replace(CITY, recipient="bank"),
    dataclasses.replace(CITY, data=("city", "phone")),
]


@pytest.mark.parametrize("seed", range(4))
def test_each_decision_is_seen_with_what_stood_when_it_was_made(tmp_path, seed):
    rng = np.random.default_rng(seed)
    with opened(tmp_path / "log") as ariel:
        stood, made = {}, []
        for _ in range(40):
            what, request = rng.integers(6), REQUESTS[rng.integers(len(REQUESTS))]
            if what < 2 or not made:
                value = ("appropriate", "inappropriate", "ask")[rng.integers(3)]
                source = ("user_cli", "user_ui", "agent_claimed")[rng.integers(3)]
                standing = [j.id for j in ariel.store.judgements("ann") if j.source == "user_cli"]
                more = standing[:1] if what and source != "agent_claimed" else []
                made.append(ariel.record(request, value, source, supersedes=more).id)
            elif what == 2:
                with_luck = made[rng.integers(len(made))]
                try:
                    ariel.retract(with_luck, source="user_cli")
                except ConfigError:
                    continue  # taken back before
            else:
                number = ariel.judge(request).id
                stood[number] = [
                    dataclasses.replace(j, superseded_by=None)
                    for j in ariel.store.judgements("ann")
                ]
        seen = list(proof_check.as_of(ariel.store, "ann"))
        assert {d.id: list(standing) for d, standing in seen} == stood
        assert ariel.verify() == len(stood) > 5
        alike = [one is other for (_, one), (_, other) in itertools.pairwise(seen)]
        assert any(alike)
        assert not all(alike)


@pytest.mark.parametrize("seed", range(10))
def test_one_checker_says_of_many_proofs_what_a_new_one_says_of_each(seed):
    rng = np.random.default_rng(seed)
    ontology = narrowed(random_ontology(rng, size=3, n_edges=14, proposed=0.25, scoped=0.3), 1)
    once = checker.Checker(ontology.edges)
    n_bad = 0
    for n in (8, 20, 14):
        history = tuple(random_history(rng, ontology, n))
        packed = History(Closures(ontology), history)
        for _ in range(6):
            request, policy = random_request(rng, ontology), random_policy(rng)
            outcome = judge(request, packed, packed.closures, policy)
            good = proof.build(outcome, request, packed, policy)
            # What is true of another number of judgements, or of another policy, is not true here.
            for written in (
                good,
                good | {"support": good["support"] + 1},
                good | {"last_judgement": 3},
            ):
                said = [_complaint(one, written, history) for one in (once, checker.Checker(ontology.edges))]  # fmt: skip
                assert said[0] == said[1]
                n_bad += said[0] is not None
            assert _complaint(once, good, history) is None
    assert n_bad > 20


def test_other_edges_need_another_checker(ontology):
    history = ()
    packed = History(Closures(ontology), history)
    request = random_request(np.random.default_rng(0), ontology)
    good = proof.build(judge(request, packed, packed.closures, POLICY), request, packed, POLICY)
    checker.Checker(ontology.edges).verify(good, history)
    with pytest.raises(IntegrityError, match="edges are not those"):
        checker.Checker(ontology.edges[1:]).verify(good, history)


def _complaint(one, written, history):
    try:
        one.verify(written, history)
    except IntegrityError as error:
        return str(error)
    return None
