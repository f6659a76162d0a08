"""Rényi curves of what one block of tokens tells about one demonstration: NumPy in float64, no JAX.

A *step* draws one token from pooled laws. Its curve is `bounded_range` under the range contracts, and
`geometric` or `arithmetic` under a Rényi ball. A *block* draws several tokens with one subset of the
demonstrations; its curve is the sum. `poisson` and `without_replacement` then say what a block costs whose
subset is drawn in secret. All curves are bounds in both directions at each of `renyi.ORDERS`.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ariel_jax._checks import in_range, non_negative
from ariel_jax.privacy.renyi import ORDERS

Curve = npt.NDArray[np.float64]

WHOLE: npt.NDArray[np.int64] = np.unique(np.ceil(ORDERS)).astype(np.int64)
"""The whole orders at which sampled blocks are priced; an order between two of them takes the next one's
price, because Rényi divergences grow with their order."""
WHOLE.setflags(write=False)

MOMENTS: npt.NDArray[np.int64] = np.arange(2, int(WHOLE[-1]) + 1)
"""The orders at which a block's curve is needed to price its secret draw."""
MOMENTS.setflags(write=False)


def simple_bounded_range(orders: npt.ArrayLike, influence: float) -> Curve:
    """min(alpha h^2 / 8, h): what `bounded_range` never exceeds, for hand calculations."""
    non_negative(influence=influence)
    return np.minimum(np.asarray(orders, np.float64) * influence**2 / 8, influence)


def bounded_range(orders: npt.ArrayLike, influence: float) -> Curve:
    """Largest Rényi divergence of two laws whose log-ratio has a range of at most h, either way round.

    Args:
        orders: above 1.
        influence: h, the range (largest minus least) of the log-ratio.

    Returns:
        float64, of the shape of `orders`.

    Guarantees:
        It is reached: by two tokens whose log-ratios are h apart. It is rounded upwards, by less than
        1e-12, and never exceeds `simple_bounded_range`.

    For a mean of 1 and ratios within [e^-a, e^(h-a)] the moment E ratio^alpha is largest for the law on the
    two ends, because x^alpha is convex, and equals u^(alpha-1) (A - B u) / (e^h - 1) with u = e^-a,
    A = e^(alpha h) - 1 and B = e^(alpha h) - e^h. It is largest at u = (alpha-1) A / (alpha B), which lies
    between e^-h and 1. Turning the two laws round turns a into h - a and changes nothing else.

    References:
        That an exponential mechanism of bounded range costs alpha h^2 / 8: Dong, Durfee, Rogers 2020
        (arXiv 1909.13830); Cesar, Rogers 2021 (arXiv 2004.07223). The closed form is derived here.
    """
    alpha = np.asarray(orders, np.float64)
    simple = simple_bounded_range(alpha, influence)
    if influence == 0:
        return simple
    log_a = _log_expm1(alpha * influence)
    log_b = influence + _log_expm1((alpha - 1) * influence)
    log_u = np.log1p(-1 / alpha) + log_a - log_b
    moment = log_a - np.log(alpha) - _log_expm1(np.float64(influence))
    rounding = 4e-15 * (1 + influence) * alpha / (alpha - 1)
    tight = np.maximum(log_u + moment / (alpha - 1), 0.0) + rounding
    return np.minimum(tight, simple)


def geometric(
    orders: npt.ArrayLike,
    *,
    alpha: int,
    radius: float,
    kl_cap: float,
    weight: float,
    replaced: bool,
) -> Curve:
    """A step with a Rényi ball and the product pool, for weights that add up to at most 1.

    Args:
        orders: above 1.
        alpha: the order at which the ball is enforced.
        radius: c, of the ball around the zero-shot law, in both directions.
        kl_cap: G, the most that the divergence of the zero-shot law from a contracted one may be.
        weight: w, of a demonstration.
        replaced: whether a demonstration becomes another one, instead of coming or going.

    Returns:
        float64, of the shape of `orders`: w c + alpha / (alpha - 1) G up to order alpha, infinity above it.
        `replaced`: up to alpha / 2, with the radius between two contracted laws in place of c (the weak
        triangle inequality, `between`).
    """
    order, c = _enforced(alpha, radius, replaced)
    bound = weight * c + (order / (order - 1) * kl_cap if order > 1 else math.inf)
    return _up_to(orders, order, bound)


