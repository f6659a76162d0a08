"""What covers what: closures of one-step relations, and the paths that prove them. Host only."""

import collections

import numpy as np
import numpy.typing as npt

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.travel import TRAVEL, TRUSTED, kinds, steps
from ariel_jax.algorithms.ariel.types import ANY, Edge

Context = frozenset[str]
"""Scopes that hold for a request; the empty one leaves out every scoped edge."""


def one_step(
    ontology: Ontology,
    slot: str,
    polarity: str,
    *,
    context: Context | None = None,
    statuses: tuple[str, ...] = TRUSTED,
) -> npt.NDArray[np.bool_]:
    """Where one edge lets a judgement travel.

    Args:
        ontology: with its nodes in the order of `ontology.index(slot)`.
        slot: of the nodes.
        polarity: `approve` or `deny`; `kind` for what is a kind of what.
        context: scopes that hold; None: none, and scoped edges are left out.
        statuses: of the edges that count.

    Returns:
        bool [V, V]: at [x, y], whether a judgement of that polarity about y covers x.

    Raises:
        ConfigError: no such polarity.
        UnknownNodeError: no such slot.
    """
    one_of(TRAVEL, polarity=polarity)
    index = ontology.index(slot)
    made = np.zeros((len(index), len(index)), np.bool_)
    for x, y, _ in steps(
        ontology.edges, slot, polarity, context=context or frozenset(), statuses=statuses
    ):
        made[index[x], index[y]] = True
    return made


def closure(adjacency: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The reflexive and transitive closure, by squaring.

    Args:
        adjacency: bool [V, V].

    Returns:
        bool [V, V].
    """
    n = len(adjacency)
    reached = adjacency | np.eye(n, dtype=np.bool_)
    # Back to 0 and 1 after each product: counts that are left to grow overflow to inf, and a path
    # would be lost in inf * 0. Below 2^24 nodes float32 counts are exact.
    for _ in range(max(n - 1, 0).bit_length()):
        as_numbers = reached.astype(np.float32)
        longer = as_numbers @ as_numbers > 0
        if (longer == reached).all():
            break
        reached = longer
    return reached


class Closures:
    """Closures of one ontology, each made when it is first asked for.

    Attributes:
        ontology: whose.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self._matrices: dict[tuple[str, str, Context, tuple[str, ...]], npt.NDArray[np.bool_]] = {}
        self._scopes = frozenset(edge.scope for edge in ontology.edges if edge.scope is not None)
        self._kinds: dict[tuple[str, tuple[str, ...]], Context] = {}

    def matrix(
        self,
        slot: str,
        polarity: str,
        *,
        context: Context = frozenset(),
        statuses: tuple[str, ...] = TRUSTED,
    ) -> npt.NDArray[np.bool_]:
        """The closure of `one_step`, read-only; raises what that raises."""
        key = (slot, polarity, context, statuses)
        if key not in self._matrices:
            made = closure(
                one_step(self.ontology, slot, polarity, context=context, statuses=statuses)
            )
            made.setflags(write=False)
            self._matrices[key] = made
        return self._matrices[key]

    def context(self, data: tuple[str, ...], *, statuses: tuple[str, ...] = TRUSTED) -> Context:
        """The scopes that hold for a request: those that every one of its items is a kind of."""
        if not self._scopes:
            return frozenset()
        shared = self._scopes
        for item in data:
            key = (item, statuses)
            if key not in self._kinds:
                found = kinds(self.ontology.edges, item, statuses=statuses)
                self._kinds[key] = found & self._scopes
            shared = shared & self._kinds[key]
        return shared

    def covers(
        self,
        slot: str,
        polarity: str,
        x: str,
        y: str,
        *,
        context: Context = frozenset(),
        statuses: tuple[str, ...] = TRUSTED,
    ) -> bool:
        """Whether a judgement about y covers x.

        `ANY` as y covers everything. `UNSPEC` as y, and all that is no node, covers nothing and is
        covered by `ANY` alone.
        """
        if y == ANY:
            return True
        index = self.ontology.index(slot)
        if x not in index or y not in index:
            return False
        matrix = self.matrix(slot, polarity, context=context, statuses=statuses)
        return bool(matrix[index[x], index[y]])

    def path(
        self,
        slot: str,
        polarity: str,
        x: str,
        y: str,
        *,
        context: Context = frozenset(),
        statuses: tuple[str, ...] = TRUSTED,
    ) -> tuple[Edge, ...] | None:
        """The edges that let a judgement about y cover x, from x on; None where it does not.

        The shortest path; of several the one whose edges have the smallest ids, the first edge first.
        """
        if y == ANY or x == y:
            return ()
        arrows: dict[str, list[tuple[int, str, Edge]]] = collections.defaultdict(list)
        for start, end, edge in steps(
            self.ontology.edges, slot, polarity, context=context, statuses=statuses
        ):
            arrows[start].append((edge.id, end, edge))
        trails: dict[str, tuple[Edge, ...]] = {x: ()}
        waiting = collections.deque([x])
        while waiting:
            here = waiting.popleft()
            for _, end, edge in sorted(arrows[here], key=lambda arrow: arrow[:2]):
                if end not in trails:
                    trails[end] = (*trails[here], edge)
                    if end == y:
                        return trails[end]
                    waiting.append(end)
        return None
