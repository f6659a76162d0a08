"""Audits at three levels, and the faults that they must find.

1. `audit_step`: the law of one step with each demonstration and without it, or with another one in its
   place, exactly. The only level that sees every fault; the other two look at what one canary shows.
2. `audit_likelihood`: how much of delta sampled texts prove to be spent.
3. `audit_membership`: how well an attacker tells texts with the canary from texts without it.

An audit finds faults and proves nothing. All of them handle laws, which are private.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ariel_jax._checks import in_range, positive
from ariel_jax.algorithms.mozo import oracle, sampling
from ariel_jax.algorithms.mozo.config import Config, Numbers
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.errors import ConfigError
from ariel_jax.privacy import audit

Floats = npt.NDArray[np.float64]
Laws = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits [N + 1, V], masks [M, N]) -> log-probabilities [M, k]: a step under audit."""

ALPHAS = (2.0, 4.0, 8.0, 32.0)
TOLERANCE = 1e-6
"""Relative, of the arithmetic of the audit itself. Rows are held to less than what is priced."""


def laws_of(config: Config, numbers: Numbers, bias: jax.Array | None = None) -> Laws:
    """The step as it is; compile the result to make many audits fast."""
    traced = parameters(config, numbers)

    def laws(logits: jax.Array, masks: jax.Array) -> jax.Array:
        one = lambda mask: sampling.law(logits, mask, config, traced, bias)[1]
        return jax.vmap(one)(masks)

    return laws


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepAudit:
    """What one step gives away of each demonstration, exactly.

    Attributes:
        h: range that is priced, twice `Numbers.h` where one is replaced; None for a contract that bounds none.
        ranges: [D] range of the log-ratio of both laws, a number for each demonstration.
        max_divergences: [D] the larger of both directions at order infinity.
        alphas: [A] orders.
        forward: [D, A] divergence of the law with the demonstration from the one without it, or with another one.
        reverse: [D, A] the other way.
        bounds: [A] what is priced.
    """

    h: float | None
    ranges: Floats
    max_divergences: Floats
    alphas: tuple[float, ...]
    forward: Floats
    reverse: Floats
    bounds: Floats

    @property
    def worst_divergence(self) -> float:
        """The largest ratio of a divergence at `alphas` to what is priced for it."""
        return _ratio(np.maximum(self.forward, self.reverse), self.bounds[None, :])

    @property
    def worst(self) -> float:
        """The largest ratio of anything found to what is priced for it; above 1 it is a violation."""
        ratios = [self.worst_divergence]
        if self.h is not None:
            ratios += [_ratio(self.ranges, self.h), _ratio(self.max_divergences, self.h)]
        return max(ratios)

    @property
    def refutes(self) -> bool:
        """Whether the price is wrong."""
        return self.worst > 1 + TOLERANCE


def _ratio(found: Floats, allowed: npt.ArrayLike) -> float:
    top = np.broadcast_to(np.asarray(allowed, np.float64), found.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.isinf(top) | (found == 0), 0.0, found / top)
    return float(ratios.max(initial=0.0))


