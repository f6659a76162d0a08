"""The product of activations with a weight matrix stored `[out, in]`."""

from ariel_jax.pallas_kernels.linear.api import linear
from ariel_jax.pallas_kernels.linear.packing import dequantize, pack_int4, unpack_int4

__all__ = ["dequantize", "linear", "pack_int4", "unpack_int4"]
