"""What ARIEL is compared with: norm, majority, nearest priors, logits; and orders learned from other users.

Host only. Every method gives log-odds of being appropriate, so that each has a selective form
(`metrics.selective`): decide where they are far from 0, else ask. Requests are rows of node numbers [n, K].
"""

import dataclasses

import numpy as np

from ariel_jax._checks import positive, positive_int
from ariel_jax.errors import ConfigError

_STEPS = 50  # of Newton's method; about ten are taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Additive:
    """An additive logit: log-odds are the sum of one weight per slot and an intercept.

    Attributes:
        weights: for each slot [V_k] float64.
        errors: their standard errors, from the curvature of what was minimised.
        intercept: added to every request; 0 where none was fitted.
    """

    weights: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]
    intercept: float = 0.0

    def score(self, nodes: np.ndarray) -> np.ndarray:
        """Log-odds [n] of requests [n, K]."""
        sums = sum(w[nodes[:, k]] for k, w in enumerate(self.weights))
        return np.asarray(sums + self.intercept)


def additive_logit(
    nodes: np.ndarray,
    appropriate: np.ndarray,
    sizes: tuple[int, ...],
    *,
    offset: np.ndarray | None = None,
    l2: float = 1.0,
    intercept: bool = False,
    prior: Additive | None = None,
) -> Additive:
    """Fits weights to judgements by ridge logistic regression, exactly (Newton's method).

    Args:
        nodes: [n, K] whole numbers below `sizes`.
        appropriate: [n] bool.
        sizes: nodes of each slot.
        offset: [n] log-odds that are there already; None for 0.
        l2: (l2 / 2) times the squared weights is added to the loss.
        intercept: fits one more number, with the same penalty.
        prior: its weights are what the penalty pulls towards, instead of 0.

    Raises:
        ConfigError: arrays that do not fit.
    """
    nodes, y = _checked(nodes, appropriate, sizes)
    positive(l2=l2)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    width = int(starts[-1]) + 1  # the last is the intercept
    columns = nodes + starts[:-1]
    if intercept:
        columns = np.concatenate([columns, np.full((len(nodes), 1), width - 1)], 1)
    centre = np.zeros(width)
    if prior is not None:
        centre = np.concatenate([*prior.weights, [prior.intercept]])
    base = np.zeros(len(nodes)) if offset is None else np.asarray(offset, float)
    if prior is not None and not intercept:
        base = base + prior.intercept
    # What no judgement is about stays where the penalty pulls it.
    active, place = np.unique(columns, return_inverse=True)
    found, curvature = _minimum(place.reshape(columns.shape), y, base, centre[active], l2)
    theta, spread = centre.copy(), np.full(width, l2**-0.5)
    theta[active] = found
    spread[active] = np.sqrt(np.diag(np.linalg.inv(curvature)))
    pieces, errors = np.split(theta[:-1], starts[1:-1]), np.split(spread[:-1], starts[1:-1])
    return Additive(weights=tuple(pieces), errors=tuple(errors), intercept=float(theta[-1]))


def _minimum(
    columns: np.ndarray, y: np.ndarray, base: np.ndarray, centre: np.ndarray, l2: float
) -> tuple[np.ndarray, np.ndarray]:
    """The weights and the curvature there, by Newton's method with halved steps."""
    width = len(centre)
    theta, curvature = centre.copy(), l2 * np.eye(width)

    def loss(theta: np.ndarray) -> float:
        score = base + theta[columns].sum(1)
        penalty = l2 / 2 * ((theta - centre) ** 2).sum()
        return float(np.logaddexp(0, score).sum() - score[y].sum() + penalty)

    now = loss(theta)
    for _ in range(_STEPS):
        p = _sigmoid(base + theta[columns].sum(1))
        slope = l2 * (theta - centre) + _sums(columns, p - y, width)
        curvature = _curvature(columns, p * (1 - p), width) + l2 * np.eye(width)
        step, size = np.linalg.solve(curvature, slope), 1.0
        while (then := loss(theta - size * step)) > now and size > 1e-6:
            size /= 2
        theta, gained, now = theta - size * step, now - then, then
        if gained < 1e-10 * (1 + abs(now)):
            break
    return theta, curvature


def user_offset(user: np.ndarray, appropriate: np.ndarray) -> np.ndarray:
    """How willing each row's user is, [n]: log((n1 + 1) / (n0 + 1)) of the user's own judgements."""
    _, index = np.unique(user, return_inverse=True)
    yes = np.bincount(index, np.asarray(appropriate, float))
    n = np.bincount(index)
    return np.log((yes + 1) / (n - yes + 1))[index]