def arithmetic(
    orders: npt.ArrayLike, *, alpha: int, radius: float, weight: float, replaced: bool
) -> Curve:
    """A step with a Rényi ball and the average of laws, for weights that add up to at most 1.

    Args:
        orders: above 1.
        alpha: the order at which the ball is enforced.
        radius: c, as in `geometric`.
        weight: w, of a demonstration.
        replaced: as in `geometric`.

    Returns:
        float64, of the shape of `orders`: log(1 + w (e^((alpha-1) c) - 1)) / (alpha - 1) up to alpha,
        infinity above it; `replaced` as in `geometric`.
    """
    order, c = _enforced(alpha, radius, replaced)
    if order <= 1 or math.isinf(c):
        return _up_to(orders, order, math.inf)
    grown = math.log(weight) + float(_log_expm1(np.float64((order - 1) * c))) if c else -math.inf
    return _up_to(orders, order, float(np.logaddexp(0.0, grown)) / (order - 1))


def between(alpha: int, radius: float) -> float:
    """How far two laws in one ball of order alpha can be apart, at order alpha / 2; infinity for alpha <= 2.

    By D_a(P||R) <= (a - 1/2) / (a - 1) D_2a(P||Q) + D_(2a-1)(Q||R) with 2 a = alpha.
    """
    return radius * ((alpha - 1) / (alpha - 2) + 1) if alpha > 2 else math.inf


def _enforced(alpha: int, radius: float, replaced: bool) -> tuple[float, float]:
    return (alpha / 2, between(alpha, radius)) if replaced else (float(alpha), radius)


def _up_to(orders: npt.ArrayLike, order: float, bound: float) -> Curve:
    return np.where(np.asarray(orders, np.float64) <= order, bound, math.inf)


def poisson(block: Curve, probability: float) -> Curve:
    """A block whose demonstrations each come in by a secret coin, for one that is added or removed.

    Args:
        block: [len(MOMENTS)] curve of the block with any fixed subset, at `MOMENTS`; infinity for no bound.
        probability: of the coins.

    Returns:
        [len(ORDERS)] float64: the larger one of the two directions, and never more than the block itself.
    """
    in_range(0, 1, ends="(]", probability=probability)
    whole = np.maximum(poisson_forward(block, probability), poisson_reverse(block, probability))
    return at_orders(np.minimum(whole, block[WHOLE - 2]))


def poisson_forward(block: Curve, probability: float) -> Curve:
    """With the demonstration against without it, at `WHOLE`: the binomial expansion, exact for the bounds.

    log(1 + sum over j = 2 .. alpha of C(alpha, j) (1-q)^(alpha-j) q^j (e^((j-1) E(j)) - 1)) / (alpha - 1), a
    sum of positive terms.
    """
    keep = math.log1p(-probability) if probability < 1 else -math.inf

    def log_weight(alpha: int, j: npt.NDArray[np.int64]) -> Curve:
        left = (alpha - j) * keep if probability < 1 else np.where(j == alpha, 0.0, -math.inf)
        return np.asarray(left + j * math.log(probability), np.float64)

    def log_moment(j: npt.NDArray[np.int64], curve: Curve) -> Curve:
        return _log_expm1((j - 1) * curve)

    return _summed(block, log_weight, log_moment)


