"""Contracts: what one demonstration may say, decided from its own row and the zero-shot row alone.

A row's log-ratio is l = log p_i - log p_0 on the tokens that can be drawn, each side normalised there. A
contract returns log r, a shrunken l. Nothing here looks across rows: the proofs need it (assumption ii).
"""

from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32
from ariel_jax._typing import Array, Bool, Float, typed
from ariel_jax.algorithms.mozo import solver
from ariel_jax.algorithms.mozo.config import Config
from ariel_jax.algorithms.mozo.parameters import Parameters

_COUNTED = 256  # rows up to here are ordered by counting, which no loop has to be entered for
_BIG = 60.0  # e^60 times anything that a row is multiplied by is a float32


@typed
def contract_rows(
    logp0: Float[Array, " k"],
    logits0: Float[Array, " k"],
    logits: Float[Array, "N k"],
    config: Config,
    parameters: Parameters,
) -> Float[Array, "N k"]:
    """Bounds every row.

    Args:
        logp0: log-probabilities of the anchor, the zero-shot row after tau0 and public bias; minus
            infinity on tokens that cannot be drawn.
        logits0: the zero-shot row's logits on the same tokens, as the model gave them.
        logits: one-shot rows'.
        config: static.
        parameters: traced.

    Returns:
        log r in at least float32, up to a constant for each row. A row that is not finite on a token
        that can be drawn is absent: zeros. A range contract keeps max - min of each row at or below
        eta; a ball keeps the divergences of exp(logp0 + log r), normalised, from the anchor at or
        below c in both directions (and KL at or below G with the pool `product`).
    """
    dtype = at_least_f32(logits.dtype)
    inside = logp0 > -jnp.inf
    ratios = log_ratios(logits0.astype(dtype), logits.astype(dtype), inside)
    if config.contract == "scale":
        return _scaled(ratios, parameters.eta.astype(dtype))
    if config.contract == "linear":
        return _mixed(ratios, parameters.eta.astype(dtype))
    if config.contract == "clip":
        return _clipped(ratios, inside, parameters.eta.astype(dtype))
    assert config.alpha is not None
    return solver.shrink(
        logp0.astype(dtype),
        ratios,
        alpha=config.alpha,
        radius=parameters.renyi_c.astype(dtype),
        kl_cap=parameters.kl_cap.astype(dtype) if config.pool == "product" else None,
        steps=config.solver_steps,
        is_linear=config.contract == "renyi_linear",
    )


@typed
def log_ratios(
    logits0: Float[Array, " k"], logits: Float[Array, "N k"], inside: Bool[Array, " k"]
) -> Float[Array, "N k"]:
    """The log-ratios log p_i - log p_0 of each row, normalised over the tokens `inside`; 0 outside and in absent rows."""
    zero_shot = jax.nn.log_softmax(jnp.where(inside, logits0, -jnp.inf))
    rows = jax.nn.log_softmax(jnp.where(inside[None, :], logits, -jnp.inf), axis=-1)
    found = jnp.where(inside[None, :], rows - zero_shot[None, :], 0)
    return jnp.where(jnp.isfinite(found).all(-1, keepdims=True), found, 0)


@typed
def is_present(logits: Float[Array, "N k"], inside: Bool[Array, " k"]) -> Bool[Array, " N"]:
    """Which rows are finite on every token that can be drawn; the others count as absent."""
    return (jnp.isfinite(logits) | ~inside[None, :]).all(-1)


def _spread(ratios: jax.Array) -> jax.Array:
    """[N, 1] max - min; zeros outside the support change neither, as l is normalised."""
    return ratios.max(-1, keepdims=True) - ratios.min(-1, keepdims=True)


def _scaled(ratios: jax.Array, eta: jax.Array) -> jax.Array:
    spread = _spread(ratios)
    scale = jnp.minimum(eta / jnp.where(spread > 0, spread, 1), 1)
    return scale * ratios


def _clipped(ratios: jax.Array, inside: jax.Array, eta: jax.Array) -> jax.Array:
    middle = (jnp.sum(inside, dtype=jnp.int32) - 1) // 2
    centre = _in_order(jnp.where(inside[None, :], ratios, jnp.inf), middle)
    return jnp.where(inside[None, :], jnp.clip(ratios - centre, -eta / 2, eta / 2), 0)


def _in_order(values: jax.Array, place: jax.Array) -> jax.Array:
    """[N, 1] the number at a place [] of each row's order, from 0."""
    k = values.shape[-1]
    if k > _COUNTED:
        return _selected(values, place)
    upto = jnp.sum(values[:, None, :] <= values[:, :, None], axis=-1, dtype=jnp.int32)
    return jnp.min(jnp.where(upto > place, values, jnp.inf), axis=-1, keepdims=True)


def _selected(values: jax.Array, place: jax.Array) -> jax.Array:
    """`_in_order` of long rows: a bisection over the ordered bit patterns of floats, always all its turns.

    Of 256,000 tokens it takes a twenty-fifth of the time of sorting on a CPU.
    """
    integer = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    least, most = (jnp.asarray(end, integer) for end in _ends(integer))
    raw = jax.lax.bitcast_convert_type(values, integer)
    order = jnp.where(raw < 0, raw ^ most, raw)  # compares as the floats do

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low >> 1) + (high >> 1) + (low & high & 1)  # rounds down, cannot overflow
        reached = jnp.sum(order <= middle, axis=-1, keepdims=True, dtype=jnp.int32) > place
        return jnp.where(reached, low, middle + 1), jnp.where(reached, middle, high)

    ends = jnp.full_like(order[:, :1], least), jnp.full_like(order[:, :1], most)
    found, _ = jax.lax.fori_loop(0, jnp.iinfo(integer).bits, halve, ends)
    return jax.lax.bitcast_convert_type(jnp.where(found < 0, found ^ most, found), values.dtype)


def _ends(integer: Any) -> tuple[int, int]:
    info = jnp.iinfo(integer)
    return int(info.min), int(info.max)


def _mixed(ratios: jax.Array, eta: jax.Array) -> jax.Array:
    """log(1 + lambda (e^l - 1)) with the largest lambda <= 1 that keeps its range at eta.

    With R = e^max and m = e^min: lambda = (1 - e^-eta) / (e^-eta (R - 1) + (1 - m)), here in logarithms,
    in which neither a huge R nor an infinite eta overflows.
    """
    tiny = jnp.finfo(ratios.dtype).tiny
    top = jnp.maximum(ratios.max(-1, keepdims=True), tiny)
    bottom = jnp.minimum(ratios.min(-1, keepdims=True), -tiny)
    log_above = top + jnp.log(-jnp.expm1(-top)) - eta
    log_below = jnp.log(-jnp.expm1(bottom))
    log_scale = jnp.log(-jnp.expm1(-eta)) - jnp.logaddexp(log_above, log_below)
    log_scale = jnp.minimum(log_scale, 0)
    scale = jnp.exp(log_scale)
    moved = scale * jnp.expm1(jnp.minimum(ratios, _BIG))
    # Near 0 the first form keeps what the second loses; far from it the second does.
    is_far = (ratios > _BIG) | (moved < -0.5)
    near = jnp.log1p(jnp.where(is_far, 0, moved))
    far = jnp.logaddexp(jnp.log1p(-scale), log_scale + jnp.where(is_far, ratios, 0))
    found = jnp.where(is_far, far, near)
    return jnp.minimum(found, found.min(-1, keepdims=True) + eta)  # whatever rounding did
