"""What the head says of rows: all logits, or the likeliest token alone where nothing else is asked for.

Plain decoding keeps no logits where everybody takes the likeliest token; neither does a round.
"""

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax.algorithms.del_exit import shadow
from ariel_jax.decode.state import DecodeState
from ariel_jax.decode.strategy import only_the_likeliest, sample
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


class Reading(struct.PyTreeNode):
    """Of rows [B, T] behind the last layer."""

    logits: jax.Array  # [B, T, V]; with `token` [B, T, 1], not finite where one of them is not
    token: jax.Array | None  # [B, T] int32 the likeliest; None where more than that is asked for


def nothing(
    cfg: DecoderConfig, params: DecoderParams, state: DecodeState, n_rows: int, *, law: bool
) -> Reading:
    """Zeros in the shapes of a `read` of n_rows."""
    alone, shape = only_the_likeliest(params, state) and not law, (state.batch, n_rows)
    logits = jnp.zeros((*shape, 1 if alone else cfg.vocab_size), params.precision.dtype("logits"))
    return Reading(logits=logits, token=jnp.zeros(shape, jnp.int32) if alone else None)


def read(
    cfg: DecoderConfig, params: DecoderParams, state: DecodeState, x: jax.Array, *, law: bool
) -> Reading:
    """What x [B, T, D] say; `law` asks for all logits whatever the requests want."""
    if law or not only_the_likeliest(params, state):
        return Reading(logits=decoder.unembed(cfg, params, x), token=None)
    token, logit, _ = decoder.top1(cfg, params, x)
    return Reading(logits=logit[..., None], token=token)


def draw(
    cfg: DecoderConfig, params: DecoderParams, state: DecodeState, x: jax.Array, position: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(token int32, how sure f32), each [B], that the head draws from x [B, D] for a position."""
    if only_the_likeliest(params, state):
        token, logit, total = decoder.top1(cfg, params, x)
        return token, jnp.exp(logit - total).astype(jnp.float32)
    logits = decoder.unembed(cfg, params, x)
    return sample(state, logits, position), shadow.surest(logits)
