"""The proof of a verdict: which judgements and which facts it follows from. Host only."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ariel_jax import __version__
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.history import History
from ariel_jax.algorithms.ariel.judge import judge
from ariel_jax.algorithms.ariel.ontology import canonical_json
from ariel_jax.algorithms.ariel.text import text_digest
from ariel_jax.algorithms.ariel.travel import ACTIVE, TRUSTED
from ariel_jax.algorithms.ariel.types import SLOTS, Edge, Judgement, Outcome, Policy, Request

SHOWN = 3
"""Premises that the proof of an `ask` shows."""

_Path = tuple[str, str, tuple[Edge, ...]]


def canonical(proof: Mapping[str, Any]) -> bytes:
    """The proof as canonical JSON: the same database, ontology and request give the same bytes."""
    return canonical_json(proof)


def build(
    outcome: Outcome,
    request: Request,
    history: History,
    policy: Policy,
    *,
    user: str = "",
    mapping: Sequence[Mapping[str, Any]] = (),
    mapper: str = "",
    score: float | None = None,
    previous_hash: str = "",
    text_key: bytes | None = None,
) -> dict[str, Any]:
    """Writes down what an outcome follows from, as `checker.verify_proof` reads it.

    Args:
        outcome: of `judge` for this request, history, policy and score.
        request: of its text goes in a digest under `text_key` alone (`text.text_digest`), or nothing.
        history: as it was judged by, with nothing added since.
        policy: of the verdict.
        user: whose history it is.
        mapping: how each slot came from text: `slot`, `input`, `node`, `by`, `score`.
        mapper: its name and version.
        score: log-odds that could have vetoed.
        previous_hash: of the decision before, where decisions are chained.
        text_key: kept by who wants to check a text against the proof later (`text.is_text_of`); None: the
            proof says nothing of the text.

    Returns:
        Plain lists and dictionaries. `premises` are as many as the policy asks for, those shown first in
        front; each has, per slot, `paths` from what is asked to what was judged. `support` counts
        them all. `last_judgement` is the last id that the history had seen.
    """
    premises, paths = [], []
    for judgement, items, found in _shown(outcome, request, history, policy):
        premises.append(
            {
                "judgement_id": judgement.id,
                "value": judgement.value,
                "at": judgement.created_at,
                "source": judgement.source,
                "nodes": _nodes(judgement.request),
                "items": list(items),
            }
        )
        for slot, start, end, edges in found:
            steps = [_step(edge) for edge in edges]
            paths.append(
                {
                    "premise": judgement.id,
                    "items": list(items),
                    "slot": slot,
                    "from": start,
                    "to": end,
                    "steps": steps,
                }
            )
    ontology = history.closures.ontology
    return {
        "version": 2,
        "verdict": outcome.verdict,
        "rule": outcome.rule,
        "reason": outcome.reason,
        "user": user,
        "request": {
            "nodes": _nodes(request),
            "text_hmac": ""
            if text_key is None
            else text_digest(request.task_text, previous_hash, text_key),
        },
        "mapping": [dict(row) for row in mapping],
        "premises": premises,
        "paths": paths,
        "support": len(outcome.premises),
        "against": sorted(outcome.against),
        "dropped": [{"judgement_id": number, "why": why} for number, why in outcome.dropped],
        "items": {
            "approved": list(outcome.approved),
            "denied": list(outcome.denied),
            "undecided": list(outcome.undecided),
        },
        "suggestion": outcome.suggestion,
        "policy": policy.as_json(),
        "score": score,
        "last_judgement": history.last_id,
        "nodes_sha256": ontology.nodes_hash,
        "ontology_hash": ontology.hash,
        "mapper": mapper,
        "engine": f"ariel_jax {__version__}",
        "prev_decision_hash": previous_hash,
    }


def _nodes(request: Request) -> dict[str, list[str]]:
    return {slot: list(request.slot(slot)) for slot in SLOTS}


def _step(edge: Edge) -> dict[str, Any]:
    return {
        "edge": edge.id,
        "type": edge.type,
        "src": edge.src,
        "dst": edge.dst,
        "scope": edge.scope,
        "status": edge.status,
        "origin": edge.origin,
    }


_Slotted = tuple[str, str, str, tuple[Edge, ...]]


def _shown(
    outcome: Outcome, request: Request, history: History, policy: Policy
) -> list[tuple[Judgement, tuple[str, ...], list[_Slotted]]]:
    """Premises with the items that each is held against and its paths."""
    if outcome.rule == "R1-itemwise":
        shown = []
        for item in request.data:
            one = dataclasses.replace(request, data=(item,))
            said = judge(one, history, history.closures, policy)
            shown += _shown(said, one, history, policy)
        return shown
    premises = [found for number in outcome.premises if (found := history.premise(number))]
    if outcome.rule is None:
        return [(judgement, request.data, []) for judgement in premises[:SHOWN]]
    shown = []
    for judgement in premises[: 1 if outcome.rule == "R0" else policy.min_support]:
        alone = [(item,) for item in request.data] if outcome.rule == "R2" else []
        # An item that was denied by itself is so whatever else that denial would say.
        again = [item for item in alone if _repeats(judgement, request, item)]
        for items in (*again, request.data, *alone):
            if found := _paths(judgement, request, items, history.closures, policy):
                shown.append((judgement, items, found))
                break
    return shown


def _repeats(judgement: Judgement, request: Request, items: tuple[str, ...]) -> bool:
    return judgement.request.key == (items, *request.key[1:])


def _paths(
    judgement: Judgement,
    request: Request,
    items: tuple[str, ...],
    closures: Closures,
    policy: Policy,
) -> list[_Slotted] | None:
    """Paths in every slot from the request, with these items, to what was judged; None without."""
    approves = judgement.value == "appropriate"
    statuses = ACTIVE if policy.trust_proposed or not approves else TRUSTED
    context = closures.context(items, statuses=statuses)
    polarity = "approve" if approves else "deny"
    found: list[_Slotted] = []
    for slot in SLOTS:
        asked = items if slot == "data" else request.slot(slot)
        judged = judgement.request.slot(slot)
        if _repeats(judgement, request, items):
            found += [(slot, x, x, ()) for x in asked]
            continue

        def path(x: str, y: str, slot: str = slot) -> _Path | None:
            if not closures.covers(slot, polarity, x, y, context=context, statuses=statuses):
                return None
            edges = closures.path(slot, polarity, x, y, context=context, statuses=statuses)
            return None if edges is None else (x, y, edges)

        for one in asked if approves else judged:
            ways = [path(one, y) for y in judged] if approves else [path(x, one) for x in asked]
            best = min(
                (way for way in ways if way), key=lambda way: (len(way[2]), way[:2]), default=None
            )
            if best is None:
                return None
            found.append((slot, *best))
    return found
