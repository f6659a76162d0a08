"""`DecoderConfig` to `config.json`: the inverse of `config_map.parse`, one section per family."""

from typing import Any

from ariel_jax.errors import CheckpointError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf.config_map import ARCHITECTURES, parse

_HF_ACTIVATION = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}


def _rope_attributes(rope: RopeConfig) -> dict[str, Any]:
    out: dict[str, Any] = {"rope_theta": rope.theta, "rope_type": rope.kind}
    if rope.kind != "default":
        out["factor"] = rope.factor
    if rope.kind == "llama3":
        out |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_positions,
        }
    return out


def _to_gpt2(cfg: DecoderConfig) -> dict[str, Any]:
    return {
        "n_layer": cfg.n_layers,
        "n_embd": cfg.d_model,
        "n_head": cfg.n_heads,
        "n_inner": cfg.d_ff,
        "n_positions": cfg.max_positions,
        "layer_norm_epsilon": cfg.norm_eps,
        "activation_function": _HF_ACTIVATION[cfg.act],
        "scale_attn_weights": cfg.query_scale is None,
    }


def _to_opt(cfg: DecoderConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "ffn_dim": cfg.d_ff,
        "max_position_embeddings": cfg.max_positions,
        "do_layer_norm_before": cfg.norm_place == "pre",
        "_remove_final_layer_norm": cfg.norm_place == "pre" and not cfg.final_norm,
        "activation_function": _HF_ACTIVATION[cfg.act],
        "enable_bias": cfg.qkv_bias,
        "word_embed_proj_dim": cfg.embed_dim or cfg.d_model,
    }


def _to_llama_like(cfg: DecoderConfig) -> dict[str, Any]:
    assert cfg.rope is not None
    act = "hidden_activation" if cfg.family == "gemma2" else "hidden_act"
    out: dict[str, Any] = {
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.n_kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.d_ff,
        "max_position_embeddings": cfg.max_positions,
        "rms_norm_eps": cfg.norm_eps,
        "rope_parameters": _rope_attributes(cfg.rope),
        act: _HF_ACTIVATION[cfg.act],
    }
    if cfg.family in ("llama", "qwen3", "gemma2"):
        out["attention_bias"] = cfg.qkv_bias
    if cfg.family == "llama":
        out["mlp_bias"] = cfg.mlp_bias
    if cfg.family == "mistral":
        out["sliding_window"] = cfg.window
    if cfg.family in ("qwen2", "qwen3"):
        out |= {"use_sliding_window": bool(cfg.layer_kinds), "sliding_window": cfg.window}
    if cfg.family in ("qwen2", "qwen3", "gemma2"):
        words = {"global": "full_attention", "local": "sliding_attention"}
        kinds = cfg.layer_kinds or ("global",) * cfg.n_layers
        out["layer_types"] = [words[kind] for kind in kinds]
    if cfg.family == "gemma2":
        assert cfg.query_scale is not None
        scalar = cfg.query_scale**-2
        out |= {
            "query_pre_attn_scalar": round(scalar)
            if abs(scalar - round(scalar)) < 1e-6
            else scalar,
            "attn_logit_softcapping": cfg.attn_softcap,
            "final_logit_softcapping": cfg.final_softcap,
            "sliding_window": cfg.window or 4096,
        }
    return out


def to_hf(cfg: DecoderConfig, *, dtype: str) -> dict[str, Any]:
    """The `config.json` of a decoder: what `parse` maps back to it.

    Args:
        cfg: the decoder.
        dtype: of the stored weights, as numpy calls it.

    Raises:
        CheckpointError: the family's format cannot say what `cfg` computes.
    """
    section = {"gpt2": _to_gpt2, "opt": _to_opt}.get(cfg.family, _to_llama_like)
    architecture = {family: name for name, family in ARCHITECTURES.items()}[cfg.family]
    out = {
        "architectures": [architecture],
        "model_type": cfg.family,
        "dtype": dtype,
        "vocab_size": cfg.vocab_size,
        "tie_word_embeddings": cfg.tie_embed,
        **section(cfg),
    }
    back = parse(out)
    if back != cfg:
        differs = [
            f"{name}={getattr(cfg, name)!r} (the format says {getattr(back, name)!r})"
            for name in cfg.__dataclass_fields__
            if getattr(cfg, name) != getattr(back, name)
        ]
        raise CheckpointError(
            f"the {cfg.family} format cannot hold this config: {', '.join(differs)}. "
            "Save it as another family."
        )
    return out
