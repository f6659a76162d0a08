import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.mozo import Config, Numbers, audit, check, oracle
from ariel_jax.algorithms.mozo.config import BALLS
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.errors import UnprovenMechanismError
from ariel_jax.privacy import renyi

from .step_cases import CASES, WHOLE, K, N, V, laws, present, rows


@pytest.mark.parametrize("name", CASES)
def test_the_step_keeps_to_its_price_on_random_and_hill_climbed_logits(name):
    rng, (config, numbers) = np.random.default_rng(0), CASES[name]
    for _ in range(60):
        found = audit.audit_step(rows(rng), present(rng), config, numbers, laws=laws(name))
        assert not found.refutes, found
    start = rows(rng, spread=0.3)
    _, hard, worst = audit.hill_climb(
        start, WHOLE, config, numbers, rng, steps=120, laws=laws(name), alphas=(2.0, 3.0)
    )
    before = audit.audit_step(start, WHOLE, config, numbers, laws=laws(name), alphas=(2.0, 3.0))
    assert hard.worst_divergence > before.worst_divergence
    assert worst <= 1
    if config.bounds_range:
        assert worst > 0.999  # the range is used up: the audit has something to look at


@pytest.mark.parametrize("name", CASES)
def test_the_step_keeps_to_the_price_of_a_replaced_demonstration(name):
    rng, (config, numbers) = np.random.default_rng(10), CASES[name]
    alphas = (1.4, 2.0, 4.0)  # balls are proven up to half their order here
    for _ in range(20):
        logits, others = rows(rng), rows(rng)[1:]
        found = audit.audit_step(
            logits, present(rng), config, numbers, others=others, laws=laws(name), alphas=alphas
        )
        assert not found.refutes, found
        assert np.isfinite(found.bounds[0])
    start = rows(rng, spread=0.3)
    moved, hard, worst = audit.hill_climb(
        start,
        np.arange(N) < 2,
        config,
        numbers,
        rng,
        steps=40,
        others=-start[1:],
        laws=laws(name),
        alphas=alphas,
    )
    assert moved.shape == (2 * N + 1, V)
    assert worst <= 1
    if config.bounds_range:
        assert hard.h == 2 * numbers.h
        # Rows that say the opposite of what they replace use twice the range up.
        opposite = rows(rng, spread=3.0)
        far = 2 * opposite[0] - opposite[1:]
        found = audit.audit_step(
            opposite, WHOLE, config, numbers, others=far, laws=laws(name), alphas=alphas
        )
        assert found.ranges.max() > 1.5 * numbers.h


def test_a_replaced_demonstration_is_compared_with_the_row_in_its_place():
    config, numbers = CASES["scale"]
    rng = np.random.default_rng(11)
    logits, others = rows(rng), rows(rng)[1:]
    mask = np.array([True, False, True, True])
    found = audit.audit_step(logits, mask, config, numbers, others=others, laws=laws("scale"))
    assert found.forward.shape == (3, len(audit.ALPHAS))
    changed = logits.copy()
    changed[3] = others[2]
    (p,), (q,) = laws("scale")(logits, mask[None]), laws("scale")(changed, mask[None])
    assert found.forward[1, 2] == pytest.approx(oracle.divergence(p, q, 8.0), rel=1e-6)
    assert found.reverse[1, 2] == pytest.approx(oracle.divergence(q, p, 8.0), rel=1e-6)
    same = audit.audit_step(logits, mask, config, numbers, others=logits[1:], laws=laws("scale"))
    assert same.worst == 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("replaced", [False, True])
def test_what_audits_hold_steps_to_is_what_plans_pay_for(name, replaced):
    """`oracle.bound` tries laws on two tokens, `curves` has the closed forms that prices are made of."""
    config, numbers = CASES[name]
    plan = Plan(
        config=config,
        numbers=numbers,
        n_demonstrations=40 if replaced else N,
        max_tokens=1,
        sampler="partition" if replaced else "none",
    )
    for alpha in (1.2, 1.5, 2.0, 3.0, 4.0, 8.0, 9.0, 64.0):
        priced = float(plan.token_curve(alpha))
        held_to = oracle.bound(config, numbers, alpha, replaced=replaced)
        assert priced == pytest.approx(held_to, rel=1e-7)
        assert priced >= held_to * (1 - 1e-12)


def test_the_claim_is_of_each_demonstration_in_both_directions():
    config, numbers = CASES["scale"]
    logits, mask = rows(np.random.default_rng(1)), np.array([True, False, True, True])
    found = audit.audit_step(logits, mask, config, numbers, laws=laws("scale"))
    assert found.ranges.shape == found.max_divergences.shape == (3,)
    assert found.forward.shape == found.reverse.shape == (3, len(audit.ALPHAS))
    without = mask & (np.arange(N) != 2)
    p, q = laws("scale")(logits, np.stack([mask, without]))
    assert found.forward[1, 2] == pytest.approx(oracle.divergence(p, q, 8.0), rel=1e-6)
    assert found.reverse[1, 2] == pytest.approx(oracle.divergence(q, p, 8.0), rel=1e-6)


