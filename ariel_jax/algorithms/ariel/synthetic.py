"""Made-up users whose preferences are known: six families, with exceptions, noise and unknown concepts. Host only.

Each family favours another method, so they are reported apart. Requests are rows of node numbers; what a
user of a family really wants is in `Users`, beside the orders in which the family is monotone.
"""

import dataclasses

import numpy as np

from ariel_jax._checks import in_range, one_of, positive_int
from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS, INAPPROPRIATE

FAMILIES = ("lattice", "additive", "conditional", "rules", "segments", "drift")
"""`lattice`: what is above a threshold is appropriate, in orders of the user's own. `additive`: drawn with
the odds of a logit. `conditional`: whom a user trusts depends on the kind of data. `rules`: the first of a
list of rules that fits; asked where none does. `segments`: three kinds of users and deviations. `drift`:
a lattice whose recipients and threshold change in the middle of the history."""
OUTSIDE = -3
"""In a request: a concept outside of the ontology."""
_GROUPS = (4, 3, 2, 2)  # of nodes, per slot, in `conditional` and `rules`
_STEEP = 1.5  # of the logit of `additive`
_FIRST_RULES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knobs:
    """What is made.

    Attributes:
        family: one of `FAMILIES`.
        n_users, n_history, n_requests: how many, and per user.
        sizes: nodes of each of the four slots; the second is the recipient's.
        personal: standard deviation of a user's own weights around the population's, which have 1.
        exceptions: share of tuples on which a user is of the opposite mind, always.
        noise: share of the history's labels that are wrong.
        outside: share of requests with a concept outside of the ontology.

    Raises:
        ConfigError: a value is not allowed.
    """

    family: str
    n_users: int = 200
    n_history: int = 30
    n_requests: int = 30
    sizes: tuple[int, int, int, int] = (20, 15, 8, 6)
    personal: float = 0.3
    exceptions: float = 0.0
    noise: float = 0.0
    outside: float = 0.0

    def __post_init__(self) -> None:
        one_of(FAMILIES, family=self.family)
        positive_int(n_users=self.n_users, n_history=self.n_history, n_requests=self.n_requests)
        in_range(0, 1, exceptions=self.exceptions, noise=self.noise, outside=self.outside)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Users:
    """Made-up users.

    Attributes:
        knobs: how they were made.
        history: [U, N, K] int32, oldest first.
        said: [U, N] int8: `APPROPRIATE`, `INAPPROPRIATE`, or `ASKS` where the rules leave it open.
        asked: [U, M, K] int32, the requests; `OUTSIDE` for a concept that is none of the ontology's.
        wanted: [U, M] int8, as `said`, without noise.
        weights: for each slot [U, V] or, by context, [U, C, V]: orders of the user's own.
        context: [V_0] the context of each node of the first slot; zeros but for `conditional`.
        population: for each slot [V] or [C, V]: what `weights` scatter around.
    """

    knobs: Knobs
    history: np.ndarray
    said: np.ndarray
    asked: np.ndarray
    wanted: np.ndarray
    weights: tuple[np.ndarray, ...]
    context: np.ndarray
    population: tuple[np.ndarray, ...]

    def order(self, user: int | None = None, *, scoped: bool = True) -> tuple[np.ndarray, ...]:
        """For each slot bool [V, V] or [C, V, V]: an approval of y covers x; denials by the transpose.

        Args:
            user: whose; None for the population's order.
            scoped: False forgets that orders may depend on the kind of data, as a product of orders must.
        """
        weights = self.population if user is None else tuple(w[user] for w in self.weights)
        if self.knobs.family == "rules":  # what is of one kind is one to the rules
            return tuple(w[:, None] == w[None, :] for w in weights)
        if not scoped:
            weights = tuple(w.mean(0) if w.ndim == 2 else w for w in weights)
        orders = [w[..., :, None] >= w[..., None, :] for w in weights]
        if scoped:  # a judgement about one kind of data says nothing of another's
            orders[0] = orders[0] & (self.context[:, None] == self.context[None, :])
        return tuple(orders)

    @property
    def appropriate(self) -> np.ndarray:
        """[U, M] bool; False where it is left open."""
        return self.wanted == APPROPRIATE


