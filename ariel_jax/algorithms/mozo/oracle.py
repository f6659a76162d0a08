"""One step as its definition reads, in NumPy and float64, and exact divergences between laws."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ariel_jax.algorithms.mozo.config import FLOOR, Config, Numbers
from ariel_jax.errors import ConfigError

Floats = npt.NDArray[np.float64]


def log_softmax(values: Floats) -> Floats:
    """Over the last axis; minus infinity stays."""
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def law(
    logits: npt.ArrayLike,
    mask: npt.ArrayLike,
    config: Config,
    numbers: Numbers,
    bias: npt.ArrayLike | None = None,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """(token ids [k], log-probabilities [k]) of one step, with the numbers as they are priced.

    Args:
        logits: [N + 1, V], row 0 zero-shot.
        mask: [N] which of the others hold a demonstration.
        config: the settings.
        numbers: of the user.
        bias: [V] on the zero-shot row.
    """
    z = np.asarray(logits, np.float64)
    V = z.shape[1]
    k = V if config.top_k is None else min(config.top_k, V)
    ids = np.arange(V) if k == V else np.argsort(-z[0], kind="stable")[:k]
    biased = z[0, ids] / numbers.tau0
    if bias is not None:
        biased = biased + np.asarray(bias, np.float64)[ids]
    logp0 = log_softmax(biased)
    logp0[logp0 < FLOOR] = -np.inf
    log_r = [contract(logp0, z[0, ids], row[ids], config, numbers) for row in z[1:]]
    return ids, pool(logp0, log_r, np.asarray(mask, bool), config, numbers)


def contract(
    logp0: Floats, logits0: Floats, row: Floats, config: Config, numbers: Numbers
) -> Floats:
    """Log r [k] of one row, up to a constant; zeros where the row is absent."""
    inside = np.isfinite(logp0)
    if not np.isfinite(row[inside]).all():
        return np.zeros_like(logp0)
    ratios = np.zeros_like(logp0)
    ratios[inside] = log_softmax(row[inside]) - log_softmax(logits0[inside])
    l = ratios[inside]
    if config.contract == "scale":
        spread = l.max() - l.min()
        l = l * min(1.0, numbers.eta / spread if spread > 0 else 1.0)
    elif config.contract == "clip":
        l = np.clip(l - np.sort(l)[(len(l) - 1) // 2], -numbers.eta / 2, numbers.eta / 2)
    elif config.contract == "linear":
        l = _mixed(l, numbers.eta)
    else:
        l = _in_ball(logp0[inside], l, config, numbers)
    ratios[inside] = l
    return ratios


def _mixed(l: Floats, eta: float) -> Floats:
    """The largest lambda by bisection on the range itself, not by the closed form."""

    def log_r(log_scale: float) -> Floats:
        return np.log1p(math.exp(log_scale) * np.expm1(l)) if log_scale < 0 else l

    def fits(log_scale: float) -> bool:
        found = log_r(log_scale)
        return bool(found.max() - found.min() <= eta)

    return log_r(_largest(fits, -700.0, 0.0))  # of a huge ratio lambda keeps only a tiny share


def _in_ball(logp0: Floats, l: Floats, config: Config, numbers: Numbers) -> Floats:
    assert config.alpha is not None
    alpha = config.alpha
    one_shot = log_softmax(logp0 + l)

    def mixed(scale: float) -> Floats:
        if config.contract == "renyi":
            return log_softmax(logp0 + scale * l)
        return np.log((1 - scale) * np.exp(logp0) + scale * np.exp(one_shot))

    def fits(scale: float) -> bool:
        row = mixed(scale)
        good = (
            divergence(row, logp0, alpha) <= numbers.renyi_c
            and divergence(logp0, row, alpha) <= numbers.renyi_c
        )
        return good and (config.pool == "arithmetic" or divergence(logp0, row, 1) <= numbers.kl_cap)

    scale = _largest(fits, 0.0, 1.0)
    return scale * l if config.contract == "renyi" else mixed(scale) - logp0


def _largest(fits: Callable[[float], bool], low: float, high: float) -> float:
    if fits(high):
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def pool(
    logp0: Floats,
    log_r: list[Floats],
    mask: npt.NDArray[np.bool_],
    config: Config,
    numbers: Numbers,
) -> Floats:
    """Log-probabilities [k] of the next token."""
    present = [row for row, is_in in zip(log_r, mask, strict=True) if is_in]
    if config.pool == "product":
        total = logp0 + numbers.weight * sum(present, np.zeros_like(logp0))
        return log_softmax(total / numbers.pool_temperature)
    p0 = np.exp(logp0)
    mixed = [np.exp(log_softmax(logp0 + row)) for row in present]
    with np.errstate(divide="ignore"):
        return np.log(p0 + numbers.weight * sum((p - p0 for p in mixed), np.zeros_like(p0)))


def divergence(logp: npt.ArrayLike, logq: npt.ArrayLike, alpha: float) -> float:
    """Renyi divergence of P from Q, given as log-probabilities [k] that are normalised here.

    Args:
        logp: of P; minus infinity allowed.
        logq: of Q.
        alpha: order; 1 is Kullback and Leibler's, infinity the largest log-ratio.

    Returns:
        At least 0; infinity where P has a token that Q lacks.
    """
    p, q = (log_softmax(np.asarray(values, np.float64)) for values in (logp, logq))
    inside = np.isfinite(p)
    if not np.isfinite(q[inside]).all():
        return math.inf
    p, ratio = p[inside], p[inside] - q[inside]
    if alpha == math.inf:
        return float(ratio.max())
    if alpha == 1:
        return max(float((np.exp(p) * ratio).sum()), 0.0)
    terms = p + (alpha - 1) * ratio
    top = terms.max()
    return max(float(top + np.log(np.exp(terms - top).sum())) / (alpha - 1), 0.0)


def log_range(logp: npt.ArrayLike, logq: npt.ArrayLike) -> float:
    """Max - min of log P - log Q over the tokens; infinity where only one of them has a token."""
    p, q = np.asarray(logp, np.float64), np.asarray(logq, np.float64)
    inside = np.isfinite(p)
    if (inside != np.isfinite(q)).any():
        return math.inf
    ratio = p[inside] - q[inside]
    return float(ratio.max() - ratio.min())


def bounded_range(alpha: float, h: float) -> float:
    """R(alpha; h): the largest Renyi divergence, either way, of laws whose log-ratio has range h.

    By trying laws on two tokens, whose log-ratios are h - a and -a (Theorem A says that these are the
    worst).
    """
    if h == 0:
        return 0.0
    if math.isinf(h):
        return math.inf
    low, high = 0.0, h
    best = 0.0
    for _ in range(4):  # finer and finer around the best
        a = np.linspace(low, high, 2001)[1:-1]
        found = _two_points(alpha, h, a)
        place = int(found.argmax())
        best = max(best, float(found[place]))
        low, high = a[max(place - 1, 0)], a[min(place + 1, len(a) - 1)]
    return best


def _two_points(alpha: float, h: float, a: Floats) -> Floats:
    weight = -np.expm1(-a) / (np.exp(h - a) - np.exp(-a))
    if alpha == math.inf:
        return np.maximum(h - a, a)
    forward = np.log(weight * np.exp(alpha * (h - a)) + (1 - weight) * np.exp(-alpha * a))
    reverse = np.log(
        weight * np.exp((1 - alpha) * (h - a)) + (1 - weight) * np.exp((alpha - 1) * a)
    )
    return np.maximum(forward, reverse) / (alpha - 1)


def bound(config: Config, numbers: Numbers, alpha: float, *, replaced: bool = False) -> float:
    """What one step may diverge at an order, either way.

    Theorem A for range contracts at every order; B (`product`) and C (`arithmetic`) for balls, up to
    the order that they hold rows to, and infinity beyond.

    Args:
        config: the settings.
        numbers: as they are priced.
        alpha: order.
        replaced: for a demonstration that becomes another one, instead of coming, going or becoming
            nothing: twice the range; for balls half the order, and the weak triangle inequality between
            two rows of one ball.

    Raises:
        ConfigError: an order of at most 1.
    """
    if not alpha > 1:
        raise ConfigError(f"alpha={alpha} is not allowed: pass more than 1.")
    if config.bounds_range:
        return bounded_range(alpha, numbers.h * (2 if replaced else 1))
    assert config.alpha is not None
    order, w, c = float(config.alpha), numbers.weight, numbers.renyi_c
    if replaced:
        # D_a(P||R) <= (a - 1/2) / (a - 1) D_2a(P||Q) + D_(2a-1)(Q||R), and Q is the anchor.
        order = order / 2
        c = c * ((order - 0.5) / (order - 1) + 1) if order > 1 else math.inf
    if alpha > order:
        return math.inf
    if config.pool == "product":
        return w * c + order / (order - 1) * numbers.kl_cap
    return math.log1p(w * math.expm1((order - 1) * c)) / (order - 1)
