"""The models whose private steps are measured: abstract weights, the loss of one example, a batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ariel_jax.errors import ConfigError
from ariel_jax.models import presets
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.encoder import EncoderConfig, classify, init_encoder
from ariel_jax.models.params import init_params, stack_layers
from ariel_jax.models.vit import ViTConfig, init_vit, vit_logits
from ariel_jax.training.step import LMBatch, lm_loss

Tree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and one example of its task.

    Attributes:
        init: its random weights, layers stacked.
        loss: `loss(params, example, key) -> scalar` of one example.
        example: shapes and dtypes of one example's arrays, and one more than their largest number.
        rank: of the projections.
    """

    init: Callable[[], Tree]
    loss: Callable[[Tree, Tree, jax.Array], jax.Array]
    example: dict[str, tuple[tuple[int, ...], str, int]]
    rank: int

    def batch(self, B: int) -> dict[str, np.ndarray]:
        """B examples of random numbers."""
        rng = np.random.default_rng(0)
        return {
            name: rng.random((B, *shape), np.float32)
            if dtype == "float32"
            else rng.integers(0, below, (B, *shape)).astype(dtype)
            for name, (shape, dtype, below) in self.example.items()
        }


def of_text(
    cfg: DecoderConfig, remat: bool, params: Tree, example: Tree, key: jax.Array
) -> jax.Array:
    """The language-model loss of one text."""
    tokens = example["tokens"][None]
    batch = LMBatch(tokens=tokens[:, :-1], targets=tokens[:, 1:], step=jnp.int32(0))
    return lm_loss(cfg, params, batch, jnp.zeros(1, bool), key=key, remat=remat)[0]


def of_label(
    cfg: EncoderConfig, remat: bool, params: Tree, example: Tree, key: jax.Array
) -> jax.Array:
    """The classification loss of one text."""
    mask = jnp.ones((1, example["tokens"].shape[0]), bool)
    logits = classify(cfg, params, example["tokens"][None], mask, remat=remat)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits[0], example["label"])


def of_image(cfg: ViTConfig, remat: bool, params: Tree, example: Tree, key: jax.Array) -> jax.Array:
    """The classification loss of one image."""
    logits = vit_logits(cfg, params, example["image"][None], remat=remat)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits[0], example["label"])


def decoder_shape(cfg: DecoderConfig, n_tokens: int, rank: int, remat: bool) -> Shape:
    """A decoder over texts of `n_tokens` tokens and one to predict."""
    return Shape(
        init=lambda: stack_layers(init_params(cfg, key=jax.random.key(0))),
        loss=functools.partial(of_text, cfg, remat),
        example={"tokens": ((n_tokens + 1,), "int32", cfg.vocab_size)},
        rank=rank,
    )


def encoder_shape(cfg: EncoderConfig, n_tokens: int, rank: int, remat: bool) -> Shape:
    """An encoder with a classifier over texts of `n_tokens` tokens."""
    return Shape(
        init=lambda: stack_layers(init_encoder(cfg, key=jax.random.key(0))),
        loss=functools.partial(of_label, cfg, remat),
        example={
            "tokens": ((n_tokens,), "int32", cfg.vocab_size),
            "label": ((), "int32", cfg.n_classes or 1),
        },
        rank=rank,
    )


def vit_shape(cfg: ViTConfig, rank: int, remat: bool) -> Shape:
    """A vision transformer with a classifier."""
    side = cfg.image_size
    return Shape(
        init=lambda: stack_layers(init_vit(cfg, key=jax.random.key(0))),
        loss=functools.partial(of_image, cfg, remat),
        example={
            "image": ((side, side, cfg.n_channels), "float32", 1),
            "label": ((), "int32", cfg.n_classes or 1),
        },
        rank=rank,
    )


SMALL = {"n_layers": 4, "d_model": 256, "n_heads": 4, "d_ff": 1024}
OPT = {"opt-1.3b": 16, "opt-2.7b": 32, "opt-6.7b": 64}  # the ranks of the authors' code


def shape(name: str, *, remat: bool, rank: int | None = None, tiny: bool = False) -> Shape:
    """A model of the tables by name.

    Args:
        name: `decoder` and `vit` (4 layers of width 256, 64 tokens), `vit-b16`, `roberta-large`
            (128 tokens), `opt-1.3b`, `opt-2.7b`, `opt-6.7b` (512 tokens).
        remat: blocks are computed again on the way back.
        rank: of the projections; None for the one of the authors' code.
        tiny: the same code with sizes for a test.

    Raises:
        ConfigError: no such name.
    """
    small = {"n_layers": 2, "d_model": 32, "n_heads": 2, "d_ff": 64} if tiny else SMALL
    rank = 4 if tiny else rank
    if name == "decoder" or (tiny and name in OPT):
        heads = {"n_kv_heads": small["n_heads"], "head_dim": small["d_model"] // small["n_heads"]}
        fields = {"family": "opt", "vocab_size": 256, "max_positions": 64, "pos_offset": 2}
        kind = {"norm": "layer", "pos": "learned", "act": "relu", "gated": False}
        bias = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
        cfg = DecoderConfig.create(**small, **heads, **fields, **kind, **bias)
        return decoder_shape(cfg, 8 if tiny else 64, rank or 16, remat)
    if name == "vit" or (tiny and name == "vit-b16"):
        sides = {"image_size": 8, "patch_size": 4} if tiny else {"image_size": 32, "patch_size": 4}
        return vit_shape(ViTConfig.create(**small, **sides, n_classes=10), rank or 16, remat)
    if tiny and name == "roberta-large":
        sizes = {"vocab_size": 256, "max_positions": 64, "positions": "tokens", "pos_offset": 2}
        cfg = EncoderConfig.create(family="roberta", **small, **sizes, n_classes=2)
        return encoder_shape(cfg, 8, rank or 16, remat)
    if name == "vit-b16":
        return vit_shape(presets.vit_preset("vit-b16").replace(n_classes=10), rank or 64, remat)
    if name == "roberta-large":
        return encoder_shape(
            presets.encoder_preset(name).replace(n_classes=2), 128, rank or 16, remat
        )
    if name in OPT:
        return decoder_shape(presets.preset(name), 512, rank or OPT[name], remat)
    raise ConfigError(f"there is no shape {name!r} here.")
