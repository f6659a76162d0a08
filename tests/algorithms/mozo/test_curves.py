"""Curves of a token and of sampled blocks, against exact numbers, dp-accounting and laws at the edge."""

import decimal
import math

import numpy as np
import pytest
from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
    rdp,
)

from ariel_jax.algorithms.mozo import curves
from ariel_jax.algorithms.mozo.curves import MOMENTS, WHOLE, bounded_range, simple_bounded_range
from ariel_jax.errors import ConfigError
from ariel_jax.privacy.renyi import ORDERS

PUBLISHED = [1.25, 1.5, 1.75, *range(2, 65), 80, 96, 128, 256, 512]


def divergence(p, q, alpha):
    """Rényi divergence of order alpha of laws on the last axis."""
    terms = alpha * np.log(p) + (1 - alpha) * np.log(q)
    return np.logaddexp.reduce(terms, axis=-1) / (alpha - 1)


@pytest.mark.parametrize(
    ("alpha", "h", "value"), [(8, 0.2, 0.03879), (8, 1.0, 0.6355), (32, 1.0, 0.8712), (8, 3.0, 2.577)]
)  # fmt: skip
def test_a_token_costs_what_two_tokens_at_the_edge_reach(alpha, h, value):
    """Both directions, over all positions of the interval: the closed form is their largest."""
    assert bounded_range(alpha, h) == pytest.approx(value, rel=2e-4)
    a = np.linspace(0, h, 20_001)[1:-1]
    high = -np.expm1(-a) / (np.exp(h - a) - np.exp(-a))  # probability of the ratio e^(h-a)
    q = np.stack([high, 1 - high], axis=-1)
    p = np.stack([high * np.exp(h - a), (1 - high) * np.exp(-a)], axis=-1)
    forward, reverse = divergence(p, q, alpha).max(), divergence(q, p, alpha).max()
    assert forward == pytest.approx(reverse, rel=1e-7)
    assert forward <= bounded_range(alpha, h) <= forward * (1 + 1e-7)


def test_no_law_of_bounded_range_costs_more_and_the_simple_bound_is_above():
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        n_tokens, h = int(rng.integers(2, 6)), float(np.exp(rng.uniform(-4, 2)))
        alpha = float(np.exp(rng.uniform(0.1, 3.5)))
        q = rng.dirichlet(np.full(n_tokens, 0.3), size=100) + 1e-12
        q /= q.sum(-1, keepdims=True)
        ends = rng.random((100, n_tokens)) < 0.5
        shift = np.where(rng.random((100, n_tokens)) < 0.7, h * ends, rng.uniform(0, h, ends.shape))
        p = q * np.exp(shift)
        p /= p.sum(-1, keepdims=True)
        found = np.maximum(divergence(p, q, alpha), divergence(q, p, alpha)).max()
        worst = max(worst, float(found / bounded_range(alpha, h)))
        assert bounded_range(alpha, h) <= simple_bounded_range(alpha, h)
    assert 0.95 < worst <= 1 + 1e-9


def test_tiny_and_huge_influences_keep_their_digits():
    decimal.getcontext().prec = 60
    d = decimal.Decimal
    for h in ("1e-6", "1e-3", "0.5", "40"):
        for alpha in ("1.1", "2", "64", "1024"):
            ratio, order = d(h), d(alpha)
            a, b = (order * ratio).exp() - 1, (order * ratio).exp() - ratio.exp()
            u = (order - 1) * a / (order * b)
            exact = u.ln() + ((a / order / (ratio.exp() - 1)).ln()) / (order - 1)
            found = float(bounded_range(float(alpha), float(h)))
            assert float(exact) * (1 - 1e-12) <= found <= float(exact) * (1 + 1e-9) + 1e-12
    assert (bounded_range(ORDERS, 0.0) == 0).all()
    assert (np.diff(bounded_range(ORDERS, 0.3)) >= 0).all()
    with pytest.raises(ConfigError, match="influence=-1"):
        bounded_range(2.0, -1.0)


