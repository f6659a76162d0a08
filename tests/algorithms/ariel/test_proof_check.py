"""Many proofs of one log: each is held against what stood at its time, by one checker for all."""

import dataclasses
import itertools
import sqlite3

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import checker, proof, proof_check, recount, schema
from ariel_jax.algorithms.ariel.agent import Ariel
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
                standing = [j.id for j in ariel.store.judgements("ann")]
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


@pytest.mark.parametrize("seed", range(8))
def test_one_checker_says_of_many_proofs_what_a_new_one_says_of_each(seed):
    rng = np.random.default_rng(seed)
    ontology = narrowed(random_ontology(rng, size=3, n_edges=14, proposed=0.25, scoped=0.3), 1)
    once = checker.Checker(ontology.edges)
    histories = [random_history(rng, ontology, n) for n in (8, 20, 20)]
    packed = [History(Closures(ontology), history) for history in histories]
    jobs = []
    for which in (0, 1, 2) * 6:
        request, policy = random_request(rng, ontology), random_policy(rng)
        outcome = judge(request, packed[which], packed[which].closures, policy)
        good = proof.build(outcome, request, packed[which], policy)
        # What is true of one history or policy may not be true of another.
        jobs += [(which, good), (which, good), (1, good), (2, good)]
        jobs += [(which, good | {"support": good["support"] + 1}), (which, good | {"last_judgement": 3})]  # fmt: skip
    as_tuples = [tuple(history) for history in histories]
    n_bad = 0
    for number in rng.permutation(len(jobs)):
        which, written = jobs[number]
        alone = _complaint(checker.Checker(ontology.edges), written, histories[which])
        assert _complaint(once, written, (as_tuples, histories)[number % 2][which]) == alone
        n_bad += alone is not None
    assert 20 < n_bad < len(jobs) - 20


def test_a_search_that_was_interrupted_is_begun_anew(ontology, monkeypatch):
    travel = recount.Travel({edge.id: edge for edge in ontology.edges})
    args = ("data", "inappropriate", "location.trace", (), ("curated",))
    real, seen = travel.counts, []

    def interrupted(edge, *more):
        seen.append(edge)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(edge, *more)

    monkeypatch.setattr(travel, "counts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        travel.reach(*args)
    monkeypatch.undo()
    assert travel.reach(*args) == {"location.trace", "location.address", "location.city"}


def test_a_chain_made_anew_in_which_something_is_taken_back_before_it_was_said_is_found(tmp_path):
    path = tmp_path / "log"
    with opened(path) as ariel:
        ariel.retract(ariel.record(CITY, "appropriate", "user_cli").id, source="user_cli")
        ariel.judge(ADDRESS)
        ariel.verify()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    for name in schema.guards():
        connection.execute(f"DROP TRIGGER {name}")
    rows = schema.chain(connection, schema.CHAINED, "user = ?", "ann")
    names = [table for table, _ in rows]
    said, back = names.index("judgements"), names.index("retractions")
    rows[said], rows[back] = rows[back], rows[said]
    for table in set(names):
        connection.execute(f"UPDATE {table} SET number = number + 1000")
    previous = schema.ROOT
    for number, (table, row) in enumerate(rows, start=1):
        hash_ = schema.digest(table, dict(row), number, previous)
        connection.execute(
            f"UPDATE {table} SET number = ?, prev_hash = ?, hash = ? WHERE id = ?",
            (number, previous, hash_, row["id"]),
        )
        previous = hash_
    for trigger in schema.guards().values():
        connection.execute(trigger)
    connection.close()
    with Ariel.open(path, user="ann") as ariel:
        ariel.store.verify()
        with pytest.raises(IntegrityError, match="takes back judgement 1 where it has none"):
            ariel.verify()


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
