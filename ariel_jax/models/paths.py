"""A model's weights by path: `layers.3.attn.q.w` names a leaf of `DecoderParams` or `EncoderParams`."""

from collections.abc import Mapping
from typing import Any

import jax

from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear
from ariel_jax.layers.norms import Norm
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.encoder import EncoderConfig, EncoderParams, init_encoder
from ariel_jax.models.params import (
    AttnParams,
    BlockParams,
    DecoderParams,
    MlpParams,
    init_params,
)
from ariel_jax.models.vit import ViTConfig, ViTParams, init_vit

AnyConfig = DecoderConfig | EncoderConfig | ViTConfig


def _shapes(cfg: AnyConfig) -> Any:
    """The tree of weights of a model, shapes only."""

    def init(key: jax.Array) -> Any:
        if isinstance(cfg, EncoderConfig):
            return init_encoder(cfg, key=key)
        return init_vit(cfg, key=key) if isinstance(cfg, ViTConfig) else init_params(cfg, key=key)

    return jax.eval_shape(init, jax.random.key(0))


def abstract(cfg: AnyConfig) -> dict[str, tuple[int, ...]]:
    """Path and shape of every weight of a model."""
    return {path: leaf.shape for path, leaf in flatten(_shapes(cfg)).items()}


def flatten(params: Any) -> dict[str, Any]:
    """The leaves of an unstacked tree by path, such as `layers.3.attn.q.w`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def check_shapes(cfg: AnyConfig, leaves: Mapping[str, Any]) -> None:
    """Raise ConfigError unless weights by path are those that a config calls for."""
    wanted, given = abstract(cfg), {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    differing = sorted(
        path for path in wanted.keys() | given if wanted.get(path) != given.get(path)
    )
    if differing:
        path = differing[0]
        raise ConfigError(
            f"config and weights do not belong together: {path} is {given.get(path)} and must be "
            f"{wanted.get(path)} ({len(differing)} such leaves; None: there is none). Pass the config "
            "that the weights were made for, with layers as a tuple."
        )


def assemble_encoder(
    cfg: EncoderConfig | ViTConfig, leaves: Mapping[str, Any]
) -> EncoderParams | ViTParams:
    """The tree whose `flatten` is `leaves`; the precision is left at its default."""
    tree = jax.tree.structure(_shapes(cfg))
    return tree.unflatten([leaves[path] for path in abstract(cfg)])


def replaced(params: Any, leaves: Mapping[str, Any]) -> Any:
    """A tree with other leaves at some paths; paths that it does not have are an error of the caller."""

    def pick(path: Any, leaf: Any) -> Any:
        return leaves.get(jax.tree_util.keystr(path, simple=True, separator="."), leaf)

    return jax.tree_util.tree_map_with_path(pick, params)


def assemble(cfg: DecoderConfig, leaves: Mapping[str, Any]) -> DecoderParams:
    """The tree whose `flatten` is `leaves`; the precision is left at its default."""

    def linear(name: str) -> Linear | None:
        if not has(name, "w"):
            return None
        fields = (leaves.get(f"{name}.{leaf}") for leaf in ("w", "b", "scale"))
        return Linear(*fields)  # pyright: ignore[reportArgumentType] w is there

    def norm(name: str) -> Norm | None:
        if not has(name, "scale"):
            return None
        return Norm(scale=leaves[f"{name}.scale"], bias=leaves.get(f"{name}.bias"))

    def has(name: str, leaf: str) -> bool:
        return f"{name}.{leaf}" in leaves

    def block(at: str) -> BlockParams:
        attn = {name: linear(f"{at}.attn.{name}") for name in ("q", "k", "v", "o")}
        attn |= {name: norm(f"{at}.attn.{name}") for name in ("q_norm", "k_norm")}  # pyright: ignore[reportAssignmentType] both kinds of leaf
        mlp: dict[str, Any] = {name: linear(f"{at}.mlp.{name}") for name in ("up", "gate", "down")}
        norms = ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm")
        fields: dict[str, Any] = {name: norm(f"{at}.{name}") for name in norms}
        return BlockParams(attn=AttnParams(**attn), mlp=MlpParams(**mlp), **fields)  # pyright: ignore[reportArgumentType] present by construction

    return DecoderParams(
        embed=leaves["embed"],
        pos_embed=leaves.get("pos_embed"),
        layers=tuple(block(f"layers.{i}") for i in range(cfg.n_layers)),
        final_norm=norm("final_norm"),
        unembed=linear("unembed"),
        embed_in=linear("embed_in"),
        embed_out=linear("embed_out"),
        embed_quant_scale=leaves.get("embed_quant_scale"),
    )
