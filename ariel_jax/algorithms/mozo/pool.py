"""Pools: bounded rows and the anchor mixed into the one law that a token is drawn from.

The product is added up in whole multiples of a small part of a nat, so that it is exact: neither the order of
the rows nor a split over devices changes a bit, and a row's influence is its own range and nothing else.
"""

import math

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32
from ariel_jax._typing import Array, Bool, Float, typed
from ariel_jax.algorithms.mozo.config import Config
from ariel_jax.algorithms.mozo.parameters import Parameters

# In nats. `sampling.support` leaves no token below e^-50, and a row inside a ball of radius up to 12 stays
# within its part. What a row may add is far above every influence that a budget allows.
_ANCHOR, _ROW = 63, 16


def fixed_point(n_rows: int) -> tuple[float, int]:
    """(most that a row may add, in nats; units in a nat) so that the sum of anchor and rows fits int32.

    2**23 units in a nat for up to 4 rows, 2**21 for 25, 2**19 for 100: what rounding to them adds to a range is
    one unit, which `parameters` takes off the caps many times over (2**-14).
    """
    row = max(_ANCHOR / max(n_rows, 1), float(_ROW))
    return row, 2 ** (30 - math.ceil(math.log2(_ANCHOR + n_rows * row)))


@typed
def pool(
    logp0: Float[Array, " k"],
    log_r: Float[Array, "N k"],
    mask: Bool[Array, " N"],
    config: Config,
    parameters: Parameters,
) -> Float[Array, " k"]:
    """The law of the next token.

    Args:
        logp0: log-probabilities of the anchor; minus infinity on tokens that cannot be drawn.
        log_r: what the contract made of each row.
        mask: which rows hold a demonstration. The weight of one does not depend on how many do.
        config: static.
        parameters: traced.

    Returns:
        Log-probabilities, in the dtype of `log_r`, minus infinity where the anchor's are.
        `product`: the anchor times every present row's r to the power of the weight, all of it to the
        power of 1 / pool_temperature. `arithmetic`: the anchor plus weight times the sum of each present
        row's difference from it.
    """
    dtype = at_least_f32(log_r.dtype)
    logp0, log_r = logp0.astype(dtype), log_r.astype(dtype)
    if config.pool == "arithmetic":
        return mean(logp0, log_r, mask, parameters.weight.astype(dtype))
    return product(logp0, log_r, mask, parameters)


def product(
    logp0: jax.Array, log_r: jax.Array, mask: jax.Array, parameters: Parameters
) -> jax.Array:
    """[k] of [k] and [N, k]: see `pool`. Bounds nothing by itself."""
    dtype = log_r.dtype
    temperature = parameters.pool_temperature.astype(dtype)
    most, units = fixed_point(log_r.shape[0])
    rows = _units(log_r * (parameters.weight.astype(dtype) / temperature), most, units)
    total = _units(logp0 / temperature, _ANCHOR, units) + jnp.sum(
        jnp.where(mask[:, None], rows, 0), axis=0, dtype=jnp.int32
    )
    inside = logp0 > -jnp.inf
    top = jnp.max(jnp.where(inside, total, jnp.iinfo(jnp.int32).min))
    logits = (total - top).astype(dtype) / units
    return jax.nn.log_softmax(jnp.where(inside, logits, -jnp.inf))


def mean(logp0: jax.Array, log_r: jax.Array, mask: jax.Array, weight: jax.Array) -> jax.Array:
    """[k] of [k] and [N, k]: see `pool`. Bounds nothing by itself."""
    mixed = jax.nn.log_softmax(logp0[None, :] + log_r, axis=-1)
    left = 1 - weight * jnp.sum(mask, dtype=jnp.int32).astype(weight.dtype)
    anchor = jnp.log(jnp.maximum(left, 0)) + logp0
    rows = jnp.where(mask[:, None], jnp.log(weight) + mixed, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([anchor[None, :], rows]), axis=0)


def _units(values: jax.Array, limit: float, units: int) -> jax.Array:
    """int32 multiples of a unit, cut off at +-limit nats (which no range grows by)."""
    return jnp.rint(jnp.clip(values, -limit, limit) * units).astype(jnp.int32)