@pytest.mark.parametrize("fault", audit.FAULTS)
def test_the_exact_audit_finds_every_planted_fault(fault):
    config, numbers = Config(top_k=K), Numbers(eta=1.2, weight=0.25)
    planted = jax.jit(audit.FAULTS[fault](config, numbers))
    rng, found = np.random.default_rng(2), []
    for _ in range(30):
        mask = np.arange(N) < rng.integers(1, N + 1)
        logits = rows(rng, spread=1.0)
        found.append(audit.audit_step(logits, mask, config, numbers, laws=planted))
    assert max(one.worst for one in found) > 1.2
    assert any(one.refutes for one in found)
    replaced = [
        audit.audit_step(z, np.arange(N) < 1, config, numbers, others=-z[1:], laws=planted)
        for z in (rows(rng, spread=1.0) for _ in range(10))
    ]
    assert any(one.refutes for one in replaced)
    if fault == "hidden temperature":
        assert max(one.ranges.max() for one in found) == pytest.approx(2 * numbers.h, rel=1e-3)


def _counterexample(weight):
    """Two tokens; four demonstrations that push the rare one as far as the ball allows."""
    p = np.log([1 - 1e-6, 1e-6])
    config = Config(n_slots=4, top_k=None, contract="renyi", alpha=2)
    numbers = Numbers(eta=0.0, weight=weight, renyi_c=0.01, kl_cap=10.0)
    row = np.array([0.0, 1e3])
    log_r = [oracle.contract(p, p, row, config, numbers)] * 4
    whole = oracle.pool(p, log_r, WHOLE, config, numbers)
    without = oracle.pool(p, log_r, np.arange(4) < 3, config, numbers)
    far = max(oracle.divergence(whole, without, 2), oracle.divergence(without, whole, 2))
    return config, numbers, log_r[0], far


def test_renyi_balls_in_a_product_of_experts_are_refused_because_of_a_factor_of_325():
    config, numbers, log_r, found = _counterexample(1.0)
    assert math.exp(log_r[1] - log_r[0]) == pytest.approx(101, rel=0.01)
    assert found / numbers.renyi_c == pytest.approx(325, rel=0.01)
    with pytest.raises(UnprovenMechanismError, match="325 times c"):
        check(config, numbers)


def test_the_same_balls_at_weight_1_over_n_keep_to_theorem_b():
    config, numbers, _, found = _counterexample(0.25)
    check(config, numbers)
    assert found <= oracle.bound(config, dataclasses.replace(numbers, kl_cap=1e-4), 2)


def test_a_token_that_the_anchor_all_but_forbids_is_not_lifted_by_rounding():
    """Rows inside their balls may praise it beyond measure: it must stay out of reach."""
    config = Config(n_slots=4, top_k=None, contract="renyi", alpha=2)
    numbers = Numbers(eta=0.0, weight=0.25, renyi_c=0.3, kl_cap=0.15)
    logits = np.array([[0.0, -1.0, -200.0]] + [[0.0, -1.0, 100.0]] * 4)
    found = audit.audit_step(logits, WHOLE, config, numbers, alphas=(2.0,))
    assert not found.refutes
    ids, exact = oracle.law(logits, WHOLE, config, numbers)
    assert np.isneginf(exact[ids == 2])


def test_the_largest_divergence_of_a_bounded_range():
    wanted = {(8, 0.2): 0.03879, (8, 1.0): 0.6355, (32, 1.0): 0.8712, (8, 3.0): 2.577}
    for (alpha, h), value in wanted.items():
        found = oracle.bounded_range(alpha, h)
        assert found == pytest.approx(value, abs=6 * 10 ** (math.floor(math.log10(value)) - 4))
        assert found <= min(alpha * h**2 / 8, h)
    assert oracle.bounded_range(8, 0.0) == 0
    assert oracle.bounded_range(8, math.inf) == math.inf
    rng, best = np.random.default_rng(3), 0.0
    for _ in range(2000):
        alpha, h = rng.choice([1.5, 2, 8, 32]), rng.choice([0.1, 1, 3])
        p = oracle.log_softmax(rng.standard_normal(6) * 3)
        moved = rng.random(6) if rng.random() < 0.5 else rng.integers(0, 2, 6).astype(float)
        q = oracle.log_softmax(p + h * (moved - moved.min()) / max(np.ptp(moved), 1e-9))
        far = max(oracle.divergence(p, q, alpha), oracle.divergence(q, p, alpha))
        best = max(best, far / _bounded(alpha, h))
        assert far <= _bounded(alpha, h) * (1 + 1e-6)
    assert best > 0.95


@functools.cache
def _bounded(alpha, h):
    return oracle.bounded_range(alpha, h)


