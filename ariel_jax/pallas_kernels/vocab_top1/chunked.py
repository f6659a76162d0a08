"""`vocab_top1` over pieces of the vocabulary: memory for the logits of one piece."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax.pallas_kernels.vocab_top1 import reference

PIECE = 4096  # tokens
LEAST_BYTES = 64 << 20  # of all logits, from which `auto` prefers pieces


def why_not(
    x: Any, w: Any, b: Any, *, scale: Any, softcap: float | None, piece: int | None = None
) -> str | None:
    """Why it cannot take these arguments, or None."""
    return None if w.shape[0] > (piece or PIECE) else f"{w.shape[0]} tokens are one piece"


def why_not_auto(
    x: Any, w: Any, b: Any, *, scale: Any, softcap: float | None, piece: int | None = None
) -> str | None:
    """Why neither the caller nor memory asks for it, or None."""
    if piece is not None:
        return None
    n_bytes = 4 * math.prod(x.shape[:-1]) * w.shape[0]
    if n_bytes >= LEAST_BYTES:
        return None
    return f"all logits take {n_bytes} bytes, less than {LEAST_BYTES}"


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
    n_tokens, size = w.shape[0], piece or PIECE
    part = functools.partial(_piece, x, (w, b, scale), softcap)
    n_whole = n_tokens // size
    found = part(jnp.int32(0), size)
    if n_whole > 1:
        found = jax.lax.fori_loop(
            1, n_whole, lambda i, best: _merge(best, part(jnp.int32(i * size), size)), found
        )
    if rest := n_tokens % size:
        found = _merge(found, part(jnp.int32(n_tokens - rest), rest))
    return found


def _piece(
    x: jax.Array, head: Any, softcap: float | None, first: jax.Array, n: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    w, b, scale = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, n), head)
    index, logit, lse = reference.vocab_top1(x, w, b, scale=scale, softcap=softcap)
    return index + first, logit, lse


def _merge(best: Any, new: Any) -> Any:
    index = jnp.where(new[1] > best[1], new[0], best[0])  # of equal ones the first stays
    return index, jnp.maximum(best[1], new[1]), jnp.logaddexp(best[2], new[2])
