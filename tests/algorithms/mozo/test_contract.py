import dataclasses
import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.mozo import Config, Numbers, oracle, solver
from ariel_jax.algorithms.mozo.contract import _in_order, contract_rows
from ariel_jax.algorithms.mozo.parameters import parameters

from .step_cases import BALL, CASES, RANGE, K, N, V, parts, rows


def contracted(name, logits, bias=None, numbers=None):
    return parts(name, logits, bias=bias, numbers=numbers)[2]


@pytest.mark.parametrize("name", RANGE)
def test_the_range_of_a_row_is_at_most_eta_and_as_large_as_can_be(name):
    rng, eta = np.random.default_rng(0), RANGE[name][1].eta
    at_the_cap = 0
    for _ in range(100):
        spread = np.ptp(contracted(name, rows(rng)), axis=-1)
        assert (spread <= eta * (1 + 1e-6)).all()
        at_the_cap += (spread > 0.995 * eta).sum()
    assert at_the_cap > 100


@pytest.mark.parametrize("name", BALL)
def test_a_row_is_inside_the_ball_and_as_far_out_as_can_be(name):
    rng, (config, numbers) = np.random.default_rng(0), BALL[name]
    at_a_cap = 0
    for _ in range(60):
        _, anchor, log_rs, _ = parts(name, rows(rng))
        for log_r in log_rs:
            p, q = oracle.log_softmax(anchor), oracle.log_softmax(anchor + log_r)
            far = max(oracle.divergence(p, q, config.alpha), oracle.divergence(q, p, config.alpha))
            kl = oracle.divergence(p, q, 1) if config.pool == "product" else 0.0
            assert far <= numbers.renyi_c * (1 + 1e-5)
            assert kl <= numbers.kl_cap * (1 + 1e-5)
            at_a_cap += far > 0.98 * numbers.renyi_c or kl > 0.98 * max(numbers.kl_cap, 1e-9)
    assert at_a_cap > 60


@pytest.mark.parametrize("name", CASES)
def test_the_fast_contract_is_the_oracles(name):
    """The linear oracle searches lambda by the range itself, the renyi one by plain divergences."""
    rng, (config, numbers) = np.random.default_rng(1), CASES[name]
    for _ in range(20):
        logits = rows(rng)
        ids, anchor, found, _ = parts(name, logits)
        exact = logits.astype(np.float64)[:, ids]
        for mine, row in zip(found, exact[1:], strict=True):
            anchored = oracle.log_softmax(anchor)
            wanted = oracle.contract(anchored, exact[0], row, config, numbers)
            # Up to a constant; held to caps that are up to one percent smaller, in float32.
            inside = np.isfinite(anchor)
            mine, wanted = mine[inside], wanted[inside]
            mine, wanted = mine - mine.mean(), wanted - wanted.mean()
            np.testing.assert_allclose(mine, wanted, rtol=0.01, atol=2e-5 + 0.01 * np.ptp(wanted))


@pytest.mark.parametrize("name", CASES)
def test_a_row_does_not_see_other_rows_their_order_or_number(name):
    logits = rows(np.random.default_rng(2))
    whole = contracted(name, logits)
    turned = contracted(name, logits[[0, 4, 3, 2, 1]])
    np.testing.assert_array_equal(turned[::-1], whole)
    others = logits.copy()
    others[2:] = rows(np.random.default_rng(3))[2:]
    np.testing.assert_array_equal(contracted(name, others)[0], whole[0])
    others[2:] = np.nan
    np.testing.assert_array_equal(contracted(name, others)[0], whole[0])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_where_tokens_can_be_drawn_says_nothing(name, bad):
    logits = rows(np.random.default_rng(4), spread=0.3)
    whole = contracted(name, logits)
    spoilt, likeliest = logits.copy(), int(np.argmax(logits[0]))
    spoilt[2, likeliest] = bad
    found = contracted(name, spoilt)
    assert not found[1].any()
    np.testing.assert_array_equal(found[[0, 2, 3]], whole[[0, 2, 3]])
    bias = np.zeros(V, np.float32)
    bias[likeliest] = -np.inf  # nobody can draw that token: the row counts again
    assert contracted(name, spoilt, bias)[1].any()


