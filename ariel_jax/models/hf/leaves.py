"""Tensors of a checkpoint to arrays on devices, with as few copies as the file allows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models.config import Precision
from ariel_jax.models.hf.safetensors_io import ALIGNMENT, Checkpoint, aligned_empty
from ariel_jax.models.hf.weight_map import Source

FLOATS = ("float64", "float32", "bfloat16", "float16")


def load_leaves(
    checkpoint: Checkpoint,
    sources: Mapping[str, Source],
    precision: Precision,
    platform: str,
    *,
    exact: Mapping[str, np.dtype] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    specs: Mapping[str, jax.sharding.PartitionSpec] | None = None,
) -> dict[str, jax.Array]:
    """The weights of a model by path.

    Args:
        checkpoint: the files.
        sources: where each leaf lies in them.
        precision: whose `param` the leaves get.
        platform: of the device.
        exact: leaves that keep a dtype of their own, and must be stored in it.
        mesh: to spread them over, by `specs`; None puts them on the default device.
        specs: placement of each leaf on the mesh.

    Raises:
        CheckpointError: a tensor is stored as something else than floats.
        ConfigError: a precision that cannot be had.
    """
    exact = exact or {}
    dtype = precision.dtype("param")
    if dtype.name not in FLOATS:
        raise ConfigError(
            f"precision.param={precision.param!r} is not allowed: pass one of {', '.join(FLOATS)}."
        )
    if dtype == np.float64 and jnp.result_type(float) != np.float64:
        raise ConfigError(
            "precision.param='float64' needs jax.config.update('jax_enable_x64', True) first."
        )
    for path, found in sources.items():
        stored = checkpoint[found.key].dtype.name
        allowed = (exact[path].name,) if path in exact else FLOATS
        if stored not in allowed:
            raise CheckpointError(
                f"tensor {found.key!r} is stored as {stored}; allowed: {', '.join(allowed)}. Of "
                "quantised checkpoints only those of this library are supported, with the "
                "config.json that was saved beside them; use the original."
            )
    leaves: dict[str, jax.Array] = {}
    # Largest first: what a tensor needs beside its result is then needed while little is loaded.
    for path in sorted(sources, key=lambda p: -checkpoint[sources[p].key].nbytes):
        if mesh is None or specs is None:
            wanted = exact.get(path, dtype)
            leaves[path] = _to_device(checkpoint, sources[path], wanted, platform)
        else:
            sharding = jax.sharding.NamedSharding(mesh, specs[path])
            leaves[path] = _to_mesh(checkpoint, sources[path], dtype, sharding)
    return leaves


def _to_device(checkpoint: Checkpoint, found: Source, dtype: np.dtype, platform: str) -> jax.Array:
    stored = checkpoint.view(found.key)
    is_aligned = stored.ctypes.data % ALIGNMENT == 0
    if platform == "cpu" and found.is_whole and stored.dtype == dtype and is_aligned:
        return jax.device_put(stored, may_alias=True)
    if found.is_whole:
        host = checkpoint.copy(found.key, dtype)
    else:
        part = found.pick(stored)
        host = aligned_empty(part.shape, dtype)
        host[...] = part
        checkpoint.release(found.key)
    # The copy is ours alone and aligned, so jax may keep it instead of copying once more.
    array = jax.device_put(host, may_alias=True)
    if platform != "cpu":
        array.block_until_ready()  # else host copies of many tensors wait for their transfer
    return array


def _to_mesh(
    checkpoint: Checkpoint, found: Source, dtype: np.dtype, sharding: jax.sharding.NamedSharding
) -> jax.Array:
    part = found.pick(checkpoint.view(found.key))

    def shard(index: Any) -> np.ndarray:
        piece = part[index]
        host = aligned_empty(piece.shape, dtype)
        host[...] = piece
        return host

    array = jax.make_array_from_callback(part.shape, sharding, shard)
    array.block_until_ready()
    checkpoint.release(found.key)
    return array
