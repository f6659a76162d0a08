"""Writing new keys or values into rows of a cache."""

from ariel_jax.pallas_kernels.write_rows.api import write_rows

__all__ = ["write_rows"]
