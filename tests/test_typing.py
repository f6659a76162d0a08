import os
import subprocess
import sys

import jax.numpy as jnp
import jaxtyping
import pytest

from ariel_jax import _typing


@_typing.typed
def scaled(x: _typing.Float[_typing.Array, "B D"], scale: _typing.Float[_typing.Array, " D"]):
    return x * scale[None]


def test_typed_checks_shapes_and_dtypes_in_this_test_run():
    assert scaled(jnp.ones((2, 3)), jnp.ones(3)).shape == (2, 3)
    for scale in (jnp.ones(4), jnp.ones(3, jnp.int32)):
        with pytest.raises(jaxtyping.TypeCheckError):
            scaled(jnp.ones((2, 3)), scale)


def test_typed_costs_nothing_without_the_environment_variable():
    code = "from ariel_jax._typing import typed; f = lambda: 0; print(typed(f) is f)"
    env = {k: v for k, v in os.environ.items() if k != "ARIEL_JAX_TYPECHECK"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert out.stdout.strip() == "True"