@pytest.mark.parametrize("name", RANGE)
def test_huge_and_equal_logits_stay_in_range(name):
    eta = RANGE[name][1].eta
    logits = rows(np.random.default_rng(5))
    logits[2] = logits[0] + 5
    logits[3] *= 1e30
    logits[4] = np.where(np.arange(V) == np.argmax(logits[0]), -3e38, 3e38)
    found = contracted(name, logits)
    assert np.isfinite(found).all()
    assert (np.ptp(found, axis=-1) <= eta * (1 + 1e-6)).all()
    assert np.ptp(found[1]) < 1e-5  # it said nothing


@pytest.mark.parametrize("name", RANGE)
def test_eta_of_zero_leaves_nothing_and_an_infinite_one_everything(name):
    logits = rows(np.random.default_rng(6))

    def found(eta):
        return contracted(name, logits, numbers=dataclasses.replace(CASES[name][1], eta=eta))

    assert not np.ptp(found(0.0), axis=-1).any()
    ids, anchor, _, _ = parts(name, logits)
    inside = np.isfinite(anchor)
    exact = oracle.log_softmax(logits.astype(np.float64)[:, ids[inside]])
    wanted, got = exact[1:] - exact[0], found(np.inf)[:, inside]
    np.testing.assert_allclose(
        got - got[:, :1], wanted - wanted[:, :1], atol=3e-6 * np.abs(wanted).max()
    )


def test_the_divergences_of_a_row_never_fall_as_lambda_grows():
    rng = np.random.default_rng(7)
    for _ in range(200):
        p = oracle.log_softmax(rng.standard_normal(8) * rng.choice([0.3, 3, 10]))
        l = rng.standard_normal(8) * rng.choice([0.1, 1, 10])
        alpha = float(rng.choice([2, 4, 16]))
        scales, whole = np.linspace(0, 1, 20), np.exp(oracle.log_softmax(p + l))
        tilted = [oracle.log_softmax(p + s * l) for s in scales]
        blended = [np.log((1 - s) * np.exp(p) + s * whole) for s in scales]
        for family in (tilted, blended):
            for measured in (
                [oracle.divergence(q, p, alpha) for q in family],
                [oracle.divergence(p, q, alpha) for q in family],
                [oracle.divergence(p, q, 1) for q in family],
            ):
                assert (np.diff(measured) >= -1e-12).all()


def test_mixing_probabilities_reaches_at_least_the_share_that_convexity_allows():
    """lambda_0 = (e^((a-1) c) - 1) / (e^((a-1) D) - 1) is inside the ball; the largest one is no less."""
    rng, numbers = np.random.default_rng(10), Numbers(eta=0, weight=0.25, renyi_c=0.1)
    config, further = Config(contract="renyi_linear", pool="arithmetic", alpha=3), 0
    for _ in range(100):
        p = oracle.log_softmax(rng.standard_normal(8) * 2)
        row = rng.standard_normal(8) * rng.choice([1.0, 3.0])
        one_shot = oracle.log_softmax(row)
        far = max(oracle.divergence(one_shot, p, 3), oracle.divergence(p, one_shot, 3))
        least = min(1.0, np.expm1(2 * 0.1) / np.expm1(2 * far))
        blended = np.log((1 - least) * np.exp(p) + least * np.exp(one_shot))
        assert oracle.divergence(blended, p, 3) <= 0.1 * (1 + 1e-9)
        assert oracle.divergence(p, blended, 3) <= 0.1 * (1 + 1e-9)
        ratio = np.exp(oracle.contract(p, p, row, config, numbers))
        token = int(np.argmax(np.abs(one_shot - p)))
        share = (ratio[token] - 1) / np.expm1(one_shot[token] - p[token])
        assert share >= least * (1 - 1e-9)
        further += share > 1.5 * least
    assert further > 20


