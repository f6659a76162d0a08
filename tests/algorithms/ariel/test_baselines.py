"""Baselines: against scikit-learn and counting by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ariel_jax.algorithms.ariel import baselines
from ariel_jax.errors import ConfigError

SIZES = (4, 3)


@pytest.fixture(scope="module")
def told():
    rng = np.random.default_rng(0)
    nodes = np.stack([rng.integers(0, V, 300) for V in SIZES], 1)
    truth = [np.array([2.0, 1, -1, -2]), np.array([1.0, 0, -1])]
    odds = truth[0][nodes[:, 0]] + truth[1][nodes[:, 1]]
    return nodes, rng.random(300) < 1 / (1 + np.exp(-odds)), rng.integers(0, 10, 300)


def one_hot(nodes):
    return np.concatenate([np.eye(V)[nodes[:, k]] for k, V in enumerate(SIZES)], 1)


@pytest.mark.parametrize("l2", [0.5, 2.0])
def test_the_additive_logit_equals_scikit_learn(told, l2):
    nodes, label, _ = told
    theirs = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=1000)
    theirs.fit(one_hot(nodes), label)
    ours = baselines.additive_logit(nodes, label, SIZES, l2=l2)
    np.testing.assert_allclose(np.concatenate(ours.weights), theirs.coef_[0], atol=1e-4)
    assert ours.intercept == 0
    with_one = np.concatenate([one_hot(nodes), np.ones((len(nodes), 1))], 1)
    theirs.fit(with_one, label)  # the intercept has the same penalty
    ours = baselines.additive_logit(nodes, label, SIZES, l2=l2, intercept=True)
    assert abs(ours.intercept - theirs.coef_[0, -1]) < 1e-4


def test_a_prior_is_what_no_judgement_moves(told):
    nodes, label, user = told
    population = baselines.norm(user, nodes, label, SIZES)
    none = baselines.personal_logit(nodes[:0], label[:0], SIZES, population=population)
    np.testing.assert_array_equal(none.score(nodes), population.score(nodes))
    some = baselines.personal_logit(nodes[:9], np.zeros(9, bool), SIZES, population=population)
    assert (some.score(nodes) < population.score(nodes)).all()
    strong = baselines.personal_logit(
        nodes[:9], np.zeros(9, bool), SIZES, population=population, l2=1e6
    )
    np.testing.assert_allclose(strong.score(nodes), population.score(nodes), atol=1e-3)


def test_how_willing_a_user_is_stands_beside_the_weights():
    user = np.array([0, 0, 0, 1])
    offset = baselines.user_offset(user, np.array([1, 1, 0, 0], bool))
    np.testing.assert_allclose(offset, np.log([3 / 2, 3 / 2, 3 / 2, 1 / 2]))
    nodes = np.zeros((4, 2), int)
    found = baselines.norm(user, nodes, np.array([1, 1, 0, 0], bool), SIZES)
    assert np.isclose(found.intercept, offset[[0, 3]].mean())


def test_majority_and_neighbours_counted_by_hand():
    np.testing.assert_allclose(baselines.majority(np.array([1, 1, 0], bool), 2), np.log(3 / 2))
    history = np.array([[0, 0], [0, 1], [1, 1], [2, 2]])
    label = np.array([1, 0, 1, 0], bool)
    asked = np.array([[0, 0], [2, 1]])
    np.testing.assert_array_equal(baselines.nearest(asked, history, 2), [[0, 1], [3, 2]])
    np.testing.assert_allclose(baselines.knn(asked, history, label, 2), np.log([2 / 2, 2 / 2]))
    np.testing.assert_allclose(baselines.knn(asked, history, label, 1), np.log([2 / 1, 1 / 2]))
    np.testing.assert_array_equal(baselines.knn(asked, history[:0], label[:0]), [0, 0])


def test_orders_and_proposals_come_from_weights():
    fitted = baselines.Additive(
        weights=(np.array([3.0, 1.0, 2.0, 1.1]),), errors=(np.array([0.1, 0.1, 0.1, 0.1]),)
    )
    (order,) = baselines.order(fitted)
    assert order[0].tolist() == [True, True, True, True]
    assert order[1].tolist() == [False, True, False, False]
    found = {tuple(pair) for pair in baselines.proposed_trust(fitted, 0).tolist()}
    assert found == {(0, 2), (2, 1), (2, 3)}  # 1 and 3 are too near; 0 over 1 follows


def test_what_does_not_fit_is_refused(told):
    nodes, label, _ = told
    with pytest.raises(ConfigError, match="K sizes"):
        baselines.additive_logit(nodes, label, (4, 3, 2))
    with pytest.raises(ConfigError, match="outside its slot"):
        baselines.additive_logit(nodes, label, (3, 3))
    with pytest.raises(ConfigError, match="l2"):
        baselines.additive_logit(nodes, label, SIZES, l2=0.0)