def test_composed_tokens_are_zero_concentrated_and_agree_with_dp_accounting():
    accountant = rdp.RdpAccountant(PUBLISHED).compose(
        SelfComposedDpEvent(ZCDpEvent(0.08**2 / 8), 100)
    )
    ours = 100 * simple_bounded_range(PUBLISHED, 0.08)
    # min(alpha h^2 / 8, h): an event of zero-concentrated privacy does not know the latter.
    lower = ours < 100 * 0.08
    assert lower[:68].all()
    np.testing.assert_allclose(ours[lower], np.asarray(accountant.rdp)[lower], rtol=1e-12)
    assert accountant.get_epsilon(1e-5) == pytest.approx(1.6937176, abs=5e-8)
    assert rdp.compute_epsilon(PUBLISHED, ours, 1e-5)[0] == pytest.approx(1.6937176, abs=5e-8)
    tight = rdp.compute_epsilon(PUBLISHED, 100 * bounded_range(PUBLISHED, 0.08), 1e-5)[0]
    assert 0.98 * 1.6937176 < tight < 1.6937176


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.0), (3e-4, 0.7), (0.2, 2.0)])
def test_the_forward_formula_is_that_of_sampled_gaussians(q, sigma):
    accountant = rdp.RdpAccountant(WHOLE.tolist()).compose(
        PoissonSampledDpEvent(q, GaussianDpEvent(sigma))
    )
    ours = curves.poisson_forward(MOMENTS / (2 * sigma**2), q)
    theirs = np.asarray(accountant.rdp)
    known = ~np.isnan(theirs)
    assert known[:63].all()
    # Theirs subtracts logarithms, so that small divergences lose digits.
    np.testing.assert_allclose(ours[known], theirs[known], rtol=1e-10, atol=1e-13)


def test_small_probabilities_keep_their_digits():
    decimal.getcontext().prec = 60
    q, d = 1e-6, decimal.Decimal
    block = 5 * bounded_range(MOMENTS, 0.9)
    every = dict(zip(MOMENTS.tolist(), block.tolist(), strict=True))
    found = curves.poisson_forward(block, q)
    for alpha in (2, 3, 17, 64):
        total = sum(
            math.comb(alpha, j) * (1 - d(q)) ** (alpha - j) * d(q) ** j
            * ((j - 1) * d(every.get(j, 0.0))).exp()
            for j in range(alpha + 1)
        )  # fmt: skip
        exact = float(total.ln() / (alpha - 1))
        assert found[alpha - 2] == pytest.approx(exact, rel=1e-11)
    reverse = curves.poisson_reverse(block, q)
    for alpha in (2, 17, 64, 1024):
        left = (1 - d(q)) ** (1 - alpha) - 1 - (alpha - 1) * d(q)
        exact = float((1 + left * (d(float(block[0])).exp() - 1)).ln() / (alpha - 1))
        at = int(np.searchsorted(WHOLE, alpha))
        assert exact * (1 - 1e-9) <= reverse[at] <= exact * (1 + 1e-4)


def test_sampling_never_costs_more_and_ends_where_it_should():
    block = 10 * bounded_range(MOMENTS, 1.0)
    for curve in (
        curves.poisson(block, 1.0),
        curves.without_replacement(block, 10.0, 1.0),
    ):
        np.testing.assert_allclose(curve, curves.at_orders(block[WHOLE - 2]), rtol=1e-12)
    less, more = curves.poisson(block, 1e-3), curves.poisson(block, 1e-2)
    assert (less < more).all()
    assert (more <= curves.at_orders(block[WHOLE - 2])).all()
    assert (curves.poisson(np.zeros(len(MOMENTS)), 0.1) == 0).all()
    assert (curves.without_replacement(np.zeros(len(MOMENTS)), 0.0, 0.1) == 0).all()
    for q in (0.0, 1.5):
        with pytest.raises(ConfigError, match="probability"):
            curves.poisson(block, q)
        with pytest.raises(ConfigError, match="share"):
            curves.without_replacement(block, 10.0, q)


def test_the_recalled_theorem_is_what_dp_accounting_computes():
    """Above order 256 it sums the same terms; below, sharper ones, and at order 2 there is one only."""
    n, size, sigma = 1000, 10, 4.0
    accountant = rdp.RdpAccountant(WHOLE.tolist(), NeighboringRelation.REPLACE_ONE)
    accountant.compose(SampledWithoutReplacementDpEvent(n, size, GaussianDpEvent(sigma)))
    priced = curves.without_replacement(MOMENTS / (2 * sigma**2), math.inf, size / n)
    ours, theirs = priced[np.searchsorted(ORDERS, WHOLE)], np.asarray(accountant.rdp)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-9)
    assert ours[WHOLE > 256] == pytest.approx(theirs[WHOLE > 256], rel=1e-9)
    assert (ours >= theirs * (1 - 1e-9)).all()


