"""How many of a set of premises cover each request, and the first that does."""

from ariel_jax.pallas_kernels.bitset_judge.api import bitset_judge

__all__ = ["bitset_judge"]
