import pytest

from ariel_jax.algorithms.ariel.closure import Closures

from . import cases


@pytest.fixture(scope="session")
def ontology():
    return cases.small()


@pytest.fixture(scope="session")
def closures(ontology):
    return Closures(ontology)
