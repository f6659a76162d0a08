"""Per-example gradients, clipped to one norm and summed: what noise is added to.

Norms and sums are formed in at least float32, whatever the dtype of the parameters.
"""

import dataclasses
import functools
import operator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._checks import one_of, positive_int
from ariel_jax._numerics import at_least_f32, sum_of_squares
from ariel_jax.errors import ConfigError
from ariel_jax.privacy.lookups import LookedUp, Lookups
from ariel_jax.privacy.renyi import RELATIONS

Tree = Any
HIGHEST = jax.lax.Precision.HIGHEST


class ExampleLoss(Protocol):
    """The loss of one example. Hashable and equal to its like, as every static argument."""

    def __call__(self, trained: Tree, fixed: Tree, example: Tree, key: jax.Array, /) -> jax.Array:
        """A float scalar that depends on this example alone.

        Args:
            trained: what is differentiated.
            fixed: everything else that the loss reads.
            example: one row of the batch, without its leading axis.
            key: one typed key, another one for every example.
        """
        ...


class Part(Protocol):
    """Gradients of some examples for some leaves, in whatever form is cheapest."""

    def square_norms(self) -> jax.Array:
        """[B] float32: of each example's gradient, over all leaves of the part."""
        ...

    def weighted_sum(self, weights: jax.Array) -> Tree:
        """The leaves, each example's gradient times its weight ([B] float32) and summed, in float32."""
        ...


@dataclasses.dataclass(frozen=True)
class Stacked:
    """The `Part` that holds every example's gradient: leaves [B, ...]."""

    tree: Tree

    def square_norms(self) -> jax.Array:
        """[B] float32."""
        squares = [sum_of_squares(leaf) for leaf in jax.tree.leaves(self.tree)]
        return sum(squares[1:], squares[0])

    def weighted_sum(self, weights: jax.Array) -> Tree:
        """Leaves [...]."""

        def total(leaf: jax.Array) -> jax.Array:
            wide = at_least_f32(leaf.dtype)
            scale = weights.astype(wide).reshape(-1, *[1] * (leaf.ndim - 1))
            # An example whose gradient is no number has the weight 0, and 0 times NaN is none.
            kept = jnp.where(scale > 0, leaf.astype(wide), jnp.zeros((), wide))
            # At full precision: with fewer bits of each factor an example could count more than C.
            return jnp.einsum("b...,b->...", kept, weights.astype(wide), precision=HIGHEST)

        return jax.tree.map(total, self.tree)


class ClipInfo(struct.PyTreeNode):
    """What became of each example. These numbers are not private: do not release them."""

    loss: jax.Array  # [B] float32, 0 for padding
    # [B] float32 before clipping, 0 for padding; not finite where the example counted 0.
    norm: jax.Array


def clip_info(losses: jax.Array, norms: jax.Array, is_padding: jax.Array) -> ClipInfo:
    """Of [B] losses and norms before clipping."""
    found = (jnp.where(is_padding, 0.0, x.astype(jnp.float32)) for x in (losses, norms))
    return ClipInfo(*found)


def clip_weights(square_norms: jax.Array, clip_norm: jax.Array, is_padding: jax.Array) -> jax.Array:
    """min(1, C / norm) of each example; 0 for padding and for examples whose norm is no finite number.

    Args:
        square_norms: [B] float32.
        clip_norm: [] float32, the bound C.
        is_padding: [B] bool.

    Returns:
        [B] float32.

    Guarantees:
        A gradient times its weight has a norm of at most C (1 + 1e-6), whatever it was.
    """
    norms = jnp.sqrt(square_norms)
    tiny = jnp.finfo(norms.dtype).tiny
    # A hair below C / norm, because the norm and the products are rounded.
    scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norms, tiny) * (1 - 4e-7))
    return jnp.where(jnp.isfinite(norms) & ~is_padding, scale, 0.0)


