"""The small vision transformer of the task of digits."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ariel_jax.models.vit import ViTConfig, init_vit, vit_logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A classifier of images.

    Attributes:
        init: weights from a seed.
        logits: `logits(params, pixels [H, W, C]) -> [classes]` of one image.
        widths: the shorter axis of every weight that may be projected, by path.
    """

    init: Callable[[int], Any]
    logits: Callable[[Any, jax.Array], jax.Array]
    widths: Mapping[str, int]


def model(*, image: int, channels: int, classes: int, tiny: bool = False) -> Model:
    """Patches of 4 x 4 pixels, two blocks of width 64 and four heads (tiny: one of 16 and two)."""
    sizes = {"d_model": 16, "d_ff": 32, "n_layers": 1, "n_heads": 2} if tiny else {"d_model": 64, "d_ff": 128, "n_layers": 2, "n_heads": 4}  # fmt: skip
    shape = {"image_size": image, "patch_size": 4, "n_channels": channels, "n_classes": classes}
    cfg = ViTConfig.create(**sizes, **shape)
    names = [f"attn.{name}" for name in "qkvo"] + ["mlp.up", "mlp.down"]
    return Model(
        init=lambda seed: init_vit(cfg, key=jax.random.key(seed)),
        logits=lambda params, pixels: vit_logits(cfg, params, pixels[None])[0],
        widths={f"layers.{i}.{n}.w": cfg.d_model for i in range(cfg.n_layers) for n in names},
    )
