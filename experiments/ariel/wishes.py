"""Made-up users over the packaged ontology, whose wishes respect its curated edges."""

import numpy as np

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Judgement, Request

ASKED = ("data", "recipient", "purpose", "principle")
"""Slots that vary; subject and sender are the user."""


class Wishes:
    """One user: a disclosure is welcome where the ease of its parts, added up, is above a threshold.

    What reveals more is never easier, a stricter principle or a more trusted recipient never harder; what is a
    kind of another node has that node's ease, so that a judgement about a class is about all of it.
    """

    def __init__(self, ontology: Ontology, rng: np.random.Generator, *, n_nodes: int = 25) -> None:
        self._rng = rng
        self._ease: dict[str, dict[str, float]] = {}
        self._pool: dict[str, list[str]] = {}
        closures = Closures(ontology)
        for slot in ASKED:
            names = list(ontology.index(slot))
            covers = closures.matrix(slot, "approve")
            kinds = closures.matrix(slot, "kind")
            alike = _groups(kinds)
            own = rng.standard_normal(len(names))
            ease = own[alike]
            # Approvals of y cover x: x is at least as easy as y, whatever their own numbers say.
            order = np.argsort(covers.sum(1), kind="stable")
            for _ in range(len(names)):
                before = ease.copy()
                for x in order:
                    ease[x] = ease[covers[x]].max()
                for group in np.unique(alike):
                    ease[alike == group] = ease[alike == group].max()
                if (ease == before).all():
                    break
            ease = ease - ease.mean()
            self._ease[slot] = dict(zip(names, ease.tolist(), strict=True))
            # Neighbours in the ontology, or two requests would hardly ever touch.
            start = rng.permutation(len(names))
            chosen: list[int] = []
            for node in start:
                if len(chosen) >= n_nodes:
                    break
                near = np.flatnonzero(covers[node] | covers[:, node])
                chosen += [int(i) for i in near if int(i) not in chosen]
            self._pool[slot] = [names[i] for i in chosen[:n_nodes]]
        self._threshold = float(0.7 * rng.standard_normal())

    def wants(self, request: Request) -> bool:
        """Whether the user would share the one item."""
        total = sum(self._ease[slot][request.slot(slot)[0]] for slot in ASKED)
        return total > self._threshold

    def requests(self, n: int) -> tuple[list[Request], list[bool]]:
        """Requests and whether they are welcome."""
        made = []
        for _ in range(n):
            chosen = {slot: str(self._rng.choice(self._pool[slot])) for slot in ASKED}
            made.append(Request(data=(chosen.pop("data"),), **chosen))
        return made, [self.wants(r) for r in made]

    def judgements(self, n: int) -> list[Judgement]:
        """What the user said before, without an error."""
        asked, wanted = self.requests(n)
        return [
            Judgement(id=i, request=r, value="appropriate" if w else "inappropriate")
            for i, (r, w) in enumerate(zip(asked, wanted, strict=True), start=1)
        ]


def _groups(kinds: np.ndarray) -> np.ndarray:
    """Numbers of nodes that are connected by being kinds of each other, [V]."""
    group = np.arange(len(kinds))
    touch = kinds | kinds.T
    for _ in range(len(kinds)):
        lowest = np.array([group[row].min() for row in touch])
        if (lowest == group).all():
            break
        group = lowest
    return group