def clip_and_sum(
    parts: list[Part], clip_norm: jax.Array, is_padding: jax.Array
) -> tuple[list[Tree], jax.Array]:
    """Clips each example's gradient over all parts jointly, and sums.

    Args:
        parts: of the same B examples.
        clip_norm: [] float32.
        is_padding: [B] bool.

    Returns:
        (sums, norms): the leaves of each part, and [B] float32 norms before clipping.
    """
    squares = [part.square_norms() for part in parts]
    total = sum(squares[1:], squares[0])
    weights = clip_weights(total, clip_norm, is_padding)
    return [part.weighted_sum(weights) for part in parts], jnp.sqrt(total)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippedSum:
    """The sum of per-example gradients, each clipped to a norm: a function with a known sensitivity.

    Attributes:
        loss: of one example.
        microbatch: examples whose gradients exist at once; None for all of a batch.
        lookups: leaves of `trained`, which is then a dictionary, that stand for the rows looked up in a
            table: [T, D], of zeros added to them. Their sum is the table's, [V, D].

    Guarantees:
        An example changes the sum by at most the clip norm when it is added, removed or made padding, by
        twice that when it is replaced by another; padding and examples whose gradient is no finite number add
        exactly 0. For a loss that uses its key this holds where the others keep theirs, so with a key for
        each example: by one key for all, those behind an example that goes are drawn anew. The sum does not
        depend on `microbatch` but for the order of additions.
    """

    loss: ExampleLoss
    microbatch: int | None = None
    lookups: Lookups | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.microbatch is not None:
            positive_int(microbatch=self.microbatch)

    @staticmethod
    def sensitivity(clip_norm: float, relation: str) -> float:
        """Most that the sum moves between neighbouring data sets, in the Euclidean norm."""
        one_of(RELATIONS, relation=relation)
        return 2 * clip_norm if relation == "replace_one" else clip_norm

    def __call__(
        self,
        trained: Tree,
        fixed: Tree,
        batch: Tree,
        is_padding: jax.Array,
        key: jax.Array,
        clip_norm: jax.Array,
    ) -> tuple[Tree, ClipInfo]:
        """The clipped sum over a batch.

        Args:
            trained: what is differentiated.
            fixed: what else the loss reads.
            batch: leaves [B, ...]; B a multiple of `microbatch`.
            is_padding: [B] bool; such rows do not exist.
            key: [B] typed keys, one for each example; or [] one, of which row i gets `fold_in(key, i)`.
            clip_norm: [] float32.

        Returns:
            (sum, info): leaves of `trained`'s shapes in at least float32.

        Raises:
            ConfigError: the loss is no scalar, the mask is none, or B is no multiple of `microbatch`.
        """
        B = check_batch(batch, is_padding, self.microbatch)
        keys = example_keys(key, B)
        check_loss(self.loss, trained, fixed, batch, keys)

        def some(rows: Tree, keys: jax.Array, padding: jax.Array) -> tuple[Tree, ClipInfo]:
            found = jax.vmap(jax.value_and_grad(self.loss), in_axes=(None, None, 0, 0))
            losses, grads = found(trained, fixed, rows, keys)
            sums, norms = clip_and_sum(self._parts(grads, rows), clip_norm, padding)
            total = sums[0] if len(sums) == 1 else functools.reduce(operator.or_, sums)
            return total, clip_info(losses, norms, padding)

        return in_microbatches(some, batch, keys, is_padding, self.microbatch or B)

    def _parts(self, grads: Tree, rows: Tree) -> list[Part]:
        if self.lookups is None:
            return [Stacked(grads)]
        ids, tables = jax.vmap(self.lookups.ids)(rows), dict(self.lookups.n_rows)
        dense = {name: leaf for name, leaf in grads.items() if name not in tables}
        return [
            Stacked(dense),
            *(LookedUp.of(name, ids[name], grads[name], V) for name, V in tables.items()),
        ]


def example_keys(key: jax.Array, count: int) -> jax.Array:
    """[count] typed keys, one for each row: those given, or of a single one `fold_in(key, row)`.

    Raises:
        ConfigError: so many keys were not given.
    """
    if key.shape == ():
        rows = jnp.arange(count, dtype=jnp.int32)
        return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    if key.shape != (count,):
        raise ConfigError(
            f"key must be one typed key, or one for each of {count} rows; got {list(key.shape)}."
        )
    return key


def check_loss(loss: ExampleLoss, trained: Tree, fixed: Tree, batch: Tree, keys: jax.Array) -> None:
    """Raises ConfigError unless the loss of one example of the batch is a float scalar."""
    found = jax.eval_shape(loss, trained, fixed, example_of(batch), example_of(keys))
    if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ConfigError(
            f"the loss of one example must be a float scalar; it is {found}. Average over the tokens "
            "of the example, never over examples."
        )


def example_of(batch: Tree) -> Tree:
    """Shapes and dtypes of one row."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch)


def check_batch(batch: Tree, is_padding: jax.Array, microbatch: int | None) -> int:
    """The number of rows.

    Raises:
        ConfigError: leaves of different lengths, a mask that is no bool[B], or no whole microbatches.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ConfigError(
            f"the leaves of a batch must be [B, ...] of one B; got {[list(s) for s in shapes]}."
        )
    (B,) = lengths
    if jnp.shape(is_padding) != (B,) or jnp.result_type(is_padding) != jnp.bool_:
        raise ConfigError(
            f"is_padding must be bool [{B}], true where a row does not exist; got "
            f"{jnp.result_type(is_padding)} {list(jnp.shape(is_padding))}."
        )
    if microbatch is not None and B % microbatch:
        raise ConfigError(
            f"a batch of {B} rows is no multiple of microbatch={microbatch}: pad it to one."
        )
    return B


def in_microbatches(
    some: Any, batch: Tree, keys: jax.Array, is_padding: jax.Array, size: int
) -> tuple[Tree, Tree]:
    """`some(rows, keys, padding) -> (sum, per_row)` over parts of a batch, one after the other.

    Args:
        some: a function of rows, their keys and their mask.
        batch: leaves [B, ...].
        keys: [B] typed keys.
        is_padding: [B] bool.
        size: rows of a part; divides B.

    Returns:
        (sum, per_row): sums added up, leaves [B, ...] put one behind the other.
    """
    B = is_padding.shape[0]
    if size == B:
        return some(batch, keys, is_padding)
    given = (batch, keys, is_padding)
    parts = jax.tree.map(lambda leaf: leaf.reshape(B // size, size, *leaf.shape[1:]), given)
    shapes, _ = jax.eval_shape(some, *example_of(parts))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def step(total: Tree, part: Tree) -> tuple[Tree, Tree]:
        more, per_row = some(*part)
        return jax.tree.map(jnp.add, total, more), per_row

    total, per_row = jax.lax.scan(step, zero, parts)
    return total, jax.tree.map(lambda leaf: leaf.reshape(B, *leaf.shape[2:]), per_row)
