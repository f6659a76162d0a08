"""Private training on the common loop: what a step differentiates, and the transformation behind it."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from ariel_jax._checks import non_negative_int, positive
from ariel_jax.algorithms.dp_grape import taps
from ariel_jax.algorithms.dp_grape.config import Config, Specs
from ariel_jax.algorithms.dp_grape.sums import Loss, Tied, per_row, row_keys
from ariel_jax.algorithms.dp_grape.transform import transform
from ariel_jax.errors import ConfigError, PrivacyBudgetError
from ariel_jax.privacy import noise, secure_key
from ariel_jax.privacy.batches import PoissonSource
from ariel_jax.privacy.clipping import ClippedSum, example_of
from ariel_jax.privacy.lookups import Lookups

Tree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateGrad(Tied):
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
        ids: `ids(example) -> {path: [T] int32}`, the rows that one example looks up in the tables of
            `cfg.lookups`; hashable.
    """

    loss: Loss
    specs: Specs
    cfg: Config
    key_data: tuple[int, ...]
    microbatch: int | None = None
    ids: Callable[[Tree], Mapping[str, jax.Array]] | None = None

    def __call__(
        self, params: Tree, batch: Mapping[str, Any], is_padding: jax.Array, key: jax.Array
    ) -> tuple[Tree, dict[str, jax.Array]]:
        """`(tree, info)`; info's losses and norms are not private."""
        words = jnp.asarray(np.asarray(self.key_data, np.uint32))
        epoch = taps.epoch_of(batch["step"], self.cfg)
        drawn = taps.projections(jax.random.wrap_key_data(words), epoch, self.specs, self.cfg)
        examples, clip_norm = batch["examples"], batch["clip_norm"]
        ids = self.ids or (lambda example: {})
        shapes = jax.eval_shape(ids, example_of(examples))
        trained, n_rows = taps.differentiated(params, self.specs, shapes)
        summed = ClippedSum(
            loss=taps.tapped_loss(self.loss, self.specs),
            microbatch=self.microbatch,
            lookups=Lookups(ids, n_rows) if n_rows else None,
        )
        keys = row_keys(batch, key)
        total, found = summed(trained, (params, drawn), examples, is_padding, keys, clip_norm)
        return per_row(total, found, is_padding, clip_norm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateSource:
    """A `training.BatchSource` of Poisson draws, with the numbers that a private step needs beside them.

    Attributes:
        draws: of the records.
        clip_norm: C.
        expected_batch: what sums are divided by, a public number. Under `add_remove` the number of records
            is private: do not compute it from that.
        steps: batches that are paid for; None for no limit.
        canaries: the last so many records are nobody's, and each is in the data or not by a secret fair
            coin, see `is_in`; 0 for none.

    Guarantees:
        A record that is drawn has a secret key of its own for each step, whoever else was drawn, so a loss
        with dropout changes for no other record when one is left out. What stands behind one that is taken
        out of the arrays gets other keys of the same law.

        A canary whose coin says out is in no batch, and nothing but the batches tells what the coins say.
        Whoever is real is drawn with the same probability, whatever canaries there are.
    """

    draws: PoissonSource
    clip_norm: float
    expected_batch: float
    steps: int | None = None
    canaries: int = 0
    is_private: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive(clip_norm=self.clip_norm, expected_batch=self.expected_batch)
        non_negative_int(canaries=self.canaries)
        if self.canaries >= self.draws.n:
            raise ConfigError(
                f"canaries={self.canaries} are the last of the records, of which there are no more: append "
                "them to records of your own."
            )

    def init(self) -> dict[str, Any]:
        """The state before the first batch.

        Raises:
            ConfigError: several processes, which would draw several samples.
        """
        check_one_process()
        made = self.draws.init() | {"clip_norm": self.clip_norm}
        return made | ({"canaries": self.canaries} if self.canaries else {})

    def is_in(self, state: Mapping[str, Any]) -> np.ndarray:
        """[canaries] bool: which of them take part, a function of the state's secret seed alone."""
        seed = bytes.fromhex(state["seed"])
        coins = [
            hashlib.blake2b(b"coin of canary %d" % number, key=seed, digest_size=1).digest()[0] & 1
            for number in range(self.canaries)
        ]
        return np.array(coins, bool)

    def next(
        self, state: dict[str, Any]
    ) -> tuple[tuple[dict[str, Any], np.ndarray], dict[str, Any]]:
        """`((batch, is_padding), state)` after a state.

        Raises:
            ConfigError: the state is of another data set, sampler or clip norm.
            PrivacyBudgetError: all batches that are paid for were drawn.
        """
        if self.steps is not None and state["step"] >= self.steps:
            raise PrivacyBudgetError(
                f"batch {state['step'] + 1} of a run of {self.steps}: no price covers it. Plan for more "
                "steps and reserve that price before the run begins."
            )
        if state["clip_norm"] != self.clip_norm:
            raise ConfigError(
                f"this run clipped at {state['clip_norm']} and now at {self.clip_norm}: its noise was made "
                "for the former. Begin another run under the ledger."
            )
        if state.get("canaries", 0) != self.canaries:
            raise ConfigError(
                f"this run began with {state.get('canaries', 0)} canaries and now they are {self.canaries}: "
                "records would change their meaning. Go on with the same."
            )
        drawn = self._counting(state, self.draws.draw(state))
        examples, is_padding = self.draws.batch(drawn)
        batch = {"examples": examples, **self.beside(state, drawn)}
        return (batch, is_padding), {**state, "step": state["step"] + 1}

    def _counting(self, state: Mapping[str, Any], drawn: np.ndarray) -> np.ndarray:
        """The drawn records without the canaries that are out."""
        if not self.canaries:
            return drawn
        counts = np.ones(self.draws.n, bool)
        counts[-self.canaries :] = self.is_in(state)
        return drawn[counts[drawn]]

    def beside(self, state: Mapping[str, Any], drawn: np.ndarray) -> dict[str, Any]:
        """What a batch holds beside its examples.

        Args:
            state: of the step.
            drawn: numbers of the records.

        Returns:
            `step` [] int32, `clip_norm` [] float32 and `keys` [rows, words] uint32, see
            `PoissonSource.keys`.
        """
        words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).size
        return {
            "step": np.int32(state["step"]),
            "clip_norm": np.float32(self.clip_norm),
            "keys": self.draws.keys(state, drawn, words),
        }


