import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ariel_jax import decode
from ariel_jax.algorithms.mozo import Config, Numbers, baselines, oracle, sampling
from ariel_jax.algorithms.mozo.parameters import ROUNDING, parameters

from .step_cases import CASES, RANGE, WHOLE, K, N, V, parts, rows


@functools.partial(jax.jit, static_argnames=("function", "config"))
def _many(function, config, held, logits, mask, keys):
    tokens, info = jax.vmap(lambda key: function(logits, mask, key, config, held))(keys)
    return tokens, info.flags[0], info.dropped[0]


def many(name, logits, mask, n=200, function=sampling.step, numbers=None):
    """([n] tokens, flags, rows dropped) of one step with n keys."""
    config, own = CASES[name]
    held, keys = parameters(config, numbers or own), jax.random.split(jax.random.key(0), n)
    found = _many(function, config, held, jnp.asarray(logits), jnp.asarray(mask), keys)
    return tuple(np.asarray(part) for part in found)


@pytest.mark.parametrize("name", CASES)
def test_without_eta_or_demonstrations_tokens_are_the_zero_shot_ones(name):
    rng, (config, numbers) = np.random.default_rng(0), CASES[name]
    logits = rows(rng, spread=0.3)
    none = many(name, logits, ~WHOLE)[0]
    if config.pool == "product":
        plain = many(name, logits, WHOLE, function=baselines.zero_shot)[0]
        np.testing.assert_array_equal(none, plain)
        assert len(set(plain)) > 3
    if config.bounds_range:
        zero = Numbers(**{**vars(numbers), "eta": 0.0})
        np.testing.assert_array_equal(many(name, logits, WHOLE, numbers=zero)[0], plain)
    changed = np.concatenate([logits[:1], rows(rng)[1:]])
    np.testing.assert_array_equal(many(name, changed, ~WHOLE)[0], none)


@pytest.mark.parametrize("name", RANGE)
def test_an_infinite_eta_with_one_slot_is_one_shot_sampling(name):
    config = Config(n_slots=1, top_k=K, contract=CASES[name][0].contract)
    held = parameters(config, Numbers(eta=math.inf, weight=1.0))
    law = jax.jit(sampling.law, static_argnums=2)
    for seed in range(5):
        logits = rows(np.random.default_rng(seed), spread=(0.3, 3.0)[seed % 2])[:2]
        ids, logp = law(jnp.asarray(logits), jnp.ones(1, bool), config, held)
        assert set(np.asarray(ids)) == set(np.argsort(-logits[0])[:K])
        wanted = oracle.log_softmax(logits[1].astype(np.float64)[np.asarray(ids)])
        assert np.abs(np.exp(np.asarray(logp, np.float64)) - np.exp(wanted)).max() < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_the_law_is_the_oracles_and_a_bias_is_public_and_forbids(name):
    rng, (config, numbers) = np.random.default_rng(2), CASES[name]
    for _ in range(20):
        logits, mask = rows(rng), rng.random(N) < 0.7
        bias = rng.standard_normal(V).astype(np.float32)
        forbidden = np.argsort(-logits[0])[:2]
        bias[forbidden] = -np.inf
        for given in (None, bias):
            ids, wanted = oracle.law(logits, mask, config, numbers, given)
            found_ids, _, _, found = parts(name, logits, mask, given)
            order, by_id = np.argsort(found_ids), np.argsort(ids)
            np.testing.assert_array_equal(found_ids[order], ids[by_id])
            # Rows are held to slightly smaller caps than the oracle's.
            np.testing.assert_allclose(np.exp(found[0][order]), np.exp(wanted[by_id]), atol=5e-4)
        assert np.isneginf(found[0][np.isin(found_ids, forbidden)]).all()


def test_frequencies_are_those_of_the_law():
    """Chi-square over 1e5 draws; a law with other demonstrations would be seen."""
    logits = rows(np.random.default_rng(3), spread=0.9)
    mask = np.array([True, True, True, False])
    drawn = many("scale", logits, mask, n=100_000)[0]
    config, numbers = CASES["scale"]
    ids, exact = oracle.law(logits, mask, config, numbers)
    counts = np.bincount(drawn, minlength=V)
    assert counts.sum() == counts[ids].sum()

    def p_value(logp):
        return scipy.stats.chisquare(counts[ids], np.exp(logp) * len(drawn)).pvalue

    assert p_value(exact) > 1e-4
    assert p_value(oracle.law(logits, ~mask, config, numbers)[1]) < 1e-10


def test_a_chain_of_the_links_draws_the_tokens_of_the_step():
    config, numbers = CASES["clip"]
    held, mask = parameters(config, numbers), jnp.asarray([True, True, False, True])
    request = decode.sampling.make_rows([decode.SamplingParams()] * (N + 1), [])
    links = sampling.links(config, held, mask)
    chain = decode.chain(decode.sampling.repetition_penalty, *links)

    @jax.jit
    def both(logits, key):
        position = jnp.full(N + 1, 9, jnp.int32)
        seen = jnp.zeros((N + 1, V), bool)
        context = decode.sampling.SamplingContext(
            rows=request,
            keys=jnp.stack([key] * (N + 1)),
            position=position,
            n_new=position,
            seen=seen,
        )
        token, _ = chain.update(logits, chain.init(N + 1), context)
        wanted, _ = sampling.step(logits, mask, jax.random.fold_in(key, 9), config, held)
        return token, wanted

    for seed in range(10):
        logits = rows(np.random.default_rng(seed))
        token, wanted = both(jnp.asarray(logits), jax.random.key(seed))
        assert token.shape == (1,)
        assert int(token[0]) == int(wanted)


