"""Named shapes of `write_rows`, for tests (those that are not large), benchmarks and reports."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Shapes, dtype and row numbers of one call.

    Attributes:
        n_kv_heads, capacity, head_dim: of the cache.
        rows: for each request where its new rows go; numbers outside the capacity drop one.
        dtype: of the cache; the new rows are float32.
        is_large: too large for a test.
    """

    n_kv_heads: int
    capacity: int
    head_dim: int
    rows: tuple[tuple[int, ...], ...]
    dtype: str = "float32"
    is_large: bool = False

    def abstract(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments (shape structs) and options of the call, as for `Op.explain`."""
        B, T = len(self.rows), len(self.rows[0])
        shape = (B, self.n_kv_heads, self.capacity, self.head_dim)
        leaf = jax.ShapeDtypeStruct(shape, jnp.dtype(self.dtype))
        new = jax.ShapeDtypeStruct((B, T, shape[1], shape[3]), jnp.dtype(jnp.float32))
        return (leaf, new, jax.ShapeDtypeStruct((B, T), jnp.dtype(jnp.int32))), {}

    def arrays(self, seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns a standard normal cache and new rows, and the row numbers."""
        rng = np.random.default_rng(seed)
        leaf, new, _ = self.abstract()[0]
        return (
            jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype),
            jnp.asarray(rng.standard_normal(new.shape), new.dtype),
            jnp.asarray(self.rows, jnp.int32),
        )


SPECS = {
    "one_row": Spec(n_kv_heads=3, capacity=8, head_dim=5, rows=((4,),), dtype="bfloat16"),
    "dropped": Spec(
        n_kv_heads=2, capacity=6, head_dim=16, rows=((5, 6), (6, 6), (0, 1)), dtype="bfloat16"
    ),
    "float32": Spec(n_kv_heads=1, capacity=4, head_dim=7, rows=((1, 2, 3), (4, 0, -1))),
    "gpt2": Spec(
        n_kv_heads=12,
        capacity=1024,
        head_dim=64,
        rows=((900,),),
        dtype="bfloat16",
        is_large=True,
    ),
}
