import pytest

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.lm import Chooser
from ariel_jax.testing import tiny_model

from . import cases


@pytest.fixture(scope="session")
def ontology():
    return cases.small()


@pytest.fixture(scope="session")
def closures(ontology):
    return Closures(ontology)


@pytest.fixture(scope="module")
def model():
    return tiny_model(n_layers=1, max_positions=1024)


@pytest.fixture(scope="module")
def chooser(model):
    return Chooser(model)
