"""Published model sizes by name, for benchmarks with random weights and for estimates."""

from typing import TypeVar

from ariel_jax.errors import ConfigError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.encoder import EncoderConfig
from ariel_jax.models.vit import ViTConfig


def _gpt2(n_layers: int, d_model: int, n_heads: int) -> DecoderConfig:
    return DecoderConfig.create(
        family="gpt2",
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_ff=4 * d_model,
        vocab_size=50257,
        max_positions=1024,
        norm="layer",
        pos="learned",
        act="gelu_tanh",
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _llama32(n_layers: int, d_model: int, n_heads: int, head_dim: int) -> DecoderConfig:
    return DecoderConfig.create(
        family="llama",
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=8,
        head_dim=head_dim,
        d_ff=8192,
        vocab_size=128256,
        max_positions=131072,
        rope=RopeConfig(theta=500000.0, kind="llama3", factor=32.0),
    )


def _opt(n_layers: int, d_model: int, n_heads: int) -> DecoderConfig:
    return DecoderConfig.create(
        family="opt",
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_ff=4 * d_model,
        vocab_size=50272,
        max_positions=2048,
        norm="layer",
        pos="learned",
        pos_offset=2,
        act="relu",
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _bert(n_layers: int, d_model: int, n_heads: int) -> EncoderConfig:
    return EncoderConfig.create(
        family="bert",
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_ff=4 * d_model,
        vocab_size=30522,
        max_positions=512,
    )


def _roberta(n_layers: int, d_model: int, n_heads: int) -> EncoderConfig:
    return EncoderConfig.create(
        family="roberta",
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_ff=4 * d_model,
        vocab_size=50265,
        max_positions=512,
        n_types=1,
        positions="tokens",
        pos_offset=2,
        norm_eps=1e-5,
    )


PRESETS: dict[str, DecoderConfig] = {
    "gpt2-124m": _gpt2(12, 768, 12),
    "gpt2-355m": _gpt2(24, 1024, 16),
    "opt-125m": _opt(12, 768, 12),
    "opt-1.3b": _opt(24, 2048, 32),
    "opt-2.7b": _opt(32, 2560, 32),
    "opt-6.7b": _opt(32, 4096, 32),
    "llama-3.2-1b": _llama32(16, 2048, 32, 64),
    "llama-3.2-3b": _llama32(28, 3072, 24, 128),
}


ENCODER_PRESETS: dict[str, EncoderConfig] = {
    "bert-base-uncased": _bert(12, 768, 12),
    "minilm-l6": _bert(6, 384, 12),
    "roberta-large": _roberta(24, 1024, 16),
}
VIT_PRESETS: dict[str, ViTConfig] = {
    "vit-b16": ViTConfig.create(n_layers=12, d_model=768, n_heads=12, d_ff=3072),
}

Config = TypeVar("Config")


def _chosen(name: str, presets: dict[str, Config], what: str) -> Config:
    if name not in presets:
        raise ConfigError(f"there is no {what} {name!r}; choose one of {', '.join(presets)}.")
    return presets[name]


def preset(name: str) -> DecoderConfig:
    """The configuration of a published decoder.

    Args:
        name: a key of `PRESETS`.

    Raises:
        ConfigError: no such preset; the message lists them.
    """
    return _chosen(name, PRESETS, "preset")


def encoder_preset(name: str) -> EncoderConfig:
    """The configuration of a published encoder of texts, without a classifier.

    Args:
        name: a key of `ENCODER_PRESETS`.

    Raises:
        ConfigError: no such preset; the message lists them.
    """
    return _chosen(name, ENCODER_PRESETS, "encoder preset")


def vit_preset(name: str) -> ViTConfig:
    """The configuration of a published vision transformer, without a classifier.

    Args:
        name: a key of `VIT_PRESETS`.

    Raises:
        ConfigError: no such preset; the message lists them.
    """
    return _chosen(name, VIT_PRESETS, "ViT preset")
