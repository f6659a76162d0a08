"""The language whose probabilities are known: its rows by hand, and what a budget does to its texts."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from ariel_jax.algorithms.mozo import Config, Numbers
from experiments.mozo import bigrams
from experiments.mozo.bigrams import COPY, PRIVATE, STYLES, VOCAB


@pytest.fixture(scope="module")
def language():
    return bigrams.language(np.random.default_rng(0), 60)


def test_every_demonstration_is_in_one_style_but_for_one_private_token(language):
    texts = language.demonstrations
    assert ((texts >= VOCAB - PRIVATE).sum(1) >= 1).all()
    assert (texts >= VOCAB - PRIVATE).sum(1).mean() < 1.2
    assert (language.evidence.argmax(1) == language.style).mean() > 0.9
    np.testing.assert_allclose(language.tables.sum(-1), 1)
    by_hand = sum(math.log(language.tables[2, a, b]) for a, b in itertools.pairwise(texts[5]))
    np.testing.assert_allclose(language.evidence[5, 2], by_hand)


def test_rows_are_the_posterior_and_a_share_of_copies(language):
    last = 3
    text = np.array([9, 3, 4, 3, 60, 3, 4] + [9] * (bigrams.LENGTH - 7))
    shown = dataclasses.replace(language, demonstrations=np.stack([text, np.full_like(text, 9)]))
    so_far = np.log(np.arange(1.0, STYLES + 1))[None]
    found = np.exp(bigrams.rows(shown, so_far, np.array([last]), np.array([[0, 1]])))[0]
    tables = language.tables[:, last]

    def mixed(weights):
        return (weights / weights.sum()) @ tables

    plain = np.arange(1.0, STYLES + 1)
    np.testing.assert_allclose(found[0], mixed(plain), rtol=1e-5)
    seen = plain * np.exp(language.evidence[0] - language.evidence[0].max())
    copied = np.zeros(VOCAB)
    copied[4], copied[60] = 2 / 3, 1 / 3
    np.testing.assert_allclose(found[1], (1 - COPY) * mixed(seen) + COPY * copied, rtol=1e-5)
    other = plain * np.exp(language.evidence[1] - language.evidence[1].max())
    np.testing.assert_allclose(found[2], mixed(other), rtol=1e-5)  # 3 does not stand there


def test_without_influence_texts_are_the_zero_shot_ones_and_with_it_they_are_in_the_style(language):
    config = Config(n_slots=4, top_k=None)
    options = {"expected": 2.0, "redraw_every": 2, "n_tokens": 6, "n_texts": 64, "seed": 1}
    none, empty, full = (
        bigrams.generate(language, config, Numbers(eta=eta, weight=0.5), **options | more)
        for eta, more in ((0.0, {}), (0.0, {"expected": 0.001}), (math.inf, {}))
    )
    np.testing.assert_array_equal(none.tokens, empty.tokens)
    assert full.log_likelihood.mean() > none.log_likelihood.mean() + 0.5
    # The text's own likelihood, token by token: the first token is not in it.
    logs = np.log(language.tables[language.style])
    by_hand = [logs[a, b] for a, b in zip(full.tokens[:, :-1], full.tokens[:, 1:], strict=True)]
    first = full.log_likelihood * 6 - np.sum(by_hand, axis=1)
    assert (first < 0).all()
    assert first.min() > math.log(1e-9) - 1e-6
    assert len(full.steps) > 2
    assert all(mask.any() and logits.shape == (5, VOCAB) for logits, mask in full.steps)
