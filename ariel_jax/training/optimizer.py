"""The optimiser of language-model training: AdamW with a clip and a learning-rate schedule."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ariel_jax._checks import (
    in_range,
    non_negative,
    non_negative_int,
    one_of,
    positive,
    positive_int,
)
from ariel_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) and its learning rate over the steps.

    Attributes:
        lr: peak learning rate.
        steps: the schedule's length in optimiser steps.
        warmup_steps: linear rise from 0.
        schedule: `cosine` (to `final_lr`), `wsd` (constant, then a straight line to `final_lr`
            over the last `decay_steps`) or `constant`.
        decay_steps: length of the line of `wsd`.
        final_lr: learning rate at the end, as a share of `lr`.
        b1, b2: decay of the two moments.
        weight_decay: applied to matrices only, not to norms and biases.
        clip: largest global gradient norm.
    """

    lr: float
    steps: int
    warmup_steps: int = 0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    decay_steps: int = 0
    final_lr: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        one_of(("cosine", "wsd", "constant"), schedule=self.schedule)
        positive(lr=self.lr, clip=self.clip)
        positive_int(steps=self.steps)
        non_negative_int(warmup_steps=self.warmup_steps, decay_steps=self.decay_steps)
        non_negative(weight_decay=self.weight_decay)
        in_range(0, 1, final_lr=self.final_lr)
        in_range(0, 1, ends="[)", b1=self.b1, b2=self.b2)
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ConfigError(
                f"warmup_steps={self.warmup_steps} and decay_steps={self.decay_steps} together "
                f"exceed steps={self.steps}; make them shorter."
            )

    def learning_rate(self, step: Any) -> jax.Array:
        """The learning rate of a step, counted from 0: float32, shape of `step`."""
        at = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum((at + 1) / max(1, self.warmup_steps), 1.0)
        if self.schedule == "constant":
            return self.lr * rise
        if self.schedule == "cosine":
            length = max(1, self.steps - self.warmup_steps)
            past = jnp.clip((at - self.warmup_steps) / length, 0, 1)
            shape = 0.5 * (1 + jnp.cos(jnp.pi * past))
        else:
            length = max(1, self.decay_steps)
            shape = jnp.clip((self.steps - at) / length, 0, 1)
        return self.lr * rise * (self.final_lr + (1 - self.final_lr) * shape)


@functools.lru_cache(maxsize=32)
def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optax transformation of a config; the same object for equal configs.

    One object matters: a compiled program belongs to the object it was compiled with.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            config.learning_rate,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mu_dtype=jnp.float32,
            mask=lambda params: jax.tree.map(lambda x: x.ndim >= 2, params),
        ),
    )
