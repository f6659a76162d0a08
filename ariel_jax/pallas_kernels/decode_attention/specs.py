"""Named shapes of `decode_attention`, for tests (those not large), benchmarks and reports."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.pallas_kernels.decode_attention.tree import depths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Shapes, dtype and options of one call."""

    batch: int
    n_queries: int
    n_heads: int
    n_kv_heads: int
    capacity: int
    head_dim: int
    length: tuple[int, ...]
    dtype: str = "float32"
    softcap: float | None = None
    window: int | None = None
    parents: tuple[int, ...] | None = None
    is_large: bool = False

    def abstract(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments (shape structs) and options of the call, as for `Op.explain`."""
        q, kv = (jax.ShapeDtypeStruct(shape, jnp.dtype(self.dtype)) for shape in self._shapes())
        positions = jax.ShapeDtypeStruct((self.batch, self.n_queries), jnp.int32)
        length = jax.ShapeDtypeStruct((self.batch,), jnp.int32)
        options = {"parents": None, **self.options()}
        return (q, kv, kv), {**options, "length": length, "q_positions": positions}

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (
            (self.batch, self.n_queries, self.n_heads, self.head_dim),
            (self.batch, self.n_kv_heads, self.capacity, self.head_dim),
        )

    def arrays(self, seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns standard normal `q`, `k` and `v`, finite beyond the valid rows too."""
        # NumPy draws them: XLA:CPU takes seconds to compile jax.random.normal for an odd shape.
        rng = np.random.default_rng(seed)
        q, kv = self._shapes()
        q, k, v = (jnp.asarray(rng.standard_normal(shape), self.dtype) for shape in (q, kv, kv))
        return q, k, v

    def options(self) -> dict[str, Any]:
        """Returns the keyword arguments of the call."""
        options = {
            "length": jnp.asarray(self.length, jnp.int32),
            "scale": self.head_dim**-0.5,
            "softcap": self.softcap,
            "window": self.window,
        }
        if self.parents is not None:
            root = np.asarray(self.length, np.int32)[:, None] - len(self.parents)
            options |= {
                "parents": self.parents,
                "q_positions": jnp.asarray(root + depths(self.parents)[None, :]),
            }
        return options


def _spec(
    batch: int,
    n_queries: int,
    heads: tuple[int, int],
    capacity: int,
    head_dim: int,
    length: tuple[int, ...],
    **options: Any,
) -> Spec:
    return Spec(
        batch=batch,
        n_queries=n_queries,
        n_heads=heads[0],
        n_kv_heads=heads[1],
        capacity=capacity,
        head_dim=head_dim,
        length=length,
        **options,
    )


SPECS = {
    "one_row": _spec(1, 1, (4, 4), 32, 16, (20,)),
    "ragged_grouped": _spec(3, 1, (6, 2), 16, 8, (0, 7, 16)),
    "verification_rows": _spec(2, 5, (4, 2), 24, 8, (3, 18)),
    "odd": _spec(2, 3, (5, 5), 19, 7, (11, 19)),
    "window_softcap": _spec(2, 3, (4, 2), 32, 16, (30, 5), window=6, softcap=20.0),
    "tree": _spec(2, 5, (4, 2), 24, 8, (9, 20), parents=(-1, 0, 0, 1, 2)),
    "tree_window_softcap": _spec(
        2, 6, (2, 2), 24, 8, (9, 24), parents=(-1, 0, 1, 0, 3, 2), window=3, softcap=20.0
    ),
    "bfloat16": _spec(2, 2, (4, 2), 32, 16, (17, 32), dtype="bfloat16"),
    "nano_decode": _spec(1, 1, (3, 3), 512, 64, (300,), is_large=True),
    "gpt2_decode": _spec(1, 1, (12, 12), 1024, 64, (900,), is_large=True),
    "gpt2_batch": _spec(8, 1, (12, 12), 1024, 64, (512,) * 8, is_large=True),
    "llama_1b_decode": _spec(1, 1, (32, 8), 1024, 64, (900,), is_large=True),
}
