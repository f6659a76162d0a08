"""Every logged proof held against the log of its time; host only."""

from collections.abc import Iterator
from typing import Any

from ariel_jax.algorithms.ariel import checker, schema
from ariel_jax.algorithms.ariel.records import Decision
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import SLOTS, Edge, Judgement
from ariel_jax.errors import IntegrityError


def check_proofs(store: Store, user: str, only: int | None) -> int:
    """Checks the proof of one decision, or of all; returns how many.

    Raises:
        IntegrityError: one does not hold.
    """
    facts: dict[str, tuple[Edge, ...]] = {}
    checked, previous = 0, schema.ROOT
    for decision, judgements in as_of(store, user):
        if only is None or decision.id == only:
            if decision.ontology_hash not in facts:
                ontology = store.ontology(user, version=decision.ontology_hash)
                if ontology is None:
                    raise IntegrityError(
                        f"decision {decision.id} used facts that are not in the log."
                    )
                facts[decision.ontology_hash] = ontology.edges
            _check(decision, facts[decision.ontology_hash], judgements, previous)
            checked += 1
        previous = decision.hash
    return checked


def _check(
    decision: Decision, edges: tuple[Edge, ...], judgements: list[Judgement], previous: str
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
        checker.verify_proof(proof, edges, judgements)
    except IntegrityError as error:
        raise IntegrityError(f"decision {decision.id}: {error}") from error


def as_of(store: Store, user: str) -> Iterator[tuple[Decision, list[Judgement]]]:
    """Each decision with the judgements that stood when it was made, agents' claims included."""
    said = {j.id: j for j in store.judgements(user, standing=False, retracted=True)}
    also = store.also_superseded(user)
    decisions = {decision.id: decision for decision in store.decisions(user)}
    gone: set[int] = set()
    present: list[int] = []
    for table, number in store.order(user):
        if table == "decisions":
            yield decisions[number], _standing([said[i] for i in present if i not in gone], also)
        elif table == "judgements":
            present.append(number)
        else:
            gone.add(number)


def _standing(judgements: list[Judgement], also: dict[int, list[int]]) -> list[Judgement]:
    """Those that none of the others supersedes."""
    latest: dict[Any, int] = {}
    superseded: set[int] = set()
    for judgement in judgements:
        if judgement.source == "agent_claimed":
            continue
        key = judgement.request.key
        if key in latest:
            superseded.add(latest[key])
        latest[key] = judgement.id
        superseded.update(also.get(judgement.id, ()))
    return [
        Judgement(
            id=j.id, request=j.request, value=j.value, source=j.source, created_at=j.created_at
        )
        for j in judgements
        if j.id not in superseded
    ]
