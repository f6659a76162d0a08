"""Published model sizes by name, for benchmarks with random weights and for estimates."""

from ariel_jax.errors import ConfigError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig


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


def _opt_125m() -> DecoderConfig:
    return DecoderConfig.create(
        family="opt",
        n_layers=12,
        d_model=768,
        n_heads=12,
        n_kv_heads=12,
        head_dim=64,
        d_ff=3072,
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


PRESETS: dict[str, DecoderConfig] = {
    "gpt2-124m": _gpt2(12, 768, 12),
    "gpt2-355m": _gpt2(24, 1024, 16),
    "opt-125m": _opt_125m(),
    "llama-3.2-1b": _llama32(16, 2048, 32, 64),
    "llama-3.2-3b": _llama32(28, 3072, 24, 128),
}


def preset(name: str) -> DecoderConfig:
    """The configuration of a published model.

    Args:
        name: a key of `PRESETS`.

    Raises:
        ConfigError: no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
