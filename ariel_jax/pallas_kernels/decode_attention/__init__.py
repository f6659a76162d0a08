"""Attention of a few query rows over the rows a cache holds."""

from ariel_jax.pallas_kernels.decode_attention.api import decode_attention

__all__ = ["decode_attention"]
