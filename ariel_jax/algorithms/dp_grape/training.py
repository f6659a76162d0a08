"""Private training on the common loop: what a step differentiates, and the transformation behind it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ariel_jax._checks import positive
from ariel_jax.algorithms.dp_grape import taps
from ariel_jax.algorithms.dp_grape.config import Config, Specs
from ariel_jax.algorithms.dp_grape.transform import transform
from ariel_jax.errors import ConfigError
from ariel_jax.privacy import noise
from ariel_jax.privacy.batches import PoissonSource
from ariel_jax.privacy.clipping import ClippedSum

Tree = Any
Loss = Callable[[Tree, Tree, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateGrad:
    """The `training.GradFn` of DP-GRAPE: the clipped sum of projected gradients over the rows of a batch.

    The batch is a `PrivateSource`'s. What is returned is the sum divided by the rows of the batch, padding
    included: a public number, so that means over microbatches and devices give the sum over all of them
    divided by all rows.

    Attributes:
        loss: `loss(params, example, key) -> scalar` of one example; hashable.
        specs: which weights are projected.
        cfg: how.
        key_data: words of the key of the projections, see `key_words`.
        microbatch: examples whose gradients exist at once; None for all.
    """

    loss: Loss
    specs: Specs
    cfg: Config
    key_data: tuple[int, ...]
    microbatch: int | None = None

    def __call__(
        self, params: Tree, batch: Mapping[str, Any], is_padding: jax.Array, key: jax.Array
    ) -> tuple[Tree, dict[str, jax.Array]]:
        """`(tree, info)`; info's losses and norms are not private."""
        words = jnp.asarray(np.asarray(self.key_data, np.uint32))
        epoch = taps.epoch_of(batch["step"], self.cfg)
        drawn = taps.projections(jax.random.wrap_key_data(words), epoch, self.specs, self.cfg)
        summed = ClippedSum(
            loss=taps.tapped_loss(self.loss, self.specs), microbatch=self.microbatch
        )
        trained = taps.trained_leaves(params, self.specs)
        examples, clip_norm = batch["examples"], batch["clip_norm"]
        total, found = summed(trained, (params, drawn), examples, is_padding, key, clip_norm)
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
class PrivateSource:
    """A `training.BatchSource` of Poisson draws, with the numbers that a private step needs beside them.

    Attributes:
        draws: of the records.
        clip_norm: C.
    """

    draws: PoissonSource
    clip_norm: float

    def __post_init__(self) -> None:
        """Check the number."""
        positive(clip_norm=self.clip_norm)

    def init(self) -> dict[str, Any]:
        """The state before the first batch."""
        return self.draws.init()

    def next(
        self, state: dict[str, Any]
    ) -> tuple[tuple[dict[str, Any], np.ndarray], dict[str, Any]]:
        """`((batch, is_padding), state)` after a state."""
        (examples, is_padding), after = self.draws.next(state)
        numbers = {"step": np.int32(state["step"]), "clip_norm": np.float32(self.clip_norm)}
        return ({"examples": examples, **numbers}, is_padding), after


def key_words(key: jax.Array) -> tuple[int, ...]:
    """A typed key as what can stand in a static argument. Only for keys that are public."""
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())


def private_optimizer(
    inner: optax.GradientTransformation,
    cfg: Config,
    specs: Specs,
    *,
    noise_multiplier: float,
    source: PrivateSource,
    noise_key: jax.Array,
    projection_key: jax.Array,
) -> optax.GradientTransformation:
    """Noise on the clipped sum, division by the expected batch, and the optimiser in the projected space.

    Args:
        inner: such as `optax.adam(1e-3)`.
        cfg: of the projections.
        specs: which weights are projected.
        noise_multiplier: sigma; the noise on the sum has the standard deviation sigma C.
        source: of the batches that `PrivateGrad` sees.
        noise_key: [] typed key, secret: `privacy.secure_key()`.
        projection_key: [] typed key, public, the one of `PrivateGrad`.

    Raises:
        ConfigError: no noise, or one key for both.
    """
    positive(noise_multiplier=noise_multiplier)
    if key_words(noise_key) == key_words(projection_key):
        raise ConfigError(
            "the keys of noise and projections are the same: the projections are public, and whoever knows "
            "their key could take the noise away. Draw the noise key with privacy.secure_key()."
        )
    rows, expected = source.draws.rows, source.draws.n * source.draws.probability
    if not math.isfinite(expected) or expected <= 0:
        raise ConfigError(f"an expected batch of {expected} records cannot be divided by.")
    return optax.chain(
        noise.add_gaussian(noise_multiplier * source.clip_norm / rows, noise_key),
        optax.scale(rows / expected),
        transform(inner, cfg, specs, key=projection_key),
    )
