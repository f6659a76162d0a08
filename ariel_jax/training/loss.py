"""Cross-entropy of a vocabulary head without keeping the logits of all rows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

CHUNK = 1024  # rows whose logits exist at one time


def head_cross_entropy(
    hidden: jax.Array,
    weights: jax.Array,
    targets: jax.Array,
    row_weights: jax.Array,
    *,
    softcap: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of cross-entropies of `hidden @ weights.T` against `targets`.

    Args:
        hidden: [R, D] float rows after the final norm.
        weights: [V, D] float head.
        targets: [R] int32 in 0..V-1; the target of a row of weight 0 does not matter.
        row_weights: [R] float32.
        softcap: logits become `softcap * tanh(logits / softcap)`; None leaves them.

    Returns:
        (total, nll): float32 scalar sum of `row_weights * nll`, differentiable in `hidden` and
        `weights`; and nll [R] float32 in nats, which carries no gradient.

    Cost:
        Three products of R x V x D in all, gradients included (they are formed in the forward
        pass, where the probabilities are at hand); memory for the logits of 1,024 rows. Where only
        `hidden` is differentiated, two products, and no gradient [V, D] is formed.
    """
    result: Any = _head(softcap, hidden, weights, targets, row_weights.astype(jnp.float32))
    total, nll = result
    return total, jax.lax.stop_gradient(nll)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head(
    softcap: float | None,
    hidden: jax.Array,
    weights: jax.Array,
    targets: jax.Array,
    row_weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def chunk(_: None, rows: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
        return None, _nll(softcap, weights, *rows)[0]

    _, nll = jax.lax.scan(chunk, None, _split(hidden, targets, row_weights))
    nll = nll.reshape(-1)[: targets.shape[0]]
    return jnp.sum(nll * row_weights), nll


def _forward(softcap: float | None, *arguments: Any):
    """With `symbolic_zeros` every argument says whether it is differentiated."""
    hidden, weights, targets, row_weights = (argument.value for argument in arguments)
    is_trained = arguments[1].perturbed
    R = targets.shape[0]

    def chunk(d_weights: jax.Array | None, rows: tuple[jax.Array, ...]):
        nll, slope, d_rows = _nll_and_gradients(softcap, weights, *rows)
        if d_weights is not None:
            wide = jnp.float32
            d_weights += jnp.einsum("rv,rd->vd", slope, rows[0], preferred_element_type=wide)
        return d_weights, (nll, d_rows)

    start = jnp.zeros(weights.shape, jnp.float32) if is_trained else None
    d_weights, (nll, d_hidden) = jax.lax.scan(chunk, start, _split(hidden, targets, row_weights))
    nll = nll.reshape(-1)[:R]
    d_hidden = d_hidden.reshape(-1, hidden.shape[1])[:R].astype(hidden.dtype)
    d_weights = None if d_weights is None else d_weights.astype(weights.dtype)
    return (jnp.sum(nll * row_weights), nll), (d_hidden, d_weights, nll)


def _backward(softcap: float | None, saved: Any, cotangents: Any):
    d_hidden, d_weights, nll = saved
    scale, _ = cotangents
    if isinstance(scale, jax.custom_derivatives.SymbolicZero):
        scale = jnp.zeros(scale.shape, jnp.float32)
    return (
        d_hidden * scale.astype(d_hidden.dtype),
        None if d_weights is None else d_weights * scale.astype(d_weights.dtype),
        None,
        nll * scale,
    )


_head.defvjp(_forward, _backward, symbolic_zeros=True)


def _split(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Each [R, ...] as [chunks, rows, ...], padded with zeros (which have row weight 0)."""
    R = arrays[0].shape[0]
    size = min(CHUNK, R)
    n = -(-R // size)
    padded = (jnp.pad(a, ((0, n * size - R),) + ((0, 0),) * (a.ndim - 1)) for a in arrays)
    return tuple(a.reshape(n, size, *a.shape[1:]) for a in padded)


def _nll(
    softcap: float | None,
    weights: jax.Array,
    hidden: jax.Array,
    targets: jax.Array,
    row_weights: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns nll [r], probabilities [r, V] and the slope [r, V] (or [1, 1]) of the soft cap."""
    head = weights.astype(hidden.dtype)
    logits = jnp.einsum("rd,vd->rv", hidden, head, preferred_element_type=jnp.float32)
    cap_slope = jnp.ones((1, 1), jnp.float32)
    if softcap is not None:
        squashed = jnp.tanh(logits / softcap)
        logits = softcap * squashed
        cap_slope = 1 - squashed * squashed
    top = jnp.max(logits, axis=-1, keepdims=True)
    powers = jnp.exp(logits - top)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    target = jnp.take_along_axis(logits, targets[:, None], axis=1)
    return (jnp.log(total) + top - target)[:, 0], powers / total, cap_slope


def _nll_and_gradients(
    softcap: float | None,
    weights: jax.Array,
    hidden: jax.Array,
    targets: jax.Array,
    row_weights: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns nll [r], and the gradients of `sum(row_weights * nll)` in logits [r, V] and hidden."""
    nll, probabilities, cap_slope = _nll(softcap, weights, hidden, targets, row_weights)
    is_target = jnp.arange(weights.shape[0], dtype=targets.dtype)[None, :] == targets[:, None]
    weight = row_weights[:, None]
    slope = (probabilities * weight - jnp.where(is_target, weight, 0.0)) * cap_slope
    slope = slope.astype(hidden.dtype)
    head = weights.astype(hidden.dtype)
    d_hidden = jnp.einsum("rv,vd->rd", slope, head, preferred_element_type=jnp.float32)
    return nll, slope, d_hidden
