"""The whole state of a decoding batch as one pytree: fork it, roll it back, pass it through jit."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ariel_jax.decode.sampling import SamplingRows
from ariel_jax.errors import ConfigError
from ariel_jax.layers.kv_cache import CacheOps, KVCache


class Stats(struct.PyTreeNode):
    """Counters of each row, and what went wrong in it, since its prefill began."""

    steps: jax.Array  # [B] int32 strategy steps the row took part in
    proposed: jax.Array  # [B] int32 draft tokens verified
    accepted: jax.Array  # [B] int32 draft tokens accepted
    flags: jax.Array  # [B] uint32, see `Flag`; `emit` sets them


class Logprobs(struct.PyTreeNode):
    """Log-probabilities under the model's own distribution, before any sampling transform."""

    token: jax.Array  # [B, Nmax] f32, of the token at each generated position
    top: jax.Array  # [B, Nmax, k] f32, the k largest
    top_ids: jax.Array  # [B, Nmax, k] int32


class DecodeState(struct.PyTreeNode):
    """A decoding batch between two steps.

    Invariant: known tokens = cache.length + 1; the last one is pending, its keys and values are
    written by the next step. Prompts are left-aligned; everything behind the known tokens is
    garbage that nothing reads.
    """

    cache: CacheOps
    tokens: jax.Array  # [B, Nmax] int32
    prompt_length: jax.Array  # [B] int32
    limit: jax.Array  # [B] int32, known tokens at which a row stops
    done: jax.Array  # [B] bool
    keys: jax.Array  # [B] typed keys, one per request; folded with the position, nothing else
    sampling: SamplingRows
    stats: Stats
    aux: Any = None  # the strategy's own pytree
    logprobs: Logprobs | None = None

    @property
    def batch(self) -> int:
        """Rows of the batch."""
        return self.tokens.shape[0]

    def n_known(self) -> jax.Array:
        """[B] int32 known tokens, prompt included."""
        return self.cache.length + 1

    def pending(self) -> jax.Array:
        """[B] int32 the last known token of each row, not in the cache yet."""
        return jnp.take_along_axis(self.tokens, self.cache.length[:, None], axis=1)[:, 0]


class StepInfo(struct.PyTreeNode):
    """What one step (or one segment: the sums) did."""

    emitted: jax.Array  # [B] int32
    proposed: jax.Array  # [B] int32
    accepted: jax.Array  # [B] int32
    flags: jax.Array  # [B] uint32, see `Flag`


class Flag:
    """Bits of `StepInfo.flags`; the host raises or reports, the device never does."""

    NOT_FINITE = 1  # logits held NaN or infinity


def check_alive(state: DecodeState) -> None:
    """Checks that a state has not been overwritten.

    Raises:
        ConfigError: it was donated to a run that has decoded on.
    """
    leaves = jax.tree.leaves((state.cache, state.tokens))
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves):
        raise ConfigError(
            "this DecodeState was given to a run that has decoded on, which overwrites it in place: "
            "continue with that run's `state`, or `fork` a state before giving it away."
        )


def cache_bytes(state: DecodeState) -> int:
    """Bytes of the cache and of the strategy's own arrays, a draft model's cache above all."""
    return state.cache.nbytes + sum(leaf.nbytes for leaf in jax.tree.leaves(state.aux))


def fork(state: DecodeState, rows: Sequence[int]) -> DecodeState:
    """A new, independent state whose row i is a copy of row `rows[i]`.

    Copies share the request's key, so they go on alike; give them other keys (`rekey`) to branch.

    Raises:
        ConfigError: a row that the state does not have, or a state that was overwritten.
    """
    check_alive(state)
    bad = [r for r in rows if not isinstance(r, numbers.Integral) or not 0 <= r < state.batch]
    if bad or not len(rows):
        raise ConfigError(
            f"fork got rows {list(rows)} of a state with {state.batch} rows; name one or more of "
            f"0..{state.batch - 1}, repeats allowed."
        )
    index = jnp.asarray(list(rows), jnp.int32)
    rest = jax.tree.map(
        lambda leaf: jnp.take(leaf, index, axis=0) if leaf.ndim else jnp.copy(leaf),
        state.replace(cache=None),
    )
    return rest.replace(cache=state.cache.fork(rows))