def check_one_process() -> None:
    """Raises ConfigError where every process would draw its own sample and its own noise."""
    if jax.process_count() > 1:
        raise ConfigError(
            f"private training runs in one process, on all its devices; here are {jax.process_count()}: each "
            "would draw its own sample, and a record could count once in each."
        )


def key_words(key: jax.Array) -> tuple[int, ...]:
    """A typed key as what can stand in a static argument. Only for keys that are public."""
    with jax.ensure_compile_time_eval():  # also while a program is traced
        return tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())


def private_optimizer(
    inner: optax.GradientTransformation,
    cfg: Config,
    specs: Specs,
    *,
    noise_multiplier: float,
    source: PrivateSource,
    projection_key: jax.Array,
    noise_key: jax.Array | None = None,
) -> optax.GradientTransformation:
    """Noise on the clipped sum, division by the expected batch, and the optimiser in the projected space.

    Args:
        inner: such as `optax.adam(1e-3)`.
        cfg: of the projections.
        specs: which weights are projected.
        noise_multiplier: sigma; the noise on the sum has the standard deviation sigma C.
        source: the one that the run takes its batches from, and no other; `methods.build` makes gradients
            that refuse another one, as does `PrivateGrad` with its `rows` and `clip_norm`.
        projection_key: [] typed key, public, the one of `PrivateGrad`.
        noise_key: [] typed key, secret and for this run alone: two runs with one key release the same
            noise. None draws one.

    Raises:
        ConfigError: no noise, one key for both, or several processes.
    """
    positive(noise_multiplier=noise_multiplier)
    check_one_process()
    noise_key = secure_key() if noise_key is None else noise_key
    is_known = not isinstance(noise_key, Tracer)
    if is_known and key_words(noise_key) == key_words(projection_key):
        raise ConfigError(
            "the keys of noise and projections are the same: the projections are public, and whoever knows "
            "their key could take the noise away. Draw the noise key with privacy.secure_key()."
        )
    rows, expected = source.draws.rows, source.expected_batch
    return optax.chain(
        noise.add_gaussian(noise_multiplier * source.clip_norm / rows, noise_key),
        optax.scale(rows / expected),
        transform(inner, cfg, specs, key=projection_key),
    )
