import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.errors import ConfigError
from ariel_jax.layers.attention import causal
from ariel_jax.models import decoder
from ariel_jax.training.scoring import score_documents


def slow_score(cfg, params, ids, exit_layer):
    """[n] nats of ids[1:], from one pass over all of ids."""
    tokens = jnp.asarray(ids, jnp.int32)[None, :-1]
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    x = decoder.embed(cfg, params, tokens, positions)
    x, _ = decoder.trunk(cfg, params, x, positions, causal(cfg.attention), None, last=exit_layer)
    logits = jax.nn.log_softmax(decoder.unembed(cfg, params, x))[0]
    return -np.asarray(logits)[np.arange(len(ids) - 1), np.asarray(ids[1:])]


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(2)
    return [rng.integers(1, 64, size) for size in (5, 0, 70, 1, 40)]


def test_short_documents_are_scored_in_one_pass(cfg, params, documents):
    scores = score_documents(cfg, params, documents, start_id=0, exits=(1, 3))
    for document, score in zip(documents, scores, strict=True):
        ids = [0, *document]
        assert score.nats.shape == (2, len(document))
        np.testing.assert_array_equal(score.context, np.arange(1, len(ids)))
        for row, exit_layer in enumerate((1, 3)):
            if len(document):
                expected = slow_score(cfg, params, ids, exit_layer)
                np.testing.assert_allclose(score.nats[row], expected, atol=2e-4)


def test_long_documents_are_scored_once_with_enough_context(cfg, params, documents):
    (score,) = score_documents(cfg, params, documents[2:3], start_id=0, window=32, stride=12)
    ids = [0, *documents[2]]
    expected = np.empty(70, np.float32)
    done = 0
    for begin in (0, 12, 24, 36, 48):
        part = slow_score(cfg, params, ids[begin : begin + 33], 3)
        expected[done : begin + len(part)] = part[done - begin :]
        done = begin + len(part)
        if done == 70:
            break
    np.testing.assert_allclose(score.nats[0], expected, atol=2e-4)
    assert score.context[:32].tolist() == list(range(1, 33))
    assert score.context[32:].min() == 21
    assert score.context.max() == 32


@pytest.mark.parametrize(
    "options",
    [{"exits": (0, 1)}, {"exits": (2, 1)}, {"exits": (4,)}, {"window": 999}, {"stride": 999}],
)
def test_impossible_options_are_refused(cfg, params, documents, options):
    with pytest.raises(ConfigError):
        score_documents(cfg, params, documents, start_id=0, **options)
