"""Ontologies and standing judgements in the forms of other programs. Host only.

JSON for ontologies, an answer-set program that clingo runs, and policies and entities of Cedar.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.travel import ACTIVE, TRUSTED, steps
from ariel_jax.algorithms.ariel.types import ANY, SLOTS, UNSPEC, Judgement, Request
from ariel_jax.durable import write_json
from ariel_jax.errors import ConfigError

ASP_RULES = """\
% A judgement about Y covers X: one step of an edge, and all that follow from one another.
a(S,X,X) :- node(S,X).  a(S,X,Z) :- edgeA(S,X,Y), a(S,Y,Z).
d(S,X,X) :- node(S,X).  d(S,X,Z) :- edgeD(S,X,Y), d(S,Y,Z).
% "ANY" was judged: whatever is asked, also what is left open.
a(S,X,"ANY") :- rv(_,S,X).  d(S,X,"ANY") :- rv(_,S,X).
% R0: the latest judgement on the same nodes decides.
differs(R,P) :- req(R), judged(P,_), rv(R,S,X), not pv(P,S,X).
differs(R,P) :- req(R), judged(P,_), pv(P,S,Y), not rv(R,S,Y).
repeat(R,J) :- req(R), judged(P,J), not differs(R,P).
% R1: each node that is asked is covered by one that was approved. With one node in each slot this
% is: the number of covered slots is the number of slots.
opened(R,P) :- req(R), judged(P,app), rv(R,S,X), not a(S,X,Y) : pv(P,S,Y).
app(R,P) :- req(R), judged(P,app), not opened(R,P).
% R2: each node that was denied covers one that is asked.
apart(R,P) :- req(R), judged(P,den), pv(P,S,Y), not d(S,X,Y) : rv(R,S,X).
den(R,P) :- req(R), judged(P,den), not apart(R,P).
approved(R) :- app(R,_).  denied(R) :- den(R,_).  repeated(R) :- repeat(R,_).
% "ask" travels as a denial does and turns share into ask; what is left open is no way round it.
tells(S,X,Y) :- d(S,X,Y).  tells(S,"UNSPEC",Y) :- judged(P,ask), pv(P,S,Y).
tells(S,X,"UNSPEC") :- rv(_,S,X), open(S).  open(purpose).  open(principle).
clear(R,P) :- req(R), judged(P,ask), pv(P,S,Y), not tells(S,X,Y) : rv(R,S,X).
blocked(R) :- req(R), judged(P,ask), not clear(R,P).
share(R) :- repeat(R,app).
share(R) :- approved(R), not denied(R), not repeated(R), not blocked(R).
withhold(R) :- repeat(R,den).  withhold(R) :- denied(R), not approved(R), not repeated(R).
ask(R) :- req(R), not share(R), not withhold(R).
#show share/1.  #show withhold/1.  #show ask/1.
"""
"""R0 to R2 as an answer-set program, with the conflict policy `escalate` and no reliability."""


def save_ontology(path: str | os.PathLike[str], ontology: Ontology) -> None:
    """Writes an ontology as JSON that people can read and `load_ontology` reads.

    Raises:
        StorageError: it cannot be written; what stood there before is still there.
    """
    write_json(path, ontology.as_json())


def load_ontology(path: str | os.PathLike[str], *, merge_cycles: bool = False) -> Ontology:
    """Reads an ontology from JSON.

    Args:
        path: of the file.
        merge_cycles: as for `Ontology.of`.

    Raises:
        ConfigError: there is no such file, it is no JSON, or what `Ontology.from_json` raises.
    """
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{str(path)!r} cannot be read as an ontology ({error}): pass a JSON file as "
            "save_ontology writes it."
        ) from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"{str(path)!r} holds no object: pass a file that save_ontology wrote.")
    return Ontology.from_json(value, merge_cycles=merge_cycles)


def to_asp(
    ontology: Ontology, judgements: Iterable[Judgement], requests: Mapping[str, Request]
) -> str:
    """An answer-set program whose only answer set has `share`, `withhold` or `ask` for each request.

    It says what `judge` says under `Policy(reliability="off")` of requests for one item each: scoped
    edges are taken for each request by itself, so a program with them takes one request.

    Args:
        ontology: its trusted edges carry approvals, all that are not retracted denials.
        judgements: those that stand are written.
        requests: by name.

    Returns:
        A program for clingo.

    Raises:
        ConfigError: scoped edges and several requests.
    """
    scoped = any(edge.scope is not None and edge.status in ACTIVE for edge in ontology.edges)
    if scoped and len(requests) != 1:
        raise ConfigError(
            f"{len(requests)} requests are not allowed: the ontology has edges that hold for some "
            "data only, so write one program for each request."
        )
    lines = [f"node({slot},{_quoted(x)})." for slot in SLOTS for x in ontology.index(slot)]
    closures = Closures(ontology)
    data = next(iter(requests.values())).data if scoped else ()
    for name, polarity, statuses in (("edgeA", "approve", TRUSTED), ("edgeD", "deny", ACTIVE)):
        context = closures.context(data, statuses=statuses) if scoped else frozenset[str]()
        for slot in SLOTS:
            for x, y, _ in steps(
                ontology.edges, slot, polarity, context=context, statuses=statuses
            ):
                lines.append(f"{name}({slot},{_quoted(x)},{_quoted(y)}).")
    words = {"appropriate": "app", "inappropriate": "den", "ask": "ask"}
    for judgement in _standing(judgements):
        lines.append(f"judged({judgement.id},{words[judgement.value]}).")
        for slot in SLOTS:
            for y in judgement.request.slot(slot):
                lines.append(f"pv({judgement.id},{slot},{_quoted(y)}).")
    for name, request in requests.items():
        lines.append(f"req({_quoted(name)}).")
        for slot in SLOTS:
            lines += [f"rv({_quoted(name)},{slot},{_quoted(x)})." for x in request.slot(slot)]
    return "\n".join([*lines, ASP_RULES])


def _standing(judgements: Iterable[Judgement]) -> Sequence[Judgement]:
    latest = {}
    for judgement in sorted(judgements, key=lambda j: j.id):
        if judgement.superseded_by is None and judgement.source != "agent_claimed":
            latest[judgement.request.key] = judgement
    return list(latest.values())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


_PLACES = {
    "data": "resource",
    "recipient": "principal",
    "subject": "context.subject",
    "sender": "context.sender",
    "purpose": "context.purpose",
    "principle": "context.principle",
}


def to_cedar(
    ontology: Ontology, judgements: Iterable[Judgement]
) -> tuple[str, list[dict[str, Any]]]:
    """Standing judgements as Cedar policies, for an enforcement point that knows no `ask`.

    The principal is the recipient, the resource one data node; the other slots are entities in the
    context. Approvals and denials travel differently, so each node has parents of two types: those
    whose approval covers it (`Approved::Data::"..."`) and those whose denial does (`Denied::...`).
    Cedar lets `forbid` win and denies by default: what would be asked is denied, and there is no
    reliability. A judgement `ask` becomes a `forbid` of all that it blocks. Where a denial or an `ask`
    leaves a slot open the `forbid` is over-wide: it goes for whatever stands there. An approval that
    leaves one open only repeats and is left out, as are edges with a scope.

    Args:
        ontology: of the user.
        judgements: those that stand are written.

    Returns:
        The text of the policies, and the list of entities for Cedar's JSON.
    """
    policies = []
    for judgement in _standing(judgements):
        nodes = {slot: judgement.request.slot(slot) for slot in SLOTS}
        if judgement.value != "appropriate":
            policies.append(_policy(judgement, "Denied", nodes))
        elif not any(UNSPEC in values for values in nodes.values()):
            # An approved set covers each of its members, asked alone.
            for item in nodes["data"]:
                policies.append(_policy(judgement, "Approved", {**nodes, "data": (item,)}))
    entities = []
    closures = Closures(ontology)
    for slot in SLOTS:
        for x in ontology.index(slot):
            parents = [
                {"type": f"{kind}::{slot.title()}", "id": y}
                for kind, polarity, statuses in (
                    ("Approved", "approve", TRUSTED),
                    ("Denied", "deny", ACTIVE),
                )
                for y in ontology.index(slot)
                if closures.covers(slot, polarity, x, y, statuses=statuses)
            ]
            uid = {"type": slot.title(), "id": x}
            entities.append({"uid": uid, "attrs": {}, "parents": parents})
    for slot in SLOTS:
        for kind in ("Approved", "Denied"):
            entities += [
                {"uid": {"type": f"{kind}::{slot.title()}", "id": y}, "attrs": {}, "parents": []}
                for y in ontology.index(slot)
            ]
    return "\n".join(policies), entities


def _policy(judgement: Judgement, kind: str, nodes: Mapping[str, tuple[str, ...]]) -> str:
    effect = "permit" if kind == "Approved" else "forbid"
    tests = []
    for slot in SLOTS:
        for y in nodes[slot]:
            if y in (ANY, UNSPEC):
                continue
            test = f"{_PLACES[slot]} in {kind}::{slot.title()}::{_quoted(y)}"
            if _PLACES[slot].startswith("context."):
                if judgement.value == "ask":  # leaving it out is no way round
                    test = f"(!(context has {slot}) || {test})"
                else:
                    tests.append(f"context has {slot}")
            tests.append(test)
    condition = " && ".join(tests) or "true"
    return (
        f"@id({_quoted(f'judgement-{judgement.id}-' + '-'.join(nodes['data']))})\n"
        f'{effect} (principal, action == Action::"disclose", resource)\n'
        f"when {{ {condition} }};"
    )
