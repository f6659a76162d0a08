"""The meaning of `bitset_judge`, in plain jnp."""

import jax
import jax.numpy as jnp

BLOCK = 4096  # requests whose masks exist at once


def bitset_judge(
    table: jax.Array, rows: jax.Array, approving: jax.Array, denying: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns counts and first premises; see `api.bitset_judge`."""

    def some(part: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        covering = masks(table, part)
        both = (covering & approving[None, :], covering & denying[None, :])
        counts = [jnp.sum(jax.lax.population_count(m).astype(jnp.int32), axis=1) for m in both]
        return counts[0], counts[1], first(both[0]), first(both[1])

    if rows.shape[0] <= BLOCK:
        return some(rows)
    return jax.lax.map(
        lambda row: jax.tree.map(lambda a: a[0], some(row[None])), rows, batch_size=BLOCK
    )


def masks(table: jax.Array, rows: jax.Array) -> jax.Array:
    """The premises that cover each request, [B, W] uint32."""
    K, R, _ = table.shape
    known = jnp.all((rows >= 0) & (rows < R), axis=1, keepdims=True)
    rows = jnp.clip(rows, 0, R - 1)
    found = table[0][rows[:, 0]]
    for k in range(1, K):
        found = found & table[k][rows[:, k]]
    return jnp.where(known, found, jnp.uint32(0))


def first(mask: jax.Array) -> jax.Array:
    """The number of the lowest set bit of each row [B, W], -1 without any."""
    word = jnp.argmax(mask != 0, axis=1).astype(jnp.int32)
    bits = jnp.take_along_axis(mask, word[:, None], axis=1)[:, 0]
    below = (bits & (~bits + jnp.uint32(1))) - jnp.uint32(1)
    bit = jax.lax.population_count(below).astype(jnp.int32)
    return jnp.where(bits == 0, jnp.int32(-1), word * 32 + bit)