@pytest.mark.parametrize("s", [2, 8, 64, -1, -7])
def test_powers_keep_their_digits_from_the_smallest_step_to_the_largest(s):
    log_r = np.concatenate([np.geomspace(1e-6, 40, 200), -np.geomspace(1e-6, 40, 200)])
    log_r = log_r.astype(np.float32)
    x = np.expm1(log_r)
    found = np.asarray(solver.log_power_minus_line(jnp.asarray(x), jnp.asarray(log_r), s))
    with decimal.localcontext(prec=60):
        d = decimal.Decimal
        # As the solver has them: x rounded, and its logarithm to the digits of a small ratio.
        pairs = zip(x.tolist(), log_r.tolist(), strict=True)
        ratios = [(d(a), d(b).exp() if a < -0.5 else 1 + d(a)) for a, b in pairs]
        exact = np.array([float((r**s - 1 - s * a).ln()) for a, r in ratios])
    np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-5)


def _naive(p, l, s):
    """The cumulant as a difference of two log-sum-exps, in the dtype given."""
    total = np.log(np.exp(p + s * (l - (np.exp(p) * l).sum())).sum(dtype=p.dtype))
    return total - np.log(np.exp(p).sum(dtype=p.dtype))


def test_psi_keeps_its_digits_at_small_lambda_where_the_naive_form_loses_them():
    rng = np.random.default_rng(8)
    p = oracle.log_softmax(rng.standard_normal(100) * 2)
    l = rng.standard_normal(100)
    at = jax.jit(lambda s: solver.psi(p32, solver.centre(p32, l32), s))
    p32, l32 = jnp.asarray(p, jnp.float32), jnp.asarray(l[None, :], jnp.float32)
    p, l = np.asarray(p32, np.float64), np.asarray(l32[0], np.float64)
    centred = l - (np.exp(p) * l).sum() / np.exp(p).sum()
    worst = 0.0
    for s in (1.0, 0.1, 0.01, 0.001, -0.001, -7.0):
        y = s * centred
        exact = np.log1p((np.exp(p) / np.exp(p).sum() * (np.expm1(y) - y)).sum())
        if abs(s) == 0.001:  # here even float64 needs the series
            exact = (np.exp(p) / np.exp(p).sum() * (y**2 / 2 + y**3 / 6 + y**4 / 24)).sum()
        found = float(at(jnp.full((1, 1), s, jnp.float32))[0, 0])
        assert abs(found / exact - 1) < 3e-6, s
        worst = max(
            worst, abs(_naive(p.astype(np.float32), l32[0].astype(np.float32), s) / exact - 1)
        )
    assert worst > 0.01


@pytest.mark.parametrize("k", [7, 300])
def test_a_place_in_the_order_is_the_sorted_one(k):
    """To the bit: short rows by counting, long ones by bisection, without a sort."""
    rng, find = np.random.default_rng(9), jax.jit(_in_order)
    tied = rng.integers(-k // 2, k // 2, (3, k)).astype(np.float32)
    tied[:, -2:] = np.inf
    far = rng.standard_normal((3, k)) * 10.0 ** rng.integers(-30, 30, (3, k))
    for values in (tied, far.astype(np.float32)):
        for place in (0, 1, k // 2, k - 3):
            found = find(jnp.asarray(values), jnp.int32(place))
            np.testing.assert_array_equal(found[:, 0], np.sort(values)[:, place])
    assert "sort" not in str(jax.make_jaxpr(_in_order)(jnp.asarray(tied), jnp.int32(1)))


@pytest.mark.parametrize("name", ["renyi, product", "renyi_linear, product"])
def test_the_solver_makes_all_its_halvings_whatever_the_rows_are(name):
    """No loop or branch of the program depends on a value."""
    config, numbers = BALL[name]
    held = parameters(config, numbers)
    inputs = (jnp.zeros(K), jnp.zeros(K), jnp.zeros((N, K)))
    text = str(jax.make_jaxpr(contract_rows, static_argnums=3)(*inputs, config, held))
    assert "scan[" in text
    assert "length=25" in text  # whether lambda = 1 will do, and 24 halvings
    assert "while[" not in text
    assert "cond[" not in text
