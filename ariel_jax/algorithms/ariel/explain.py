"""Proofs in plain words, and what is missing for another verdict. Host only."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel.history import History
from ariel_jax.algorithms.ariel.judge import judge
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.travel import ACTIVE, TRUSTED
from ariel_jax.algorithms.ariel.types import (
    ANY,
    SELF,
    SLOTS,
    UNSPEC,
    Edge,
    EdgeType,
    Judgement,
    Outcome,
    Policy,
    Request,
)
from ariel_jax.errors import OntologyCycleError

_FACTS: Mapping[str, str] = {
    "isa": "{src} is a kind of {dst}",
    "reveals": "{src} already reveals {dst}",
    "trust": "you trust {src} at least as much as {dst}",
    "stricter": "{src} protects at least as much as {dst}",
    "narrower": "{src} is part of {dst}",
    "same": "{src} is the same as {dst}",
}
_OPEN = {
    "recipient": ("anyone", "an unknown recipient"),
    "subject": ("anyone", "somebody unknown"),
    "sender": ("anyone", "somebody unknown"),
    "data": ("anything", "data that are not named"),
    "purpose": ("any purpose", "an unknown purpose"),
    "principle": ("any condition", "unknown conditions"),
}
_ASKED: Mapping[str, str] = {
    "no_premise": "nothing that you decided before covers it",
    "conflict": "what you decided before speaks for it and against it",
    "min_support": "too few of your earlier decisions cover it",
    "veto": "earlier decisions cover it, but by what is usual for you it is not sure",
    "proposed_only": "earlier decisions would cover it only by a fact that you have not confirmed",
    "always_ask": "you wanted to be asked about this each time",
    "unmapped": "a part of it is not in the ontology",
    "mapper_failed": "its text could not be understood",
    "partial": "you approved some of it, but not all of it together",
}
_NO_SCORE = "earlier decisions cover it, but it cannot be told yet whether it is usual for you"
_GAP_TYPES: Mapping[str, EdgeType] = {
    "data": "reveals",
    "subject": "trust",
    "sender": "trust",
    "recipient": "trust",
    "purpose": "narrower",
    "principle": "stricter",
}
# Whether the edge that closes a gap goes from the request to what was judged, by polarity.
_FROM_REQUEST = {
    "approve": ("subject", "sender", "recipient", "purpose", "principle"),
    "deny": ("data", "purpose"),
}


def explain(proof: Mapping[str, Any], ontology: Ontology) -> str:
    """A proof in one or two sentences.

    Args:
        proof: of `proof.build`.
        ontology: with the labels of its nodes.

    Returns:
        What was decided and why: the earlier decision, its day, and the facts that join the two.
    """
    what = _disclosure(proof["request"]["nodes"], ontology)
    if proof["verdict"] == "ask":
        unscored = proof["reason"] == "veto" and proof["score"] is None
        text = f"Asks about {what}, because {_NO_SCORE if unscored else _ASKED[proof['reason']]}."
        against = ", ".join(str(number) for number in proof["against"])
        said = "You said so in" if proof["reason"] == "always_ask" else "Against it:"
        return text + (f" {said} judgements {against}." if against else "")
    verb = "Shared" if proof["verdict"] == "share" else "Withheld"
    reasons = [
        _because(
            premise,
            [
                p
                for p in proof["paths"]
                if (p["premise"], p["items"]) == (premise["judgement_id"], premise["items"])
            ],
            ontology,
        )
        for premise in proof["premises"]
    ]
    if proof["rule"] == "R0":
        reasons = [reason + ", which is the same request" for reason in reasons]
    text = f"{verb} {what}, because {'; and because '.join(reasons)}."
    if proof["rule"] == "R1-itemwise":
        text += " Each item was approved by itself, not all of them together."
    if proof["against"]:
        numbers = ", ".join(str(number) for number in proof["against"])
        text += (
            f" Judgements {numbers} said otherwise; the policy is {proof['policy']['conflict']}."
        )
    return text


def _because(
    premise: Mapping[str, Any], paths: Sequence[Mapping[str, Any]], ontology: Ontology
) -> str:
    day = _day(premise["at"])
    did = "approved" if premise["value"] == "appropriate" else "refused"
    text = f"{f'on {day} ' if day else ''}you {did} {_disclosure(premise['nodes'], ontology)}"
    facts = list(
        dict.fromkeys(
            fact(ontology, path["slot"], step["type"], step["src"], step["dst"])
            for path in paths
            for step in path["steps"]
        )
    )
    return text + (f", and {_listed(facts)}" if facts else "")


def fact(ontology: Ontology, slot: str, kind: str, src: str, dst: str) -> str:
    """An edge in words, without a full stop."""
    return _FACTS[kind].format(src=_label(ontology, slot, src), dst=_label(ontology, slot, dst))


def _label(ontology: Ontology, slot: str, node: str) -> str:
    if node in (ANY, UNSPEC):
        return _OPEN[slot][node == UNSPEC]
    found = ontology.index(slot).get(node)
    return node if found is None else ontology.nodes[slot][found].label


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _disclosure(nodes: Mapping[str, Sequence[str]], ontology: Ontology) -> str:
    def names(slot: str) -> str:
        return _listed([_label(ontology, slot, node) for node in nodes[slot]])

    subject, sender = nodes["subject"][0], nodes["sender"][0]
    text = f"your {names('data')}" if subject == SELF else f"{names('data')} of {names('subject')}"
    text += f" for {names('recipient')}"
    text += "" if sender == SELF else f" from {names('sender')}"
    purpose, principle = nodes["purpose"][0], nodes["principle"][0]
    text += "" if purpose == UNSPEC else f" ({names('purpose')})"
    return text + ("" if principle == UNSPEC else f" [{names('principle')}]")


def _day(at: str) -> str:
    try:
        day = datetime.datetime.fromisoformat(at)
    except ValueError:
        return at
    return f"{day.day} {day:%B %Y}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """Why one earlier judgement does not give a verdict.

    Attributes:
        judgement_id: of the judgement.
        failed: slots in which it does not cover the request; empty where it covers it and something
            else is in the way.
        edge: the one edge that would close the gap, as a proposal; None where one edge cannot.
        text: all of it in words.
    """

    judgement_id: int
    failed: tuple[str, ...]
    edge: Edge | None
    text: str


def why_not(
    request: Request,
    verdict: str,
    history: History,
    policy: Policy | None = None,
    *,
    limit: int = 3,
) -> tuple[Gap, ...]:
    """What the closest judgements lack to give a verdict.

    Args:
        request: that was judged.
        verdict: `share` or `withhold`, what it was not.
        history: that it was judged by.
        policy: of the judge; None is `Policy()`.
        limit: how many judgements to look at.

    Returns:
        Those that fail in the fewest slots, the latest first; none where there is no judgement of that
        kind, or the verdict is the asked one.

    Raises:
        ConfigError: another verdict.
    """
    one_of(("share", "withhold"), verdict=verdict)
    policy = policy or Policy()
    outcome = judge(request, history, history.closures, policy)
    if outcome.verdict == verdict:
        return ()
    value = "appropriate" if verdict == "share" else "inappropriate"
    gaps = [
        (_failed(request, judgement, history, policy), judgement)
        for judgement in history.premises()
        if judgement.value == value
    ]
    gaps.sort(key=lambda gap: (len(gap[0]), -gap[1].id))
    return tuple(_gap(failed, j, outcome, history) for failed, j in gaps[:limit])


_Failed = tuple[tuple[str, str, str], ...]


def _failed(request: Request, judgement: Judgement, history: History, policy: Policy) -> _Failed:
    """Per node that is not covered: the slot, what is asked and what was judged."""
    closures, approves = history.closures, judgement.value == "appropriate"
    statuses = ACTIVE if policy.trust_proposed or not approves else TRUSTED
    context = closures.context(request.data, statuses=statuses)
    polarity = "approve" if approves else "deny"
    failed = []
    for slot in SLOTS:
        asked, judged = request.slot(slot), judgement.request.slot(slot)

        def hit(x: str, y: str, slot: str = slot) -> bool:
            return closures.covers(slot, polarity, x, y, context=context, statuses=statuses)

        if approves:
            failed += [(slot, x, judged[0]) for x in asked if not any(hit(x, y) for y in judged)]
        else:
            failed += [(slot, asked[0], y) for y in judged if not any(hit(x, y) for x in asked)]
    return tuple(failed)


def _gap(failed: _Failed, judgement: Judgement, outcome: Outcome, history: History) -> Gap:
    ontology = history.closures.ontology
    nodes = {slot: list(judgement.request.slot(slot)) for slot in SLOTS}
    premise = {"at": judgement.created_at, "value": judgement.value, "nodes": nodes}
    text = f"Judgement {judgement.id}: {_because(premise, [], ontology)}"
    slots = tuple(dict.fromkeys(slot for slot, _, _ in failed))
    edge = _closing(failed, judgement, ontology) if len(failed) == 1 else None
    if edge is not None:
        says = fact(ontology, edge.slot, edge.type, edge.src, edge.dst)
        text += f". It would cover the request if this were so: {says}."
    elif failed:
        pairs = [
            f"{slot} ({_label(ontology, slot, y)}, not {_label(ontology, slot, x)})"
            for slot, x, y in failed
        ]
        text += f". It differs in {_listed(pairs)}."
    else:
        why = dict(outcome.dropped).get(judgement.id)
        blocked = f"it is not relied on ({why})" if why else _ASKED.get(outcome.reason)
        text += f". It covers the request, but {blocked or 'what speaks against it prevails'}."
    return Gap(judgement_id=judgement.id, failed=slots, edge=edge, text=text)


def _closing(failed: _Failed, judgement: Judgement, ontology: Ontology) -> Edge | None:
    ((slot, asked, judged),) = failed
    if {asked, judged} & {ANY, UNSPEC}:
        return None
    polarity = "approve" if judgement.value == "appropriate" else "deny"
    onward = slot in _FROM_REQUEST[polarity]
    edge = Edge(
        id=ontology.next_edge_id,
        slot=slot,
        type=_GAP_TYPES[slot],
        src=asked if onward else judged,
        dst=judged if onward else asked,
        status="proposed",
        origin="why_not",
    )
    try:
        ontology.with_edges(dataclasses.replace(edge, status="confirmed"))
    except OntologyCycleError:
        return None
    return edge
