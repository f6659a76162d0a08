"""The tap: a product with zero beside each projected weight, whose gradient is the projected gradient.

A layer computes `y = x @ w.T + tapped(x, tap, proj)` with a tap of zeros. Side `in`: `(x @ P) @ tap.T` with
P [in, r] and a tap [out, r], whose gradient is `g.T @ (x @ P)`, the gradient of w times P. Side `out`:
`(x @ tap.T) @ P.T` with P [out, r] and a tap [r, in], whose gradient is P.T times that of w. Differentiated
by taps, and not by weights, no example's full gradient is ever formed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32
from ariel_jax.algorithms.dp_grape.config import Config, Spec, Specs
from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear
from ariel_jax.models.paths import flatten

Tree = Any
Leaves = dict[str, jax.Array]
FIELDS = ("w", "b", "tap", "proj")  # of a Linear, that may be trained in full


def epoch_of(step: jax.Array, cfg: Config) -> jax.Array:
    """[] int32: how often the projections were drawn anew before a step."""
    return step // cfg.refresh_every if cfg.refresh_every else jnp.zeros_like(step)


def projections(key: jax.Array, epoch: jax.Array | int, specs: Specs, cfg: Config) -> Leaves:
    """The random projections of one epoch, by path.

    Args:
        key: [] typed key of all projections of a run. It is public: no guarantee rests on it.
        epoch: [] int32, see `epoch_of`.
        specs: which weights.
        cfg: law and scale.

    Returns:
        Arrays of `Spec.projection_shape`, float32.

    Guarantees:
        The same key, epoch and path give the same bits, eagerly and compiled, in every process.
    """
    of_epoch = jax.random.fold_in(key, epoch)

    def draw(spec: Spec) -> jax.Array:
        here = jax.random.fold_in(of_epoch, spec.leaf_id)
        if cfg.law == "gaussian":
            entries = jax.random.normal(here, spec.projection_shape, jnp.float32)
        else:
            entries = jax.random.rademacher(here, spec.projection_shape, jnp.float32)
        # Compiled together the scale would be multiplied into the law's own constants: other last bits.
        return jax.lax.optimization_barrier(entries) * spec.rank ** (
            -0.5 if cfg.scale == "unbiased" else -1.0
        )

    return {spec.path: draw(spec) for spec in specs.projected}


def zero_taps(specs: Specs) -> Leaves:
    """Taps that change nothing: zeros of `Spec.projected_shape`, float32, by path."""
    return {spec.path: jnp.zeros(spec.projected_shape, jnp.float32) for spec in specs.projected}


def trained_leaves(params: Tree, specs: Specs) -> Leaves:
    """What is differentiated: zero taps under the paths of their weights, and the leaves trained in full."""
    leaves = flatten(params)
    return zero_taps(specs) | {path: leaves[path] for path in specs.full}


def insert(
    params: Tree, trained: Mapping[str, jax.Array], drawn: Mapping[str, jax.Array], specs: Specs
) -> Tree:
    """The parameters with taps, projections and fully trained leaves in their places.

    Args:
        params: the tree; every projected weight belongs to a `Linear`.
        trained: as `trained_leaves`; gradients flow to these.
        drawn: as `projections`.
        specs: which is which.

    Raises:
        ConfigError: a projected weight is not that of a `Linear`: it would not be trained.
    """
    by_path, full = specs.by_path(), set(specs.full)
    tapped: set[str] = set()

    def visit(path: Any, node: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not isinstance(node, Linear):
            return trained[name] if name in full else node
        fields = {
            field: trained[f"{name}.{field}"] for field in FIELDS if f"{name}.{field}" in full
        }
        if f"{name}.w" in by_path:
            tapped.add(f"{name}.w")
            fields |= {"tap": trained[f"{name}.w"], "proj": drawn[f"{name}.w"]}
        return node.replace(**fields)

    done = jax.tree_util.tree_map_with_path(
        visit, params, is_leaf=lambda node: isinstance(node, Linear)
    )
    if missing := sorted(by_path.keys() - tapped):
        raise ConfigError(
            f"{missing} are no weights of a layers.linear.Linear, so they would not be trained: leave them "
            "out of project=, or make the layers Linear."
        )
    return done


def project(spec: Spec, full: jax.Array, drawn: jax.Array) -> jax.Array:
    """What a tap's gradient is, from the gradient of its weight: the slow way.

    Args:
        spec: of the weight.
        full: [..., out, in] its gradient.
        drawn: its projection.

    Returns:
        [..., out, r] or [..., r, in].
    """
    if spec.side == "in":
        return jnp.einsum("...oi,...ir->...or", full, drawn)
    return jnp.einsum("...oi,...or->...ri", full, drawn)


def project_back(spec: Spec, update: jax.Array, drawn: jax.Array) -> jax.Array:
    """The change of a weight that an update in the projected space stands for, in at least float32."""
    wide = at_least_f32(update.dtype)
    update, drawn = update.astype(wide), drawn.astype(wide)
    if spec.side == "in":
        return jnp.einsum("...or,...ir->...oi", update, drawn)
    return jnp.einsum("...ri,...or->...oi", update, drawn)


def tapped_loss(
    loss: Callable[[Tree, Any, jax.Array], jax.Array], specs: Specs
) -> Callable[[Leaves, Tree, Any, jax.Array], jax.Array]:
    """A loss of parameters as a loss of taps: what `privacy.clipping.ClippedSum` differentiates.

    Args:
        loss: `loss(params, example, key) -> scalar` of one example.
        specs: which weights are projected.

    Returns:
        `loss(trained, (params, drawn), example, key)`.
    """

    def of_taps(trained: Leaves, fixed: Any, example: Any, key: jax.Array) -> jax.Array:
        params, drawn = fixed
        return loss(insert(params, trained, drawn, specs), example, key)

    return of_taps
