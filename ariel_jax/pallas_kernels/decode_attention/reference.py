"""The meaning of `decode_attention`, in plain jnp."""

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32
from ariel_jax.pallas_kernels.decode_attention.tree import seen_bits

NO_KEY = -1e30  # finite: minus infinity would turn a row without a visible key into NaN


def decode_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    length: jax.Array,
    scale: float,
    softcap: float | None,
    window: int | None,
    q_positions: jax.Array,
    parents: tuple[int, ...] | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (out, lse); see `api.decode_attention` for shapes and guarantees."""
    B, T, N, H = q.shape
    K, C = k.shape[1:3]
    G = N // K
    wide = at_least_f32(q.dtype)
    # Batch and key heads are folded into one leading axis: with a batch axis of length one beside
    # the heads, XLA:CPU copies the whole cache around an in-place update. The G * T rows of a group
    # are folded too, so that both products read the cache in the order in which it lies in memory.
    rows = q.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B * K, G * T, H)
    keys, values = k.reshape(B * K, C, H), v.reshape(B * K, C, H)
    scores = jnp.einsum("xth,xch->xtc", rows, keys, preferred_element_type=wide)
    scores = scores * jnp.asarray(scale, wide)
    if softcap is not None:
        cap = jnp.asarray(softcap, wide)
        scores = cap * jnp.tanh(scores / cap)
    index = jnp.arange(C, dtype=jnp.int32)[None, None, :]
    old = length if parents is None else length - T
    seen = jnp.minimum(old[:, None], q_positions + 1)[:, :, None]  # [B, T, 1]
    visible = index < seen
    if window is not None:
        visible = visible & (index > q_positions[:, :, None] - window)
    if parents is not None:
        visible = visible | _in_tree(index - old[:, None, None], parents, window)
    visible = jnp.broadcast_to(visible[:, None, None], (B, K, G, T, C)).reshape(B * K, G * T, C)
    scores = jnp.where(visible, scores, NO_KEY)
    # Clamped, so that in a row without any visible key every weight underflows to zero.
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), NO_KEY / 2)
    top = jax.lax.stop_gradient(top)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    has_key = total > 0
    safe = jnp.where(has_key, total, 1)
    out = jnp.einsum("xtc,xch->xth", weights.astype(v.dtype), values, preferred_element_type=wide)
    out = (out / safe).reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
    lse = jnp.where(has_key, top + jnp.log(safe), NO_KEY)
    return out.astype(q.dtype), lse.reshape(B, N, T)


def _in_tree(node: jax.Array, parents: tuple[int, ...], window: int | None) -> jax.Array:
    """[B, T, C] bool: whether new row node [B, 1, C] is the query's own or one of its ancestors."""
    # As bits of one number per query: a few cheap operations that fuse, no gather.
    bits = jnp.asarray(seen_bits(parents, within=window))
    shift = jnp.clip(node, 0, len(parents) - 1).astype(jnp.uint32)
    own = (bits[None, :, None] >> shift) & jnp.uint32(1)
    return (own == 1) & (node >= 0) & (node < len(parents))
