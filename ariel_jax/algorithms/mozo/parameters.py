"""The user's numbers as traced leaves, a little below what is priced so that rounding stays inside."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ariel_jax.algorithms.mozo.config import Config, Numbers, check

DEFLATION = 1e-5
"""Relative, of every cap: what float32 may miss it by."""
ROUNDING = 2.0**-16
"""A token's probability, as float32 draws it, is within exp(+-ROUNDING) of the step's law."""


class Parameters(struct.PyTreeNode):
    """`Numbers` on the device; made by `parameters`, which checks them first."""

    eta: jax.Array  # [] f32, what the rows are held to: below the priced one
    weight: jax.Array  # [] f32, rounded down
    renyi_c: jax.Array  # [] f32, below the priced one
    kl_cap: jax.Array  # [] f32, below the priced one
    tau0: jax.Array  # [] f32
    pool_temperature: jax.Array  # [] f32


def parameters(config: Config, numbers: Numbers) -> Parameters:
    """The traced form of a user's numbers.

    Rows are held to caps that are smaller than what is priced: relatively by `DEFLATION`, and by what
    `ROUNDING` of two neighbouring laws can add to the range (four of it) or to the divergence.

    Args:
        config: the settings that they belong to.
        numbers: of the user.

    Raises:
        ConfigError: see `config.check`.
    """
    check(config, numbers)
    weight = numbers.weight / numbers.pool_temperature
    if config.bounds_range:
        eta = numbers.eta * (1 - DEFLATION) - 4 * ROUNDING / weight
        renyi_c = 0.0
    else:
        assert config.alpha is not None
        eta = 0.0
        slack = ROUNDING * (2 * config.alpha - 1) / (config.alpha - 1)
        renyi_c = numbers.renyi_c * (1 - DEFLATION) - slack / numbers.weight
    return Parameters(
        eta=_below(max(eta, 0.0)),
        weight=_below(numbers.weight),
        renyi_c=_below(max(renyi_c, 0.0)),
        kl_cap=_below(numbers.kl_cap * (1 - DEFLATION)),
        tau0=jnp.asarray(numbers.tau0, jnp.float32),
        # Above: a temperature that is rounded down lets a demonstration say more.
        pool_temperature=jnp.asarray(-_rounded(-numbers.pool_temperature), jnp.float32),
    )


def _below(value: float) -> jax.Array:
    return jnp.asarray(_rounded(value), jnp.float32)


def _rounded(value: float) -> Any:
    """The largest float32 of at most `value`."""
    found = np.float32(value)
    if not math.isinf(value) and float(found) > value:
        found = np.nextafter(found, np.float32(-np.inf))
    return found
