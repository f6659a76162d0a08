import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ariel_jax.algorithms.mozo import Config, Numbers, baselines, oracle, sampling
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.errors import ConfigError, PrivacyBudgetError
from ariel_jax.privacy import renyi

from .step_cases import WHOLE, K, N, V, rows

CONFIG = Config(top_k=K)
MIXED = Config(top_k=K, contract="renyi", alpha=3, pool="arithmetic")
DRAWS = 20_000


@functools.partial(jax.jit, static_argnames=("function", "config"))
def _many(function, config, held, logits, mask, keys):
    tokens, info = jax.vmap(lambda key: function(logits, mask, key, config, held))(keys)
    return tokens, info.flags[0], info.dropped[0]


def many(function, held, logits, mask=WHOLE, config=CONFIG):
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return _many(function, config, held, jnp.asarray(logits), jnp.asarray(mask), keys)


def drawn(*args):
    return np.asarray(many(*args)[0])


def agrees(tokens, law):
    """Whether tokens can be draws from a law [V]."""
    counts = np.bincount(tokens, minlength=V)
    assert not counts[law == 0].any()
    often = law * DRAWS > 5
    rest = max(law[~often].sum() * DRAWS, 1e-9)
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(law[often] * DRAWS, rest)
    return scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def ink(logits, mask, clip, temperature, k):
    z = logits.astype(np.float64)
    last = np.sort(z[0])[-k]
    average = z[0] + (np.clip(z[1:] - z[0], -clip, clip) * mask[:, None]).sum(0) / N
    average = np.where(z[0] >= last - 2 * clip / N, average / temperature, -np.inf)
    return np.exp(oracle.log_softmax(average))


def test_invisible_ink_draws_from_the_clipped_mean_and_keeps_to_its_price():
    rng = np.random.default_rng(0)
    logits, clip, temperature = rows(rng, spread=0.8), 1.0, 1.2
    held = baselines.InkParameters(jnp.float32(clip), jnp.float32(temperature))
    mask = np.array([True, True, False, True])
    law = ink(logits, mask, clip, temperature, K)
    assert (law > 0).sum() > K  # top-k+ keeps more than k
    tokens = drawn(baselines.invisible_ink, held, logits, mask)
    assert agrees(tokens, law)
    assert not agrees(tokens, ink(logits, ~mask, clip, temperature, K))
    price = baselines.invisible_ink_price(clip=clip, temperature=temperature, n_slots=N)
    assert price.relation == "zero_out"
    worst = 0.0
    with np.errstate(divide="ignore"):
        for _ in range(100):
            z = rows(rng, spread=3.0)
            with_it, without = (
                np.log(ink(z, m, clip, temperature, V)) for m in (WHOLE, np.arange(N) > 0)
            )
            assert oracle.log_range(with_it, without) <= 2 * clip / (N * temperature) + 1e-9
            for alpha in (2.0, 8.0):
                far = oracle.divergence(with_it, without, alpha)
                bound = price.curve[renyi.ORDERS == alpha][0]
                assert far <= bound
                worst = max(worst, far / bound)
    assert worst > 0.5


def test_the_product_of_one_shots_is_the_step_without_a_cap():
    logits, numbers = rows(np.random.default_rng(1), spread=1.0), Numbers(eta=math.inf, weight=0.25)
    held = parameters(CONFIG, numbers)
    tokens = drawn(baselines.product_of_one_shots, held, logits)
    np.testing.assert_array_equal(tokens, drawn(sampling.step, held, logits))
    assert (tokens != drawn(baselines.zero_shot, held, logits)).any()


def _mixed(p0, row, alpha, radius):
    """PMixED's row: bisection of plain divergences, twenty halvings, the middle of what is left."""

    def far(scale):
        mixed = np.log(scale * row + (1 - scale) * p0)
        return max(
            oracle.divergence(mixed, np.log(p0), alpha), oracle.divergence(np.log(p0), mixed, alpha)
        )

    if far(1.0) <= radius:
        return row
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if far(middle) <= radius else (low, middle)
    scale = (low + high) / 2
    return scale * row + (1 - scale) * p0


