"""Feed-forward activations."""

from collections.abc import Callable

import jax

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
}


def activate(name: str, x: jax.Array) -> jax.Array:
    """The named activation of x, element by element, in x's dtype."""
    return ACTIVATIONS[name](x)
