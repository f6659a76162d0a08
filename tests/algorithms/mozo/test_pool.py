import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax import compat
from ariel_jax.algorithms.mozo import oracle, pool
from ariel_jax.algorithms.mozo.parameters import parameters

from .step_cases import CASES, K, N

pooled = jax.jit(pool.pool, static_argnums=3)
KINDS = ("scale", "linear", "renyi, arithmetic")


def rows(rng):
    anchor = oracle.log_softmax(rng.standard_normal(K) * rng.choice([0.3, 5, 30]))
    return anchor.astype(np.float32), rng.standard_normal((N, K)).astype(np.float32)


def law(name, anchor, log_r, mask):
    config, numbers = CASES[name]
    arrays = (jnp.asarray(anchor), jnp.asarray(log_r), jnp.asarray(mask))
    return np.asarray(pooled(*arrays, config, parameters(config, numbers)))


@pytest.mark.parametrize("name", KINDS)
def test_the_pool_is_the_oracles(name):
    rng, (config, numbers) = np.random.default_rng(0), CASES[name]
    for _ in range(30):
        anchor, log_r = rows(rng)
        mask = rng.random(N) < 0.6
        found = law(name, anchor, log_r, mask)
        wanted = oracle.pool(anchor.astype(np.float64), list(log_r), mask, config, numbers)
        np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=1e-6)
        assert abs(np.exp(found.astype(np.float64)).sum() - 1) < 1e-6


@pytest.mark.parametrize("name", KINDS)
def test_absent_rows_do_not_count(name):
    anchor, log_r = rows(np.random.default_rng(1))
    mask = np.array([True, False, True, False])
    other = log_r.copy()
    other[~mask] = 7.0
    np.testing.assert_array_equal(law(name, anchor, log_r, mask), law(name, anchor, other, mask))
    none = law(name, anchor, log_r, np.zeros(N, bool))
    np.testing.assert_array_equal(none, law(name, anchor, 0 * log_r, np.ones(N, bool) & False))
    temperature = CASES[name][1].pool_temperature
    wanted = np.exp(oracle.log_softmax(anchor.astype(np.float64) / temperature))
    np.testing.assert_allclose(np.exp(none), wanted, atol=1e-6)


def test_a_product_does_not_depend_on_the_order_of_rows_or_on_devices_to_the_bit():
    anchor, log_r = rows(np.random.default_rng(2))
    mask = np.array([True, True, False, True])
    whole = law("scale", anchor, log_r, mask)
    for _ in range(10):
        order = np.random.default_rng(_).permutation(N)
        np.testing.assert_array_equal(law("scale", anchor, log_r[order], mask[order]), whole)
    mesh = compat.auto_mesh((2,), ("rows",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    found = law("scale", anchor, jax.device_put(log_r, split), jax.device_put(mask, split))
    np.testing.assert_array_equal(found, whole)


def test_one_row_more_changes_the_product_by_its_own_log_ratio():
    """To 2**-22 nat where the anchor is likely, which float32 sums of the same numbers would miss."""
    rng = np.random.default_rng(3)
    weight = CASES["scale"][1].weight
    for _ in range(20):
        anchor, log_r = rows(rng)
        anchor = oracle.log_softmax(anchor / 30).astype(np.float32)
        with_it = law("scale", anchor, log_r, np.ones(N, bool)).astype(np.float64)
        without = law("scale", anchor, log_r, np.arange(N) < N - 1).astype(np.float64)
        moved = with_it - without - weight * log_r[-1]
        assert np.ptp(moved) < 2e-6


@pytest.mark.parametrize("n", [1, 4, 25, 100])
def test_no_row_is_cut_off_below_an_influence_that_a_budget_allows(n):
    """All rows agree on 10 nats each, the most that any plan here comes to; the sum still fits int32."""
    config = dataclasses.replace(CASES["scale"][0], n_slots=n)
    numbers = dataclasses.replace(CASES["scale"][1], eta=40.0, weight=0.25)
    anchor = np.full(K, -np.log(K), np.float32)
    log_r = np.zeros((n, K), np.float32)
    log_r[:, 0] = -40.0
    arrays = jnp.asarray(anchor), jnp.asarray(log_r), jnp.ones(n, bool)
    found = np.asarray(pooled(*arrays, config, parameters(config, numbers)), np.float64)
    np.testing.assert_allclose(found[1] - found[0], 10 * n, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 25, 26, 100, 1000])
def test_the_fixed_point_sum_never_overflows(n):
    row, units = pool.fixed_point(n)
    assert 2 * (63 + n * row) * units <= 2**31
    assert n * row >= 63 * (1 - 1e-12)
    assert 1 / units < 2**-14 / 8 or n > 100


def test_tokens_that_cannot_be_drawn_stay_so():
    anchor, log_r = rows(np.random.default_rng(4))
    anchor[[0, 5]] = -np.inf
    for name in KINDS:
        found = law(name, anchor, log_r, np.ones(N, bool))
        assert np.isneginf(found[[0, 5]]).all()
        assert np.isfinite(np.delete(found, [0, 5])).all()


def test_a_weight_that_depends_on_the_number_of_rows_would_be_seen():
    """Control of `absent rows do not count`: the anchor's share under a planted weight of 1 / drawn."""
    anchor, log_r = rows(np.random.default_rng(5))
    config, numbers = CASES["scale"]
    twice = dataclasses.replace(numbers, weight=0.5)
    mask = np.array([True, True, False, False])
    planted = pooled(
        jnp.asarray(anchor),
        jnp.asarray(log_r),
        jnp.asarray(mask),
        config,
        parameters(config, twice),
    )
    assert np.abs(np.exp(planted) - np.exp(law("scale", anchor, log_r, mask))).max() > 1e-3
