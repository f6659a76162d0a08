"""DPZero: one random direction a step, and for each example only how its loss changes along it.

Zhang, Li, Thekumparampil, Oh, He 2024, arXiv 2310.09639. Forward passes only.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ariel_jax._checks import positive
from ariel_jax._numerics import at_least_f32
from ariel_jax.algorithms.dp_grape.sums import Info, Loss, Tied, per_row, row_keys
from ariel_jax.models.paths import flatten, replaced
from ariel_jax.privacy.clipping import (
    ClipInfo,
    Stacked,
    check_batch,
    check_loss,
    clip_and_sum,
    clip_info,
    example_keys,
    in_microbatches,
)

Tree = Any
Leaves = dict[str, jax.Array]
SLOPE = "slope"  # the name of the one number that a step releases


def direction(key_data: tuple[int, ...], step: jax.Array, like: Mapping[str, Any]) -> Leaves:
    """The direction of a step: standard normal numbers in the shapes of some leaves.

    Args:
        key_data: words of the key of the directions. It is public: no guarantee rests on it.
        step: [] int32.
        like: arrays or shapes by path.

    Returns:
        Arrays in at least float32, drawn from key, step and path alone.
    """
    words = jnp.asarray(np.asarray(key_data, np.uint32))
    here = jax.random.fold_in(jax.random.wrap_key_data(words), step)

    def draw(path: str, leaf: Any) -> jax.Array:
        of_leaf = jax.random.fold_in(here, zlib.crc32(path.encode()))
        return jax.random.normal(of_leaf, leaf.shape, at_least_f32(leaf.dtype))

    return {path: draw(path, leaf) for path, leaf in like.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlopeGrad(Tied):
    """The clipped sum of (loss(w + s u) - loss(w - s u)) / (2 s) over the rows of a batch: one number.

    Attributes:
        loss: `loss(params, example, key) -> scalar` of one example; hashable. It is never differentiated.
        trained: paths of the leaves that move.
        key_data: words of the key of the directions.
        smoothing: s. The moved weights are rounded to their own dtype: train float32 weights.
        microbatch: examples evaluated at once; None for all.

    Guarantees:
        An example changes the sum by at most the clip norm when it is added, removed or made padding.
    """

    loss: Loss
    trained: tuple[str, ...]
    key_data: tuple[int, ...]
    smoothing: float = 1e-3
    microbatch: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        positive(smoothing=self.smoothing)

    def __call__(
        self, params: Tree, batch: Mapping[str, Any], is_padding: jax.Array, key: jax.Array
    ) -> tuple[Tree, Info]:
        """`({"slope": number}, info)` of a `PrivateSource`'s batch; info is not private."""
        examples, clip_norm = batch["examples"], batch["clip_norm"]
        B = check_batch(examples, is_padding, self.microbatch)
        keys = example_keys(row_keys(batch, key), B)
        check_loss(lambda p, _, e, k: self.loss(p, e, k), params, None, examples, keys)
        leaves = flatten(params)
        trained = {path: leaves[path] for path in self.trained}
        along = direction(self.key_data, batch["step"], trained)

        def moved(by: float) -> Tree:
            move = lambda leaf, u: (leaf.astype(u.dtype) + by * u).astype(leaf.dtype)
            return replaced(params, {path: move(trained[path], along[path]) for path in trained})

        ends = moved(self.smoothing), moved(-self.smoothing)

        def some(rows: Tree, keys: jax.Array, padding: jax.Array) -> tuple[Tree, ClipInfo]:
            run = jax.vmap(self.loss, in_axes=(None, 0, 0))
            ahead, behind = (run(end, rows, keys).astype(jnp.float32) for end in ends)
            slopes = (ahead - behind) / (2 * self.smoothing)
            (total,), norms = clip_and_sum([Stacked({SLOPE: slopes})], clip_norm, padding)
            return total, clip_info((ahead + behind) / 2, norms, padding)

        total, found = in_microbatches(some, examples, keys, is_padding, self.microbatch or B)
        return per_row(total, found, is_padding, clip_norm)


class AlongState(NamedTuple):
    """The state of `along`."""

    step: jax.Array  # [] int32


def along(learning_rate: float, key_data: tuple[int, ...]) -> optax.GradientTransformation:
    """Updates of whole leaves from the noisy slope of a step: -lr slope u, u drawn anew.

    Args:
        learning_rate: lr.
        key_data: words of the key of `SlopeGrad`.

    Guarantees:
        The direction is that of `SlopeGrad` at the same step; it is stored nowhere.
    """
    positive(learning_rate=learning_rate)

    def init(params: Any) -> AlongState:
        del params
        return AlongState(step=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: AlongState, params: Any = None) -> tuple[Any, AlongState]:
        if params is None:
            raise ValueError(
                "zeroth.along needs the parameters: call update(updates, state, params)."
            )
        size = -learning_rate * updates[SLOPE]
        drawn = direction(key_data, state.step, params)
        grown = jax.tree.map(lambda u: u * size.astype(u.dtype), drawn)
        return grown, AlongState(step=state.step + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType] optax's own types are wider