def test_pmixed_averages_rows_on_the_edge_of_their_balls():
    logits, radius = rows(np.random.default_rng(2), spread=1.0), 0.3
    held = baselines.MixedParameters(jnp.float32(radius))
    ids = np.argsort(-logits[0])[:K]
    p = np.exp(oracle.log_softmax(logits.astype(np.float64)[:, ids]))
    for mask in (WHOLE, np.array([False, True, False, False]), ~WHOLE):
        rows_in = [_mixed(p[0], row, 3, radius) for row in p[1:][mask]]
        law = np.zeros(V)
        law[ids] = np.mean(rows_in, axis=0) if rows_in else p[0]
        assert agrees(drawn(baselines.pmixed, held, logits, mask, MIXED), law)


def test_pmixed_takes_the_radius_of_as_many_rows_as_there_are():
    logits = rows(np.random.default_rng(2), spread=1.0)
    table = np.array([9.0, 0.5, 0.4, 0.3, 0.2], np.float32)
    for mask in (WHOLE, np.array([False, True, False, True]), ~WHOLE):
        one = baselines.MixedParameters(jnp.float32(table[mask.sum()]))
        by_number = baselines.MixedParameters(jnp.asarray(table))
        wanted = drawn(baselines.pmixed, one, logits, mask, MIXED)
        np.testing.assert_array_equal(
            drawn(baselines.pmixed, by_number, logits, mask, MIXED), wanted
        )
    wrong = baselines.MixedParameters(jnp.float32(table[4]))
    assert (drawn(baselines.pmixed, wrong, logits, np.arange(N) < 1, MIXED) != wanted).any()


def test_beta_is_the_largest_whose_claims_add_up_to_the_budget():
    """The authors' sum, term by term, at one order."""
    alpha, q, n_tokens = 8, 0.03, 200
    given = {"alpha": alpha, "epsilon": 4.0, "delta": 1e-5, "n_tokens": n_tokens, "probability": q}

    def total(beta, members):
        claim = baselines.pmixed_claim(alpha=alpha, beta=beta, members=members)
        terms = [(1 - q) ** (alpha - 1) * (1 + (alpha - 1) * q)]
        for j in range(2, alpha + 1):
            weight = math.comb(alpha, j) * (1 - q) ** (alpha - j) * q**j
            terms.append(weight * math.exp((j - 1) * claim))
        curve = np.where(renyi.ORDERS == alpha, math.log(sum(terms)) / (alpha - 1), math.inf)
        return renyi.epsilon(n_tokens * curve, 1e-5)[0]

    betas = []
    for members in (1, 2, 6):
        beta = baselines.pmixed_beta(members=members, **given)
        betas.append(beta)
        assert total(beta, members) <= 4.0 < total(beta + 5 / 2**20, members)
    assert betas[1] < betas[0]
    assert betas[1] < betas[2]
    assert baselines.pmixed_beta(members=0, **given) == 0
    assert baselines.pmixed_beta(members=2, **{**given, "probability": 1.0}) < betas[1]
    with pytest.raises(PrivacyBudgetError, match="order alpha=3"):
        baselines.pmixed_beta(members=2, **{**given, "alpha": 3, "epsilon": 1.0})
    with pytest.raises(ConfigError, match="probability=0"):
        baselines.pmixed_beta(members=2, **{**given, "probability": 0})


def _screened(p, mask, alpha, share, noise):
    """AdaPMixED's look at rows [N + 1, K], plainly: the larger divergence of what was seen."""
    there = [share * row + (1 - share) * p[0] for row in p[1:][mask]]
    seen = (np.mean(there, axis=0) if there else p[0]) + noise
    seen = seen + abs(seen.min())
    kept = seen > 0
    seen, public = seen[kept] / seen.sum(), p[0][kept]
    both = [(seen, public), (public, seen)]
    return max(math.log((a**alpha * b ** (1 - alpha)).sum()) / (alpha - 1) for a, b in both)


