"""Prices of runs: the specification's table, an independent formula, and runs that end at their last step."""

import math

import pytest

from ariel_jax.errors import ConfigError, MissingExtraError, PrivacyBudgetError
from ariel_jax.privacy import Ledger, Plan, Terms, calibrate, renyi
from experiments.dp_grape.accounting import TABLE


def poisson(q, steps, noise=1.0, **options):
    return Plan(sampling_probability=q, steps=steps, noise_multiplier=noise, **options)


@pytest.mark.parametrize(("q", "steps", "delta", "epsilon", "sigma", "_"), TABLE[::3])
def test_noise_is_that_of_the_table(q, steps, delta, epsilon, sigma, _):
    found = calibrate(poisson(q, steps), epsilon=epsilon, delta=delta)
    assert found.noise_multiplier == pytest.approx(sigma, abs=1e-3)
    assert found.epsilon(delta) <= epsilon


@pytest.mark.parametrize("row", [7])
def test_the_tight_figure_is_smaller(row):
    q, steps, delta, epsilon, sigma, tight = TABLE[row]
    assert poisson(q, steps, tight).tight_epsilon(delta) == pytest.approx(epsilon, rel=2e-3)
    assert poisson(q, steps, sigma).tight_epsilon(delta) < epsilon


def test_epsilon_is_below_that_of_an_independent_formula():
    """Whole orders by the binomial theorem (Mironov, Talwar, Zhang 2019, arXiv 1908.10530)."""
    q, steps, delta, sigma = 0.02, 3000, 2e-5, 2.410

    def bound(order):
        terms = [
            math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
            + (order - k) * math.log1p(-q) + k * math.log(q) + k * (k - 1) / (2 * sigma**2)
            for k in range(order + 1)
        ]  # fmt: skip
        top = max(terms)
        rdp = steps * (top + math.log(sum(math.exp(t - top) for t in terms))) / (order - 1)
        return rdp + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)

    independent = min(bound(order) for order in range(2, 65))
    assert independent == pytest.approx(2.003, abs=2e-3)
    assert 0.997 * independent <= poisson(q, steps, sigma).epsilon(delta) <= independent


def test_all_records_in_every_step_are_a_plain_composition():
    plan = Plan(noise_multiplier=1.0, steps=60, sampler="none")
    # Every example in 60 batches, sigma 1, delta 1e-5: exactly 62.2 by Gaussian differential privacy.
    assert plan.tight_epsilon(1e-5) == pytest.approx(62.2, abs=0.05)
    assert 62.2 < plan.epsilon(1e-5) < 66
    assert plan.price().curve == pytest.approx(60 * renyi.ORDERS / 2)
    replaced = plan.replace(relation="replace_one")
    assert replaced.price().curve == pytest.approx(4 * plan.price().curve)


def test_batches_of_a_fixed_size_are_priced_under_replacement():
    plan = Plan(
        noise_multiplier=4.0, steps=100, sampler="fixed_without_replacement",
        relation="replace_one", batch_size=10, dataset_size=1000,
    )  # fmt: skip
    everybody = Plan(noise_multiplier=4.0, steps=100, sampler="none", relation="replace_one")
    assert 0 < plan.epsilon(1e-5) < everybody.epsilon(1e-5)
    with pytest.raises(ConfigError, match="no accountant"):
        plan.tight_epsilon(1e-5)


@pytest.mark.parametrize(("q", "steps"), [(0.1, 7), (0.02, 300), (1.0, 5)])
def test_a_calibrated_run_ends_exactly_at_its_planned_step(q, steps, tmp_path):
    plan = calibrate(poisson(q, steps), epsilon=3.0, delta=1e-5)
    step = plan.replace(steps=1).price()
    terms = Terms(account="a", relation="add_remove", epsilon=3.0, delta=1e-5)
    with Ledger(tmp_path / "ledger.sqlite", terms) as ledger:
        assert ledger.most(step, at_most=2 * steps) == steps
        ticket = ledger.reserve(plan.price())
        with pytest.raises(PrivacyBudgetError, match="reservations included"):
            ledger.reserve(step)
        ledger.settle(ticket, plan.replace(steps=steps - 1).price())
        ledger.settle(ledger.reserve(step))
        with pytest.raises(PrivacyBudgetError):
            ledger.reserve(step)
        assert ledger.epsilon() == pytest.approx(plan.epsilon(1e-5), rel=1e-9)


def test_a_budget_that_is_never_reached_gives_a_plan_that_keeps_to_it():
    plan = calibrate(poisson(0.5, 3), epsilon=1e9, delta=1e-5)
    assert plan.epsilon(1e-5) <= 1e9
    assert plan.noise_multiplier == pytest.approx(0.01, rel=1.0)


def test_draws_that_are_cut_take_from_delta():
    plan = poisson(0.02, 300)
    cut = plan.replace(truncation=4e-6)
    assert cut.price().delta == 4e-6
    assert cut.epsilon(1e-5) == pytest.approx(plan.epsilon(6e-6))
    assert cut.epsilon(4e-6) == math.inf
    assert cut.tight_epsilon(1e-5) == pytest.approx(plan.tight_epsilon(6e-6), rel=1e-6)
    noisier = calibrate(cut, epsilon=2.0, delta=1e-5)
    assert noisier.noise_multiplier > calibrate(plan, epsilon=2.0, delta=1e-5).noise_multiplier
    with pytest.raises(ConfigError, match="truncation=1"):
        plan.replace(truncation=1.0)


def test_what_cannot_be_priced_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="sampling_probability=None"):
        Plan(noise_multiplier=1.0, steps=1)
    for q in (0, 1.5):
        with pytest.raises(ConfigError, match="sampling_probability"):
            poisson(q, 1)
    with pytest.raises(ConfigError, match="noise_multiplier=-1"):
        poisson(0.5, 1, -1)
    with pytest.raises(ConfigError, match="not under 'replace_one'"):
        poisson(0.5, 1, relation="replace_one")
    fixed = {"noise_multiplier": 1.0, "steps": 1, "sampler": "fixed_without_replacement"}
    with pytest.raises(ConfigError, match="replace_one"):
        Plan(**fixed, batch_size=1, dataset_size=2)
    with pytest.raises(ConfigError, match="exceeds dataset_size=2"):
        Plan(**fixed, batch_size=3, dataset_size=2, relation="replace_one")
    with pytest.raises(PrivacyBudgetError, match="not reachable"):
        calibrate(poisson(1.0, 10**9), epsilon=1e-3, delta=1e-9)
    for options in ({"epsilon": 0, "delta": 1e-5}, {"epsilon": 1, "delta": 1}):
        with pytest.raises(ConfigError):
            calibrate(poisson(0.5, 1), **options)
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(MissingExtraError, match=r"ariel-jax\[privacy\]"):
        poisson(0.5, 1).price()
