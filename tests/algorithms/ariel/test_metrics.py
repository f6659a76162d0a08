"""Metrics: against scikit-learn, SciPy and counting by hand."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from ariel_jax.algorithms.ariel import metrics
from ariel_jax.algorithms.ariel.metrics import ASK, SHARE, WITHHOLD
from ariel_jax.errors import ConfigError

# truth: a a a a a i i i; one asked of each class
TRUTH = np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)
SAID = np.array([SHARE, SHARE, SHARE, WITHHOLD, ASK, SHARE, WITHHOLD, ASK])


def test_asking_is_counted_as_each_convention_says():
    assert metrics.f1(SAID, TRUTH, "decided") == (6 / 8, 2 / 4)
    assert metrics.f1(SAID, TRUTH, "miss") == (6 / 9, 2 / 5)
    assert metrics.f1(SAID, TRUTH, "oracle") == (8 / 10, 4 / 6)


def test_a_report_counts_what_was_decided():
    found = metrics.evaluate(SAID, TRUTH)
    assert (found.n, found.coverage, found.ask_rate) == (8, 6 / 8, 2 / 8)
    assert found.accuracy == 4 / 6
    assert (found.false_share.k, found.false_share.n) == (1, 3)
    assert (found.false_withhold.k, found.false_withhold.n) == (1, 5)


def test_f1_without_asking_equals_scikit_learn():
    rng = np.random.default_rng(0)
    truth, said = rng.random(200) < 0.4, rng.integers(0, 2, 200)
    for convention in metrics.CONVENTIONS:
        ours = metrics.f1(said, truth, convention)
        for label, value in zip((1, 0), ours, strict=True):
            theirs = sklearn_metrics.f1_score(truth, said, pos_label=label)
            assert math.isclose(value, theirs)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 17), (5, 5), (40, 510), (3, 20000)])
def test_intervals_equal_scipy(k, n):
    found = metrics.share_of(k, n)
    theirs = scipy.stats.binomtest(k, n).proportion_ci(method="exact")
    np.testing.assert_allclose((found.low, found.high), (theirs.low, theirs.high), atol=1e-9)
    one_sided = scipy.stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1.0
    assert math.isclose(metrics.upper_bound(k, n), one_sided, abs_tol=1e-9)
    assert str(found).startswith(f"{k}/{n} [")


def test_without_observations_nothing_is_known():
    found = metrics.share_of(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_published_error_reduction():
    assert round(metrics.error_reduction(0.872, 0.824), 3) == 0.273


def test_asking_has_precision_and_recall():
    precision, recall = metrics.ask_quality(SAID, np.array([0, 0, 0, 1, 1, 0, 1, 0], bool))
    assert ((precision.k, precision.n), (recall.k, recall.n)) == ((1, 2), (1, 3))


def test_risk_by_coverage_counted_by_hand_and_ties_share_their_error():
    score = np.array([3.0, -2.0, 1.0, -1.0])
    coverage, risk = metrics.risk_coverage(score, np.array([1, 1, 0, 0], bool))
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1.5 / 3, 2 / 4])
    flipped = metrics.risk_coverage(score[[1, 3, 2, 0]], np.array([1, 0, 0, 1], bool))[1]
    np.testing.assert_allclose(flipped, risk)
    assert math.isclose(metrics.risk_area(score, np.array([1, 1, 0, 0], bool)), 0.375)


def test_a_threshold_is_found_for_a_coverage():
    score = np.array([-4.0, 3, -2, 1, 0])
    assert metrics.at_coverage(score, 0.6) == 2
    np.testing.assert_array_equal(
        metrics.selective(score, 2), [WITHHOLD, SHARE, WITHHOLD, ASK, ASK]
    )
    assert metrics.selective(score)[-1] == ASK  # no direction


def test_the_bootstrap_draws_users_not_rows():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(30), 40)
    value = np.repeat(
        rng.random(30), 40
    )  # a user's rows are alike: rows would give a far too short one
    low, high = metrics.bootstrap(users, lambda rows: float(value[rows].mean()), n_resamples=400)
    expected = 1.96 * value.std() / np.sqrt(30)
    assert 0.7 < (high - low) / 2 / expected < 1.3
    assert low < value.mean() < high


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="pass two"):
        metrics.evaluate(SAID[:3], TRUTH)
    with pytest.raises(ConfigError, match="verdicts are 0"):
        metrics.evaluate(SAID + 1, TRUTH)
    with pytest.raises(ConfigError, match="convention"):
        metrics.f1(SAID, TRUTH, "asked")
    with pytest.raises(ConfigError, match="coverage"):
        metrics.at_coverage(np.ones(3), 0.0)
    with pytest.raises(ConfigError, match="0 <= k <= n"):
        metrics.share_of(3, 2)
