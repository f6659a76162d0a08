"""A small transformer over the patches of an image, made of the library's layers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.layers.linear import Linear, linear
from ariel_jax.layers.mlp import activate
from ariel_jax.layers.norms import Norm, norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A classifier of images.

    Attributes:
        init: `init(seed) -> params`.
        logits: `logits(params, image [H, W, channels]) -> [classes]`, of one image.
        widths: paths of the blocks' weights and the lengths of their smaller axes.
    """

    init: Callable[[int], Any]
    logits: Callable[[Any, jax.Array], jax.Array]
    widths: Mapping[str, int]


def model(*, image: int, channels: int, classes: int, tiny: bool = False) -> Model:
    """Patches of 2 x 2 pixels, two blocks of width 64 and four heads (tiny: one of 16 and two)."""
    D, F, n_layers, heads, patch = (16, 32, 1, 2, 2) if tiny else (64, 128, 2, 4, 2)
    tokens, size = (image // patch) ** 2, patch * patch * channels

    def init(seed: int) -> Any:
        rng = np.random.default_rng([seed, 2])

        def weight(n_out: int, n_in: int) -> Linear:
            w = rng.standard_normal((n_out, n_in), np.float32) / np.float32(n_in**0.5)
            return Linear(w=jnp.asarray(w), b=jnp.zeros(n_out, jnp.float32))

        def scale() -> Norm:
            return Norm(scale=jnp.ones(D, jnp.float32), bias=jnp.zeros(D, jnp.float32))

        def block() -> Any:
            return {
                "attn_norm": scale(), "attn": {name: weight(D, D) for name in "qkvo"},
                "mlp_norm": scale(), "mlp": {"up": weight(F, D), "down": weight(D, F)},
            }  # fmt: skip

        places = 0.1 * rng.standard_normal((tokens, D), np.float32)
        return {
            "patch": weight(D, size), "position": jnp.asarray(places),
            "layers": [block() for _ in range(n_layers)], "norm": scale(), "head": weight(classes, D),
        }  # fmt: skip

    def attend(x: jax.Array, p: Any) -> jax.Array:
        q, k, v = (linear(x, p[name]).reshape(tokens, heads, -1) for name in "qkv")
        scores = jnp.einsum("tkh,skh->kts", q, k) * (D // heads) ** -0.5
        mixed = jnp.einsum("kts,skh->tkh", jax.nn.softmax(scores, axis=-1), v)
        return linear(mixed.reshape(tokens, D), p["o"])

    def logits(params: Any, pixels: jax.Array) -> jax.Array:
        n = image // patch
        cut = pixels.reshape(n, patch, n, patch, channels).transpose(0, 2, 1, 3, 4)
        x = linear(cut.reshape(tokens, size), params["patch"]) + params["position"]
        for p in params["layers"]:
            x = x + attend(norm("layer", 1e-6, p["attn_norm"], x), p["attn"])
            h = linear(norm("layer", 1e-6, p["mlp_norm"], x), p["mlp"]["up"])
            x = x + linear(activate("gelu_tanh", h), p["mlp"]["down"])
        return linear(jnp.mean(norm("layer", 1e-6, params["norm"], x), axis=0), params["head"])

    names = [f"attn.{name}" for name in "qkvo"] + ["mlp.up", "mlp.down"]
    widths = {f"layers.{i}.{name}.w": D for i in range(n_layers) for name in names}
    return Model(init=init, logits=logits, widths=widths)
