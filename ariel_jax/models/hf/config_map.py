"""`config.json` to `DecoderConfig`: one section per family, every attribute accounted for.

An attribute is consumed, or known not to change what the model computes, or has exactly the value
that this library implements; anything else is refused by name.
"""

from collections.abc import Callable
from typing import Any

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf import quantized
from ariel_jax.models.hf.config_reader import MAX_LAYERS, Reader, divide, family, is_of

ARCHITECTURES = {
    "GPT2LMHeadModel": "gpt2",
    "OPTForCausalLM": "opt",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
}
ENCODER_ARCHITECTURES = {
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "BertForPreTraining": "bert",
    "BertForSequenceClassification": "bert",
    "RobertaModel": "roberta",
    "RobertaForMaskedLM": "roberta",
    "RobertaForSequenceClassification": "roberta",
    "ViTModel": "vit",
    "ViTForImageClassification": "vit",
}


def _rope(r: Reader, default_theta: float = 10000.0) -> RopeConfig:
    """Rotary settings, in the form of transformers 5 (rope_parameters) or earlier."""
    given = r.raw("rope_parameters", None)
    legacy = r.raw("rope_scaling", None)
    top_theta = r.optional_number("rope_theta", None)
    if given is not None and legacy is not None and given != legacy:
        raise r.error("rope_scaling", "absent where rope_parameters is given")
    settings = given if given is not None else legacy
    name = "rope_parameters" if given is not None else "rope_scaling"
    if settings is None:
        return RopeConfig(theta=top_theta or default_theta)
    if not isinstance(settings, dict):
        raise r.error(name, "an object")
    inner = Reader(settings, f"{r.source}: {name}")
    kind = inner.raw("rope_type", None) or inner.raw("type", None) or "default"
    inner.fixed("type", kind, None)
    inner.fixed("partial_rotary_factor", 1.0, None)
    theta = inner.optional_number("rope_theta", None) or top_theta or default_theta
    if kind == "default":
        rope = RopeConfig(theta=theta)
    elif kind == "linear":
        rope = RopeConfig(theta=theta, kind="linear", factor=inner.number("factor"))
    elif kind == "llama3":
        rope = RopeConfig(
            theta=theta,
            kind="llama3",
            factor=inner.number("factor"),
            low_freq_factor=inner.number("low_freq_factor"),
            high_freq_factor=inner.number("high_freq_factor"),
            original_max_positions=inner.size("original_max_position_embeddings"),
        )
        if rope.high_freq_factor <= rope.low_freq_factor:
            raise inner.error("high_freq_factor", f"more than {rope.low_freq_factor}")
    else:
        raise inner.error("rope_type", "default, linear, llama3")
    inner.finish()
    return rope


def _layer_kinds(r: Reader, n_layers: int, default: list[str] | None) -> tuple[str, ...]:
    """`layer_types` in our words; `default` where the attribute is absent."""
    types = r.raw("layer_types", None)
    if types is None:
        types = default
    if types is None:
        return ()
    words = {"full_attention": "global", "sliding_attention": "local"}
    if (
        not isinstance(types, list)
        or len(types) != n_layers
        or any(not isinstance(t, str) or t not in words for t in types)
    ):
        raise r.error("layer_types", f"{n_layers} of {sorted(words)}")
    kinds = tuple(words[t] for t in types)
    return kinds if "local" in kinds else ()


def _gpt2(r: Reader) -> dict[str, Any]:
    d_model, n_heads = r.size("n_embd"), r.size("n_head")
    positions = r.size("n_positions", 1024)
    r.fixed("n_ctx", positions)
    r.fixed("scale_attn_by_inverse_layer_idx", False)
    r.fixed("reorder_and_upcast_attn", False)
    return {
        "n_layers": r.size("n_layer", largest=MAX_LAYERS),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": divide(r, d_model, n_heads),
        "d_ff": r.size("n_inner", None) or 4 * d_model,
        "max_positions": positions,
        "norm": "layer",
        "norm_eps": r.number("layer_norm_epsilon", 1e-5),
        "pos": "learned",
        "act": r.activation("activation_function", "gelu_new"),
        "gated": False,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "query_scale": None if r.flag("scale_attn_weights", True) else 1.0,
        "tie_embed": r.flag("tie_word_embeddings", True),
    }


def _opt(r: Reader) -> dict[str, Any]:
    d_model, n_heads = r.size("hidden_size"), r.size("num_attention_heads")
    embed_dim = r.size("word_embed_proj_dim", d_model)
    bias = r.flag("enable_bias", True)
    r.fixed("layer_norm_elementwise_affine", True)
    pre = r.flag("do_layer_norm_before", True)
    return {
        "n_layers": r.size("num_hidden_layers", largest=MAX_LAYERS),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": divide(r, d_model, n_heads),
        "d_ff": r.size("ffn_dim"),
        "max_positions": r.size("max_position_embeddings", 2048),
        "norm": "layer",
        "norm_eps": 1e-5,
        "norm_place": "pre" if pre else "post",
        "final_norm": not r.flag("_remove_final_layer_norm", False) and pre,
        "pos": "learned",
        "pos_offset": 2,
        "act": r.activation("activation_function", "relu"),
        "gated": False,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": bias,
        "embed_dim": None if embed_dim == d_model else embed_dim,
        "tie_embed": r.flag("tie_word_embeddings", True),
    }