def rekey(state: DecodeState, keys: jax.Array) -> DecodeState:
    """The state with new request keys [B] (typed), which decide all later draws.

    Raises:
        ConfigError: keys of another shape, or a state that was overwritten.
    """
    check_alive(state)
    if keys.shape != state.keys.shape:
        raise ConfigError(
            f"rekey got keys of shape {list(keys.shape)}; pass one per row, {list(state.keys.shape)}."
        )
    return state.replace(keys=jnp.copy(keys))  # the state is donated, the caller's keys are not


def rollback(state: DecodeState, n_known: Sequence[int] | np.ndarray) -> DecodeState:
    """The state with only the first `n_known[b]` tokens of each row known, ready to go on.

    Nothing is copied or erased: the cache forgets by length. Rows that had stopped may go on.

    Raises:
        ConfigError: fewer tokens than the prompt, more than are known, or a state that was
            overwritten.
    """
    check_alive(state)
    wanted = np.asarray(n_known)
    if not np.issubdtype(wanted.dtype, np.integer):
        raise ConfigError(f"rollback got n_known={wanted.tolist()}; pass whole numbers of tokens.")
    wanted = wanted.astype(np.int32)
    low = np.asarray(state.prompt_length)
    high = np.asarray(state.n_known())
    if wanted.shape != low.shape or (wanted < np.maximum(low, 1)).any() or (wanted > high).any():
        raise ConfigError(
            f"rollback got n_known={wanted.tolist()}; each row must keep at least its prompt and at "
            f"most what is known: between {low.tolist()} and {high.tolist()}."
        )
    keep = jnp.asarray(wanted)
    cache = state.cache
    if np.asarray(state.stats.flags).any():
        # Not-a-number behind the known rows would come back through a weight of zero.
        cache = jax.tree.map(_finite, cache)
    is_whole = keep == state.n_known()
    return state.replace(
        cache=cache.rollback(keep - 1),
        done=state.done & is_whole,
        stats=state.stats.replace(flags=jnp.where(is_whole, state.stats.flags, 0)),
    )


def _finite(leaf: jax.Array) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jnp.where(jnp.isfinite(leaf), leaf, jnp.zeros((), leaf.dtype))


def shard_state(state: DecodeState, mesh: jax.sharding.Mesh) -> DecodeState:
    """The state on a mesh: cache leaves over (`data`, `tensor`) = (rows, kv heads), rest over `data`.

    An axis that does not divide its dimension is left replicated.

    Raises:
        ConfigError: a cache that is not the dense one.
    """
    dense = state.cache
    if not isinstance(dense, KVCache):
        raise ConfigError(
            f"shard_state got a {type(dense).__name__}; only the dense KVCache can be placed on a "
            "mesh. Decode without `mesh=`."
        )
    spec = jax.sharding.PartitionSpec
    sizes = dict(mesh.shape)

    def fits(axis: str, n: int) -> str | None:
        return axis if axis in sizes and n % sizes[axis] == 0 else None

    def place(leaf: jax.Array) -> jax.Array:
        axes = [fits("data", leaf.shape[0])] if leaf.ndim else []
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec(*axes)))

    def place_kv(leaf: jax.Array) -> jax.Array:
        B, K = leaf.shape[:2]
        axes = spec(fits("data", B), fits("tensor", K), None, None)
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, axes))

    cache = KVCache(
        k=tuple(place_kv(leaf) for leaf in dense.k),
        v=tuple(place_kv(leaf) for leaf in dense.v),
        length=place(dense.length),
    )
    return jax.tree.map(place, state.replace(cache=None)).replace(cache=cache)
