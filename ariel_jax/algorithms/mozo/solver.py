"""The largest lambda that keeps a row inside a Renyi ball: fixed halvings of a well-conditioned function.

With l centred so that its mean under p_0 is 0, psi(s) = log E_{p_0} e^{s l} is a logarithm of 1 plus
positive terms, and all three divergences between p_0 and p_0 e^{lambda l} (normalised) are made of it. As
a difference of two log-sum-exps the same numbers are several percent wrong in float32 at small lambda.
"""

import jax
import jax.numpy as jnp

_SERIES = 0.3  # where the series of e^y - 1 - y takes over


def shrink(
    logp0: jax.Array,
    ratios: jax.Array,
    *,
    alpha: int,
    radius: jax.Array,
    kl_cap: jax.Array | None,
    steps: int,
) -> jax.Array:
    """Each row's lambda l, l centred under p_0, for the largest lambda in [0, 1] that is found feasible.

    Args:
        logp0: [k] normalised log-probabilities; minus infinity where nothing can be drawn.
        ratios: [N, k] log-ratios.
        alpha: order.
        radius: [] cap on both divergences of that order.
        kl_cap: [] cap on KL(p_0 || row); None for none.
        steps: halvings; all are made, whatever the rows are.

    Returns:
        [N, k]. The feasible end of the last interval, so the caps hold; NaN counts as infeasible.
    """
    centred = centre(logp0, ratios)

    def is_feasible(scale: jax.Array) -> jax.Array:
        forward, reverse, kl = divergences(logp0, centred, scale, alpha)
        good = (forward <= radius) & (reverse <= radius)
        return good if kl_cap is None else good & (kl <= kl_cap)

    def halve(turn: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = jnp.where(turn == 0, high, (low + high) / 2)  # first whether 1 will do
        good = is_feasible(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    n = ratios.shape[0]
    ends = jnp.zeros(n, ratios.dtype), jnp.ones(n, ratios.dtype)
    scale, _ = jax.lax.fori_loop(0, steps + 1, halve, ends)
    return scale[:, None] * centred


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
