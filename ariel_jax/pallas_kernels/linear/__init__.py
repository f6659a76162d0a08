"""The product of activations with a weight matrix stored `[out, in]`."""

from ariel_jax.pallas_kernels.linear.api import linear

__all__ = ["linear"]
