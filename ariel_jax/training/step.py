"""What one training step differentiates: the language-model loss and the LayerSkip recipe."""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._checks import in_range, non_negative, non_negative_int
from ariel_jax._numerics import at_least_f32
from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import dequantize
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams, head
from ariel_jax.models.quantization import check_not_quantized
from ariel_jax.training.attention import training_attend
from ariel_jax.training.loss import head_cross_entropy

IGNORE = -1  # a target that is not learned

Tree = Any
Info = dict[str, jax.Array]


@struct.dataclass
class LMBatch:
    """Sequences and what to predict after each of their tokens."""

    tokens: jax.Array  # [B, T] int32
    targets: jax.Array  # [B, T] int32, -1 where nothing is learned
    step: jax.Array  # [] int32, training steps made before this one


class GradFn(Protocol):
    """How a trainer turns a batch into a tree that `reduce` and the optimiser then take.

    The tree usually is the mean gradient; `info["weight"]` (float32 scalar) says of how much, and
    makes the weighted mean over microbatches. The other entries of `info` are scalars to report,
    averaged with the same weights. An implementation is hashable and equal to its like (a frozen
    dataclass), so that two equal ones share a compiled program.
    """

    def __call__(
        self, params: Tree, batch: Any, is_padding: jax.Array, key: jax.Array, /
    ) -> tuple[Tree, Info]:
        """`(tree, info)` of a batch whose rows with is_padding [B] bool do not exist."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSkip:
    """The LayerSkip training recipe (Elhoushi et al. 2024, arXiv 2404.16710).

    Attributes:
        exit_scale: s in the loss (CE_last + s CE_exit) / (1 + s).
        max_dropout: probability of skipping the last layer, per sample, at the end of the
            curriculum; it grows exponentially over depth from 0 at the first layer.
        curriculum_steps: steps over which the probabilities grow exponentially from 0 (training
            from scratch); 0 uses them in full at once (fine-tuning).
        depth_power: an exit after e layers has its turn in proportion to e ** -depth_power; 0 is
            the plain rotation, larger values favour shallow exits.

    Deviations:
        One exit per step has its loss beside the last layer, in a fixed weighted rotation, where
        the paper weights exits by their depth: with few layers depth weights starve the shallow
        exits that drafting needs most.
    """

    exit_scale: float = 1.0
    max_dropout: float = 0.1
    curriculum_steps: int = 0
    depth_power: float = 0.5

    def __post_init__(self) -> None:
        in_range(0, 1, ends="[)", max_dropout=self.max_dropout)
        non_negative(exit_scale=self.exit_scale, depth_power=self.depth_power)
        non_negative_int(curriculum_steps=self.curriculum_steps)

    def rotation(self, n_layers: int) -> tuple[int, ...]:
        """The exits in turn, one per step, each between 1 and n_layers - 1 layers deep.

        Every exit appears at least twice; turns of one exit are spread evenly.
        """
        exits = range(1, n_layers)
        weights = {e: e**-self.depth_power for e in exits}
        smallest = min(weights.values())
        counts = {e: round(2 * w / smallest) for e, w in weights.items()}
        turns = [((i + 0.5) / counts[e], e) for e in exits for i in range(counts[e])]
        return tuple(e for _, e in sorted(turns))

    def skip_probabilities(self, n_layers: int, step: jax.Array) -> jax.Array:
        """[L] float32 probability of skipping each layer at a step ([] int32)."""
        depth = jnp.arange(n_layers, dtype=jnp.float32) / max(1, n_layers - 1)
        grown = jnp.float32(1)
        if self.curriculum_steps:
            at = jnp.minimum(step.astype(jnp.float32) / self.curriculum_steps, 1.0)
            grown = jnp.exp(at * math.log(2)) - 1
        return grown * (jnp.exp(depth * math.log(2)) - 1) * self.max_dropout


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMGrad:
    """The `GradFn` of plain language-model training, with LayerSkip as an option.

    Attributes:
        cfg: the decoder.
        layerskip: the recipe, or None.
        remat: the backward pass computes each block again: a third more work, and memory for the
            inputs of the blocks and the inside of one.
    """

    cfg: DecoderConfig
    layerskip: LayerSkip | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        if self.layerskip is not None and self.cfg.n_layers < 2:
            raise ConfigError(
                f"LayerSkip needs an exit before the last layer and the model has n_layers="
                f"{self.cfg.n_layers}: train at least 2 layers, or without LayerSkip."
            )

    def __call__(
        self, params: DecoderParams, batch: LMBatch, is_padding: jax.Array, key: jax.Array
    ) -> tuple[Tree, Info]:
        """The gradient of `lm_loss` and its info."""
        check_not_quantized(params, "training")

        def loss(params: DecoderParams) -> tuple[jax.Array, Info]:
            options: Any = {"key": key, "layerskip": self.layerskip, "remat": self.remat}
            return lm_loss(self.cfg, params, batch, is_padding, **options)

        (_, info), tree = jax.value_and_grad(loss, has_aux=True)(params)
        return tree, info


def lm_loss(
    cfg: DecoderConfig,
    params: DecoderParams,
    batch: LMBatch,
    is_padding: jax.Array,
    *,
    key: jax.Array,
    layerskip: LayerSkip | None = None,
    remat: bool = False,
) -> tuple[jax.Array, Info]:
    """Mean cross-entropy of the next token, in nats.

    Args:
        cfg: the decoder.
        params: its weights; `layers` as a tuple, or stacked where there is no recipe.
        batch: sequences of T tokens with their targets.
        is_padding: [B] bool; such rows count nothing.
        key: consumed, by layer dropout.
        layerskip: the recipe, or None for the plain loss.
        remat: see `LMGrad`.

    Returns:
        (loss, info): float32 scalar; info holds `loss`, `loss_last`, `weight` (targets learned),
        and with LayerSkip `loss_exit` and `exit` (layers run before that exit).

    Raises:
        ConfigError: the weights are quantised.
    """
    check_not_quantized(params, "training")
    B, T = batch.tokens.shape
    learned = (batch.targets != IGNORE) & ~is_padding[:, None]
    count = jnp.sum(learned.astype(jnp.float32))
    row_weights = (learned.astype(jnp.float32) / jnp.maximum(count, 1.0)).reshape(-1)
    targets = jnp.where(learned, batch.targets, 0).reshape(-1)
    with params.precision.scope():
        last, early, exit_layer = _hidden(
            cfg, params, batch, key=key, layerskip=layerskip, remat=remat
        )
        weights = head(params).w
        if layerskip is None or early is None:
            rows = decoder.before_head(cfg, params, last).reshape(B * T, -1)
            total, _ = head_cross_entropy(
                rows, weights, targets, row_weights, softcap=cfg.final_softcap
            )
            return total, {"loss": total, "loss_last": total, "weight": count}
        both = decoder.before_head(cfg, params, jnp.stack([last, early])).reshape(2 * B * T, -1)
        share = layerskip.exit_scale / (1 + layerskip.exit_scale)
        total, nll = head_cross_entropy(
            both,
            weights,
            jnp.tile(targets, 2),
            jnp.concatenate([row_weights * (1 - share), row_weights * share]),
            softcap=cfg.final_softcap,
        )
    nll_last, nll_exit = jnp.split(nll, 2)
    return total, {
        "loss": total,
        "loss_last": jnp.sum(nll_last * row_weights),
        "loss_exit": jnp.sum(nll_exit * row_weights),
        "exit": exit_layer.astype(jnp.float32),
        "weight": count,
    }


def exit_nll(
    cfg: DecoderConfig,
    params: DecoderParams,
    tokens: jax.Array,
    targets: jax.Array,
    *,
    exits: tuple[int, ...],
) -> jax.Array:
    """Cross-entropy of every target after several numbers of layers.

    Args:
        cfg: the decoder.
        params: its weights, quantised or not, `layers` as a tuple.
        tokens: [B, T] int32, at positions 0..T-1.
        targets: [B, T] int32 ids; what stands beside padding does not matter.
        exits: layers run before the head, ascending, each from 1 to n_layers.

    Returns:
        [len(exits), B, T] float32 in nats.
    """
    B, T = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    attend = training_attend(cfg.attention, T)
    weights, scale = head(params).w, head(params).scale
    if scale is not None:
        weights = dequantize(weights, scale, at_least_f32(params.precision.dtype("compute")))
    ones = jnp.ones(B * T, jnp.float32)
    found = []
    with params.precision.scope():
        x = decoder.embed(cfg, params, tokens, positions)
        for i in range(max(exits)):
            x, _ = decoder.block(cfg, params.layers[i], i, x, positions, attend, None)
            if i + 1 in exits:
                rows = decoder.before_head(cfg, params, x).reshape(B * T, -1)
                if scale is not None:  # products in the wider type, as in `linear`
                    rows = rows.astype(weights.dtype)
                _, nll = head_cross_entropy(
                    rows, weights, targets.reshape(-1), ones, softcap=cfg.final_softcap
                )
                found.append(nll.reshape(B, T))
    return jnp.stack(found)


def _hidden(
    cfg: DecoderConfig,
    params: DecoderParams,
    batch: LMBatch,
    *,
    key: jax.Array,
    layerskip: LayerSkip | None,
    remat: bool,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """(residual after the last layer, after the exit, the exit): [B, T, D], [B, T, D], []."""
    B, T = batch.tokens.shape
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    attend = training_attend(cfg.attention, T)
    x = decoder.embed(cfg, params, batch.tokens, positions)
    if layerskip is None:
        x, _ = decoder.trunk(cfg, params, x, positions, attend, None, remat=remat)
        return x, None, jnp.int32(cfg.n_layers)
    skip, early = None, None
    turns = jnp.asarray(layerskip.rotation(cfg.n_layers), jnp.int32)
    exit_layer = turns[batch.step % turns.shape[0]]
    if layerskip.max_dropout:
        chance = layerskip.skip_probabilities(cfg.n_layers, batch.step)
        skip = jax.random.uniform(key, (cfg.n_layers, B)) < chance[:, None]
    for i in range(cfg.n_layers):
        one = {"first": i, "last": i + 1, "remat": remat}
        y, _ = decoder.trunk(cfg, params, x, positions, attend, None, **one)
        x = y if skip is None else _skipping(skip[i], x, y)
        if i + 1 < cfg.n_layers:
            early = x if early is None else jnp.where(exit_layer == i + 1, x, early)
    return x, early, exit_layer


def _skipping(skip: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Takes x where skip [B] bool is set, else y; both [B, T, D]."""
    # The branch is a wall for XLA:CPU's fusion, which otherwise makes one expression of the choices
    # of all layers, in which x stands twice at every layer: five times slower, and slow to compile.
    return jax.lax.cond(jnp.any(skip), lambda: jnp.where(skip[:, None, None], x, y), lambda: y)
