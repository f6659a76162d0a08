"""How usual an approval is for a user, by that user's own judgements alone: a score for vetoes; host only."""

import dataclasses
import weakref

import numpy as np

from ariel_jax._checks import positive, positive_int
from ariel_jax.algorithms.ariel.baselines import Additive, personal_logit
from ariel_jax.algorithms.ariel.history import History
from ariel_jax.algorithms.ariel.types import ANY, SLOTS, UNSPEC, Request

FEWEST = 8
"""Judgements without which there is no score."""
_DIGITS = 6  # the last bits of a fit are the machine's; a proof should not depend on them


@dataclasses.dataclass(frozen=True)
class _Fit:
    """What was fitted, and to what: a history only ever grows by rising ids."""

    history: weakref.ref[History]
    last_id: int
    logit: Additive | None
    named: tuple[frozenset[int], ...]


class PersonalScorer:
    """Scores requests by an additive logit of the user's standing judgements; for the vetoes of a policy.

    The model is `baselines.personal_logit` without other users: one weight for each node that a judgement
    names and an intercept. It knows nodes by themselves and not the ontology: what a judgement says of an
    address adds nothing to the score of a city.

    Guarantees:
        A score is that of the very judgements that the verdict rests on: `Ariel` asks for it in the step
        that reads, judges and logs, and it is fitted anew when they are others. The same judgements give
        the same score, to six digits.

    Args:
        fewest: with fewer judgements, of both kinds together, there is no score.
        l2: strength of the pull of the weights towards 0.

    Raises:
        ConfigError: an argument is not allowed.
    """

    def __init__(self, *, fewest: int = FEWEST, l2: float = 1.0) -> None:
        positive_int(fewest=fewest)
        positive(l2=l2)
        self._fewest, self._l2 = fewest, l2
        self._latest: _Fit | None = None

    def score(self, request: Request, history: History) -> float | None:
        """Log-odds that the user approves a request.

        Args:
            request: of ids of nodes. One that no judgement names counts as `ANY`, which a judgement may
                name; where none does, it adds nothing. `UNSPEC` is a node like another. Of several items
                it is the least of their scores.
            history: of the user. Judgements `appropriate` and `inappropriate` that stand and that a human
                made count; of several items each counts once.

        Returns:
            The score; None with fewer judgements than `fewest`, and without one of each kind.
        """
        fit = self._latest
        if fit is None or fit.history() is not history or fit.last_id != history.last_id:
            fit = self._latest = self._fitted(history)
        if fit.logit is None:
            return None
        return round(float(fit.logit.score(_numbers(request, history, fit.named)).min()), _DIGITS)

    def _fitted(self, history: History) -> _Fit:
        said = history.premises()
        kinds = {judgement.value for judgement in said}
        logit, named = None, ()
        if len(said) >= self._fewest and len(kinds) == 2:
            rows = [_numbers(judgement.request, history) for judgement in said]
            values = [j.value == "appropriate" for j in said for _ in j.request.data]
            nodes = np.concatenate(rows)
            sizes = tuple(len(history.closures.ontology.index(slot)) + 2 for slot in SLOTS)
            logit = personal_logit(nodes, np.array(values), sizes, l2=self._l2)
            named = tuple(frozenset(column.tolist()) for column in nodes.T)
        return _Fit(weakref.ref(history), history.last_id, logit, named)


def _numbers(
    request: Request, history: History, named: tuple[frozenset[int], ...] | None = None
) -> np.ndarray:
    """Node numbers [items, slots], of each item apart; what is not `named` has the number of `ANY`."""
    found = []
    for place, slot in enumerate(SLOTS):
        index = history.closures.ontology.index(slot)
        v = len(index)
        others = {ANY: v, UNSPEC: v + 1}
        numbers = [others.get(node, index.get(node, v)) for node in request.slot(slot)]
        if named is not None:
            numbers = [number if number in named[place] else v for number in numbers]
        found.append(numbers)
    n = len(request.data)
    return np.array([numbers * (n // len(numbers)) for numbers in found], np.int64).T
