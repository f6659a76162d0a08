"""Which axis of each weight is spread over which axis of a mesh: one table."""

from typing import Any

import jax
from jax.sharding import PartitionSpec

from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams
from ariel_jax.models.paths import abstract, assemble

TENSOR, DATA = "tensor", "data"
_OUT = ("attn.q", "attn.k", "attn.v", "mlp.up", "mlp.gate", "unembed")
_IN = ("attn.o", "mlp.down")


def leaf_specs(cfg: DecoderConfig, mesh: jax.sharding.Mesh) -> dict[str, PartitionSpec]:
    """Placement of every weight by path; see `param_specs`."""
    size = _tensor_devices(mesh)
    splits = {
        "attn.q": cfg.n_heads % size == 0,
        "attn.k": cfg.n_kv_heads % size == 0,
        "attn.v": cfg.n_kv_heads % size == 0,
        "attn.o": cfg.n_heads % size == 0,
        "mlp.up": cfg.d_ff % size == 0,
        "mlp.gate": cfg.d_ff % size == 0,
        "mlp.down": cfg.d_ff % size == 0,
        "unembed": cfg.vocab_size % size == 0,
        "embed": cfg.vocab_size % size == 0,
    }

    def spec(path: str) -> PartitionSpec:
        module, _, leaf = path.rpartition(".")
        name = ".".join(module.split(".")[2:]) if module.startswith("layers.") else module
        if path == "embed" and splits["embed"]:
            return PartitionSpec(TENSOR, None)
        if name in _OUT and splits[name]:
            return PartitionSpec(TENSOR, None) if leaf == "w" else PartitionSpec(TENSOR)
        if name in _IN and splits[name] and leaf == "w":
            return PartitionSpec(None, TENSOR)
        return PartitionSpec()

    return {path: spec(path) for path in abstract(cfg)}


def param_specs(cfg: DecoderConfig, mesh: jax.sharding.Mesh) -> DecoderParams:
    """How a decoder's weights lie on a mesh with the axes `data` and `tensor`.

    Projections into heads and into the feed-forward are split by rows (their out axis), the ones
    back by columns (their in axis), the vocabulary by rows; norms and positions are on every
    device. Heads are never cut: where a count does not divide, that weight is on every device.
    Every weight is the same along `data`.

    Args:
        cfg: the decoder.
        mesh: has an axis `tensor`.

    Returns:
        A tree like the weights with a PartitionSpec for each.

    Raises:
        ConfigError: the mesh has other axes.
    """
    return assemble(cfg, leaf_specs(cfg, mesh))


def param_shardings(cfg: DecoderConfig, mesh: jax.sharding.Mesh) -> DecoderParams:
    """`param_specs` as a tree of NamedSharding."""
    named: dict[str, Any] = {
        path: jax.sharding.NamedSharding(mesh, spec) for path, spec in leaf_specs(cfg, mesh).items()
    }
    return assemble(cfg, named)


def _tensor_devices(mesh: jax.sharding.Mesh) -> int:
    axes = dict(mesh.shape)
    if TENSOR not in axes or set(axes) - {DATA, TENSOR}:
        raise ConfigError(
            f"the mesh has the axes {list(axes)}; allowed: 'data' and 'tensor'. "
            "Make it with ariel_jax.backend.make_mesh(data=..., tensor=...)."
        )
    return axes[TENSOR]
