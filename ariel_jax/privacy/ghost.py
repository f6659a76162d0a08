"""Clipped sums without per-example gradients of linear layers: ghost clipping.

One pass takes the norm of every example's gradient, a second one the gradient of the losses weighted with
what the clip leaves of each. Only leaves that are no weights of a `Linear` have gradients for each example.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax._checks import positive_int
from ariel_jax._numerics import at_least_f32
from ariel_jax.errors import ConfigError
from ariel_jax.layers.ghost import Ghost
from ariel_jax.layers.linear import Linear
from ariel_jax.models.paths import replaced
from ariel_jax.privacy.clipping import (
    ClipInfo,
    Stacked,
    check_batch,
    check_loss,
    clip_and_sum,
    clip_info,
    example_keys,
    example_of,
    in_microbatches,
)
from ariel_jax.privacy.ghost_uses import check_uses

Tree = Any
Leaves = dict[str, jax.Array]
Loss = Callable[[Tree, Tree, jax.Array], jax.Array]


def linear_weights(params: Tree) -> tuple[str, ...]:
    """Paths of the weights [out, in] (or stacked [L, out, in]) of the `Linear` in a tree."""
    nodes = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_linear)
    names = (
        (jax.tree_util.keystr((*path, jax.tree_util.GetAttrKey("w")), simple=True, separator="."))
        for path, node in nodes
        if _is_linear(node)
    )
    return tuple(names)


def weighted_gradient(
    loss: Callable[[Tree, Tree, jax.Array], jax.Array],
    trained: Tree,
    rows: Tree,
    keys: jax.Array,
    weights: jax.Array,
) -> tuple[Tree, jax.Array]:
    """The gradient of a weighted sum of losses, formed as a batch's and never for one example.

    Args:
        loss: `loss(trained, example, key) -> scalar`.
        trained: what is differentiated.
        rows: leaves [B, ...].
        keys: [B] typed keys.
        weights: [B] float32, not negative.

    Returns:
        (gradient, losses): `trained`'s leaves, to which rows of weight 0 add exactly 0 even where their
        losses are no numbers; and [B] float32, which mean nothing where the weight is 0.
    """
    best = jnp.argmax(weights)
    # A row that does not count becomes one that does: 0 times NaN would be none.
    index = jnp.where(weights > 0, jnp.arange(weights.shape[0], dtype=best.dtype), best)
    rows, keys = jax.tree.map(lambda leaf: leaf[index], (rows, keys))

    def total(trained: Tree) -> tuple[jax.Array, jax.Array]:
        losses = jax.vmap(loss, in_axes=(None, 0, 0))(trained, rows, keys).astype(jnp.float32)
        return jnp.sum(losses * weights), losses

    gradient = lambda: jax.grad(total, has_aux=True)(trained)
    nothing = jax.eval_shape(gradient)
    # A branch that is always taken: as a computation of its own, its activations share the memory of those
    # of the pass that found the weights, where XLA would else make room for both at once.
    found, losses = jax.lax.cond(
        weights[best] >= 0,
        gradient,
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing),
    )
    some = weights[best] > 0
    zero = lambda leaf: jnp.where(some, leaf, jnp.zeros((), leaf.dtype))
    return jax.tree.map(zero, found), losses


@dataclasses.dataclass(frozen=True)
class _Ghosted:
    """The `clipping.Part` of weights whose examples' gradients do not exist."""

    squares: Leaves  # [B] or [B, L]: squared norms
    again: Callable[[jax.Array], Leaves]  # weights [B] -> weighted sum

    def square_norms(self) -> jax.Array:
        rows = [jnp.sum(s.reshape(s.shape[0], -1), axis=1) for s in self.squares.values()]
        return sum(rows[1:], rows[0])

    def weighted_sum(self, weights: jax.Array) -> Leaves:
        return self.again(weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GhostClippedSum:
    """`clipping.ClippedSum` of a loss of whole parameters, for less memory and a second pass.

    Attributes:
        loss: `loss(params, example, key) -> scalar` of one example; hashable.
        ghosted: paths of trained weights of `Linear`, each used at most once, through `linear`. The other
            trained leaves have a gradient for each example.
        microbatch: examples whose activations exist at once; None for all of a batch.

    Guarantees:
        Those of `ClippedSum`, which it equals but for rounding: its norms of weights are raised by a bound
        on their own rounding, so a clipped example may count a little less, never more. A weight that is
        used twice, under a `vmap`, or otherwise than by `linear` is found while tracing and refused. Products
        run at full precision in both passes, unless the loss itself asks for less: then an example can count
        more than the clip norm by that rounding.

    References:
        Goodfellow 2015, arXiv 1510.01799; Li, Tramer, Liang, Hashimoto 2021, arXiv 2110.05679; Bu, Mao, Xu
        2022, arXiv 2205.10683.
    """

    loss: Loss
    ghosted: tuple[str, ...]
    microbatch: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.ghosted:
            raise ConfigError(
                "ghosted=() leaves nothing to save: name weights of Linear, or use clipping.ClippedSum."
            )
        if self.microbatch is not None:
            positive_int(microbatch=self.microbatch)

    def __call__(
        self,
        trained: Mapping[str, jax.Array],
        params: Tree,
        batch: Tree,
        is_padding: jax.Array,
        key: jax.Array,
        clip_norm: jax.Array,
    ) -> tuple[Leaves, ClipInfo]:
        """The clipped sum over a batch.

        Args:
            trained: leaves of `params` by path; `ghosted` are among them.
            params: the tree that the loss reads.
            batch: leaves [B, ...]; B a multiple of `microbatch`.
            is_padding: [B] bool; such rows do not exist.
            key: [B] typed keys, one for each example; or [] one, of which row i gets `fold_in(key, i)`.
            clip_norm: [] float32.

        Returns:
            (sum, info): `trained`'s leaves in at least float32.

        Raises:
            ConfigError: what `ClippedSum` refuses; a ghosted path that is no trained weight of a `Linear`;
                a weight that is used otherwise than once through `linear`; activations below float32.
        """
        self._check_paths(trained, params)
        B = check_batch(batch, is_padding, self.microbatch)
        rest = {path: leaf for path, leaf in trained.items() if path not in self.ghosted}
        # Widened here, so that the second pass sums in float32.
        whole = {p: trained[p].astype(at_least_f32(trained[p].dtype)) for p in self.ghosted}
        probes = {p: jnp.zeros(w.shape[:-2], jnp.float32) for p, w in whole.items()}
        first_pass = _FirstPass(self.loss)
        keys = example_keys(key, B)
        check_loss(first_pass, (rest, probes), (params, whole), batch, keys)
        self._check_uses(whole, probes, rest, params, batch, keys)

        def second_pass(whole: Leaves, example: Tree, key: jax.Array) -> jax.Array:
            watched = dict.fromkeys(whole, Ghost())
            return _exactly(self.loss, _placed(params, {**rest, **whole}, watched), example, key)

        def some(rows: Tree, keys: jax.Array, padding: jax.Array) -> tuple[Leaves, ClipInfo]:
            found = jax.vmap(jax.value_and_grad(first_pass), in_axes=(None, None, 0, 0))
            losses, (grads, squares) = found((rest, probes), (params, whole), rows, keys)
            again = lambda weights: weighted_gradient(second_pass, whole, rows, keys, weights)[0]
            parts = [_Ghosted(squares, again), *([Stacked(grads)] if grads else [])]
            totals, norms = clip_and_sum(parts, clip_norm, padding)
            total = {path: leaf for part in totals for path, leaf in part.items()}
            return {path: total[path] for path in trained}, clip_info(losses, norms, padding)

        return in_microbatches(some, batch, keys, is_padding, self.microbatch or B)

    def _check_paths(self, trained: Mapping[str, jax.Array], params: Tree) -> None:
        known = linear_weights(params)
        if strange := [p for p in self.ghosted if p not in known or p not in trained]:
            raise ConfigError(
                f"ghosted={strange} are no trained weights of a layers.linear.Linear; those are "
                f"{[p for p in known if p in trained][:12]}."
            )

    def _check_uses(
        self,
        whole: Leaves,
        probes: Leaves,
        rest: Leaves,
        params: Tree,
        batch: Tree,
        keys: jax.Array,
    ) -> None:
        def run(
            whole: list[jax.Array], probes: list[jax.Array], example: Tree, key: jax.Array
        ) -> jax.Array:
            found = [dict(zip(self.ghosted, leaves, strict=True)) for leaves in (whole, probes)]
            return _FirstPass(self.loss)((rest, found[1]), (params, found[0]), example, key)

        given = [[leaves[path] for path in self.ghosted] for leaves in (whole, probes)]
        check_uses(jax.make_jaxpr(run)(*given, *example_of((batch, keys))).jaxpr, self.ghosted)


@dataclasses.dataclass(frozen=True)
class _FirstPass:
    """The loss whose "gradient" in the probes are squared norms."""

    loss: Loss

    def __call__(self, trained: Tree, fixed: Tree, example: Tree, key: jax.Array) -> jax.Array:
        (rest, probes), (params, whole) = trained, fixed
        watched = {path: Ghost(probe) for path, probe in probes.items()}
        return _exactly(self.loss, _placed(params, {**rest, **whole}, watched), example, key)


def _exactly(loss: Loss, params: Tree, example: Tree, key: jax.Array) -> jax.Array:
    """The loss at full precision: with fewer bits the passes would round a gradient differently."""
    with jax.default_matmul_precision("highest"):
        return loss(params, example, key)


def _is_linear(node: Any) -> bool:
    return isinstance(node, Linear)


def _placed(params: Tree, leaves: Mapping[str, jax.Array], watched: Mapping[str, Ghost]) -> Tree:
    """The parameters with other leaves, and ghosts beside some weights."""

    def visit(path: Any, node: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        ghost = watched.get(f"{name}.w") if _is_linear(node) else None
        return node if ghost is None else node.replace(ghost=ghost)

    tree = replaced(params, leaves)
    return jax.tree_util.tree_map_with_path(visit, tree, is_leaf=_is_linear)
