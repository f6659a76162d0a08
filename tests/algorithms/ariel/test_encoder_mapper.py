"""Mapping by sentence vectors of a local encoder."""

import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.ariel.lm import EncoderMapper
from ariel_jax.errors import CheckpointError, MapperUnavailableError
from ariel_jax.models import encoder
from ariel_jax.testing import tiny_encoder

from .lm_cases import few_nodes


@pytest.fixture(scope="module")
def encoder_mapper():
    return EncoderMapper(tiny_encoder(n_layers=1, n_classes=None), few_nodes(), tau=0.9, margin=0.0)


def test_vectors_are_means_of_length_one(encoder_mapper):
    model = tiny_encoder(n_layers=1, n_classes=None)
    vectors = encoder_mapper.encode(["town", "my phone number"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    ids = jnp.asarray([model.tokenizer.encode("town")], jnp.int32)
    mask = jnp.ones(ids.shape, bool)
    tokens = np.asarray(encoder.encode(model.cfg, model.params, ids, mask))[0]
    mean = tokens.mean(axis=0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_encoder_finds_a_name_and_abstains_below_tau(encoder_mapper):
    found = encoder_mapper.map("data", "town")
    assert (found.node, found.by) == ("location.city", "encoder")
    assert found.score == pytest.approx(1, abs=1e-5)
    assert encoder_mapper.map("data", "\u200b").reason == "empty"
    encoder_mapper.tau = 1.0
    assert encoder_mapper.map("data", "weather of tomorrow").node is None


def test_texts_longer_than_the_encoder_are_cut(encoder_mapper):
    assert encoder_mapper.encode(["word " * 80]).shape == (1, 32)


def test_a_folder_without_an_encoder_is_an_unavailable_mapper(tmp_path):
    with pytest.raises(MapperUnavailableError, match="No encoder"):
        EncoderMapper.from_folder(tmp_path, few_nodes(), tau=0.5)
    with pytest.raises(CheckpointError, match="reads no text"):
        EncoderMapper(tiny_encoder("vit"), few_nodes(), tau=0.5)
