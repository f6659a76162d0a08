"""The first rounds of each request, written down for pictures."""

import jax
import jax.numpy as jnp
from flax import struct


class Trace(struct.PyTreeNode):
    """R rounds of each request."""

    exit: jax.Array  # [B, R] int32 index of the exit; -1 for a round without drafts
    proposed: jax.Array  # [B, R] int32
    accepted: jax.Array  # [B, R] int32
    threshold: jax.Array  # [B, R] f32 of the round's exit
    alpha: jax.Array  # [B, R] f32 estimated acceptance of the round's exit


def empty(batch: int, n_rounds: int) -> Trace:
    """Nothing written yet."""
    whole, part = (jnp.zeros((batch, n_rounds), dtype) for dtype in (jnp.int32, jnp.float32))
    return Trace(exit=whole - 1, proposed=whole, accepted=whole, threshold=part, alpha=part)


def written(trace: Trace, at: jax.Array, **round: jax.Array) -> Trace:
    """The trace with a round of each request in its column `at` [B]; beyond the last it is dropped.

    Args:
        trace: before.
        at: [B] int32.
        **round: a value [B] or [] for each field.
    """
    lead = jnp.arange(at.shape[0], dtype=jnp.int32)

    def put(rows: jax.Array, value: jax.Array) -> jax.Array:
        return rows.at[lead, at].set(jnp.broadcast_to(value, at.shape), mode="drop")

    return trace.replace(**{name: put(getattr(trace, name), v) for name, v in round.items()})
