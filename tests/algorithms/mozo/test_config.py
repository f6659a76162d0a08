import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.mozo import Config, Numbers, check, sampling
from ariel_jax.algorithms.mozo.parameters import DEFLATION, parameters

from .step_cases import CASES, K, N, V, rows


@pytest.mark.parametrize("name", CASES)
def test_what_is_proven_is_allowed(name):
    assert check(*CASES[name]) is None


def test_influence_is_weight_times_eta_over_the_pool_temperature():
    assert Numbers(eta=0.8, weight=0.25).h == 0.2
    assert Numbers(eta=0.8, weight=0.25, pool_temperature=0.5).h == 0.4
    assert Numbers(eta=math.inf, weight=0.25).h == math.inf


@pytest.mark.parametrize("name", CASES)
def test_rows_are_held_to_less_than_is_priced(name):
    config, numbers = CASES[name]
    held = parameters(config, numbers)
    for field in dataclasses.fields(numbers):
        value, priced = float(getattr(held, field.name)), getattr(numbers, field.name)
        if field.name in ("eta", "renyi_c", "kl_cap") and priced:
            assert 0.98 * priced < value < priced * (1 - DEFLATION / 2)
        elif field.name == "pool_temperature":
            assert priced <= value < priced * (1 + 2e-7)
        else:
            assert priced * (1 - 2e-7) <= value
            assert value <= priced or field.name == "tau0"


def test_nothing_is_left_of_an_eta_that_is_smaller_than_rounding():
    assert float(parameters(Config(), Numbers(eta=1e-6, weight=0.25)).eta) == 0
    assert float(parameters(Config(), Numbers(eta=0, weight=0.25)).eta) == 0
    assert float(parameters(Config(), Numbers(eta=math.inf, weight=0.25)).eta) == math.inf


def test_weight_times_slots_stays_at_most_one_in_float32():
    for n in range(1, 200):
        config = Config(n_slots=n, contract="renyi", pool="arithmetic", alpha=2)
        held = parameters(config, Numbers(eta=0, weight=1 / n, renyi_c=0.1))
        assert float(held.weight) * n <= 1


def test_a_new_number_compiles_nothing():
    traces = 0

    def counted(*args):
        nonlocal traces
        traces += 1
        return sampling.step(*args)

    compiled = jax.jit(counted, static_argnums=3)
    z, mask = jnp.asarray(rows(np.random.default_rng(0))), jnp.ones(N, bool)
    assert z.shape == (N + 1, V)
    for eta, tau0 in ((0.5, 1.0), (0.7, 1.0), (0.7, 1.3)):
        config = Config(top_k=K)
        held = parameters(config, Numbers(eta=eta, weight=0.25, tau0=tau0))
        compiled(z, mask, jax.random.key(0), config, held)
    assert traces == 1
