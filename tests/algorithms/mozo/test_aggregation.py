"""DP-ICL's aggregation: laws of keywords in turn, exact divergences, and what is nearest."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from ariel_jax.algorithms.mozo import aggregation, oracle
from ariel_jax.algorithms.mozo.curves import bounded_range
from ariel_jax.errors import ConfigError, PrivacyBudgetError
from ariel_jax.privacy import renyi


def in_turn(counts, n, influence):
    """{words in their order: probability} of exponential mechanisms one after the other, plainly."""
    weights, law = np.exp(influence * np.asarray(counts, float)), {}
    for words in itertools.permutations(range(len(weights)), n):
        left, p = weights.copy(), 1.0
        for word in words:
            p *= left[word] / left.sum()
            left[word] = 0
        law[words] = p
    return law


def test_a_word_counts_once_in_an_answer():
    found = aggregation.votes([[1, 1, 4], [], [4, 0]], 6)
    assert found.tolist() == [1, 1, 0, 0, 2, 0]
    assert aggregation.votes([], 3).tolist() == [0, 0, 0]
    for bad in ([6], [-1]):
        with pytest.raises(ConfigError, match=r"outside 0 \.\. 5"):
            aggregation.votes([bad], 6)


def test_keywords_are_those_of_exponential_mechanisms_in_turn():
    counts, influence, n = np.array([3, 0, 1, 3, 2]), 0.6, 12_000
    generator = np.random.default_rng(0)
    law = in_turn(counts[[0, 2, 3, 4]], 2, influence)
    allowed = np.array([True, False, True, True, True])
    drawn = [
        tuple(aggregation.draw_keywords(counts, 2, influence, generator, allowed=allowed).tolist())
        for _ in range(n)
    ]
    numbers = (0, 2, 3, 4)
    observed = [drawn.count((numbers[first], numbers[second])) for first, second in law]
    assert sum(observed) == n
    assert scipy.stats.chisquare(observed, np.array(list(law.values())) * n).pvalue > 1e-4
    other = in_turn(counts[[0, 2, 3, 4]], 2, 2 * influence)
    assert scipy.stats.chisquare(observed, np.array(list(other.values())) * n).pvalue < 1e-10


def test_one_answer_more_keeps_to_the_price_of_keywords_and_two_do_not():
    """Exactly, over all ordered draws; a member whose answer counted twice would break it."""
    rng, influence, n = np.random.default_rng(1), 0.7, 2
    price = aggregation.keywords_price(n_keywords=n, influence=influence)
    worst = {1: 0.0, 2: 0.0}
    for times in worst:
        for _ in range(150):
            counts = rng.integers(0, 30, 5)
            more = counts + times * (rng.random(5) < 0.5)
            laws = [np.log(list(in_turn(c, n, influence).values())) for c in (counts, more)]
            for alpha in (2.0, 8.0, 32.0):
                far = max(oracle.divergence(*laws, alpha), oracle.divergence(*laws[::-1], alpha))
                bound = price.curve[renyi.ORDERS == alpha][0]
                assert bound == pytest.approx(n * bounded_range(alpha, influence))
                worst[times] = max(worst[times], far / bound)
    assert 0.3 < worst[1] <= 1 + 1e-9
    assert worst[2] > 1.05


def test_sampled_keywords_keep_to_their_price():
    """Every subset of four members, each with its own answer, for one that comes or goes."""
    influence, q, n = 1.5, 0.2, 2
    answers = [[0], [0, 1], [2], [0, 2]]
    price = aggregation.keywords_price(n_keywords=n, influence=influence, probability=q)

    def law(members):
        total = 0.0
        for coins in itertools.product((False, True), repeat=members):
            chosen = [answer for answer, coin in zip(answers, coins, strict=False) if coin]
            found = in_turn(aggregation.votes(chosen, 3), n, influence)
            chance = q ** sum(coins) * (1 - q) ** (members - sum(coins))
            total = total + chance * np.array(list(found.values()))
        return np.log(total)

    whole, without = law(4), law(3)
    for alpha in (2.0, 8.0, 32.0):
        far = max(
            oracle.divergence(whole, without, alpha), oracle.divergence(without, whole, alpha)
        )
        bound = price.curve[renyi.ORDERS == alpha][0]
        assert 0 < far <= bound < 0.5 * n * bounded_range(alpha, influence)


def test_the_influence_of_keywords_uses_a_budget_up():
    given = {"n_keywords": 6, "n_queries": 50, "probability": 1e-3}
    found = aggregation.keywords_influence(**given, epsilon=2.0, delta=1e-5)
    assert aggregation.keywords_price(**given, influence=found).epsilon(1e-5) <= 2
    assert aggregation.keywords_price(**given, influence=found * 1.0001).epsilon(1e-5) > 2
    many = given | {"n_queries": 10**12, "probability": 1.0}
    with pytest.raises(PrivacyBudgetError, match="ask for fewer"):
        aggregation.keywords_influence(**many, epsilon=0.1, delta=1e-5)
    with pytest.raises(ConfigError, match="n_keywords=3 of 2 words"):
        aggregation.draw_keywords(np.arange(2), 3, 1.0, np.random.default_rng(0))


def test_a_noisy_sum_bounds_each_member_and_has_the_noise_that_it_says():
    rng = np.random.default_rng(2)
    members = np.array([[3.0, 4.0], [0.1, 0.0], [np.nan, 1.0], [1e300, 0.0]])
    draws = np.stack([aggregation.noisy_sum(members, 0.5, rng) for _ in range(4000)])
    wanted = [0.6 + 0.1 + 1.0, 0.8]
    np.testing.assert_allclose(draws.mean(0), wanted, atol=0.04)
    np.testing.assert_allclose(draws.std(0), 0.5, rtol=0.05)
    for row in members:
        alone = aggregation.noisy_sum(row[None], 1e-9, rng)
        assert np.linalg.norm(alone) <= 1 + 1e-6
    assert aggregation.noisy_sum(np.zeros((0, 3)), 1.0, rng).shape == (3,)
    with pytest.raises(ConfigError, match="one row for each member"):
        aggregation.noisy_sum(np.zeros(3), 1.0, rng)


def test_the_nearest_candidate_has_the_smallest_angle():
    candidates = np.array([[0.0, 0.0], [10.0, 1.0], [0.0, 0.1], [1.0, 1.0]])
    assert aggregation.nearest(candidates, [0.3, 1.0]) == 2
    assert aggregation.nearest(candidates, [1.0, 0.0]) == 1
    assert aggregation.nearest(candidates, [1.0, 0.9]) == 3


def test_a_bag_of_words_has_length_1():
    found = aggregation.bag_of_words([2, 2, 0], 4)
    np.testing.assert_allclose(found, np.array([1, 0, 2, 0]) / math.sqrt(5))
    assert not aggregation.bag_of_words([], 4).any()
