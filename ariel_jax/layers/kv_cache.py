"""The dense key-value cache: an explicit pytree, written in place, one array per layer."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax.layers.attention import Attend, AttentionOptions, prompt_attention
from ariel_jax.pallas_kernels.decode_attention import decode_attention
from ariel_jax.pallas_kernels.write_rows import write_rows

Options = Callable[[int], AttentionOptions]


class CacheOps(Protocol):
    """The only way a decoding strategy touches a cache; dense, paged and others implement it.

    A step is `attend, carry = cache.attend(...)`, the model with that attend and carry, then
    `cache.commit(carry, n)`. Rolling back is committing fewer rows than were written; of a tree of
    new rows the commit keeps one path.
    """

    @property
    def length(self) -> jax.Array:
        """[B] int32 rows that hold known positions."""
        ...

    @property
    def capacity(self) -> int:
        """Rows each batch row has room for."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        ...

    def attend(
        self,
        options: Options,
        positions: jax.Array,
        active: jax.Array,
        *,
        fresh: bool = False,
        parents: tuple[int, ...] | None = None,
    ) -> tuple[Attend, Any]:
        """`(attend, carry)` for one pass of the model over new rows at `positions` [B, T]."""
        ...

    def commit(self, carry: Any, n: jax.Array, path: jax.Array | None = None) -> Self:
        """The cache after a pass, with the first n [B] of its new rows (on `path`) kept."""
        ...

    def rollback(self, length: jax.Array) -> Self:
        """The cache with only the first length [B] rows known."""
        ...

    def capacity_left(self) -> jax.Array:
        """[B] int32 rows still free."""
        ...

    def grow(self, capacity: int) -> Self:
        """The cache with room for `capacity` rows; what lies in them is kept."""
        ...

    def fork(self, rows: Sequence[int]) -> Self:
        """A new cache whose batch row i is a copy of row `rows[i]`."""
        ...

    def reset_rows(self, rows: jax.Array) -> Self:
        """The cache with the batch rows where rows [B] bool is set emptied."""
        ...