def poisson_reverse(block: Curve, probability: float) -> Curve:
    """Without the demonstration against with it, at `WHOLE`.

    log(1 + ((1-q)^(1-alpha) - 1 - (alpha-1) q) (e^E(2) - 1)) / (alpha - 1): the remainder of
    (1 + x)^(1-alpha) after its linear term, over x^2, falls with x, and x >= -q.
    """
    if probability == 1:
        return np.full(len(WHOLE), math.inf)
    power = WHOLE - 1.0
    grown = -power * math.log1p(-probability)
    at_second = float(block[0])
    if at_second == 0:
        return np.zeros(len(WHOLE))
    with np.errstate(over="ignore"):
        # Rounded upwards: what is left of the difference.
        left = np.expm1(grown) - power * probability + 1e-15 * power * probability
    log_left = np.where(grown > 600, grown, np.log(np.where(grown > 600, 1.0, left)))
    return np.logaddexp(0.0, log_left + float(_log_expm1(np.float64(at_second)))) / power


def without_replacement(block: Curve, at_infinity: float, share: float) -> Curve:
    """A block with a subset of fixed size, drawn uniformly, for a demonstration that becomes another one.

    Args:
        block: [len(MOMENTS)] curve of the block for a replaced demonstration, at `MOMENTS`.
        at_infinity: most that its log-ratio can be; infinity for no bound.
        share: size of the subset over the number of demonstrations.

    Returns:
        [len(ORDERS)] float64, never more than the block itself.

    References:
        Wang, Balle, Kasiviswanathan, "Subsampled Rényi Differential Privacy and Analytical Moments
        Accountant", 2019, arXiv 1808.00087, Theorem 9. Recalled and not read again; the tests hold it
        against enumerated subsets.
    """
    in_range(0, 1, ends="(]", share=share)
    log_span = float(_log_expm1(np.float64(at_infinity))) if at_infinity else -math.inf

    def log_weight(alpha: int, j: npt.NDArray[np.int64]) -> Curve:
        return np.asarray(j * math.log(share), np.float64)

    def log_moment(j: npt.NDArray[np.int64], curve: Curve) -> Curve:
        found = (j - 1) * curve + np.minimum(math.log(2), j * log_span)
        second = math.log(4) + _log_expm1(curve[:1])
        return np.concatenate([np.minimum(found[:1], second), found[1:]])

    found = np.minimum(_summed(block, log_weight, log_moment), block[WHOLE - 2])
    return at_orders(found)


def _summed(
    block: Curve,
    log_weight: Callable[[int, npt.NDArray[np.int64]], Curve],
    log_moment: Callable[[npt.NDArray[np.int64], Curve], Curve],
) -> Curve:
    """log(1 + sum over j of C(alpha, j) weight moment) / (alpha - 1) at `WHOLE`."""
    moments = log_moment(MOMENTS, block)
    found = []
    for alpha in WHOLE.tolist():
        j = MOMENTS[: alpha - 1]
        weight = log_weight(alpha, j)
        # What has no weight costs nothing, even where there is no bound on it.
        moment = np.where(np.isneginf(weight), 0.0, moments[: alpha - 1])
        terms = _log_binomials(alpha)[2:] + weight + moment
        top = terms.max()
        if not np.isfinite(top):
            found.append(math.inf if top > 0 else 0.0)
            continue
        total = top + math.log(np.exp(terms - top).sum())
        found.append(float(np.logaddexp(0.0, total)) / (alpha - 1))
    return np.array(found)


def at_orders(whole: Curve) -> Curve:
    """[len(ORDERS)] from [len(WHOLE)]: each order takes what the next whole one costs."""
    return whole[np.searchsorted(WHOLE, ORDERS)]


_LOG_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(ORDERS[-1]) + 1)))])


def _log_binomials(n: int) -> Curve:
    """Log C(n, j) for j = 0 .. n."""
    return _LOG_FACTORIALS[n] - _LOG_FACTORIALS[: n + 1] - _LOG_FACTORIALS[n::-1]


def _log_expm1(x: npt.NDArray[np.float64] | np.float64) -> Curve:
    """log(e^x - 1) for x >= 0; minus infinity at 0."""
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore"):
        return np.where(x < 30, np.log(np.expm1(np.minimum(x, 30))), x + np.log1p(-np.exp(-x)))