def norm(
    user: np.ndarray,
    nodes: np.ndarray,
    appropriate: np.ndarray,
    sizes: tuple[int, ...],
    l2: float = 1.0,
) -> Additive:
    """The population's model, from the judgements of other users.

    How willing each of them is stands beside the weights as a fixed offset; its mean becomes the
    intercept, for a user of whom nothing is known.
    """
    offset = user_offset(user, appropriate)
    found = additive_logit(nodes, appropriate, sizes, offset=offset, l2=l2)
    _, first = np.unique(user, return_index=True)
    return dataclasses.replace(found, intercept=float(offset[first].mean()))


def majority(history: np.ndarray, n: int) -> np.ndarray:
    """Log-odds [n] from how often the user [m] bool approved, whatever is asked."""
    yes = int(np.asarray(history, bool).sum())
    return np.full(n, np.log((yes + 1) / (len(history) - yes + 1)))


def nearest(nodes: np.ndarray, history: np.ndarray, k: int | None = None) -> np.ndarray:
    """Numbers [n, k] of the priors [m, K] that differ from each request in fewest slots; later ones first.

    Fewer than k priors: all of them.
    """
    distance = (nodes[:, None, :] != history[None, :, :]).sum(2)
    order = np.lexsort(
        (np.broadcast_to(-np.arange(len(history)), distance.shape), distance), axis=1
    )
    return order[:, : len(history) if k is None else k]


def knn(nodes: np.ndarray, history: np.ndarray, appropriate: np.ndarray, k: int = 5) -> np.ndarray:
    """Log-odds [n] by votes of the k nearest priors, log((yes + 1) / (no + 1)); without priors 0."""
    positive_int(k=k)
    if not len(history):
        return np.zeros(len(nodes))
    votes = np.asarray(appropriate, bool)[nearest(nodes, history, k)]
    return np.log((votes.sum(1) + 1) / ((~votes).sum(1) + 1))


def personal_logit(
    history: np.ndarray,
    appropriate: np.ndarray,
    sizes: tuple[int, ...],
    *,
    population: Additive | None = None,
    l2: float | None = None,
) -> Additive:
    """One user's additive logit with an intercept; with a population, deviations from it.

    Args:
        history: [m, K] the user's priors; may be empty.
        appropriate: [m] bool.
        sizes: nodes of each slot.
        population: from `norm` on other users.
        l2: of the weights, 2 with a population and 1 without by default.
    """
    strength = l2 if l2 is not None else (1.0 if population is None else 2.0)
    return additive_logit(
        history, appropriate, sizes, l2=strength, intercept=True, prior=population
    )


def order(additive: Additive) -> tuple[np.ndarray, ...]:
    """For each slot bool [V, V]: whether an approval of y covers x, because x weighs at least as much.

    A denial of y covers x by the transpose. Statistical, so a proposal until somebody has confirmed it.
    """
    return tuple(w[:, None] >= w[None, :] for w in additive.weights)


def proposed_trust(additive: Additive, slot: int, margin: float = 2.0) -> np.ndarray:
    """Pairs [m, 2] (a, b) of a slot's nodes where a is trusted more than b by `margin` standard errors.

    The errors of the two weights are taken as independent. Of such pairs only those are given that no
    chain of the others says already.
    """
    w, e = additive.weights[slot], additive.errors[slot]
    above = w[:, None] - w[None, :] > margin * np.sqrt(e[:, None] ** 2 + e[None, :] ** 2)
    counts = above.astype(np.float32)
    return np.argwhere(above & ~(counts @ counts > 0))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _sums(columns: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
    return np.sum([np.bincount(c, values, width) for c in columns.T], axis=0)


def _curvature(columns: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
    found = np.zeros(width * width)
    for a in columns.T:
        for b in columns.T:
            found += np.bincount(a * width + b, values, width * width)
    return found.reshape(width, width)


def _checked(
    nodes: np.ndarray, appropriate: np.ndarray, sizes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    nodes, y = np.asarray(nodes), np.asarray(appropriate)
    fits = nodes.ndim == 2 and nodes.shape[1] == len(sizes) and y.shape == nodes.shape[:1]
    if not fits or y.dtype != bool:
        raise ConfigError(
            f"requests {list(nodes.shape)}, answers {list(y.shape)} ({y.dtype}) and {len(sizes)} slots: "
            "pass [n, K] whole numbers, [n] bool and K sizes."
        )
    if len(nodes) and not ((nodes >= 0) & (nodes < np.asarray(sizes))).all():
        raise ConfigError(f"a node number is outside its slot; the sizes are {list(sizes)}.")
    return nodes.astype(np.int64), y
