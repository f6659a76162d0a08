"""Made-up users with their first k judgements, as `icl` asks two models about them."""

import dataclasses

import numpy as np

from ariel_jax.algorithms.ariel import baselines, icl, synthetic
from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS
from experiments.ariel import common

Sizes = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """A user with k priors.

    Attributes:
        person: what entailment judges.
        wanted: [n] bool, what the user wants of the requests.
        scores: [n] each, of baselines.
        priors: nodes [n, k, K] and labels [n, k] beside each request, drawn at random and the nearest.
    """

    person: common.Person
    wanted: np.ndarray
    scores: dict[str, np.ndarray]
    priors: dict[str, tuple[np.ndarray, np.ndarray]]


def unseen(family: str, n_users: int, sizes: Sizes, seed: int) -> list[synthetic.Users]:
    """Users one by one, from seeds that no training draws."""
    knobs = synthetic.Knobs(family=family, n_users=1, n_history=120, n_requests=20, sizes=sizes)
    return [synthetic.users(knobs, 10**6 + 1000 * seed + u) for u in range(n_users)]


def told(made: synthetic.Users, k: int, n_requests: int | None = None) -> Told | None:
    """The first k things that a user said, and the first requests; None where there are fewer, or the user never decides."""
    said, asked = (np.flatnonzero(x[0] != ASKS) for x in (made.said, made.wanted))
    asked = asked[:n_requests]
    if len(said) < k or not len(asked):
        return None
    requests, n = made.asked[0][asked], len(asked)
    history, label = made.history[0][said[:k]], made.said[0][said[:k]]
    yes = label == APPROPRIATE
    near = np.stack([said[icl.nearest_first(r, made.history[0][said], k)] for r in requests])
    own = baselines.personal_logit(history, yes, made.knobs.sizes)
    return Told(
        person=common.Person(order=made.order(0), history=history, said=label, asked=requests, context=made.context),
        wanted=made.wanted[0][asked] == APPROPRIATE,
        scores={"majority": baselines.majority(yes, n), "own logit": own.score(requests)},
        priors={
            "random": (np.tile(history, (n, 1, 1)), np.tile(label, (n, 1))),
            "nearest": (made.history[0][near], made.said[0][near]),
        },
    )  # fmt: skip


def together(found: list[Told], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Priors of one kind of all users' requests, one user's behind the other's."""
    parts = [one.priors[kind] for one in found]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
