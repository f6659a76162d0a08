"""What the baselines differentiate where that is no sum of materialised gradients, as a `training.GradFn`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.errors import ConfigError
from ariel_jax.models.paths import flatten, replaced
from ariel_jax.privacy.clipping import (
    ClipInfo,
    check_batch,
    check_loss,
    example_keys,
    in_microbatches,
)
from ariel_jax.privacy.ghost import GhostClippedSum, weighted_gradient

Tree = Any
Info = dict[str, jax.Array]
Loss = Callable[[Tree, Tree, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tied:
    """What a private gradient remembers of the source that the noise behind it was made for.

    Attributes:
        rows: of that source's batches, by which sum and noise are divided; None for a gradient that was
            made by hand, which is not checked.
        clip_norm: of that source, in whose units the noise is; None likewise.
    """

    # Another value compiles nothing again: programs do not read these.
    rows: int | None = dataclasses.field(default=None, compare=False)
    clip_norm: float | None = dataclasses.field(default=None, compare=False)
    is_private: ClassVar[bool] = True

    def check(self, batch: Mapping[str, Any], is_padding: np.ndarray) -> None:
        """Refuses a whole batch on the host, before anything is computed from it.

        Raises:
            ConfigError: it is no batch of that source, so the noise on its sum would have another size.
        """
        rows, clip_norm = is_padding.shape[0], float(batch["clip_norm"])
        if self.rows not in (None, rows):
            raise ConfigError(
                f"the noise was made for batches of {self.rows} rows and this one has {rows}: it would have "
                "another size on the sum. Train with the source that the method was built with."
            )
        if self.clip_norm is not None and np.float32(self.clip_norm) != np.float32(clip_norm):
            raise ConfigError(
                f"the noise was made for sums clipped at {self.clip_norm:g} and this batch is clipped at "
                f"{clip_norm:g}: train with the source that the method was built with."
            )


def row_keys(batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
    """The keys of a batch's examples: [B] typed, as a `PrivateSource` gives each record its own.

    Args:
        batch: `keys`, uint32 [B, words]; one that was made by hand may lack them.
        key: [] typed key, which rows then share: the loop's, another one for every part of a batch.
    """
    return jax.random.wrap_key_data(batch["keys"]) if "keys" in batch else key


def per_row(
    total: Tree, found: ClipInfo, is_padding: jax.Array, clip_norm: jax.Array
) -> tuple[Tree, Info]:
    """A clipped sum as a `GradFn` hands it out: divided by all rows, padding included.

    Args:
        total: the sum over the rows.
        found: of each row.
        is_padding: [B] bool.
        clip_norm: [] float32.

    Returns:
        (tree, info): info's losses and shares are not private.
    """
    rows = is_padding.shape[0]
    real = jnp.maximum(jnp.sum(~is_padding, dtype=jnp.float32), 1.0)
    clipped = jnp.where(is_padding, 0.0, (found.norm > clip_norm).astype(jnp.float32))
    info = {
        "loss": jnp.sum(found.loss) / real,
        "clipped": jnp.sum(clipped) / real,
        "weight": jnp.asarray(rows, jnp.float32),
    }
    return jax.tree.map(lambda leaf: leaf / rows, total), info


@dataclasses.dataclass(frozen=True, kw_only=True)
class GhostGrad(Tied):
    """DP-Adam's clipped sum by ghost clipping.

    Attributes:
        summed: the sum.
        trained: paths of the leaves that are trained.
    """

    summed: GhostClippedSum
    trained: tuple[str, ...]

    def __call__(
        self, params: Tree, batch: Mapping[str, Any], is_padding: jax.Array, key: jax.Array
    ) -> tuple[Tree, Info]:
        """`(tree, info)` of a `PrivateSource`'s batch; info's losses and norms are not private."""
        leaves = flatten(params)
        trained = {path: leaves[path] for path in self.trained}
        examples, clip_norm = batch["examples"], batch["clip_norm"]
        keys = row_keys(batch, key)
        total, found = self.summed(trained, params, examples, is_padding, keys, clip_norm)
        return per_row(total, found, is_padding, clip_norm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanGrad:
    """The mean gradient over the rows that are no padding, without clip: **not private**.

    Attributes:
        loss: `loss(params, example, key) -> scalar` of one example; hashable.
        trained: paths of the leaves that are trained.
        microbatch: examples whose activations exist at once; None for all.
    """

    loss: Loss
    trained: tuple[str, ...]
    microbatch: int | None = None

    def __call__(
        self, params: Tree, batch: Mapping[str, Any], is_padding: jax.Array, key: jax.Array
    ) -> tuple[Tree, Info]:
        """`(tree, info)` of a `PrivateSource`'s batch, whose clip norm is not used."""
        leaves = flatten(params)
        trained = {path: leaves[path] for path in self.trained}
        B = check_batch(batch["examples"], is_padding, self.microbatch)
        whole = lambda leaves, params, example, key: self.loss(
            replaced(params, leaves), example, key
        )
        keys = example_keys(row_keys(batch, key), B)
        check_loss(whole, trained, params, batch["examples"], keys)

        def some(rows: Tree, keys: jax.Array, padding: jax.Array) -> tuple[Tree, jax.Array]:
            of_rows = lambda leaves, row, key: whole(leaves, params, row, key)
            counted = (~padding).astype(jnp.float32)
            total, losses = weighted_gradient(of_rows, trained, rows, keys, counted)
            return total, jnp.where(padding, 0.0, losses)

        total, losses = in_microbatches(
            some, batch["examples"], keys, is_padding, self.microbatch or B
        )
        real = jnp.sum(~is_padding, dtype=jnp.float32)
        safe = jnp.maximum(real, 1.0)
        mean = jax.tree.map(lambda leaf: leaf / safe.astype(leaf.dtype), total)
        return mean, {"loss": jnp.sum(losses) / safe, "weight": real}
