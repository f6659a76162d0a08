"""`config.json` to `DecoderConfig`: one section per family, every attribute accounted for.

An attribute is consumed, or known not to change what the model computes, or has exactly the value
that this library implements; anything else is refused by name.
"""

import math
from collections.abc import Callable
from typing import Any

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf import quantized

ARCHITECTURES = {
    "GPT2LMHeadModel": "gpt2",
    "OPTForCausalLM": "opt",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
}
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

# Bookkeeping, training-time settings and defaults of other heads: whatever they say, the logits of
# the language model are the same.
_HARMLESS = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "activation_dropout",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "attn_pdrop",
        "bos_token_id",
        "cache_implementation",
        "dropout",
        "dtype",
        "early_exit",  # where a model may be left while drafting: notes for a strategy
        "embd_pdrop",
        "eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "init_std",
        "initializer_range",
        "label2id",
        "layerdrop",
        "model_type",
        "n_special",
        "name_or_path",
        "num_labels",
        "pad_token_id",
        "predict_special_tokens",
        "prefix",
        "pretraining_tp",  # how a sum is split over devices, not what it is
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "task_specific_params",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)
# Allowed at these values only.
_FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
    "partial_rotary_factor": (1.0, None),
    "per_layer_config": (None,),
    "pruned_heads": ({}, None),
    "tie_last_hidden_states": (None,),
    "use_bfloat16": (False,),
}
_NO_DEFAULT = object()
MAX_LAYERS = 1024  # every layer is walked before its weights are looked for


