"""The in-context classifier: tokens, targets, and that it learns from its context."""

import dataclasses

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import icl
from ariel_jax.errors import ConfigError

SIZES = (3, 2)
LAYOUT = icl.Layout(sizes=SIZES, most_priors=5)


def draw(rng, n):
    """Half of the users share everything, the others nothing: only the context says who it is."""
    length = LAYOUT.most_priors + 1
    nodes = np.stack([rng.integers(0, V, (n, length)) for V in SIZES], -1)
    willing = rng.integers(0, 2, (n, 1))
    return nodes, np.broadcast_to(willing, (n, length)).astype(np.int8)


def test_tokens_are_slots_and_labels_and_only_labels_are_learned():
    nodes, label = np.array([[[2, 0], [0, 1]]]), np.array([[1, 0]])
    assert LAYOUT.vocab_size == 7
    assert LAYOUT.tokens(nodes, label).tolist() == [[2, 3, 6, 0, 4, 5]]
    source = icl.EpisodeSource(draw=draw, layout=LAYOUT, n_rows=8)
    (batch, is_padding), state = source.next(source.init())
    assert state == {"step": 1}
    assert not is_padding.any()
    learned = batch.targets >= 0
    assert learned.sum() == 8 * 6
    shifted = np.roll(batch.tokens, -1, 1)
    np.testing.assert_array_equal(batch.targets[learned], shifted[learned])
    assert set(np.unique(batch.targets[learned])) == {5, 6}
    again, _ = source.next(source.init())
    np.testing.assert_array_equal(again[0].tokens, batch.tokens)


def test_it_learns_from_its_context_who_it_judges_for(tmp_path):
    cfg = LAYOUT.config(n_layers=1, d_model=32)
    params = icl.learn(str(tmp_path), draw, LAYOUT, cfg, steps=60, n_rows=16, lr=1e-2)
    asked = np.array([[v, w] for v in range(3) for w in range(2)])
    history = np.array([[0, 0], [1, 1], [2, 0], [0, 1]])
    score = [
        icl.log_odds(cfg, params, LAYOUT, history, np.full(4, value), asked) for value in (0, 1)
    ]
    assert (score[0] < -1).all()
    assert (score[1] > 1).all()
    # Each request beside priors of its own, and beside fewer, in a shorter program.
    label = np.arange(6) % 2
    told = np.repeat(label[:, None], 4, 1)
    found = icl.log_odds(cfg, params, LAYOUT, np.tile(history, (6, 1, 1)), told, asked)
    np.testing.assert_allclose(found, np.where(label, score[1], score[0]), rtol=1e-4, atol=1e-4)
    one = icl.log_odds(cfg, params, LAYOUT, history[-1:], np.array([1]), asked)
    longer = dataclasses.replace(LAYOUT, most_priors=1)
    same = icl.log_odds(cfg, params, longer, history, np.array([0, 0, 0, 1]), asked)
    np.testing.assert_allclose(one, same, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"labels \[5, 4\]"):
        icl.log_odds(cfg, params, LAYOUT, np.tile(history, (5, 1, 1)), told[:5], asked)


def test_the_latest_priors_count_and_the_nearest_come_last():
    history = np.array([[0, 0], [1, 1], [0, 1], [2, 0]])
    assert icl.nearest_first(np.array([0, 1]), history, 2).tolist() == [1, 2]
    assert icl.nearest_first(np.array([0, 1]), history, 9).tolist() == [3, 0, 1, 2]


def test_a_mixture_draws_from_each_kind():
    def constant(value):
        return lambda rng, n: (np.full((n, 2, 2), value), np.zeros((n, 2), int))

    nodes, label = icl.mixture([constant(0), constant(1)])(np.random.default_rng(0), 5)
    assert nodes[:, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert label.shape == (5, 2)


def test_what_has_no_token_is_refused():
    with pytest.raises(ConfigError, match="outside its slot"):
        LAYOUT.tokens(np.array([[3, 0]]), np.array([1]))
    with pytest.raises(ConfigError, match="neither yes nor no"):
        LAYOUT.tokens(np.array([[0, 0]]), np.array([2]))