def users(knobs: Knobs, seed: int = 0) -> Users:
    """Draws users.

    Args:
        knobs: what is made.
        seed: the same knobs and seed give the same users.
    """
    rng = np.random.default_rng(seed)
    U, N, M = knobs.n_users, knobs.n_history, knobs.n_requests
    asked = np.stack([rng.integers(0, V, (U, N + M)) for V in knobs.sizes], -1).astype(np.int32)
    context = np.zeros(knobs.sizes[0], np.int32)
    if knobs.family == "rules":
        label, weights, population = _by_rules(knobs, asked, rng)
    else:
        label, weights, population, context = _by_weights(knobs, asked, rng)
    label = np.where(_is_exception(knobs, asked, rng) & (label != ASKS), 1 - label, label)
    said, wanted = label[:, :N].copy(), label[:, N:]
    wrong = (rng.random((U, N)) < knobs.noise) & (said != ASKS)
    said = np.where(wrong, 1 - said, said).astype(np.int8)
    requests = asked[:, N:].copy()
    user, row = np.nonzero(rng.random((U, M)) < knobs.outside)
    requests[user, row, rng.integers(0, requests.shape[-1], len(user))] = OUTSIDE
    return Users(
        knobs=knobs, history=asked[:, :N].copy(), said=said, asked=requests,
        wanted=wanted.astype(np.int8), weights=weights, context=context, population=population,
    )  # fmt: skip


Made = tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]


def _by_weights(
    knobs: Knobs, asked: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...], np.ndarray]:
    U, N = knobs.n_users, knobs.n_history
    context = np.zeros(knobs.sizes[0], np.int32)
    if knobs.family == "conditional":
        context = np.arange(knobs.sizes[0], dtype=np.int32) % _GROUPS[0]
    n_contexts = int(context.max()) + 1
    population: list[np.ndarray] = []
    for k, V in enumerate(knobs.sizes):
        shape = (n_contexts, V) if k == 1 and n_contexts > 1 else (V,)
        population.append(rng.standard_normal(shape))
    weights = [w + knobs.personal * rng.standard_normal((U, *w.shape)) for w in population]
    threshold = 0.7 * rng.standard_normal(U)
    if knobs.family == "segments":
        segment = rng.integers(0, 3, U)
        threshold = np.array([-2.0, 0.0, 2.0])[segment] + 0.3 * rng.standard_normal(U)
        shift = [0.7 * rng.standard_normal((3, V)) for V in knobs.sizes]
        weights = [w + s[segment] for w, s in zip(weights, shift, strict=True)]
    total = _total(weights, asked, context) - threshold[:, None]
    if knobs.family == "drift":
        weights[1] = rng.standard_normal(weights[1].shape)
        threshold = 0.7 * rng.standard_normal(U)
        then = _total(weights, asked, context) - threshold[:, None]
        total[:, N // 2 :] = then[:, N // 2 :]
    if knobs.family == "additive":
        label = rng.random(total.shape) < 1 / (1 + np.exp(-_STEEP * total))
    else:
        label = total > 0
    values = np.where(label, APPROPRIATE, INAPPROPRIATE)
    return values, tuple(weights), tuple(population), context


def _total(weights: list[np.ndarray], asked: np.ndarray, context: np.ndarray) -> np.ndarray:
    U = len(asked)
    user = np.arange(U)[:, None]
    total = np.zeros(asked.shape[:2])
    for k, w in enumerate(weights):
        by_context = (context[asked[..., 0]],) if w.ndim == 3 else ()
        total += w[(user, *by_context, asked[..., k])]
    return total


def _by_rules(knobs: Knobs, asked: np.ndarray, rng: np.random.Generator) -> Made:
    """Each rule fixes the kinds in one to three slots; the first that fits says what is appropriate."""
    U, K = len(asked), len(knobs.sizes)
    kinds = [np.arange(V) % g for V, g in zip(knobs.sizes, _GROUPS, strict=True)]
    found = np.stack([kinds[k][asked[..., k]] for k in range(K)], -1)
    label = np.full(asked.shape[:2], ASKS)
    for u in range(U):
        for _ in range(_FIRST_RULES):
            slots = rng.choice(K, size=rng.integers(1, 4), replace=False)
            fixed = np.array([rng.integers(_GROUPS[k]) for k in slots])
            says = (INAPPROPRIATE, APPROPRIATE)[rng.integers(2)]
            fits = (found[u][:, slots] == fixed).all(1)
            label[u] = np.where(fits & (label[u] == ASKS), says, label[u])
    population = tuple(kind.astype(float) for kind in kinds)
    return label, tuple(np.tile(kind, (U, 1)) for kind in population), population


def _is_exception(knobs: Knobs, asked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which tuples are exceptions [U, n]: the same whenever the user meets them again."""
    if not knobs.exceptions:
        return np.zeros(asked.shape[:2], bool)
    lot = rng.random((len(asked), *knobs.sizes))
    user = np.arange(len(asked))[:, None]
    return lot[(user, *np.moveaxis(asked, -1, 0))] < knobs.exceptions
