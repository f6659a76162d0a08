"""A product with weights that tells the norm of the weights' gradient and never forms it (ghost norm).

The squared norm of `g.T @ x` is the sum of `(x @ x.T) * (g @ g.T)`, whose size is that of the sequence and
not that of the weight. It is handed out as the "gradient" of a probe: a number that changes nothing.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.typing import DTypeLike

from ariel_jax._numerics import at_least_f32, sum_of_squares
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels.linear import linear as linear_op

HIGHEST = jax.lax.Precision.HIGHEST
# Of the rounding that the Gram form may have, in units of float32's eps.
_SLACK = 8


class Ghost(struct.PyTreeNode):
    """What a weight is watched by: with a probe its gradient's norm is asked for, without it its gradient.

    Both use the same product at full precision, whatever the default is.
    """

    probe: jax.Array | None = None  # [] float32; of stacked layers [L]


def observed(
    x: jax.Array, w: jax.Array, b: jax.Array | None, ghost: Ghost, *, out_dtype: DTypeLike | None
) -> jax.Array:
    """`x @ w.T + b` of one example.

    Args:
        x: [..., in], in at least float32.
        w: [out, in] float.
        b: [out] or None.
        ghost: with a probe: its "gradient" is the squared norm of the gradient of w, in float32, and w
            itself has none. Without: nothing is special.
        out_dtype: of the result; None keeps x's.

    Returns:
        [..., out].

    Raises:
        ConfigError: x is narrower than float32: the gradient that is summed in a second pass would be
            rounded otherwise than that whose norm was taken.
    """
    dtype = jnp.dtype(x.dtype if out_dtype is None else out_dtype)
    if at_least_f32(x.dtype) != x.dtype or at_least_f32(dtype) != dtype:
        raise ConfigError(
            f"ghost norms need activations of at least float32, not {x.dtype.name} and {dtype.name}: compute "
            "in float32, or clip materialised gradients."
        )
    if ghost.probe is None:
        return _product(dtype, x, w, b)
    return _observed(dtype, x, w, b, ghost.probe)


def square_norm(x: jax.Array, g: jax.Array) -> jax.Array:
    """The squared Frobenius norm of `g.T @ x`: x [T, in], g [T, out] of at least float32; [] likewise.

    By products of T x T if these are smaller than the matrix, 2 T^2 < in x out; otherwise the matrix is
    formed, which then is no larger than x and g. By products the result is raised by 8 eps (sum_t |x_t|
    |g_t|)^2, for their rounding: rows that cancel must not make a norm look smaller than it is.

    References:
        Li, Tramer, Liang, Hashimoto 2021, arXiv 2110.05679; the mixed rule: Bu, Mao, Xu 2022, arXiv
        2205.10683.
    """
    T = x.shape[0]
    if 2 * T * T >= x.shape[1] * g.shape[1]:
        formed = jnp.einsum("to,ti->oi", g, x, precision=HIGHEST)
        return sum_of_squares(formed[None])[0]
    # Products of four factors leave the range of float32 early.
    tiny = jnp.finfo(x.dtype).tiny
    most_x, most_g = (jnp.maximum(jnp.max(jnp.abs(a)), tiny) for a in (x, g))
    x, g, unit = x / most_x, g / most_g, jnp.square(most_x * most_g)
    gram = functools.partial(jnp.einsum, "td,sd->ts", precision=HIGHEST)
    of_x, of_g = gram(x, x), gram(g, g)
    sizes = jnp.sqrt(jnp.diagonal(of_x)) * jnp.sqrt(jnp.diagonal(of_g))
    slack = _SLACK * jnp.finfo(jnp.float32).eps * jnp.square(jnp.sum(sizes))
    return unit * (jnp.maximum(jnp.sum(of_x * of_g), 0.0) + slack)


def _product(dtype: jnp.dtype, x: jax.Array, w: jax.Array, b: jax.Array | None) -> jax.Array:
    return linear_op(x, w, b, precision=HIGHEST, out_dtype=dtype, impl="reference")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observed(
    dtype: jnp.dtype, x: jax.Array, w: jax.Array, b: jax.Array | None, probe: jax.Array
) -> jax.Array:
    x, w = mark.bind(x, w, probe)
    return _product(dtype, x, w, b)


def _forward(
    dtype: jnp.dtype, x: jax.Array, w: jax.Array, b: jax.Array | None, probe: jax.Array
) -> tuple[jax.Array, Any]:
    return _product(dtype, x, w, b), (x, w, b)


def _backward(dtype: jnp.dtype, saved: Any, g: jax.Array) -> tuple[Any, ...]:
    x, w, b = saved
    _, pull = jax.vjp(lambda x, b: _product(dtype, x, w, b), x, b)
    d_x, d_b = pull(g)
    flat = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return d_x, None, d_b, square_norm(*flat).astype(jnp.float32)


_observed.defvjp(_forward, _backward)

# The identity on a layer's input and weight. It stands where a watched weight is used, so that whoever reads
# a traced loss (`privacy.ghost`) can tell this use from any other.
mark = Primitive("ghost_mark")
mark.multiple_results = True


@mark.def_impl
def _unchanged(x: jax.Array, w: jax.Array, probe: jax.Array) -> list[jax.Array]:
    return [x, w]


mark.def_abstract_eval(lambda x, w, probe: [x, w])
mlir.register_lowering(mark, mlir.lower_fun(_unchanged, multiple_results=True))


def _batched(arrays: Any, axes: Any) -> tuple[Any, Any]:
    if not isinstance(axes[2], int):  # not mapped
        raise ConfigError(
            "a layer with a ghost norm stands under a vmap inside the loss of an example: its weight is used "
            "once for each row, and the norm of a sum does not follow from the norms of its terms. Give the "
            "layer all rows at once, or leave the weight out of ghosted=."
        )
    return mark.bind(*arrays), list(axes[:2])


batching.primitive_batchers[mark] = _batched
