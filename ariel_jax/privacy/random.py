"""Keys that nobody can guess."""

import secrets
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax


def secure_key() -> "jax.Array":
    """A typed key from the operating system's entropy, for privacy noise and secret draws.

    It is drawn for the implementation that jax is set to use (threefry by default, whose keys hold 64
    bits). Do not print, log or publish it, nor a checkpoint that holds it: whoever knows the key of the
    noise can take the noise away.

    Returns:
        [] typed key.
    """
    import jax  # here, because budgets are kept without it

    shape = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
    words = np.frombuffer(secrets.token_bytes(4 * int(np.prod(shape))), np.uint32).reshape(shape)
    return jax.random.wrap_key_data(jax.numpy.asarray(words))
