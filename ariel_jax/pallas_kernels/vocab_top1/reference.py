"""The meaning of `vocab_top1`, in plain jnp."""

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.pallas_kernels.linear import linear


def vocab_top1(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    *,
    scale: jax.Array | None,
    softcap: float | None,
    piece: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (index, logit, lse); see `api.vocab_top1`."""
    logits = linear(x, w, b, scale=scale, out_dtype=np.promote_types(x.dtype, np.float32))
    if softcap is not None:
        logits = jnp.tanh(logits / softcap) * softcap
    index = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return index, jnp.max(logits, axis=-1), jax.nn.logsumexp(logits, axis=-1)
