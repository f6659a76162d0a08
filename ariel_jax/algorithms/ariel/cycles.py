"""Refuses or merges edges that would make different things equal. Host only."""

import itertools
from collections.abc import Mapping

from ariel_jax.algorithms.ariel.travel import ACTIVE, TRUSTED, kinds, reachable, steps
from ariel_jax.algorithms.ariel.types import SLOTS, Edge, Node
from ariel_jax.errors import OntologyCycleError


def without_cycles(
    nodes: Mapping[str, tuple[Node, ...]], edges: tuple[Edge, ...], merge: bool
) -> tuple[Edge, ...]:
    """The edges, with `same` between the members of each cycle if they are to be merged.

    What approvals travel along must be free of cycles, and so must what denials do; among edges that
    may support `share` and among all that are not retracted; with no scope, and with all that hold
    for one data node.

    Args:
        nodes: by slot.
        edges: checked otherwise.
        merge: declare members of a cycle to be the `same`; a cycle that holds for some data only is
            refused all the same, and so is one that approvals or denials alone travel round: `same`
            would let the others travel where they may not.

    Raises:
        OntologyCycleError: a cycle.
    """
    for statuses in (TRUSTED, ACTIVE):
        scopes = {edge.scope for edge in edges if edge.scope is not None}
        contexts = {frozenset[str]()}
        if scopes:
            contexts |= {kinds(edges, n.id, statuses=statuses) & scopes for n in nodes["data"]}
        for context in sorted(contexts, key=lambda c: (len(c), sorted(c))):
            for slot in SLOTS:
                for polarity in ("approve", "deny"):
                    while path := _cycle(edges, slot, polarity, context, statuses):
                        if not merge or context:
                            raise _cycle_error(slot, path, merge)
                        other = "deny" if polarity == "approve" else "approve"
                        if not _around(edges, slot, other, path, statuses):
                            raise _cycle_error(slot, path, merge, polarity)
                        edges = edges + _merged(slot, path, edges, statuses)
    return edges


def _around(
    edges: tuple[Edge, ...],
    slot: str,
    polarity: str,
    path: tuple[str, ...],
    statuses: tuple[str, ...],
) -> bool:
    """Whether such judgements, too, travel from each node of a path to all others."""
    arrows: dict[str, list[str]] = {}
    for x, y, _ in steps(edges, slot, polarity, statuses=statuses):
        arrows.setdefault(x, []).append(y)
    return all(set(path) <= reachable(arrows, x) for x in path)


def _cycle_error(
    slot: str, path: tuple[str, ...], merge: bool, only: str = ""
) -> OntologyCycleError:
    why = f"is one for what travels as `{only}` only" if only else "holds for some data only"
    todo = (
        f"Retract one of the edges: a cycle that {why} cannot be merged."
        if merge
        else "Retract one of the edges, declare the nodes to be the `same`, or pass merge_cycles=True."
    )
    return OntologyCycleError(
        f"edges of slot {slot!r} form the cycle {' -> '.join(path)}, so that judgements about one "
        f"would go for all. {todo}",
        path=path,
    )


def _merged(
    slot: str, path: tuple[str, ...], edges: tuple[Edge, ...], statuses: tuple[str, ...]
) -> tuple[Edge, ...]:
    first = max(edge.id for edge in edges) + 1
    return tuple(
        Edge(
            id=first + i,
            slot=slot,
            type="same",
            src=src,
            dst=dst,
            status="confirmed" if statuses == TRUSTED else "proposed",
            origin="merged",
            reason=f"merged: {' -> '.join(path)}",
        )
        for i, (src, dst) in enumerate(itertools.pairwise(path[:-1]))
    )


def _cycle(
    edges: tuple[Edge, ...],
    slot: str,
    polarity: str,
    context: frozenset[str],
    statuses: tuple[str, ...],
) -> tuple[str, ...] | None:
    """A cycle that leaves a class of `same` nodes, its first node at both ends; None without."""
    arrows: list[tuple[str, str]] = []
    alike: dict[str, list[str]] = {}
    for x, y, edge in steps(edges, slot, polarity, context=context, statuses=statuses):
        if edge.type == "same":
            alike.setdefault(x, []).append(y)
        else:
            arrows.append((x, y))
    name = {x: min(reachable(alike, x)) for arrow in arrows for x in arrow}
    leads: dict[str, list[tuple[str, str]]] = {name[x]: [] for x in name}
    for x, y in sorted(arrows):
        if name[x] != name[y]:
            leads[name[x]].append((x, y))
    alive = set(leads)
    while True:
        ends = {a for a in alive if not any(name[y] in alive for _, y in leads[a])}
        if not ends:
            break
        alive -= ends
    if not alive:
        return None
    walk: list[tuple[str, str]] = []
    here = min(alive)
    while here not in [name[x] for x, _ in walk]:
        walk.append(next((x, y) for x, y in leads[here] if name[y] in alive))
        here = name[walk[-1][1]]
    ring = walk[[name[x] for x, _ in walk].index(here) :]
    path = [node for arrow in ring for node in arrow] + [ring[0][0]]
    return tuple(node for i, node in enumerate(path) if i == 0 or node != path[i - 1])
