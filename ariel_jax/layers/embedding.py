"""Rows of a table, and the seam through which their gradients are taken instead of the table's."""

import jax
import jax.numpy as jnp
from flax import struct


class Tapped(struct.PyTreeNode):
    """A table with a correction of zero beside the rows that are looked up.

    The gradient of the correction is that of the rows, and no gradient of the table's size is formed.
    """

    table: jax.Array  # [V, D]
    tap: jax.Array  # [T, D], of one example that looks T rows up, once


def lookup(table: jax.Array | Tapped, index: jax.Array) -> jax.Array:
    """`table` [V, D] at `index` [...]: [..., D]; of a tapped one index is [1, T] or [T]."""
    if isinstance(table, Tapped):
        rows = lookup(jax.lax.stop_gradient(table.table), index)
        return rows + table.tap.astype(rows.dtype).reshape(rows.shape)
    # XLA:CPU gathers bfloat16 in float32, and in a loop it would widen the whole table once and keep
    # it. Behind a barrier that the index of each turn passes too, it widens the rows that it takes.
    if table.dtype.itemsize == 2:
        table, index = jax.lax.optimization_barrier((table, index))
    return jnp.take(table, index, axis=0)  # pyright: ignore[reportArgumentType] an array by now
