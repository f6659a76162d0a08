"""Gaussian noise for private sums, as a function and as an optax transformation."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from ariel_jax._checks import non_negative
from ariel_jax._numerics import at_least_f32
from ariel_jax.errors import ConfigError

Tree = Any


def leaf_key(key: jax.Array, path: Any) -> jax.Array:
    """The key of one leaf of a tree: by its path, so that other leaves may come and go.

    Args:
        key: [] typed key.
        path: as `jax.tree_util.tree_flatten_with_path` gives it.
    """
    return jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))


def gaussian(tree: Tree, key: jax.Array, stddev: jax.Array | float) -> Tree:
    """A tree with independent noise on every number.

    Args:
        tree: float leaves.
        key: [] typed key, consumed; never one that anybody else knows, see `random.secure_key`.
        stddev: of the noise, for sums of clipped gradients the noise multiplier times the sensitivity.

    Returns:
        The same leaves in at least float32.

    Guarantees:
        The noise of a leaf depends on the key, its path and its shape, not on how arrays are laid over
        devices or on other leaves.

    Raises:
        ConfigError: the paths of two leaves have one hash.
    """
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if len({zlib.crc32(name.encode()) for name in names}) < len(names):
        raise ConfigError(f"two of the leaves {names} would have the same noise: rename one.")

    def noisy(path: Any, leaf: jax.Array) -> jax.Array:
        wide = at_least_f32(leaf.dtype)
        drawn = jax.random.normal(leaf_key(key, path), leaf.shape, wide)
        return leaf.astype(wide) + drawn * jnp.asarray(stddev, wide)

    return jax.tree_util.tree_map_with_path(noisy, tree)


class NoiseState(NamedTuple):
    """The state of `add_gaussian`."""

    step: jax.Array  # [] int32 releases made
    key: jax.Array  # [] typed key; secret


def add_gaussian(stddev: float, key: jax.Array) -> optax.GradientTransformation:
    """An optax transformation that adds noise to what it is given, another one at every update.

    Put it first in a chain, on the clipped sum: noise of `stddev` belongs on the sum, and the division
    by the expected batch size behind it.

    Args:
        stddev: of the noise.
        key: [] typed key; it lies in the state and so in checkpoints: keep those secret.

    Guarantees:
        The key stands in the state alone, never as a constant in a program: `init` refuses to be
        compiled unless the key is an argument there. The state holds a copy, which a step may give up (donate).

    Raises:
        ConfigError: a negative standard deviation.
    """
    non_negative(stddev=stddev)

    def init(params: optax.Params) -> NoiseState:
        compiled = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params))
        if compiled and not isinstance(key, Tracer):
            raise ConfigError(
                "the optimiser's first state holds the key of the noise, and a compiled program would keep "
                "it as a constant: call init outside of jit, or make the key an argument of what is compiled."
            )
        return NoiseState(step=jnp.zeros((), jnp.int32), key=jax.random.clone(key))

    def update(
        updates: optax.Updates, state: NoiseState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, NoiseState]:
        del params
        here = jax.random.fold_in(state.key, state.step)
        return gaussian(updates, here, stddev), state._replace(step=state.step + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType] optax's own types are wider
