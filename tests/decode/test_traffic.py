"""Bytes that a step must read, counted by hand."""

import numpy as np
import pytest

from ariel_jax.decode.traffic import bytes_per_step, weight_bytes
from ariel_jax.models.params import n_params
from ariel_jax.testing import tiny_config, tiny_params


@pytest.mark.parametrize("variant", ["llama-biases", "gpt2"])
def test_a_tied_table_is_read_whole_as_the_output_head(variant):
    cfg = tiny_config(variant)
    assert cfg.tie_embed
    params = tiny_params(cfg)
    positions = 0 if params.pos_embed is None else params.pos_embed.size
    assert weight_bytes(cfg, params) == 4 * (n_params(params) - positions)


def test_an_untied_table_is_only_looked_up():
    cfg = tiny_config("llama")
    assert not cfg.tie_embed
    params = tiny_params(cfg)
    assert weight_bytes(cfg, params) == 4 * (n_params(params) - cfg.vocab_size * cfg.d_model)


def test_every_row_reads_its_own_keys_and_values():
    cfg = tiny_config("llama")
    params = tiny_params(cfg)
    row = 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * 4
    more = bytes_per_step(cfg, params, np.array([10, 3])) - weight_bytes(cfg, params)
    assert more == 13 * row


def test_windowed_layers_and_rows_that_ended_early_read_less():
    cfg = tiny_config("gemma2")
    kinds = [cfg.attention(layer).window for layer in range(cfg.n_layers)]
    assert None in kinds
    window = next(w for w in kinds if w is not None)
    params = tiny_params(cfg)
    row = 2 * cfg.n_kv_heads * cfg.head_dim * 4
    lengths, share = np.array([4 * window, 1]), np.array([0.5, 1.0])
    more = bytes_per_step(cfg, params, lengths, share=share) - weight_bytes(cfg, params)
    seen = sum(0.5 * min(4 * window, w or 4 * window) + 1 for w in kinds)
    assert more == row * seen
