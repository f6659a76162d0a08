"""Every logged proof held against the log of its time; host only."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ariel_jax.algorithms.ariel import checker, schema
from ariel_jax.algorithms.ariel.records import Decision
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import SLOTS, Judgement
from ariel_jax.errors import IntegrityError


def check_proofs(store: Store, user: str, only: int | None) -> int:
    """Checks the proof of one decision, or of all; returns how many.

    Raises:
        IntegrityError: one does not hold.
    """
    checkers: dict[str, checker.Checker] = {}
    checked, previous = 0, schema.ROOT
    for decision, judgements in as_of(store, user):
        if only is None or decision.id == only:
            if decision.ontology_hash not in checkers:
                ontology = store.ontology(user, version=decision.ontology_hash)
                if ontology is None:
                    raise IntegrityError(
                        f"decision {decision.id} used facts that are not in the log."
                    )
                checkers[decision.ontology_hash] = checker.Checker(ontology.edges)
            _check(decision, checkers[decision.ontology_hash], judgements, previous)
            checked += 1
        previous = decision.hash
    return checked


def _check(
    decision: Decision, by: checker.Checker, judgements: tuple[Judgement, ...], previous: str
) -> None:
    proof = decision.proof
    expected: dict[str, Any] = {
        "user": decision.user, "verdict": decision.verdict, "rule": decision.outcome.rule,
        "ontology_hash": decision.ontology_hash, "prev_decision_hash": previous,
    }  # fmt: skip
    for name, value in expected.items():
        if proof.get(name) != value:
            raise IntegrityError(
                f"decision {decision.id}: its proof says {name}={proof.get(name)!r}, the log {value!r}."
            )
    nodes = {slot: list(decision.request.slot(slot)) for slot in SLOTS}
    if proof.get("request", {}).get("nodes") != nodes:
        raise IntegrityError(f"decision {decision.id}: its proof is of another request.")
    if schema.canonical(proof) != decision.proof_json:
        raise IntegrityError(f"decision {decision.id}: its proof is not in canonical form.")
    hidden = [j.id for j in judgements if j.id > proof.get("last_judgement", 0)]
    if hidden:
        raise IntegrityError(f"decision {decision.id}: its proof leaves out judgement {hidden[0]}.")
    try:
        by.verify(proof, judgements)
    except IntegrityError as error:
        raise IntegrityError(f"decision {decision.id}: {error}") from error


def as_of(store: Store, user: str) -> Iterator[tuple[Decision, tuple[Judgement, ...]]]:
    """Each decision with the judgements that stood when it was made, agents' claims included.

    Decisions between which nothing was said have the same tuple.
    """
    said = {j.id: j for j in store.judgements(user, standing=False, retracted=True)}
    also = store.also_superseded(user)
    decisions = {decision.id: decision for decision in store.decisions(user)}
    present: list[int] = []
    standing, now = _Standing(also), None
    for table, number in store.order(user):
        if table == "decisions":
            now = tuple(standing.found.values()) if now is None else now
            yield decisions[number], now
            continue
        now = None
        if table == "judgements":
            present.append(number)
            standing.add(said[number])
        elif number not in present:
            raise IntegrityError(
                f"the log of {user!r} takes back judgement {number} where it has none: it was changed. "
                "Restore a copy of the file."
            )
        else:  # taken back: what it superseded stands again
            present.remove(number)
            standing = _Standing(also)
            for one in present:
                standing.add(said[one])


class _Standing:
    """Judgements that none of the others supersedes, by id."""

    def __init__(self, also: Mapping[int, list[int]]) -> None:
        self.found: dict[int, Judgement] = {}
        self._also, self._latest = also, {}

    def add(self, j: Judgement) -> None:
        """Takes the next one; who superseded it later is not known yet."""
        self.found[j.id] = dataclasses.replace(j, superseded_by=None)
        if j.source == "agent_claimed":
            return
        self.found.pop(self._latest.get(j.request.key, 0), None)
        self._latest[j.request.key] = j.id
        for other in self._also.get(j.id, ()):
            if other in self.found and self.found[other].source != "agent_claimed":
                del self.found[other]
