"""The largest lambda that keeps a row inside a Renyi ball: fixed halvings of a well-conditioned function.

Two families of rows lie between the anchor p_0 (lambda = 0) and the one-shot row (1): p_0 e^{lambda l},
normalised, and (1 - lambda) p_0 + lambda p. All three divergences from p_0 are made of logarithms of 1 plus
positive terms. As differences of log-sum-exps the same numbers are several percent wrong in float32 at small
lambda. All of them never fall as lambda grows.
"""

import jax
import jax.numpy as jnp

_SERIES = 0.3  # where the series of e^y - 1 - y takes over
_POWERS = 0.1  # where that of (1 + x)^s - 1 - s x does, by |s x|
_LEAST = -64.0  # the smallest log lambda above 0 that is tried where probabilities are mixed


def shrink(
    logp0: jax.Array,
    ratios: jax.Array,
    *,
    alpha: int,
    radius: jax.Array,
    kl_cap: jax.Array | None,
    steps: int,
    is_linear: bool,
) -> jax.Array:
    """Each row's log-ratio to p_0, up to a constant, for the largest lambda in [0, 1] that is found feasible.

    Args:
        logp0: [k] normalised log-probabilities; minus infinity where nothing can be drawn.
        ratios: [N, k] log-ratios l.
        alpha: order.
        radius: [] cap on both divergences of that order.
        kl_cap: [] cap on KL(p_0 || row); None for none.
        steps: halvings; all are made, whatever the rows are.
        is_linear: mix probabilities instead of scaling log-ratios.

    Returns:
        [N, k]. The feasible end of the last interval, so the caps hold; NaN counts as infeasible.
    """
    rows = normalise(logp0, ratios) if is_linear else centre(logp0, ratios)
    between = mixed_divergences if is_linear else divergences

    def is_feasible(at: jax.Array) -> jax.Array:
        forward, reverse, kl = between(logp0, rows, _share(at) if is_linear else at, alpha)
        good = (forward <= radius) & (reverse <= radius)
        return good if kl_cap is None else good & (kl <= kl_cap)

    def halve(turn: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = jnp.where(turn == 0, high, (low + high) / 2)  # first whether 1 will do
        good = is_feasible(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    n = ratios.shape[0]
    ends = jnp.zeros(n, ratios.dtype), jnp.ones(n, ratios.dtype)
    found, _ = jax.lax.fori_loop(0, steps + 1, halve, ends)
    return mixed(rows, _share(found))[1] if is_linear else found[:, None] * rows


def _share(at: jax.Array) -> jax.Array:
    """Lambda of a place in [0, 1], in equal steps of its logarithm: 0 at 0, 1 at 1.

    Of a token that the anchor gives e^-50 a mixture has to take a share as small; halvings of lambda itself
    would end at 2^-24.
    """
    return jnp.where(at > 0, jnp.exp(_LEAST * (1 - at)), 0)


def centre(logp0: jax.Array, ratios: jax.Array) -> jax.Array:
    """[N, k] log-ratios whose mean under p_0 is 0."""
    inside = (logp0 > -jnp.inf)[None, :]
    for _ in range(2):  # the second time takes away what rounding left of a large mean
        mean = jnp.sum(jnp.exp(logp0)[None, :] * ratios, axis=-1, keepdims=True)
        ratios = jnp.where(inside, ratios - mean, 0)
    return ratios


def divergences(
    logp0: jax.Array, centred: jax.Array, scale: jax.Array, alpha: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """([N] D_alpha(row || p_0), [N] D_alpha(p_0 || row), [N] KL(p_0 || row)) at lambda = scale [N]."""
    far, at, back = psi(logp0, centred, jnp.stack([alpha * scale, scale, (1 - alpha) * scale]))
    return (far - alpha * at) / (alpha - 1), (back + (alpha - 1) * at) / (alpha - 1), at


def psi(logp0: jax.Array, centred: jax.Array, s: jax.Array) -> jax.Array:
    """[S, N] log E_{p_0} e^{s l} for s [S, N] and l [N, k] of mean 0 under p_0."""
    terms = logp0[None, None, :] + log_exp_minus_line(s[:, :, None] * centred[None])
    return jnp.logaddexp(jax.nn.logsumexp(terms, axis=-1), 0)


def log_exp_minus_line(y: jax.Array) -> jax.Array:
    """log(e^y - 1 - y), minus infinity at 0, without cancellation or overflow."""
    is_high, is_low = y >= _SERIES, y <= -_SERIES
    high = jnp.where(is_high, y, 1)
    low = jnp.where(is_low, y, -1)
    near = jnp.where(is_high | is_low, 0, y)
    series = near / 3 * (1 + near / 4 * (1 + near / 5 * (1 + near / 6)))
    found = 2 * jnp.log(jnp.abs(near)) - jnp.log(2.0).astype(y.dtype) + jnp.log1p(series)
    found = jnp.where(is_high, high + jnp.log1p(-(1 + high) * jnp.exp(-high)), found)
    return jnp.where(is_low, jnp.log(jnp.expm1(low) - low), found)


def normalise(logp0: jax.Array, ratios: jax.Array) -> jax.Array:
    """[N, k] log p - log p_0 of the rows p_0 e^l, normalised; 0 outside the support and where l is 0."""
    inside = (logp0 > -jnp.inf)[None, :]
    says = (ratios != 0).any(-1, keepdims=True)
    moved = ratios - jax.nn.logsumexp(logp0[None, :] + ratios, axis=-1, keepdims=True)
    for _ in range(2):  # a small rest of the mean to the digits of the row itself, not of 1
        rest = jnp.sum(jnp.exp(logp0)[None, :] * jnp.expm1(moved), axis=-1, keepdims=True)
        moved = moved - jnp.log1p(rest)
    return jnp.where(inside & says, moved, 0)


def mixed(rows: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """([N, k] x = lambda (e^l - 1), [N, k] log(1 + x)) of log-ratios l [N, k] at lambda = scale [N]."""
    x = scale[:, None] * jnp.expm1(rows)
    is_far = x < -0.5  # where 1 + x has lost the digits of a small ratio
    near = jnp.log1p(jnp.where(is_far, 0, x))
    far = jnp.logaddexp(jnp.log1p(-scale)[:, None], jnp.log(scale)[:, None] + rows)
    return x, jnp.where(is_far, far, near)


def mixed_divergences(
    logp0: jax.Array, rows: jax.Array, scale: jax.Array, alpha: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`divergences` of (1 - lambda) p_0 + lambda p for rows p given as log p - log p_0 [N, k]."""
    x, log_r = mixed(rows, scale)

    def order(s: int) -> jax.Array:
        terms = logp0[None, :] + log_power_minus_line(x, log_r, s)
        return jnp.logaddexp(jax.nn.logsumexp(terms, axis=-1), 0) / (alpha - 1)

    near = jnp.where(jnp.abs(x) < _POWERS, x, 0)
    series = jnp.ones_like(x)
    for n in (7, 6, 5, 4, 3):
        series = 1 - near * (n - 1) / n * series
    lost = jnp.where(jnp.abs(x) < _POWERS, near * near / 2 * series, x - log_r)
    return order(alpha), order(1 - alpha), jnp.sum(jnp.exp(logp0)[None, :] * lost, axis=-1)


def log_power_minus_line(x: jax.Array, log_r: jax.Array, s: int) -> jax.Array:
    """log((1 + x)^s - 1 - s x) for log_r = log(1 + x) and whole s outside 0 and 1, minus infinity at x = 0."""
    is_near = jnp.abs(s * x) < _POWERS
    near = jnp.where(is_near, x, 0)
    series = jnp.ones_like(x)
    for n in (7, 6, 5, 4, 3):
        series = 1 + near * (s - n + 1) / n * series
    found = jnp.log(jnp.asarray(s * (s - 1) / 2, x.dtype)) + 2 * jnp.log(jnp.abs(near))
    found = found + jnp.log(series)
    power = s * log_r
    is_high = ~is_near & (power > 1)
    high = jnp.where(is_high, power, 1)
    above = high + jnp.log1p(-(1 + jnp.where(is_high, s * x, 0)) * jnp.exp(-high))
    low = jnp.expm1(jnp.where(is_high | is_near, 1, power)) - jnp.where(is_high | is_near, 0, s * x)
    return jnp.where(is_near, found, jnp.where(is_high, above, jnp.log(low)))