class _Reader:
    """Hands out attributes of one config and remembers which were asked for."""

    def __init__(self, attributes: dict[str, Any], source: str):
        self.attributes, self.source = attributes, source
        self.used: set[str] = set()

    def error(self, name: str, allowed: str) -> CheckpointError:
        given = self.attributes.get(name, "(absent)")
        return CheckpointError(
            f"{self.source}: {name}={given!r} is not supported; allowed: {allowed}. "
            "Use a checkpoint of a supported form."
        )

    def raw(self, name: str, default: Any = _NO_DEFAULT) -> Any:
        self.used.add(name)
        if name in self.attributes:
            return self.attributes[name]
        if default is _NO_DEFAULT:
            raise self.error(name, "it must be given")
        return default

    def size(self, name: str, default: Any = _NO_DEFAULT, *, largest: int = 2**31 - 1) -> Any:
        value = self.raw(name, default)
        if value is None and default is None:
            return None
        if type(value) is not int or not 0 < value <= largest:
            raise self.error(name, f"a whole number from 1 to {largest}")
        return value

    def optional_size(self, name: str, default: int) -> int | None:
        """`default` where the attribute is absent, None where it is null."""
        return None if self.raw(name, default) is None else self.size(name, default)

    def number(self, name: str, default: Any = _NO_DEFAULT) -> float:
        value = self.raw(name, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self.error(name, "a finite number above 0")
        return float(value)

    def optional_number(self, name: str, default: float | None) -> float | None:
        return None if self.raw(name, default) is None else self.number(name, default)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw(name, default)
        if type(value) is not bool:
            raise self.error(name, "true or false")
        return value

    def fixed(self, name: str, *values: Any) -> None:
        if self.raw(name, values[0]) not in values:
            raise self.error(name, " or ".join(repr(v) for v in values))

    def activation(self, name: str, default: str) -> str:
        value = self.raw(name, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise self.error(name, ", ".join(sorted(_ACTIVATIONS)))
        return _ACTIVATIONS[value]

    def finish(self) -> None:
        """Refuses what nobody asked for."""
        for name, values in _FIXED.items():
            if name in self.attributes:
                self.fixed(name, *values)
        unknown = sorted(set(self.attributes) - self.used - _HARMLESS)
        if unknown:
            raise CheckpointError(
                f"{self.source} has attributes that this library does not know: "
                + ", ".join(f"{name}={self.attributes[name]!r}" for name in unknown)
                + f". Known here: {sorted(self.used)}. The model may compute something else than "
                "what is implemented; remove them only if you know that they change nothing."
            )


def _rope(r: _Reader, default_theta: float = 10000.0) -> RopeConfig:
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
    inner = _Reader(settings, f"{r.source}: {name}")
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


def _layer_kinds(r: _Reader, n_layers: int, default: list[str] | None) -> tuple[str, ...]:
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


def _gpt2(r: _Reader) -> dict[str, Any]:
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
        "head_dim": _divide(r, d_model, n_heads),
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


def _opt(r: _Reader) -> dict[str, Any]:
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
        "head_dim": _divide(r, d_model, n_heads),
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


def _divide(r: _Reader, d_model: int, n_heads: int) -> int:
    if d_model % n_heads:
        raise CheckpointError(
            f"{r.source}: the width {d_model} is not a multiple of the {n_heads} attention heads; "
            "this is no such model. Use a sound config.json."
        )
    return d_model // n_heads


def _llama_like(r: _Reader, *, head_dim: int | None = None) -> dict[str, Any]:
    """What Llama, Mistral, Qwen and Gemma configurations have in common."""
    d_model, n_heads = r.size("hidden_size"), r.size("num_attention_heads")
    # Only in Llama does an absent num_key_value_heads mean one for each query head.
    kv_default = (None,) if r.attributes.get("model_type", "llama") == "llama" else ()
    return {
        "n_layers": r.size("num_hidden_layers", largest=MAX_LAYERS),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": r.size("num_key_value_heads", *kv_default) or n_heads,
        "head_dim": r.size("head_dim", None) or head_dim or _divide(r, d_model, n_heads),
        "d_ff": r.size("intermediate_size"),
        "max_positions": r.size("max_position_embeddings"),
        "norm": "rms",
        "norm_eps": r.number("rms_norm_eps", 1e-6),
        "pos": "rope",
        "rope": _rope(r),
        "gated": True,
    }


def _llama(r: _Reader) -> dict[str, Any]:
    bias = r.flag("attention_bias", False)
    return _llama_like(r) | {
        "act": r.activation("hidden_act", "silu"),
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": r.flag("mlp_bias", False),
        "tie_embed": r.flag("tie_word_embeddings", False),
    }


def _mistral(r: _Reader) -> dict[str, Any]:
    fields = _llama_like(r)
    window = r.optional_size("sliding_window", 4096)
    return fields | {
        "act": r.activation("hidden_act", "silu"),
        "window": window,
        "layer_kinds": ("local",) * fields["n_layers"] if window else (),
        "tie_embed": r.flag("tie_word_embeddings", False),
    }


def _qwen_windows(r: _Reader, n_layers: int) -> dict[str, Any]:
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


def _qwen2(r: _Reader) -> dict[str, Any]:
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


def _qwen3(r: _Reader) -> dict[str, Any]:
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


def _gemma2(r: _Reader) -> dict[str, Any]:
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


_READERS: dict[str, Callable[[_Reader], dict[str, Any]]] = {
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
    family = _family(attributes, source)
    reader = _Reader(attributes, source)
    fields = _READERS[family](reader)
    fields["vocab_size"] = reader.size("vocab_size")
    quantized.parse(reader.raw("quantization_config", None), source)
    reader.finish()
    try:
        return DecoderConfig.create(family=family, **fields)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _family(attributes: dict[str, Any], source: str) -> str:
    given = attributes.get("architectures")
    supported = ", ".join(ARCHITECTURES)
    if given is not None and (
        not isinstance(given, list) or len(given) != 1 or given[0] not in list(ARCHITECTURES)
    ):
        raise CheckpointError(
            f"{source}: architectures={given!r} is not supported; supported: {supported}. "
            "Use a checkpoint of one of these."
        )
    model_type = attributes.get("model_type")
    family = ARCHITECTURES[given[0]] if given else model_type
    if family not in list(_READERS) or model_type not in (None, family):
        raise CheckpointError(
            f"{source}: model_type={model_type!r} with architectures={given!r} is not supported; "
            f"supported: {', '.join(_READERS)} ({supported}). Use a checkpoint of one of these."
        )
    return str(family)
