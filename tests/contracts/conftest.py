"""Tiny models shared by the contract suites."""

import jax
import pytest

from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig, Precision
from ariel_jax.models.params import DecoderParams, init_params


def make_tiny(precision: Precision | None = None) -> tuple[DecoderConfig, DecoderParams]:
    """A 2-layer decoder with grouped heads and a window, its logits spread out."""
    cfg = DecoderConfig.create(
        family="llama",
        n_layers=2,
        d_model=32,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        d_ff=48,
        vocab_size=61,
        max_positions=256,
        rope=RopeConfig(),
        window=24,
        layer_kinds=("local", "global"),
    )
    params = init_params(cfg, key=jax.random.key(0), precision=precision)
    return cfg, jax.tree.map(lambda leaf: leaf * 6, params)


@pytest.fixture(scope="session")
def tiny() -> tuple[DecoderConfig, DecoderParams]:
    return make_tiny()