@pytest.mark.parametrize("contract", BALLS)
@pytest.mark.parametrize("pool", ["product", "arithmetic"])
def test_theorems_b_and_c_hold_on_rows_that_use_their_balls_up(pool, contract):
    rng, best = np.random.default_rng(4), 0.0
    for _ in range(120):
        n, alpha = int(rng.integers(1, 4)), int(rng.choice([2, 3, 8]))
        config = Config(n_slots=n, top_k=None, contract=contract, pool=pool, alpha=alpha)
        c = float(rng.choice([0.01, 0.3, 2.0]))
        kl = c / alpha if pool == "product" else 0.0
        numbers = Numbers(eta=0.0, weight=1 / n, renyi_c=c, kl_cap=kl)
        check(config, numbers)
        p = oracle.log_softmax(rng.standard_normal(4) * rng.choice([1, 6]))
        log_r = [
            oracle.contract(p, p, p + rng.standard_normal(4) * 20, config, numbers)
            for _ in range(n)
        ]
        whole = oracle.pool(p, log_r, np.ones(n, bool), config, numbers)
        without = oracle.pool(p, log_r, np.arange(n) > 0, config, numbers)
        for order in (alpha, 1.5):
            limit = oracle.bound(config, numbers, order)
            far = max(
                oracle.divergence(whole, without, order),
                oracle.divergence(without, whole, order),
            )
            assert far <= limit * (1 + 1e-9)
            best = max(best, far / limit)
    assert best > (0.25 if pool == "product" else 0.99)
    assert oracle.bound(config, numbers, alpha + 1) == math.inf


def _texts(make, h, *, k=50, steps=20, n=20_000):
    """Log-likelihood ratios of texts with and without the canary in the first of four slots."""
    config = Config(n_slots=4, top_k=None)
    numbers = Numbers(eta=4 * h, weight=0.25)
    planted = jax.jit(make(config, numbers))
    rng = np.random.default_rng(5)
    mask = np.stack([WHOLE, np.arange(4) > 0])
    both = [
        np.asarray(
            planted(jnp.asarray(rng.standard_normal((5, k)), jnp.float32), jnp.asarray(mask)),
            np.float64,
        )
        for _ in range(steps)
    ]
    inside, outside = np.stack([b[0] for b in both]), np.stack([b[1] for b in both])
    claim = renyi.epsilon([steps * _bounded(float(a), h) for a in renyi.ORDERS], 1e-3)[0]
    return (
        audit.losses(inside, outside, n, rng),
        audit.losses(outside, inside, n, rng),
        {"epsilon": claim, "delta": 1e-3},
    )


def _judged(make, h):
    there, back, claim = _texts(make, h)
    return (
        claim["epsilon"],
        audit.audit_likelihood(there, back, **claim),
        audit.audit_membership(there, -back, **claim),
    )


def test_sampled_texts_of_the_right_code_refute_nothing():
    epsilon, likelihood, membership = _judged(audit.laws_of, 0.1)
    assert 0.4 < epsilon < 0.7
    assert likelihood.estimate == 0
    assert not likelihood.refutes
    assert not membership.refutes
    assert 0.5 < membership.attack.auroc < 0.56


def test_sampled_texts_show_a_lambda_that_was_forced_to_1():
    epsilon, likelihood, membership = _judged(audit.no_contract, 0.1)
    assert likelihood.refutes
    assert likelihood.lower_bound > 0.1
    assert membership.refutes
    assert membership.attack.lower_bound > 2 * epsilon
    assert membership.attack.auroc > 0.7
    assert membership.tpr > 0.04


def test_sampled_texts_miss_a_hidden_temperature_that_the_exact_audit_finds():
    """A random canary is not the worst case: why the first level is the one that must be run."""
    epsilon, likelihood, membership = _judged(audit.hidden_temperature, 0.3)
    assert not likelihood.refutes
    assert not membership.refutes
    assert 0.3 < membership.attack.lower_bound < epsilon


def test_a_likelihood_audit_is_seldom_wrong():
    """Of a mechanism whose delta is known: 0.1 at epsilon 1, in 200 repetitions of 500 texts."""
    rng, wrong, seen = np.random.default_rng(6), 0, 0
    for _ in range(200):
        # With probability 0.1 the text gives the canary away, else it says nothing.
        losses = np.where(rng.random(500) < 0.1, np.inf, 0.0)
        quiet = np.zeros(500)
        found = audit.audit_likelihood(losses, quiet, epsilon=1.0, delta=0.1)
        wrong += found.refutes
        seen += audit.audit_likelihood(losses, quiet, epsilon=1.0, delta=0.01).refutes
    assert wrong <= 10
    assert seen >= 195


def test_shapes_of_the_audit_do_not_depend_on_the_mask():
    config, numbers = CASES["scale"]
    shapes = []

    def watched(logits, masks):
        shapes.append((logits.shape, masks.shape))
        return laws("scale")(logits, masks)

    for n in (1, 3, 4):
        audit.audit_step(
            rows(np.random.default_rng(7)), np.arange(N) < n, config, numbers, laws=watched
        )
    assert set(shapes) == {((N + 1, V), (N + 1, N))}
