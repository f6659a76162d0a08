"""A decoder's weights by path: `layers.3.attn.q.w` names a leaf of `DecoderParams`."""

from collections.abc import Mapping
from typing import Any

import jax

from ariel_jax.layers.linear import Linear
from ariel_jax.layers.norms import Norm
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import (
    AttnParams,
    BlockParams,
    DecoderParams,
    MlpParams,
    init_params,
)


def abstract(cfg: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Path and shape of every weight of a decoder."""
    params = jax.eval_shape(lambda key: init_params(cfg, key=key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten(params).items()}


def flatten(params: DecoderParams) -> dict[str, Any]:
    """The leaves of an unstacked tree by path, such as `layers.3.attn.q.w`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


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
