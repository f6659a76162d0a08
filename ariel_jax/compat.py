"""The only module that knows one jax version from another.

The code runs on jax 0.10.2 with Python 3.11 (as in CI) and on later versions with Python 3.12. What
differs, or is not public in one of them, is asked here and nowhere else.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.sharding


def backends_are_initialized() -> bool:
    """Returns whether jax has already started a backend (after that the platform is settled)."""
    # There is no public question for this; the private module moved more than once.
    from jax._src import xla_bridge

    return bool(xla_bridge.backends_are_initialized())


def default_device() -> Any:
    """Returns the `jax_default_device` setting: a device, a platform name or None."""
    config: Any = jax.config  # its attributes are made at run time
    return config.jax_default_device


def asked_platforms() -> str | None:
    """Returns the `jax_platforms` setting (JAX_PLATFORMS): names with commas, or None."""
    config: Any = jax.config
    return config.jax_platforms


def mesh_platform() -> str | None:
    """Returns the platform of the mesh that is set, inside or outside a trace; None without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh is None or mesh.empty:
        return None
    device: Any = getattr(mesh, "abstract_device", None)
    return getattr(device, "platform", None)


def fixed_inputs(scan: Mapping[str, Any]) -> int:
    """How many inputs of a `scan` equation, given its parameters, are constants or carried; scanned ones follow."""
    if "ft_in" in scan:  # since jax 0.11: constants, carry and what is scanned, as trees
        constants, carry, _ = scan["ft_in"].unpack()
        return len(constants) + len(carry)
    return scan["num_consts"] + scan["num_carry"]


def auto_mesh(shape: tuple[int, ...], names: tuple[str, ...]) -> jax.sharding.Mesh:
    """Returns a mesh over the default backend's devices whose axes are all of the Auto type.

    Recent versions make Explicit axes by default, in which sharding is part of an array's type;
    this library annotates placements and leaves the rest to the compiler.
    """
    kind = jax.sharding.AxisType.Auto
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))
