"""Where a training run's arrays live: on one device, on several, on several hosts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.errors import ConfigError
from ariel_jax.training.programs import DATA
from ariel_jax.training.step import Tree


def start_distributed(
    coordinator: str | None = None, n_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others of a run; call it before jax touches a device.

    Args:
        coordinator: `host:port` of process 0; None where jax finds it in the environment (Slurm,
            Kubernetes, TPU pods).
        n_processes: how many processes; None likewise.
        process_id: number of this one, from 0; None likewise.

    Raises:
        ConfigError: only some of the three are given, or the environment says nothing.
    """
    given = [coordinator is not None, n_processes is not None, process_id is not None]
    if any(given) and not all(given):
        raise ConfigError(
            f"coordinator={coordinator}, n_processes={n_processes}, process_id={process_id}: give "
            "all three, or none where Slurm or Kubernetes tells."
        )
    try:
        jax.distributed.initialize(coordinator, n_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"this process could not join a distributed run: {error}. Give --coordinator HOST:PORT,"
            " --num-processes N and --process-id I, or start it under Slurm or Kubernetes."
        ) from error


def place_params(params: Tree, mesh: jax.sharding.Mesh | None) -> Tree:
    """The tree on the mesh: leaves that are there already stay, others go to every device."""
    if mesh is None:
        return params
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def place(leaf: jax.Array) -> jax.Array:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding) and sharding.mesh == mesh:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
        return _spread(np.asarray(leaf), everywhere)

    return jax.tree.map(place, params)


def check_rows(n_rows: int, mesh: jax.sharding.Mesh | None, microbatches: int) -> None:
    """Checks that a batch can be divided over the devices and microbatches.

    Raises:
        ConfigError: the rows cannot be divided evenly.
    """
    n_devices = 1 if mesh is None else dict(mesh.shape)[DATA]
    if n_rows % (n_devices * microbatches):
        raise ConfigError(
            f"a batch of {n_rows} rows cannot be divided into {microbatches} microbatches on "
            f"{n_devices} devices: choose a multiple of {n_devices * microbatches} rows."
        )


def place_batch(
    batch: Any, is_padding: np.ndarray, mesh: jax.sharding.Mesh | None, microbatches: int
) -> tuple[Any, Any]:
    """A whole batch of the host with its rows split over the mesh's axis `data`.

    Every process makes the same whole batch and keeps the rows of its own devices.

    Raises:
        ConfigError: the rows cannot be divided evenly.
    """
    check_rows(is_padding.shape[0], mesh, microbatches)
    if mesh is None:
        return batch, is_padding

    def place(leaf: np.ndarray, mesh: jax.sharding.Mesh = mesh) -> jax.Array:
        spec = jax.sharding.PartitionSpec(DATA) if np.ndim(leaf) else jax.sharding.PartitionSpec()
        return _spread(np.asarray(leaf), jax.sharding.NamedSharding(mesh, spec))

    return jax.tree.map(place, (batch, is_padding))


def place_key(key_data: Any, mesh: jax.sharding.Mesh | None) -> jax.Array:
    """Raw key data (uint32) on every device of the mesh."""
    return place_params(jnp.asarray(key_data), mesh)


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Whether each flag is set in any process; all of them must ask at the same time."""
    if jax.process_count() == 1:
        return flags
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(np.asarray(flags, np.int32))
    came = np.any(np.asarray(everyone).reshape(-1, len(flags)), axis=0)
    return tuple(bool(flag) for flag in np.atleast_1d(came))


def _spread(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
