"""The meaning of `write_rows`, in plain jnp."""

import jax
import jax.numpy as jnp


def write_rows(leaf: jax.Array, new: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the leaf with new rows; see `api.write_rows`."""
    B, K, C, H = leaf.shape
    T = new.shape[1]
    # Folded as the attention folds it: see pallas_kernels/decode_attention/reference.py.
    flat = leaf.reshape(B * K, C, H)
    values = jnp.moveaxis(new, 2, 1).reshape(B * K, T, H).astype(leaf.dtype)
    index = jnp.repeat(jnp.where(rows < 0, C, rows), K, axis=0)  # below 0 would count from the end
    lead = jnp.arange(B * K, dtype=jnp.int32)[:, None]
    return flat.at[lead, index].set(values, mode="drop").reshape(B, K, C, H)
