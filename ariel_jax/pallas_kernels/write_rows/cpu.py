"""`write_rows` by the native CPU kernels: a bfloat16 cache stays as it is.

XLA:CPU forms a scatter and an update of bfloat16 in float32: to write one row it widens the whole
cache and narrows it again.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax.pallas_kernels import native
from ariel_jax.pallas_kernels.write_rows import reference


def why_not(leaf: Any, new: Any, rows: Any) -> str | None:
    """Why it cannot take these arguments, or None."""
    if rows.dtype != jnp.int32:
        return f"rows are {rows.dtype}, not int32"
    return native.why_not_with(leaf=leaf.dtype)


def why_not_auto(leaf: Any, new: Any, rows: Any) -> str | None:
    """Why it does not pay, or None."""
    return "XLA writes float32 in place by itself" if leaf.dtype == jnp.float32 else None


def write_rows(leaf: jax.Array, new: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the leaf with new rows; see `api.write_rows`. Gradients are the reference's."""
    return _write(leaf, new.astype(leaf.dtype), rows)


@jax.custom_jvp
def _write(leaf: jax.Array, new: jax.Array, rows: jax.Array) -> jax.Array:
    call: Any = jax.ffi.ffi_call(
        native.target("ariel_write_rows"),
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        vmap_method="sequential",
        input_output_aliases={0: 0},
    )
    return call(leaf, new, rows)


@_write.defjvp
def _slope(primals: Any, tangents: Any) -> Any:
    leaf, new, rows = primals

    def slow(leaf: jax.Array, new: jax.Array) -> jax.Array:
        return reference.write_rows(leaf, new, rows)

    return _write(*primals), jax.jvp(slow, (leaf, new), tangents[:2])[1]