def audit_step(
    logits: npt.ArrayLike,
    mask: npt.ArrayLike,
    config: Config,
    numbers: Numbers,
    *,
    others: npt.ArrayLike | None = None,
    laws: Laws | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> StepAudit:
    """Compares the law with all demonstrations to those without each of them, in float64.

    Args:
        logits: [N + 1, V], row 0 zero-shot; handed to `laws` in float32.
        mask: [N] which slots hold a demonstration, at least one.
        config: what is claimed.
        numbers: what is claimed.
        others: [N, V] rows that take each demonstration's place, instead of nothing: what replacing one
            gives away, held against the price of that.
        laws: what is audited; None: `laws_of(config, numbers)`.
        alphas: orders; those above a ball's own, or half of it where one is replaced, are not bounded.

    Raises:
        ConfigError: no demonstration.
    """
    mask = np.asarray(mask, bool)
    present = np.flatnonzero(mask)
    if not present.size:
        raise ConfigError("mask has no demonstration: set at least one of its slots.")
    laws = laws or laws_of(config, numbers)
    z = np.asarray(logits, np.float32)
    # Always N + 1 of them, so that one compiled program serves all masks.
    masks = np.concatenate([mask[None, :], mask[None, :] & ~np.eye(len(mask), dtype=bool)])
    found = np.asarray(laws(jnp.asarray(z), jnp.asarray(masks)), np.float64)
    whole, neighbours = found[0], found[1:]
    if others is not None:
        neighbours = _replaced(z, np.asarray(others, np.float32), masks, laws)
    return _compared(whole, neighbours[present], config, numbers, alphas, others is not None)


def _replaced(z: npt.NDArray[np.float32], others: Any, masks: Any, laws: Laws) -> Floats:
    """[N, k] laws with one row replaced each."""
    found = []
    for slot, row in enumerate(others):
        changed = z.copy()
        changed[slot + 1] = row
        found.append(np.asarray(laws(jnp.asarray(changed), jnp.asarray(masks)), np.float64)[0])
    return np.stack(found)


def _compared(
    whole: Floats,
    neighbours: Floats,
    config: Config,
    numbers: Numbers,
    alphas: Sequence[float],
    is_replaced: bool,
) -> StepAudit:
    def each(measure: Callable[[Floats, Floats], float]) -> Floats:
        return np.array([measure(whole, other) for other in neighbours])

    both = [each(lambda p, q, a=a: oracle.divergence(p, q, a)) for a in alphas]
    back = [each(lambda p, q, a=a: oracle.divergence(q, p, a)) for a in alphas]
    times = 2 if is_replaced else 1
    return StepAudit(
        h=times * numbers.h if config.bounds_range else None,
        ranges=each(oracle.log_range),
        max_divergences=np.maximum(
            each(lambda p, q: oracle.divergence(p, q, math.inf)),
            each(lambda p, q: oracle.divergence(q, p, math.inf)),
        ),
        alphas=tuple(float(a) for a in alphas),
        forward=np.stack(both, axis=1),
        reverse=np.stack(back, axis=1),
        bounds=np.array([oracle.bound(config, numbers, a, replaced=is_replaced) for a in alphas]),
    )


def hill_climb(
    logits: npt.ArrayLike,
    mask: npt.ArrayLike,
    config: Config,
    numbers: Numbers,
    rng: np.random.Generator,
    *,
    steps: int,
    others: npt.ArrayLike | None = None,
    laws: Laws | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[Floats, StepAudit, float]:
    """Moves logits to where a step's divergence comes nearest to its price.

    Args:
        logits: [N + 1, V] to begin with.
        mask: [N].
        config: see `audit_step`.
        numbers: see `audit_step`.
        rng: of the moves.
        steps: moves that are tried, each of them an audit.
        others: see `audit_step`; they are moved, too.
        laws: see `audit_step`.
        alphas: see `audit_step`.

    Returns:
        (logits, followed by `others` if there are any, the audit of largest `worst_divergence`, the largest
        `worst` of all that were tried).
    """
    at = np.asarray(logits, np.float64)
    n_rows = len(at)
    if others is not None:
        at = np.concatenate([at, np.asarray(others, np.float64)])

    def audited(rows: Floats) -> StepAudit:
        more = None if others is None else rows[n_rows:]
        return audit_step(
            rows[:n_rows], mask, config, numbers, others=more, laws=laws, alphas=alphas
        )

    best = audited(at)
    worst = best.worst
    for _ in range(steps):
        where = rng.random(at.shape) < rng.choice([0.02, 0.2, 1.0])
        moved = at + where * rng.standard_normal(at.shape) * rng.choice([0.1, 1.0, 5.0])
        found = audited(moved)
        worst = max(worst, found.worst)
        if found.worst_divergence > best.worst_divergence:
            at, best = moved, found
    return at, best, worst


def losses(
    drawn_from: npt.ArrayLike, other: npt.ArrayLike, n: int, rng: np.random.Generator
) -> Floats:
    """[n] log-likelihood ratios of n texts from laws that do not depend on what was drawn before.

    Args:
        drawn_from: [T, k] log-probabilities of each token; texts are drawn from these.
        other: [T, k] those that they are compared with.
        n: texts.
        rng: of the draws.
    """
    a, b = np.asarray(drawn_from, np.float64), np.asarray(other, np.float64)
    total = np.zeros(n)
    for t in range(len(a)):
        token = rng.choice(a.shape[1], n, p=np.exp(oracle.log_softmax(a[t])))
        total += (oracle.log_softmax(a[t]) - oracle.log_softmax(b[t]))[token]
    return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodAudit:
    """How much of a delta is proven to be spent.

    Attributes:
        epsilon: claimed.
        delta: claimed.
        estimate: of the smallest delta that `epsilon` can hold with, by the larger direction.
        lower_bound: that delta is at least this, with confidence 1 - significance.
    """

    epsilon: float
    delta: float
    estimate: float
    lower_bound: float

    @property
    def refutes(self) -> bool:
        """Whether the claim cannot be true, but for the significance."""
        return self.lower_bound > self.delta


def audit_likelihood(
    inside: npt.ArrayLike,
    outside: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    significance: float = 0.05,
) -> LikelihoodAudit:
    """Holds log-likelihood ratios of sampled texts against a claim.

    Args:
        inside: [n] log M(y) - log M'(y) of texts y drawn from M, the laws with the canary.
        outside: [m] log M'(y) - log M(y) of texts drawn from M', without it.
        epsilon: claimed.
        delta: claimed.
        significance: probability that the lower bound is too high.

    Raises:
        ConfigError: fewer than two texts on a side, or numbers out of range.

    References:
        Maurer and Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", 2009,
        arXiv 0907.3740, Theorem 4.
    """
    positive(epsilon=epsilon)
    in_range(0, 1, ends="()", delta=delta, significance=significance)
    sides = []
    for values in (np.asarray(inside, np.float64), np.asarray(outside, np.float64)):
        if values.ndim != 1 or len(values) < 2 or np.isnan(values).any():
            raise ConfigError("log-likelihood ratios must be two numbers or more on each side.")
        spent = np.maximum(-np.expm1(np.minimum(epsilon - values, 0)), 0)
        n, level = len(values), math.log(4 / significance)  # two sides share it
        slack = math.sqrt(2 * spent.var(ddof=1) * level / n) + 7 * level / (3 * (n - 1))
        sides.append((float(spent.mean()), float(spent.mean()) - slack))
    return LikelihoodAudit(
        epsilon=epsilon,
        delta=delta,
        estimate=max(side[0] for side in sides),
        lower_bound=max(0.0, *(side[1] for side in sides)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MembershipAudit:
    """What an attacker shows who knows both laws.

    Attributes:
        attack: lower bound on epsilon, area under the curve.
        tpr: share of texts with the canary that are found where 1 % of those without it are.
    """

    attack: audit.Audit
    tpr: float

    @property
    def refutes(self) -> bool:
        """Whether the claim cannot be true, but for the significance."""
        return self.attack.refutes


def audit_membership(
    inside: npt.ArrayLike,
    outside: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    significance: float = 0.05,
) -> MembershipAudit:
    """Tells texts with a canary from texts without it by their likelihood ratio.

    Args:
        inside: [n] log M(y) - log M'(y) of texts drawn with the canary.
        outside: [m] the same of texts drawn without it.
        epsilon: claimed.
        delta: claimed.
        significance: see `privacy.audit.of_scores`.

    Raises:
        MissingExtraError: jax-privacy is not installed.
        ConfigError: numbers out of range.
    """
    attack = audit.of_scores(
        inside, outside, epsilon=epsilon, delta=delta, significance=significance
    )
    level = np.quantile(np.asarray(outside, np.float64), 0.99, method="higher")
    return MembershipAudit(attack=attack, tpr=float((np.asarray(inside) > level).mean()))


def hidden_temperature(config: Config, numbers: Numbers) -> Laws:
    """Planted fault: a temperature of one half after the pool."""
    right = laws_of(config, numbers)
    return lambda logits, masks: jax.nn.log_softmax(right(logits, masks) / 0.5, axis=-1)


def no_contract(config: Config, numbers: Numbers) -> Laws:
    """Planted fault: lambda is 1 for every row."""
    return laws_of(config, dataclasses.replace(numbers, eta=math.inf))


def divided_by_drawn(config: Config, numbers: Numbers) -> Laws:
    """Planted fault: the weight is 1 / (demonstrations drawn)."""
    traced = parameters(config, numbers)

    def laws(logits: jax.Array, masks: jax.Array) -> jax.Array:
        def one(mask: jax.Array) -> jax.Array:
            drawn = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1).astype(jnp.float32)
            return sampling.law(logits, mask, config, traced.replace(weight=1 / drawn))[1]

        return jax.vmap(one)(masks)

    return laws


def top_p_of_pool(config: Config, numbers: Numbers) -> Laws:
    """Planted fault: only the likeliest tokens of the pool, up to 0.9 of its mass, can be drawn."""
    right = laws_of(config, numbers)

    def laws(logits: jax.Array, masks: jax.Array) -> jax.Array:
        logp = right(logits, masks)
        in_order = -jnp.sort(-logp, axis=-1)
        before = jnp.cumsum(jnp.exp(in_order), axis=-1) - jnp.exp(in_order)
        last = jnp.where(before < 0.9, in_order, jnp.inf).min(-1, keepdims=True)
        return jax.nn.log_softmax(jnp.where(logp >= last, logp, -jnp.inf), axis=-1)

    return laws


FAULTS: dict[str, Callable[[Config, Numbers], Laws]] = {
    "hidden temperature": hidden_temperature,
    "lambda forced to 1": no_contract,
    "weight 1 / drawn": divided_by_drawn,
    "top-p after the pool": top_p_of_pool,
}
"""Controls: an audit that finds nothing means something only where these are found."""
