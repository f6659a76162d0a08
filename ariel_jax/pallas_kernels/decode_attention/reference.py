"""The meaning of `decode_attention`, in plain jnp."""

import jax
import jax.numpy as jnp
import numpy as np

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
) -> tuple[jax.Array, jax.Array]:
    """Returns (out, lse); see `api.decode_attention` for shapes and guarantees."""
    B, T, N, H = q.shape
    K, C = k.shape[1:3]
    G = N // K
    wide = np.promote_types(q.dtype, np.float32)
    # With (b, k) as batch axes and the G * T rows of a group folded together both products read
    # the cache in the order in which it lies in memory; any other layout makes XLA transpose it.
    rows = q.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, H)
    scores = jnp.einsum("bkth,bkch->bktc", rows, k, preferred_element_type=wide)
    scores = scores * jnp.asarray(scale, wide)
    if softcap is not None:
        cap = jnp.asarray(softcap, wide)
        scores = cap * jnp.tanh(scores / cap)
    index = jnp.arange(C, dtype=jnp.int32)[None, None, :]
    visible = index < length[:, None, None]  # [B, 1, C]
    if window is not None:
        visible = visible & (index > q_positions[:, :, None] - window)  # [B, T, C]
        visible = jnp.broadcast_to(visible[:, None], (B, G, T, C)).reshape(B, G * T, C)
    scores = jnp.where(visible[:, None], scores, NO_KEY)
    # Clamped, so that in a row without any visible key every weight underflows to zero.
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), NO_KEY / 2)
    top = jax.lax.stop_gradient(top)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    has_key = total > 0
    safe = jnp.where(has_key, total, 1)
    out = jnp.einsum("bktc,bkch->bkth", weights.astype(v.dtype), v, preferred_element_type=wide)
    out = (out / safe).reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
    lse = jnp.where(has_key, top + jnp.log(safe), NO_KEY)
    return out.astype(q.dtype), lse.reshape(B, N, T)
