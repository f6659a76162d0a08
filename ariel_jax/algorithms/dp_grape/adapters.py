"""What DP-LoRA and DP-BiTFiT train: adapters beside weights, and biases."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax.algorithms.dp_grape.config import Config, Spec, Specs, make_specs
from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear
from ariel_jax.models.paths import flatten

Tree = Any
# A new head has nothing to keep frozen: it is trained in full, unless `Config.frozen` says otherwise.
HEAD = (r"^(classifier|head)(\.|$)",)
BIAS = r"(^|\.)(b|bias)$"


def with_adapters(params: Tree, cfg: Config, *, rank: int, key: jax.Array) -> tuple[Tree, Specs]:
    """Puts `x A B^T` beside every weight that `cfg.project` finds: LoRA.

    Args:
        params: a tree of `Linear` layers.
        cfg: which weights; ranks of `overrides` replace `rank`.
        rank: r.
        key: [] typed key of the first A, which is public.

    Returns:
        (params, adapted): `Linear.proj` is A [in, r], normal of variance 1 / in; `Linear.tap` is B [out, r],
        zero, so that nothing has changed yet. Stacked layers have stacked ones. `adapted` names the weights.

    Raises:
        ConfigError: a rank does not fit, or a weight is not that of a `Linear`.

    References:
        Hu et al. 2021, arXiv 2106.09685; under differential privacy: Yu et al. 2021, arXiv 2110.06500.
    """
    specs = make_specs(params, dataclasses.replace(cfg, side="in", rank=rank))
    by_path = specs.by_path()
    adapted: set[str] = set()

    def visit(path: Any, node: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".") + ".w"
        if not isinstance(node, Linear) or name not in by_path:
            return node
        if node.tap is not None or node.proj is not None:
            raise ConfigError(f"{name!r} has an adapter already: merge it first.")
        adapted.add(name)
        return node.replace(**_adapter(by_path[name], key))

    done = jax.tree_util.tree_map_with_path(visit, params, is_leaf=_is_linear)
    if missing := sorted(by_path.keys() - adapted):
        raise ConfigError(
            f"{missing} are no weights of a layers.linear.Linear and can have no adapter: leave them out of "
            "project=, or make the layers Linear."
        )
    return done, specs


def _adapter(spec: Spec, key: jax.Array) -> dict[str, jax.Array]:
    *stacked, n_out, n_in = spec.shape
    drawn = jax.random.normal(jax.random.fold_in(key, spec.leaf_id), spec.projection_shape)
    return {
        "proj": drawn.astype(jnp.float32) * n_in**-0.5,
        "tap": jnp.zeros((*stacked, n_out, spec.rank), jnp.float32),
    }


def merged(params: Tree) -> Tree:
    """The tree with every adapter added to its weight, `w + B A^T` in w's dtype, and gone.

    A tree without adapters is returned as it is.
    """

    def visit(node: Any) -> Any:
        if not _is_linear(node) or node.tap is None or node.proj is None:
            return node
        grown = jnp.einsum("...or,...ir->...oi", node.tap, node.proj)
        w = (node.w.astype(grown.dtype) + grown).astype(node.w.dtype)
        return node.replace(w=w, tap=None, proj=None)

    return jax.tree.map(visit, params, is_leaf=_is_linear)


def only(params: Tree, paths: set[str]) -> Specs:
    """Specs under which these leaves are trained in full and all others are frozen."""
    names = list(flatten(params))
    return Specs(
        projected=(),
        full=tuple(name for name in names if name in paths),
        frozen=tuple(name for name in names if name not in paths),
    )


def of_lora(params: Tree, adapted: Specs, cfg: Config, head: tuple[str, ...]) -> Specs:
    """A and B of every adapter, and the head."""
    stems = [spec.path.removesuffix(".w") for spec in adapted.projected]
    ours = {f"{stem}.{field}" for stem in stems for field in ("tap", "proj")}
    return only(params, ours | _head(params, cfg, head))


def of_bitfit(params: Tree, cfg: Config, head: tuple[str, ...]) -> Specs:
    """Biases of layers and norms that are not frozen, and the head.

    Raises:
        ConfigError: there are no biases.

    References:
        Ben Zaken, Ravfogel, Goldberg 2021, arXiv 2106.10199; under differential privacy: Bu, Wang, Zha,
        Karypis 2022, arXiv 2210.00036.
    """
    names = flatten(params)
    biases = {p for p in names if re.search(BIAS, p) and cfg.mode(p) != "frozen"}
    if not biases:
        raise ConfigError(
            "dp-bitfit trains biases and this model has none that is not frozen: choose another method, or "
            f"change frozen={cfg.frozen}."
        )
    return only(params, biases | _head(params, cfg, head))


def _head(params: Tree, cfg: Config, head: tuple[str, ...]) -> set[str]:
    found = {p for p in flatten(params) if any(re.search(pattern, p) for pattern in head)}
    return {p for p in found if cfg.mode(p) != "frozen" and not p.endswith((".tap", ".proj"))}


def _is_linear(node: Any) -> bool:
    return isinstance(node, Linear)
