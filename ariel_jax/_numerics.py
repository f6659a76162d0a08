"""Which dtype reductions run in."""

from typing import Any

import jax.numpy as jnp


def at_least_f32(dtype: Any) -> jnp.dtype:
    """float32 for narrower float dtypes, `dtype` itself otherwise (float64 stays float64)."""
    dtype = jnp.dtype(dtype)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
