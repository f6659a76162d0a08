"""The vision transformer: an image as a row of patches, through the blocks of the encoder.

All functions are pure and callable un-jitted, and treat each image alone. There is no dropout.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._checks import known_keys, positive_int
from ariel_jax.errors import ConfigError
from ariel_jax.layers.attention import bidirectional
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.layers.norms import Norm, norm
from ariel_jax.models.config import Precision
from ariel_jax.models.encoder import EncoderBlocks, check_blocks, run_blocks
from ariel_jax.models.params import drawer, new_block, new_linear, new_norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(EncoderBlocks):
    """Everything that decides what a vision transformer computes. Hashable, static under jit.

    Build it with `ViTConfig.create`, which checks it.

    Attributes:
        n_layers, d_model, n_heads, d_ff: sizes.
        image_size: height and width of the images, in pixels.
        patch_size: height and width of a patch; divides `image_size`.
        n_channels: of a pixel.
        qkv_bias: queries, keys and values have biases.
        norm_eps: added under the square root.
        act: `gelu`, `gelu_tanh`, `relu` or `silu`.
        n_classes: of the classifier; None for a model without one.
        family: the checkpoint format.

    References:
        Dosovitskiy et al. 2020, arXiv 2010.11929.
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    image_size: int = 224
    patch_size: int = 16
    n_channels: int = 3
    qkv_bias: bool = True
    norm_eps: float = 1e-12
    act: Literal["silu", "gelu_tanh", "gelu", "relu"] = "gelu"
    n_classes: int | None = None
    family: Literal["vit"] = "vit"

    @classmethod
    def create(cls, **fields: Any) -> "ViTConfig":
        """A checked config from keyword fields.

        Raises:
            ConfigError: an unknown field, or sizes that cannot be a vision transformer.
        """
        known_keys(cls.__name__, {f.name for f in dataclasses.fields(cls)}, fields)
        cfg = cls(**fields)
        cfg.check()
        return cfg

    def check(self) -> None:
        """Raise ConfigError unless the sizes fit together."""
        check_blocks(self)
        positive_int(
            image_size=self.image_size, patch_size=self.patch_size, n_channels=self.n_channels
        )
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}; pass "
                "sizes of which it is."
            )

    def replace(self, **fields: Any) -> "ViTConfig":
        """A checked copy with some fields changed.

        Raises:
            ConfigError: an unknown field, or sizes that cannot be a vision transformer.
        """
        now = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self.create(**(now | fields))

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def norm_place(self) -> Literal["post", "pre"]:
        """Before attention and feed-forward."""
        return "pre"


class ViTParams(struct.PyTreeNode):
    """All weights of a vision transformer, and the precision they are used in.

    `layers` as in `EncoderParams`.
    """

    patch: Linear  # w [D, p * p * C]
    embed_class: jax.Array  # [D], the row before the patches
    pos_embed: jax.Array  # [1 + n_patches, D]
    layers: Any  # tuple[BlockParams, ...] or a stacked BlockParams
    final_norm: Norm
    classifier: Linear | None = None  # w [n_classes, D]
    precision: Precision = struct.field(pytree_node=False, default=Precision())


