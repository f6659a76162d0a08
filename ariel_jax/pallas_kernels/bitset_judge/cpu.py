"""`bitset_judge` by the native CPU kernels: the masks of a request never leave the registers."""

from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax import compat
from ariel_jax.pallas_kernels import native


def why_not(table: Any, rows: Any, approving: Any, denying: Any) -> str | None:
    """Why it cannot take these arguments, or None."""
    if compat.mesh_platform() is not None:
        return "a mesh is set, and it runs on one device"
    if table.shape[-1] > 2047:
        return f"{table.shape[-1]} words are more than the 2047 whose bits it counts at once"
    return native.why_not()


def bitset_judge(
    table: jax.Array, rows: jax.Array, approving: jax.Array, denying: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns counts and first premises; see `api.bitset_judge`."""
    shapes = [jax.ShapeDtypeStruct(rows.shape[:1], jnp.int32)] * 4
    call: Any = jax.ffi.ffi_call(
        native.target("ariel_bitset_judge"), shapes, vmap_method="sequential"
    )
    return tuple(call(table, rows, approving, denying))