class KVCache(struct.PyTreeNode):
    """Keys and values of every layer; row b holds positions 0..length[b]-1, left-aligned.

    Rows at and beyond `length` are finite garbage that no query sees; the next step overwrites
    them, so rolling back is only a smaller `length`.
    """

    k: tuple[jax.Array, ...]  # L x [B, K, C, H]
    v: tuple[jax.Array, ...]  # L x [B, K, C, H]
    length: jax.Array  # [B] int32

    @property
    def capacity(self) -> int:
        """Rows each batch row has room for (a property of the shape)."""
        return self.k[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(leaf.nbytes for leaf in (*self.k, *self.v))

    def attend(
        self,
        options: Options,
        positions: jax.Array,
        active: jax.Array,
        *,
        fresh: bool = False,
        parents: tuple[int, ...] | None = None,
    ) -> tuple[Attend, Any]:
        """Write the new rows, then attend up to each query's position.

        Args:
            options: score options of a layer.
            positions: [B, T] int32, position (= cache row) of each new row.
            active: [B] bool; rows of inactive requests are not written.
            fresh: static; the cache is empty and positions are 0..T-1, so the queries meet only
                each other and the capacity does not enter the cost.
            parents: static; the new rows are the nodes of a tree, each after its parent, -1 for the
                root: they lie in rows length..length+T-1, have `positions` length + depth, and see
                only their ancestors. The carry also keeps their keys and values, for `commit`.

        Returns:
            (attend, carry); the carry holds the leaves and goes through the model.
        """
        at = positions
        if parents is not None:
            node = jnp.arange(len(parents), dtype=positions.dtype)[None, :]
            at = self.length[:, None] + node
        rows = jnp.where(active[:, None], at, self.capacity)

        def attend(layer: int, q: jax.Array, k: jax.Array, v: jax.Array, carry: Any):
            ks, vs, new = carry
            if fresh:
                new_k, new_v = write_first_rows(ks[layer], k), write_first_rows(vs[layer], v)
                out = prompt_attention(q, k, v, options(layer))
            else:
                new_k, new_v = write_rows(ks[layer], k, rows), write_rows(vs[layer], v, rows)
                o = options(layer)
                out, _ = decode_attention(
                    q,
                    new_k.astype(q.dtype),
                    new_v.astype(q.dtype),
                    length=at[:, -1] + 1,
                    q_positions=positions,
                    parents=parents,
                    scale=o.scale,
                    softcap=o.softcap,
                    window=o.window,
                )
            ks = (*ks[:layer], new_k, *ks[layer + 1 :])
            vs = (*vs[:layer], new_v, *vs[layer + 1 :])
            return out, (ks, vs, new if parents is None else new | {layer: (k, v)})

        return attend, (self.k, self.v, {})

    def commit(self, carry: Any, n: jax.Array, path: jax.Array | None = None) -> "KVCache":
        """The cache after a pass: the carry's leaves, `length` advanced by n [B] int32.

        Args:
            carry: of the pass.
            n: [B] int32 rows to keep.
            path: [B, P] int32, after a pass over a tree: the nodes to keep, in order. Their keys
                and values are moved to rows length, length + 1, ...: taken from the pass itself,
                so that nothing reads the cache while it is written.
        """
        k, v, new = carry
        if path is not None:
            slot = jnp.arange(path.shape[1], dtype=n.dtype)[None, :]
            rows = jnp.where(slot < n[:, None], self.length[:, None] + slot, self.capacity)
            index = path[:, :, None, None]
            k, v = list(k), list(v)
            for layer, (new_k, new_v) in new.items():
                k[layer] = write_rows(k[layer], jnp.take_along_axis(new_k, index, axis=1), rows)
                v[layer] = write_rows(v[layer], jnp.take_along_axis(new_v, index, axis=1), rows)
        return KVCache(k=tuple(k), v=tuple(v), length=self.length + n)

    def rollback(self, length: jax.Array) -> "KVCache":
        """The same leaves with only the first length [B] int32 rows known; nothing is erased."""
        return KVCache(k=self.k, v=self.v, length=jnp.minimum(self.length, length))

    def capacity_left(self) -> jax.Array:
        """[B] int32 rows still free."""
        return self.capacity - self.length

    def grow(self, capacity: int) -> "KVCache":
        """The cache with room for `capacity` rows; new rows are zero, sharding is kept.

        Fewer rows than before give the last ones up: they must lie behind every known one.
        """
        return KVCache(
            k=tuple(resize_rows(leaf, capacity) for leaf in self.k),
            v=tuple(resize_rows(leaf, capacity) for leaf in self.v),
            length=self.length,
        )

    def fork(self, rows: Sequence[int]) -> "KVCache":
        """A new cache whose batch row i is a copy of row `rows[i]`."""
        index = jnp.asarray(rows, jnp.int32)
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), self)

    def reset_rows(self, rows: jax.Array) -> "KVCache":
        """The cache with the batch rows where rows [B] bool is set emptied (length 0)."""
        return KVCache(k=self.k, v=self.v, length=jnp.where(rows, 0, self.length))


def init_cache(
    n_layers: int, batch: int, n_kv_heads: int, capacity: int, head_dim: int, dtype: Any
) -> KVCache:
    """An empty cache of L layers of [B, K, C, H] zeros."""
    shape = (batch, n_kv_heads, capacity, head_dim)
    return KVCache(
        k=tuple(jnp.zeros(shape, dtype) for _ in range(n_layers)),
        v=tuple(jnp.zeros(shape, dtype) for _ in range(n_layers)),
        length=jnp.zeros(batch, jnp.int32),
    )


def resize_rows(leaf: jax.Array, capacity: int) -> jax.Array:
    """`leaf` [B, K, C, H] with `capacity` rows: zeros behind it, or without its last rows."""
    none = (0, 0, 0)
    change = (0, capacity - leaf.shape[2], 0)
    return jax.lax.pad(leaf, jnp.zeros((), leaf.dtype), (none, none, change, none))


def write_first_rows(leaf: jax.Array, new: jax.Array) -> jax.Array:
    """`leaf` [B, K, C, H] with new [B, T, K, H] in its first T rows.

    Where T exceeds C the rest of `new` is dropped: it is the padding of a bucketed prompt.
    """
    values = jnp.moveaxis(new, 2, 1)[:, :, : leaf.shape[2]].astype(leaf.dtype)
    return jax.lax.dynamic_update_slice(leaf, values, (0, 0, 0, 0))
