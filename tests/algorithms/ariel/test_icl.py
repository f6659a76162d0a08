"""The in-context classifier: tokens, targets, and that it learns from its context."""

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import icl
from ariel_jax.errors import ConfigError

SIZES = (3, 2)
LAYOUT = icl.Layout(sizes=SIZES, most_priors=5)


def draw(rng, n):
    """Each user likes one node of the first slot, another one each; nothing else counts."""
    length = LAYOUT.most_priors + 1
    nodes = np.stack([rng.integers(0, V, (n, length)) for V in SIZES], -1)
    liked = rng.integers(0, SIZES[0], (n, 1))
    return nodes, (nodes[..., 0] == liked).astype(np.int8)


def test_tokens_are_slots_and_labels_and_only_labels_are_learned():
    nodes, label = np.array([[[2, 0], [0, 1]]]), np.array([[1, 0]])
    assert LAYOUT.vocab_size == 7
    assert LAYOUT.tokens(nodes, label).tolist() == [[2, 3, 6, 0, 4, 5]]
    source = icl.EpisodeSource(draw=draw, layout=LAYOUT, n_rows=3)
    (batch, is_padding), state = source.next(source.init())
    assert state == {"step": 1}
    assert not is_padding.any()
    learned = batch.targets >= 0
    assert learned.sum() == 3 * 6
    shifted = np.roll(batch.tokens, -1, 1)
    np.testing.assert_array_equal(batch.targets[learned], shifted[learned])
    assert set(np.unique(batch.targets[learned])) == {5, 6}
    again, _ = source.next(source.init())
    np.testing.assert_array_equal(again[0].tokens, batch.tokens)


def test_it_learns_to_read_a_users_taste_from_the_context(tmp_path):
    cfg = LAYOUT.config(n_layers=2, d_model=32)
    params = icl.learn(str(tmp_path), draw, LAYOUT, cfg, steps=250, n_rows=32, lr=1e-2)
    asked = np.array([[v, w] for v in range(3) for w in range(2)])
    right = 0
    for liked in range(3):
        history = np.array([[liked, 0], [(liked + 1) % 3, 1], [(liked + 2) % 3, 0]])
        label = np.array([1, 0, 0])
        score = icl.log_odds(cfg, params, LAYOUT, history, label, asked)
        right += int(((score > 0) == (asked[:, 0] == liked)).sum())
    assert right >= 17  # of 18; without the context at most 12 are right


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
