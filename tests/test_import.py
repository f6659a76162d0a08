import subprocess
import sys

import pytest

import ariel_jax

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "numpy", "tokenizers", "tyro", "rich")
HOST_ONLY = (
    "ariel_jax",
    "ariel_jax.errors",
    "ariel_jax._checks",
    "ariel_jax.durable",
    "ariel_jax.cli.main",
)


def run(code):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.split()


@pytest.mark.parametrize("module", HOST_ONLY)
def test_importing_host_only_modules_loads_nothing_heavy(module):
    loaded = run(f"import sys, {module}; print(*[m for m in sys.modules if '.' not in m])")
    assert "ariel_jax" in loaded
    assert not set(HEAVY) & set(loaded)


def test_importing_every_public_name_starts_no_backend():
    code = """
import ariel_jax
for name in ariel_jax.__all__:
    getattr(ariel_jax, name)
from ariel_jax import backend, compat
print(compat.backends_are_initialized())
"""
    assert run(code) == ["False"]


def test_the_public_names_are_those_with_a_home():
    assert set(ariel_jax.__all__) == {"__version__", *ariel_jax._HOME}
    assert set(dir(ariel_jax)) == set(ariel_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        getattr(ariel_jax, "no_such" + "_name")
