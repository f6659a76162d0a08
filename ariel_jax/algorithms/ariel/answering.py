"""What the user's answer to a question is about: what was meant, and how widely; host only."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.records import Decision, request_json
from ariel_jax.algorithms.ariel.types import (
    ANY,
    HUMAN_SOURCES,
    SLOTS,
    SOURCES,
    UNSPEC,
    Request,
)
from ariel_jax.errors import ConfigError, UntrustedSourceError


def _request(values: Mapping[str, Any]) -> Request:
    data = values["data"]
    return Request(**{**values, "data": (data,) if isinstance(data, str) else tuple(data)})


def meant(decision: Decision, slots: Mapping[str, str | Sequence[str]]) -> Request:
    """The request of a decision, with what the user says was meant where it was not understood.

    Raises:
        ConfigError: `slots` names others than those that were not understood, or too many or few nodes.
    """
    if decision.outcome.reason not in ("unmapped", "mapper_failed"):
        if slots:
            raise ConfigError(
                f"decision {decision.id} understood everything: leave slots= out, or record a judgement."
            )
        return decision.request
    unclear = collections.Counter(
        entry["slot"] for entry in (decision.question or {}).get("unmapped", ())
    )
    if set(slots) != set(unclear):
        raise ConfigError(
            f"decision {decision.id} did not understand {sorted(unclear)}: say in slots= what each means, "
            "or answer for once only."
        )
    values: dict[str, Any] = request_json(decision.request)
    for slot, said in slots.items():
        nodes = [said] if isinstance(said, str) else list(said)
        if len(nodes) != unclear[slot]:
            raise ConfigError(
                f"slots {slot}={nodes} is not allowed: decision {decision.id} did not understand "
                f"{unclear[slot]} of its entries there; pass one node for each. What it understood stays."
            )
        if slot == "data":
            # What was understood stays; a meaning stands in place of each word that was not.
            nodes += [node for node in decision.request.data if node != UNSPEC]
        values[slot] = nodes if slot == "data" else nodes[0]
    return _request(values)


def widened(request: Request, wide: Mapping[str, str], value: str, closures: Closures) -> Request:
    """A request with wider nodes in some slots, of which a judgement still covers it.

    Raises:
        UnknownNodeError: no such node.
        ConfigError: no such slot, several items in `data`, or a judgement would not cover the request.
    """
    polarity = "deny" if value == "inappropriate" else "approve"
    values: dict[str, Any] = request_json(request)
    for slot, node in wide.items():
        one_of(SLOTS, slot=slot)
        if len(request.slot(slot)) != 1:
            raise ConfigError("generalise data= is for one item: record a judgement instead.")
        if node != ANY:
            closures.ontology.node(slot, node)
        if not closures.covers(slot, polarity, request.slot(slot)[0], node):
            raise ConfigError(
                f"generalise {slot}={node!r} would not cover {request.slot(slot)[0]!r}: pass a node of "
                "which it is a kind, or add that fact first."
            )
        values[slot] = node
    return _request(values)


def check_human(source: str) -> None:
    """Raises UntrustedSourceError where a source is not the user, and ConfigError where it is none."""
    one_of(SOURCES, source=source)
    if source not in HUMAN_SOURCES:
        raise UntrustedSourceError(
            f"source={source!r} may not decide for the user: ask the user, and pass how the answer came."
        )
