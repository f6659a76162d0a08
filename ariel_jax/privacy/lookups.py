"""Gradients of tables that examples only look rows up in, without one [V, D] for each example."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32, sum_of_squares

Tree = Any


@dataclasses.dataclass(frozen=True)
class Lookups:
    """Which leaves are such tables; hashable.

    Attributes:
        ids: `ids(example) -> {name: [T] int32}`, the rows that one example looks up.
        n_rows: V of each table, by name.
    """

    ids: Callable[[Tree], Mapping[str, jax.Array]]
    n_rows: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class LookedUp:
    """The `clipping.Part` of one table; make it with `LookedUp.of`.

    Rows that an example looks up several times are added before anything is squared or weighted. Added
    later, two large opposite gradients of one row could each be scaled by a weight that only fits their
    small sum, and their rounding could exceed the bound of clipping.

    Attributes:
        name: of the table among the leaves.
        ids: [B, T] int32 rows looked up.
        merged: [B, T, D] gradient of each different row of an example, at the first place where it is looked
            up, and 0 at the others.
        n_rows: V.
    """

    name: str
    ids: jax.Array
    merged: jax.Array
    n_rows: int

    @classmethod
    def of(cls, name: str, ids: jax.Array, gradients: jax.Array, n_rows: int) -> "LookedUp":
        """From the gradients [B, T, D] of what was looked up."""
        T = ids.shape[1]
        ids = jnp.where(
            ids < 0, ids + n_rows, ids
        )  # as a lookup does: two names of one row are one
        same = ids[:, :, None] == ids[:, None, :]
        earlier = jnp.tril(jnp.ones((T, T), bool), -1)[None]
        is_first = ~jnp.any(same & earlier, axis=2)
        wide = at_least_f32(gradients.dtype)
        picks = (same & is_first[:, :, None]).astype(wide)
        # At full precision, as all that is clipped.
        full = jax.lax.Precision.HIGHEST
        merged = jnp.einsum("bts,bsd->btd", picks, gradients.astype(wide), precision=full)
        return cls(name, ids, merged, n_rows)

    def square_norms(self) -> jax.Array:
        """[B] float32."""
        return sum_of_squares(self.merged)

    def weighted_sum(self, weights: jax.Array) -> dict[str, jax.Array]:
        """`{name: [V, D]}`."""
        wide = self.merged.dtype
        scale = weights.astype(wide)[:, None, None]
        kept = jnp.where(scale > 0, self.merged, jnp.zeros((), wide)) * scale
        table = jnp.zeros((self.n_rows, kept.shape[2]), wide)
        return {self.name: table.at[self.ids].add(kept, mode="drop")}
