"""How judgements travel along edges of each type. Host only."""

from collections.abc import Iterable, Iterator, Mapping

from ariel_jax.algorithms.ariel.types import Edge

TRUSTED = ("curated", "confirmed")
"""Statuses of edges that may support `share`."""
ACTIVE = ("curated", "confirmed", "proposed")
"""Statuses of edges that may support `withhold`."""

TRAVEL: Mapping[str, Mapping[str, str]] = {
    "approve": {
        "isa": "up",
        "narrower": "up",
        "trust": "up",
        "stricter": "up",
        "reveals": "down",
        "same": "both",
    },
    "deny": {
        "isa": "up",
        "narrower": "up",
        "reveals": "up",
        "trust": "down",
        "stricter": "down",
        "same": "both",
    },
    "kind": {"isa": "up", "narrower": "up", "same": "both"},
}
"""How a judgement is found from a request: `up` from an edge's src to its dst, `down` the other way.
`kind` is no polarity but what is a kind of what, for exceptions and scopes."""


def steps(
    edges: Iterable[Edge],
    slot: str,
    polarity: str,
    *,
    context: frozenset[str] = frozenset(),
    statuses: tuple[str, ...] = TRUSTED,
) -> Iterator[tuple[str, str, Edge]]:
    """Yields (x, y, edge) where one edge lets a judgement about y cover x.

    Args:
        edges: of an ontology.
        slot: of the nodes.
        polarity: a key of `TRAVEL`.
        context: scopes that hold; an edge with another scope is left out.
        statuses: of the edges that count.
    """
    for edge in edges:
        if edge.slot != slot or edge.status not in statuses:
            continue
        if edge.scope is not None and edge.scope not in context:
            continue
        way = TRAVEL[polarity].get(edge.type)
        if way in ("up", "both"):
            yield edge.src, edge.dst, edge
        if way in ("down", "both"):
            yield edge.dst, edge.src, edge


def reachable(arrows: Mapping[str, Iterable[str]], start: str) -> frozenset[str]:
    """What can be reached from `start` along arrows, itself included."""
    found, waiting = {start}, [start]
    while waiting:
        for other in arrows.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return frozenset(found)


def kinds(
    edges: Iterable[Edge], data: str, *, statuses: tuple[str, ...] = TRUSTED
) -> frozenset[str]:
    """A data node and all that it is a kind of."""
    arrows: dict[str, list[str]] = {}
    for x, y, _ in steps(edges, "data", "kind", statuses=statuses):
        arrows.setdefault(x, []).append(y)
    return reachable(arrows, data)