def _llama_like(r: Reader, *, head_dim: int | None = None) -> dict[str, Any]:
    """What Llama, Mistral, Qwen and Gemma configurations have in common."""
    d_model, n_heads = r.size("hidden_size"), r.size("num_attention_heads")
    # Only in Llama does an absent num_key_value_heads mean one for each query head.
    kv_default = (None,) if r.attributes.get("model_type", "llama") == "llama" else ()
    return {
        "n_layers": r.size("num_hidden_layers", largest=MAX_LAYERS),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": r.size("num_key_value_heads", *kv_default) or n_heads,
        "head_dim": r.size("head_dim", None) or head_dim or divide(r, d_model, n_heads),
        "d_ff": r.size("intermediate_size"),
        "max_positions": r.size("max_position_embeddings"),
        "norm": "rms",
        "norm_eps": r.number("rms_norm_eps", 1e-6),
        "pos": "rope",
        "rope": _rope(r),
        "gated": True,
    }


def _llama(r: Reader) -> dict[str, Any]:
    bias = r.flag("attention_bias", False)
    return _llama_like(r) | {
        "act": r.activation("hidden_act", "silu"),
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": r.flag("mlp_bias", False),
        "tie_embed": r.flag("tie_word_embeddings", False),
    }


def _mistral(r: Reader) -> dict[str, Any]:
    fields = _llama_like(r)
    window = r.optional_size("sliding_window", 4096)
    return fields | {
        "act": r.activation("hidden_act", "silu"),
        "window": window,
        "layer_kinds": ("local",) * fields["n_layers"] if window else (),
        "tie_embed": r.flag("tie_word_embeddings", False),
    }


def _qwen_windows(r: Reader, n_layers: int) -> dict[str, Any]:
    uses = r.flag("use_sliding_window", False)
    window = r.optional_size("sliding_window", 4096)
    first = r.raw("max_window_layers", 28)
    if type(first) is not int or first < 0:
        raise r.error("max_window_layers", "a whole number of at least 0")
    default = None
    if uses and window:
        default = ["sliding_attention" if i >= first else "full_attention" for i in range(n_layers)]
    kinds = _layer_kinds(r, n_layers, default)
    if kinds and not (uses and window):
        raise r.error("layer_types", "full_attention only, while use_sliding_window is off")
    return {"window": window if kinds else None, "layer_kinds": kinds}


def _qwen2(r: Reader) -> dict[str, Any]:
    fields = _llama_like(r)
    r.fixed("use_mrope", False)
    return (
        fields
        | _qwen_windows(r, fields["n_layers"])
        | {
            "act": r.activation("hidden_act", "silu"),
            "qkv_bias": True,
            "tie_embed": r.flag("tie_word_embeddings", False),
        }
    )


def _qwen3(r: Reader) -> dict[str, Any]:
    fields = _llama_like(r, head_dim=128)
    bias = r.flag("attention_bias", False)
    return (
        fields
        | _qwen_windows(r, fields["n_layers"])
        | {
            "act": r.activation("hidden_act", "silu"),
            "qkv_bias": bias,
            "out_bias": bias,
            "qk_norm": True,
            "tie_embed": r.flag("tie_word_embeddings", False),
        }
    )


def _gemma2(r: Reader) -> dict[str, Any]:
    fields = _llama_like(r, head_dim=256)
    n_layers = fields["n_layers"]
    bias = r.flag("attention_bias", False)
    alternating = ["full_attention" if i % 2 else "sliding_attention" for i in range(n_layers)]
    act = r.activation("hidden_activation", "gelu_pytorch_tanh")
    # Older files carry hidden_act too; transformers reads hidden_activation alone.
    r.raw("hidden_act", None)
    r.fixed("use_bidirectional_attention", None, False)
    kinds = _layer_kinds(r, n_layers, alternating)
    window = r.optional_size("sliding_window", 4096)
    r.fixed("sliding_window_size", window, None)  # an older name for the same
    return fields | {
        "norm": "rms_plus_one",
        "norm_place": "sandwich",
        "act": act,
        "qkv_bias": bias,
        "out_bias": bias,
        "query_scale": r.number("query_pre_attn_scalar", 256) ** -0.5,
        "attn_softcap": r.optional_number("attn_logit_softcapping", 50.0),
        "final_softcap": r.optional_number("final_logit_softcapping", 30.0),
        "window": window if kinds else None,
        "layer_kinds": kinds,
        "embed_scale": fields["d_model"] ** 0.5,
        "tie_embed": r.flag("tie_word_embeddings", True),
    }


_READERS: dict[str, Callable[[Reader], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "opt": _opt,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
}


def parse(attributes: dict[str, Any], source: str = "config.json") -> DecoderConfig:
    """The decoder that a `config.json` describes.

    Args:
        attributes: its content.
        source: how to call it in messages.

    Raises:
        CheckpointError: an unsupported architecture (the message lists the supported ones), an
            unknown attribute, or a value that is not implemented; each by name.
    """
    family_name = _family(attributes, source)
    reader = Reader(attributes, source)
    fields = _READERS[family_name](reader)
    fields["vocab_size"] = reader.size("vocab_size")
    quantized.parse(reader.raw("quantization_config", None), source)
    reader.finish()
    try:
        return DecoderConfig.create(family=family_name, **fields)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _family(attributes: dict[str, Any], source: str) -> str:
    if is_of(attributes, ENCODER_ARCHITECTURES):
        raise CheckpointError(
            f"{source} describes an encoder (model_type={attributes.get('model_type')!r}, "
            f"architectures={attributes.get('architectures')!r}) and no decoder. "
            "Use load_encoder(folder)."
        )
    return family(attributes, source, ARCHITECTURES)
