"""Made-up users over the packaged ontology, whose wishes respect its curated edges."""

import numpy as np

from ariel_jax.algorithms.ariel.closure import Closures, closure
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Judgement, Request

ASKED = ("data", "recipient", "purpose", "principle")
"""Slots that vary; subject and sender are the user."""


class Wishes:
    """One user: a disclosure is welcome where the ease of its parts, added up, is above a threshold.

    What reveals more is never easier, a stricter principle or a more trusted recipient never harder. Only nodes
    that are no class of others are asked about: what a user thinks of a class is not decided by its members.
    """

    def __init__(self, ontology: Ontology, rng: np.random.Generator, *, n_nodes: int = 10) -> None:
        self._rng = rng
        self._ease: dict[str, dict[str, float]] = {}
        self._pool: dict[str, list[str]] = {}
        closures = Closures(ontology)
        for slot in ASKED:
            names = list(ontology.index(slot))
            easier = closures.matrix(slot, "approve") | closures.matrix(slot, "deny").T
            classes = {
                e.dst for e in ontology.edges if e.type in ("isa", "narrower") and e.slot == slot
            }
            kept = [i for i, name in enumerate(names) if name not in classes]
            easier = closure(easier[np.ix_(kept, kept)])
            own = rng.standard_normal(len(kept))
            # At least as easy as all that it must be easier than.
            ease = np.array([own[row].max() for row in easier])
            names = [names[i] for i in kept]
            self._ease[slot] = dict(zip(names, (ease - ease.mean()).tolist(), strict=True))
            # Neighbours in the ontology, or two requests would hardly ever touch.
            chosen: list[int] = []
            for node in rng.permutation(len(names)):
                near = np.flatnonzero(easier[node] | easier[:, node]).tolist()
                if len(near) > 1:
                    chosen += [i for i in near if i not in chosen]
            alone = rng.permutation(len(names))[:3].tolist()  # where none has a neighbour
            self._pool[slot] = [names[i] for i in chosen[:n_nodes] or alone]
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
