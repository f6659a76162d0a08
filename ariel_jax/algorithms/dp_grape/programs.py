"""The compiled programs of private training that are no training steps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Loss = Callable[[Any, Any, jax.Array], jax.Array]


@functools.partial(jax.jit, static_argnames=("loss", "at_once"))
def losses(params: Any, examples: Any, key: jax.Array, *, loss: Loss, at_once: int) -> jax.Array:
    """[M] float32, the loss of every example; all get the same key.

    Static: loss, at_once. Traced: params, examples, key. Donated: nothing.

    Args:
        params: the model's tree.
        examples: leaves [M, ...].
        key: [] typed key.
        loss: of one example.
        at_once: examples whose activations exist at once.
    """

    def one(example: Any) -> jax.Array:
        return loss(params, example, key).astype(jnp.float32)

    return jax.lax.map(one, examples, batch_size=at_once)
