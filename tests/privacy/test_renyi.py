"""Prices and what they mean, against dp_accounting."""

import dataclasses
import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, rdp
from hypothesis import given
from hypothesis import strategies as st

from ariel_jax.errors import ConfigError
from ariel_jax.privacy import renyi


@given(
    slope=st.floats(1e-12, 1e3), offset=st.floats(0, 10), delta=st.floats(1e-12, 0.5), finite=st.integers(1, 70)
)  # fmt: skip
def test_epsilon_is_that_of_dp_accounting(slope, offset, delta, finite):
    curve = offset + slope * renyi.ORDERS
    curve[finite:] = math.inf
    ours, _ = renyi.epsilon(curve, delta)
    theirs, _ = rdp.compute_epsilon(renyi.ORDERS, curve, delta)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


def test_epsilon_at_the_edges():
    zero, nowhere = np.zeros(len(renyi.ORDERS)), np.full(len(renyi.ORDERS), math.inf)
    assert renyi.epsilon(zero, 1e-5) == (0.0, renyi.ORDERS[0])
    assert renyi.epsilon(zero, 0.0) == (0.0, 0.0)
    assert renyi.epsilon(zero + 1e-9, 0.0) == (math.inf, 0.0)
    assert renyi.epsilon(nowhere, 1e-5) == (math.inf, 0.0)


def test_a_gaussian_costs_what_dp_accounting_says():
    accountant = rdp.RdpAccountant(renyi.ORDERS.tolist()).compose(GaussianDpEvent(1.7), 40)
    ours = renyi.gaussian(noise_multiplier=1.7, relation="add_remove").times(40)
    np.testing.assert_allclose(ours.curve, accountant.rdp, rtol=1e-12)
    assert ours.epsilon(1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-12)


def test_a_price_adds_its_own_delta_and_survives_json():
    price = renyi.gaussian(noise_multiplier=2, relation="zero_out")
    worse = dataclasses.replace(price, delta=6e-6, assumptions=("a", "b"))
    assert worse.epsilon(1e-5) > price.epsilon(1e-5)
    assert worse.times(2).delta == 1.2e-5
    assert worse.times(2).epsilon(1e-5) == math.inf
    assert worse.covers(price)
    assert not price.covers(worse)
    partly = dataclasses.replace(worse, rdp=(*worse.rdp[:-1], math.inf))
    assert renyi.Price.from_json(partly.to_json()) == partly
    assert partly.times(0).epsilon(1e-5) == 0


def test_what_is_no_price_is_refused():
    with pytest.raises(ConfigError, match="numbers of at least 0"):
        renyi.Price(rdp=(1.0,), relation="add_remove")
    with pytest.raises(ConfigError, match="numbers of at least 0"):
        renyi.Price(rdp=(math.nan,) * len(renyi.ORDERS), relation="add_remove")
    with pytest.raises(ConfigError, match="relation='next'"):
        renyi.Price(rdp=(0.0,) * len(renyi.ORDERS), relation="next")
    with pytest.raises(ConfigError, match=r"delta=1\.0"):
        renyi.Price(rdp=(0.0,) * len(renyi.ORDERS), relation="add_remove", delta=1.0)
    with pytest.raises(ConfigError, match="noise_multiplier=0"):
        renyi.gaussian(noise_multiplier=0, relation="add_remove")
    with pytest.raises(ConfigError, match="unknown keys"):
        renyi.Price.from_json(renyi.FREE["add_remove"].to_json() | {"more": 1})
