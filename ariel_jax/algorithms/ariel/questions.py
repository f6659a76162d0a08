"""What the user is asked where the rules say `ask`: in words, with the closest earlier judgements. Host only.

A question names types of data and a recipient, never a value.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.history import History
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.records import request_json
from ariel_jax.algorithms.ariel.types import (
    ANY,
    SELF,
    SLOTS,
    UNSPEC,
    Judgement,
    Outcome,
    Request,
)

N_CLOSEST = 3
_NEWEST = 32  # of these the closest are looked for: a question must not take long
_SEEN = 1000  # among these are those about the same recipient
_MOST_MISSING = 2  # slots, or a judgement is not close
_REASONS = {
    "no_premise": "None of your earlier judgements covers this.",
    "conflict": "Your earlier judgements disagree about this.",
    "min_support": "Too few of your earlier judgements cover this.",
    "veto": "Your earlier judgements cover this, but it looks unlike what you usually decide.",
    "proposed_only": "It would follow from facts that you have not confirmed yet.",
    "always_ask": "You wanted to be asked each time.",
    "unmapped": "It is not clear what is meant.",
    "mapper_failed": "What was asked for could not be read.",
    "partial": "Some of the items are approved, the others or all of them together are not.",
}
_NO_SCORE = "Your earlier judgements cover this, but it cannot be told yet whether it is like what you usually decide."
CONFLICT_OPTIONS = ("exception", "changed_mind", "wrong_fact")
"""What a conflict may mean: this case is an exception, an earlier judgement does not stand any more, or a
fact that one of them was generalised along is wrong."""


def label(ontology: Ontology, slot: str, node: str) -> str:
    """What people call a node."""
    if node == ANY:
        return "anything" if slot == "data" else "anyone" if slot == "recipient" else "any"
    if node in ontology.index(slot):
        return ontology.node(slot, node).label
    return "something unknown" if node == UNSPEC else node


def in_words(request: Request, ontology: Ontology) -> str:
    """A request as a phrase, such as `Phone number to Restaurant for Book a table`."""
    data = [label(ontology, "data", node) for node in request.data]
    items = data[0] if len(data) == 1 else ", ".join(data[:-1]) + " and " + data[-1]
    parts = [f"{items} to {label(ontology, 'recipient', request.recipient)}"]
    if request.purpose != UNSPEC:
        parts.append(f"for {label(ontology, 'purpose', request.purpose)}")
    if request.principle != UNSPEC:
        parts.append(f"under: {label(ontology, 'principle', request.principle)}")
    if request.subject != SELF:
        parts.append(f"about: {label(ontology, 'subject', request.subject)}")
    if request.sender != SELF:
        parts.append(f"sent by: {label(ontology, 'sender', request.sender)}")
    return ", ".join([" ".join(parts[:2]) if request.purpose != UNSPEC else parts[0],
                      *parts[2 if request.purpose != UNSPEC else 1:]])  # fmt: skip


def rule(judgement: Judgement, ontology: Ontology) -> dict[str, Any]:
    """A judgement that stands, as JSON."""
    return {
        "judgement": judgement.id,
        "value": judgement.value,
        "source": judgement.source,
        "at": judgement.created_at,
        "nodes": request_json(judgement.request),
        "in_words": in_words(judgement.request, ontology),
    }


def question(
    request: Request,
    outcome: Outcome,
    history: History,
    *,
    disclosed: Mapping[str, int],
    unmapped: Sequence[Mapping[str, Any]] = (),
    score: float | None = None,
) -> dict[str, Any]:
    """The question to the user, as JSON.

    Args:
        request: that was made.
        outcome: that asks, or rests on a conflict.
        history: of the user.
        disclosed: how often each item was shared with this recipient.
        unmapped: slot and candidates of what could not be mapped.
        score: that vetoed; None: there was none, and a veto is for want of it.
    """
    closures = history.closures
    ontology = closures.ontology
    reason = outcome.reason or "conflict"
    asked = {
        "text": f"May this be given out: {in_words(request, ontology)}?",
        "reason": reason,
        "why": _NO_SCORE if reason == "veto" and score is None else _REASONS.get(reason, ""),
        "nodes": request_json(request),
        "closest": closest(request, history),
        "wider": wider(request, closures),
        "suggestion": outcome.suggestion,
        "already_shared_with_recipient": dict(disclosed),
        "unmapped": [dict(entry) for entry in unmapped],
    }
    if outcome.approved or outcome.denied or outcome.undecided:
        asked["items"] = {
            "approved": list(outcome.approved),
            "denied": list(outcome.denied),
            "undecided": list(outcome.undecided),
        }
    if outcome.against:
        asked["conflict"] = {
            "one_side": list(outcome.premises),
            "other_side": list(outcome.against),
            "options": list(CONFLICT_OPTIONS),
        }
    return asked


def closest(request: Request, history: History, *, n: int = N_CLOSEST) -> list[dict[str, Any]]:
    """Judgements that cover a request in most slots, with the slots that are missing.

    Of the newest, and of those about the same recipient; ties go to the newest.
    """
    seen = history.newest(_SEEN)
    same = seen[history.about("recipient", request.recipient, seen)]
    looked = np.union1d(seen[-_NEWEST:], same[-_NEWEST:])
    missing = history.missing(request, looked)
    count = missing.sum(axis=0)
    order = np.lexsort((-looked, count))[:n]
    order = order[count[order] <= _MOST_MISSING]
    return [
        {
            "judgement": judgement.id,
            "value": judgement.value,
            "at": judgement.created_at,
            "nodes": request_json(judgement.request),
            "in_words": in_words(judgement.request, history.closures.ontology),
            "differs_in": list(itertools.compress(SLOTS, missing[:, place].tolist())),
        }
        for place, judgement in zip(order.tolist(), history.members(looked[order]), strict=True)
    ]


def wider(request: Request, closures: Closures, *, n: int = 5) -> dict[str, list[str]]:
    """Nodes of which those of a request are a kind: an answer may be meant for all of them."""
    found: dict[str, list[str]] = {}
    for slot in SLOTS:
        nodes = request.slot(slot)
        if nodes == (UNSPEC,) and slot != "data":
            found[slot] = [
                ANY
            ]  # a judgement about nothing in particular covers its repetition alone
        index = closures.ontology.index(slot)
        if len(nodes) != 1 or nodes[0] not in index:
            continue
        row = closures.matrix(slot, "kind")[index[nodes[0]]]
        named = closures.ontology.nodes[slot]
        above = [named[i].id for i in np.flatnonzero(row) if named[i].id != nodes[0]]
        if above:
            found[slot] = above[:n]
    return found
