"""Rotary position embedding with the length scalings of the supported families."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._numerics import at_least_f32


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) and its length scaling.

    Attributes:
        theta: base of the geometric frequency series.
        kind: `default` (none), `linear` (positions divided by `factor`) or `llama3` (Llama 3.1:
            low frequencies divided by `factor`, high ones kept, a linear blend between).
        factor: how much longer the context is than the original one.
        low_freq_factor, high_freq_factor: ends of the blend, in original contexts per wavelength.
        original_max_positions: context the frequencies were trained for (`llama3` only).
    """

    theta: float = 10000.0
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


def inverse_frequencies(cfg: RopeConfig, head_dim: int) -> np.ndarray:
    """Radians per position of each rotated pair, float64 [H/2], scaling applied.

    References:
        Su et al. 2021, arXiv 2104.09864, section 3.4.2; the `llama3` blend follows Meta's reference
        code for Llama 3.1.
    """
    freq = cfg.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if cfg.kind == "linear":
        return freq / cfg.factor
    if cfg.kind == "llama3":
        contexts = cfg.original_max_positions * freq / (2 * math.pi)  # turns per original context
        blend = (contexts - cfg.low_freq_factor) / (cfg.high_freq_factor - cfg.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        return (1 - blend) * freq / cfg.factor + blend * freq
    return freq


def rotate(cfg: RopeConfig, x: jax.Array, positions: jax.Array) -> jax.Array:
    """`x` with each (i, i + H/2) pair turned by its position's angle.

    Args:
        cfg: base and scaling.
        x: [B, T, heads, H] float.
        positions: [B, T] int32 absolute positions.

    Returns:
        [B, T, heads, H] in x's dtype; angles and products in at least float32.
    """
    dtype = at_least_f32(x.dtype)
    freq = jnp.asarray(inverse_frequencies(cfg, x.shape[-1]), dtype)
    angle = positions.astype(dtype)[:, :, None, None] * freq[None, None, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x.astype(dtype), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