def random_ball(rng, n_rows, n_tokens):
    anchor = rng.dirichlet(np.full(n_tokens, 0.4)) + 1e-9
    rows = anchor * np.exp(rng.normal(size=(n_rows, n_tokens)) * rng.exponential())
    return anchor / anchor.sum(), rows / rows.sum(-1, keepdims=True)


def test_renyi_balls_bound_both_pools_where_weights_add_up_to_one():
    """Radius and cap are those of the rows themselves; both directions; coming, going and replaced."""
    rng = np.random.default_rng(1)
    worst = np.zeros(4)
    for _ in range(3000):
        n, alpha = int(rng.integers(1, 4)), int(rng.integers(3, 12))
        anchor, rows = random_ball(rng, n + 1, int(rng.integers(2, 5)))
        weight = 1 / n
        apart = [divergence(rows, anchor, alpha), divergence(anchor[None], rows, alpha)]
        radius = float(np.max(apart))
        kl_cap = float(np.max(np.sum(anchor * np.log(anchor / rows), axis=-1)))

        def product(chosen, anchor=anchor, weight=weight):
            law = anchor * np.exp(weight * np.log(chosen / anchor).sum(axis=0))
            return law / law.sum()

        def average(chosen, anchor=anchor, weight=weight):
            return anchor + weight * (chosen - anchor).sum(axis=0)

        ball = {"alpha": alpha, "radius": radius, "weight": weight}
        for at, pool in enumerate((product, average)):
            more = {"kl_cap": kl_cap} if at == 0 else {}
            curve = curves.geometric if at == 0 else curves.arithmetic
            pairs = {False: (rows[:n], rows[: n - 1]), True: (rows[:n], rows[1:])}
            for replaced, (one, other) in pairs.items():
                order = alpha / 2 if replaced else alpha
                bound = float(curve(order, **ball, **more, replaced=replaced))
                a, b = pool(one), pool(other)
                found = max(divergence(a, b, order), divergence(b, a, order))
                worst[2 * at + replaced] = max(worst[2 * at + replaced], found / bound)
    assert (worst <= 1 + 1e-9).all()
    assert worst[0] > 0.8
    assert worst[2] > 0.8


def test_a_ball_of_one_order_promises_nothing_above_it():
    ball = {"alpha": 8, "radius": 0.2, "weight": 0.25}
    for curve in (
        curves.geometric(ORDERS, **ball, kl_cap=0.02, replaced=False),
        curves.arithmetic(ORDERS, **ball, replaced=False),
    ):
        assert np.isfinite(curve[ORDERS <= 8]).all()
        assert np.isinf(curve[ORDERS > 8]).all()
        sampled = curves.poisson(10 * curve[np.searchsorted(ORDERS, MOMENTS)], 0.01)
        assert np.isfinite(sampled[ORDERS <= 8]).all()
        assert np.isinf(sampled[ORDERS > 8]).all()
        everybody = curves.poisson(10 * curve[np.searchsorted(ORDERS, MOMENTS)], 1.0)
        np.testing.assert_allclose(everybody, 10 * curve[np.searchsorted(ORDERS, np.ceil(ORDERS))])
    replaced = curves.geometric(ORDERS, **ball, kl_cap=0.02, replaced=True)
    assert np.isinf(replaced[ORDERS > 4]).all()
    assert replaced[0] == pytest.approx(0.25 * 0.2 * (7 / 6 + 1) + 4 / 3 * 0.02)
    for alpha in (2, 1):
        assert np.isinf(
            curves.arithmetic(ORDERS, alpha=alpha, radius=0.2, weight=0.5, replaced=True)
        ).all()
    plain = curves.geometric(ORDERS, **ball, kl_cap=0.02, replaced=False)
    assert plain[0] == pytest.approx(0.25 * 0.2 + 8 / 7 * 0.02)