def test_adapmixed_answers_from_the_public_row_where_the_look_finds_rows_far_from_it():
    logits, radius = rows(np.random.default_rng(6), spread=1.0), 0.3
    mask = np.array([True, True, False, True])
    ids = np.argsort(-logits[0])[:K]
    p = np.exp(oracle.log_softmax(logits.astype(np.float64)[:, ids]))

    def held(threshold, share=0.5, noise=0.0):
        return baselines.ScreenedParameters(
            *(jnp.float32(value) for value in (radius, share, noise, threshold))
        )

    mixed, public = np.zeros(V), np.zeros(V)
    mixed[ids] = np.mean([_mixed(p[0], row, 3, radius) for row in p[1:][mask]], axis=0)
    public[ids] = p[0]
    far = _screened(p, mask, 3, 0.5, 0.0)
    near = drawn(baselines.adapmixed, held(far * 1.01), logits, mask, MIXED)
    beyond = drawn(baselines.adapmixed, held(far * 0.99), logits, mask, MIXED)
    assert agrees(near, mixed)
    assert agrees(beyond, public)
    assert not agrees(near, public)
    assert not agrees(beyond, mixed)
    # With noise, the share of draws that pass is that of the plain form.
    rng, sigma = np.random.default_rng(7), 0.02
    looks = [_screened(p, mask, 3, 0.5, sigma * rng.standard_normal(K)) for _ in range(2000)]
    threshold = float(np.quantile(looks, 0.4))
    tokens = drawn(baselines.adapmixed, held(threshold, noise=sigma), logits, mask, MIXED)
    assert agrees(tokens[:3000], 0.4 * mixed + 0.6 * public)
    assert not agrees(tokens, mixed)
    assert not agrees(tokens, public)
    claim = baselines.adapmixed_screen_claim(alpha=15, share=1e-4, noise=0.01, members=5)
    assert claim == pytest.approx(15 * 4e-6)


def test_what_pmixed_claims():
    assert baselines.pmixed_claim(alpha=3, beta=0.1, members=0) == 0
    assert baselines.pmixed_claim(alpha=3, beta=0.1, members=1) == pytest.approx(0.3)
    wanted = math.log(4 / 5 + math.exp(2 * 4 * 0.1 * 3) / 5) / 2
    assert baselines.pmixed_claim(alpha=3, beta=0.1, members=5) == pytest.approx(wanted)
    steps = [baselines.pmixed_claim(alpha=16, beta=b, members=3) for b in (0.0312499, 0.03125001)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)  # on both sides of a power of 30
    assert baselines.pmixed_claim(alpha=16, beta=5, members=3) == pytest.approx(
        320 - math.log(3) / 15
    )


def test_a_noisy_average_takes_the_largest_noisy_sum():
    logits = rows(np.random.default_rng(3), spread=0.3)
    mask = np.array([True, True, True, False])
    ids = np.argsort(-logits[0])[:K]
    p = np.exp(oracle.log_softmax(logits.astype(np.float64)[:, ids]))
    total = p[1:][mask].sum(0)
    silent = drawn(baselines.noisy_average, baselines.NoiseParameters(jnp.float32(0)), logits, mask)
    assert set(silent) == {ids[total.argmax()]}
    noise = 0.3
    tokens = drawn(
        baselines.noisy_average, baselines.NoiseParameters(jnp.float32(noise)), logits, mask
    )
    mine = ids[(total + noise * np.random.default_rng(4).standard_normal((DRAWS, K))).argmax(-1)]
    table = np.stack([np.bincount(t, minlength=V) for t in (tokens, mine)])
    often = table.sum(0) > 20
    assert often.sum() > 3
    assert scipy.stats.chi2_contingency(table[:, often]).pvalue > 1e-4
    assert (np.linalg.norm(p, axis=-1) <= 1).all()  # what one demonstration can add
    price = baselines.noisy_average_price(noise_multiplier=noise)
    assert price.curve[renyi.ORDERS == 2][0] == pytest.approx(1 / noise**2)


def test_baselines_flag_and_count_as_the_step_does():
    logits = rows(np.random.default_rng(5))
    logits[2] = np.nan
    spoilt = logits.copy()
    spoilt[0, 0] = np.nan
    one = jnp.float32(1)
    mozo = parameters(CONFIG, Numbers(eta=1.0, weight=0.25))
    for function, config, held in (
        (baselines.product_of_one_shots, CONFIG, mozo),
        (baselines.invisible_ink, CONFIG, baselines.InkParameters(one, one)),
        (baselines.pmixed, MIXED, baselines.MixedParameters(one)),
        (baselines.adapmixed, MIXED, baselines.ScreenedParameters(one, one, one, one)),
        (baselines.noisy_average, CONFIG, baselines.NoiseParameters(one)),
    ):
        _, flags, dropped = many(function, held, logits, WHOLE, config)
        assert (int(flags), int(dropped)) == (0, 1)
        assert int(many(function, held, spoilt, WHOLE, config)[1]) == sampling.NOTHING_TO_DRAW
