"""Settings that every test runs under; they are made before jax starts a backend."""

import os
import pathlib

os.environ["ARIEL_JAX_TYPECHECK"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from ariel_jax import backend

ROOT = pathlib.Path(__file__).parents[1]

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
# Compiled programs of earlier runs: a second run of the suite spends its time on testing.
(ROOT / ".cache").mkdir(mode=0o700, exist_ok=True)
backend.enable_compile_cache(ROOT / ".cache" / f"xla-{jax.__version__}")


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Returns the top folder of the checkout."""
    return ROOT


@pytest.fixture
def key() -> jax.Array:
    """Returns the random key most tests start from."""
    return jax.random.key(0)
