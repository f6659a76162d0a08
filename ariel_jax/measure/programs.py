"""The programs that measure a machine's ceilings."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@jax.jit
def read_by_sum(x: jax.Array) -> jax.Array:
    """Returns the sum of `x`: reads every element once.

    Static: nothing. Traced: x. Donated: nothing.
    """
    return jnp.sum(x)


@jax.jit
def read_by_product(x: jax.Array, vector: jax.Array) -> jax.Array:
    """Returns `x @ vector`, as decoding reads its weights: every element of `x` once.

    Static: nothing. Traced: x [rows, n], vector [n]. Donated: nothing.
    """
    return lax.dot_general(x, vector, (((1,), (0,)), ((), ())))


@functools.partial(jax.jit, donate_argnames=("into",), keep_unused=True)
def copy(x: jax.Array, into: jax.Array) -> jax.Array:
    """Returns `-x` in the memory of `into`, so that no new memory has to be mapped.

    Static: nothing. Traced: x. Donated: into, of the shape of x; its values are not used.
    """
    return -x


@jax.jit
def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns `a @ b` at jax's default precision.

    Static: nothing. Traced: a, b. Donated: nothing.
    """
    return lax.dot_general(a, b, (((1,), (0,)), ((), ())))