def patches(images: jax.Array, patch_size: int) -> jax.Array:
    """The patches of images, row by row from the top left.

    Args:
        images: [B, H, W, C].
        patch_size: p, height and width of a patch.

    Returns:
        [B, H / p * W / p, p * p * C]: of each patch its pixels row by row, of each pixel its channels.

    Raises:
        ConfigError: no images [B, H, W, C], or patches that do not fill them.
    """
    p = patch_size
    if len(images.shape) != 4 or images.shape[1] % p or images.shape[2] % p:
        raise ConfigError(
            f"images of shape {list(images.shape)} with patch_size={p}: they must be [B, H, W, C], "
            "H and W multiples of it."
        )
    B, H, W, C = images.shape
    grid = images.reshape(B, H // p, p, W // p, p, C).swapaxes(2, 3)
    return grid.reshape(B, H // p * (W // p), p * p * C)


def vit_encode(
    cfg: ViTConfig, params: ViTParams, images: jax.Array, *, remat: bool = False
) -> jax.Array:
    """A vector for the class token and every patch, after the final norm.

    Args:
        cfg: the model.
        params: its weights.
        images: [B, image_size, image_size, C] float, normalised as the model was trained.
        remat: blocks are computed again on the way back instead of kept: less memory for gradients.

    Returns:
        [B, 1 + n_patches, D] in the compute dtype; the class token comes first.

    Raises:
        ConfigError: images of another shape.
    """
    wanted = (cfg.image_size, cfg.image_size, cfg.n_channels)
    if images.shape[1:] != wanted:
        raise ConfigError(
            f"images of shape {list(images.shape)}: the model must have [B, {wanted[0]}, {wanted[1]}, "
            f"{wanted[2]}]. Resize them, channels last."
        )
    with params.precision.scope():
        dtype = params.precision.dtype("compute")
        x = linear(patches(images.astype(dtype), cfg.patch_size), params.patch)
        first = jnp.broadcast_to(params.embed_class.astype(dtype), (len(x), 1, cfg.d_model))
        x = jnp.concatenate([first, x], axis=1) + params.pos_embed.astype(dtype)[None]
        x = run_blocks(cfg, params.layers, x, bidirectional(cfg.head_dim**-0.5), remat=remat)
        return norm(cfg.norm, cfg.norm_eps, params.final_norm, x)


def vit_logits(
    cfg: ViTConfig, params: ViTParams, images: jax.Array, *, remat: bool = False
) -> jax.Array:
    """Class logits of every image, from the class token; arguments as for `vit_encode`.

    Returns:
        [B, n_classes] in the logits dtype.

    Raises:
        ConfigError: images of another shape, or a model without a classifier.
    """
    if params.classifier is None:
        raise ConfigError(
            "this model has no classifier: use a config with n_classes, and `with_vit_classifier` to "
            "add one to loaded weights."
        )
    x = vit_encode(cfg, params, images, remat=remat)[:, 0]
    with params.precision.scope():
        return linear(x, params.classifier, out_dtype=params.precision.dtype("logits"))


def with_vit_classifier(
    cfg: ViTConfig, params: ViTParams, n_classes: int, *, key: jax.Array
) -> tuple[ViTConfig, ViTParams]:
    """The model with a new classifier, where fine-tuning starts; `key` is consumed.

    Returns:
        (config, weights): all other weights are shared with `params`.
    """
    cfg = cfg.replace(n_classes=n_classes)
    new = new_linear(drawer(key, 1, params.precision), n_classes, cfg.d_model)
    return cfg, params.replace(classifier=new)  # pyright: ignore[reportAttributeAccessIssue] flax.struct


def init_vit(cfg: ViTConfig, *, key: jax.Array, precision: Precision | None = None) -> ViTParams:
    """Random weights: normal 0.02, biases zero, norms one.

    Args:
        cfg: the model.
        key: consumed.
        precision: dtypes; default float32.

    Returns:
        ViTParams with `layers` as a tuple.
    """
    precision = precision or Precision()
    D, F = cfg.d_model, cfg.d_ff
    weight = drawer(key, 6 * cfg.n_layers + 4, precision)
    return ViTParams(
        patch=new_linear(weight, D, cfg.patch_size**2 * cfg.n_channels),
        embed_class=weight(D),
        pos_embed=weight(1 + cfg.n_patches, D),
        layers=tuple(
            new_block(weight, D, F, precision, qkv_bias=cfg.qkv_bias) for _ in range(cfg.n_layers)
        ),
        final_norm=new_norm(D, precision),
        classifier=None if cfg.n_classes is None else new_linear(weight, cfg.n_classes, D),
        precision=precision,
    )