def test_rows_that_are_not_finite_are_dropped_and_counted_where_they_hold_a_demonstration():
    logits = rows(np.random.default_rng(6))
    spoilt = logits.copy()
    spoilt[2] = np.nan
    spoilt[3, int(np.argmax(logits[0]))] = -np.inf
    for mask, dropped in (
        ([1, 1, 1, 1], 2),
        ([1, 1, 0, 1], 1),
        ([1, 1, 0, 0], 1),
        ([1, 0, 0, 1], 0),
    ):
        mask = np.array(mask, bool)
        tokens, flags, found = many("scale", spoilt, mask)
        assert (int(found), int(flags)) == (dropped, 0)
        whole = mask & np.array([True, False, False, True])
        np.testing.assert_array_equal(tokens, many("scale", logits, whole)[0])


def test_a_zero_shot_row_that_nothing_can_be_drawn_from_is_flagged():
    config, numbers = CASES["scale"]
    held, logits = parameters(config, numbers), rows(np.random.default_rng(7))
    step = jax.jit(sampling.step, static_argnums=3)

    def flags(row, bias=jnp.zeros(V)):  # noqa: B008
        z = np.concatenate([row[None], logits[1:]]).astype(np.float32)
        key = jax.random.key(0)
        return int(step(jnp.asarray(z), jnp.ones(N, bool), key, config, held, bias)[1].flags)

    assert flags(logits[0]) == 0
    spoilt = logits[0].copy()
    spoilt[int(np.argmin(spoilt))] = np.nan  # outside the support too
    assert flags(spoilt) == sampling.NOTHING_TO_DRAW
    assert flags(np.full(V, -np.inf)) == sampling.NOTHING_TO_DRAW
    assert flags(logits[0], jnp.full(V, -jnp.inf)) == sampling.NOTHING_TO_DRAW
    sampling.raise_for(0)


def test_noise_reaches_tails_and_is_gumbels_to_rounding():
    rng = np.random.default_rng(8)
    words = rng.integers(0, 2**32, (2, 200_000), dtype=np.uint32)
    found = np.asarray(jax.jit(sampling.gumbel)(*map(jnp.asarray, words)), np.float64)
    uniform = (words[0] + (words[1] + 0.5) * 2.0**-32) * 2.0**-32
    exact = -np.log(-np.log1p(-uniform))
    assert np.abs(found - exact).max() < ROUNDING / 8
    assert scipy.stats.kstest(found, "gumbel_r").pvalue > 1e-4
    ends = [np.array([0, 0, 2**32 - 1], np.uint32), np.array([0, 2**31, 2**32 - 1], np.uint32)]
    least, small, most = np.asarray(sampling.gumbel(*map(jnp.asarray, ends)))
    assert 44 < least < 46  # e^-45 is 2^-65
    assert 22 < small < 23
    assert -3.9 < most < -3.7


def test_64_bits_move_no_probability_by_more_than_what_the_docs_say_they_do():
    """At both ends, where steps are coarsest: the law of one token's noise against Gumbel's, beside rounding."""
    steps = np.concatenate([np.arange(64), 2 ** np.arange(6, 32)]).astype(np.uint64)
    low = steps.astype(np.uint32)
    top = (jnp.zeros(len(low), jnp.uint32), jnp.asarray(low))
    bottom = tuple(~word for word in top)
    for words, is_below in ((bottom, True), (top, False)):
        noise = np.asarray(sampling.gumbel(*words), np.float64)
        # The chance of noise as extreme as this, under Gumbel's law and with words drawn uniformly.
        law = np.exp(-np.exp(-noise)) if is_below else -np.expm1(-np.exp(-noise))
        drawn = (steps + 1.0) * 2.0**-64
        density = np.exp(-noise - np.exp(-noise))
        rounded = ROUNDING / 8 * density * 1.01  # what rounding of the noise changes
        assert (np.abs(drawn - law) <= 2.0**-64 + rounded).all()
        assert (np.abs(drawn - law) > 2.0**-67).any()


@pytest.mark.parametrize("name", CASES)
def test_the_law_in_float32_is_within_rounding_of_exact_arithmetic(name):
    """What `ROUNDING` stands for: the same rows, contracted as they are, pooled in float64."""
    config, numbers = CASES[name]
    held, rng = parameters(config, numbers), np.random.default_rng(9)
    exact = Numbers(
        **{field: float(getattr(held, field)) for field in numbers.__dataclass_fields__}
    )
    for _ in range(20):
        logits, mask = rows(rng), rng.random(N) < 0.7
        _, anchor, log_r, found = parts(name, logits, mask)
        wanted = oracle.pool(anchor, list(log_r), mask, config, exact)
        likely = found[0] > -30
        off = found[0][likely] - wanted[likely]
        assert np.ptp(off) / 2 < ROUNDING / 4
