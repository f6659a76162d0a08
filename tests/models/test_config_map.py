import json

import pytest
import transformers

from ariel_jax import testing
from ariel_jax.errors import CheckpointError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf import config_map, config_write
from ariel_jax.models.presets import PRESETS

CLASSES = {
    "gpt2": transformers.GPT2Config,
    "opt": transformers.OPTConfig,
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "gemma2": transformers.Gemma2Config,
}

# As published: the attributes of these files were all consumed or harmless, none was refused.
PUBLISHED = {
    "gpt2": """{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}},
        "vocab_size": 50257}""",
    "opt": """{"_name_or_path": "x", "_remove_final_layer_norm": false,
        "activation_dropout": 0.0, "activation_function": "relu",
        "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 2,
        "do_layer_norm_before": true, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 3072,
        "hidden_size": 768, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
        "model_type": "opt", "num_attention_heads": 12, "num_hidden_layers": 12,
        "pad_token_id": 1, "prefix": "</s>", "torch_dtype": "float16",
        "transformers_version": "4.21.0.dev0", "use_cache": true, "vocab_size": 50272,
        "word_embed_proj_dim": 768}""",
    "llama": """{"architectures": ["LlamaForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": [128001, 128009],
        "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256}""",
}
PRESET_OF = {"gpt2": "gpt2-124m", "opt": "opt-125m", "llama": "llama-3.2-1b"}


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_configs_are_the_presets(family):
    assert config_map.parse(json.loads(PUBLISHED[family])) == PRESETS[PRESET_OF[family]]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_format(name):
    cfg = PRESETS[name]
    assert config_map.parse(config_write.to_hf(cfg, dtype="float32")) == cfg


@pytest.mark.parametrize("family", CLASSES)
def test_every_default_of_transformers_is_understood(family):
    attributes = json.loads(CLASSES[family]().to_json_string(use_diff=False))
    cfg = config_map.parse(attributes)
    assert cfg.family == family
    ours = config_write.to_hf(cfg, dtype="float32")
    theirs = CLASSES[family](**{k: v for k, v in ours.items() if k != "architectures"})
    again = json.loads(theirs.to_json_string(use_diff=False))
    assert config_map.parse(again) == cfg


@pytest.mark.parametrize("variant", testing.VARIANTS)
def test_variants_survive_the_format(variant):
    cfg = testing.tiny_config(variant)
    assert config_map.parse(config_write.to_hf(cfg, dtype="float32")) == cfg


def llama(**changes) -> dict:
    base = config_write.to_hf(testing.tiny_config("llama"), dtype="float32")
    return {k: v for k, v in (base | changes).items() if v is not ...}


REFUSED = {
    "unknown attribute": ({"attention_sink": 4}, r"attention_sink=4"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "unsupported architecture": ({"architectures": ["FooForCausalLM"]}, "GPT2LMHeadModel"),
    "other head": ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
    "unsupported type": ({"architectures": ..., "model_type": "mamba"}, "mamba.*llama"),
    "type and architecture differ": ({"model_type": "gpt2"}, "gpt2.*LlamaForCausalLM"),
    "architecture of no list": ({"architectures": "LlamaForCausalLM"}, "architectures="),
    "architecture of no name": ({"architectures": [["x"]]}, "architectures="),
    "missing size": ({"hidden_size": ...}, "hidden_size"),
    "negative size": ({"hidden_size": -1}, "hidden_size=-1"),
    "boolean size": ({"num_hidden_layers": True}, "num_hidden_layers=True"),
    "fractional size": ({"num_hidden_layers": 2.5}, r"num_hidden_layers=2\.5"),
    "text for a number": ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    "not a number": ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    "text for a flag": ({"attention_bias": "no"}, "attention_bias"),
    "unknown activation": ({"hidden_act": "mish"}, "hidden_act='mish'.*gelu"),
    "heads do not divide": ({"num_key_value_heads": 3}, "n_kv_heads=3"),
    "rope of another kind": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
        "rope_type='yarn'.*llama3",
    ),
    "rope attribute": (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 1}},
        "mscale",
    ),
    "rope without factor": ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
    "rope blend upside down": (
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 2.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 16,
            }
        },
        "high_freq_factor",
    ),
    "two ropes": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
    "partial rotation": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(case):
    changes, words = REFUSED[case]
    with pytest.raises(CheckpointError, match=words):
        config_map.parse(llama(**changes))


def test_a_config_of_absurdly_many_layers_is_refused_at_once():
    with pytest.raises(CheckpointError, match=r"num_hidden_layers=100000000.* to 1024"):
        config_map.parse(llama(num_hidden_layers=10**8))


def test_forms_of_older_files():
    linear = RopeConfig(theta=777.0, kind="linear", factor=3.0)
    old = llama(rope_parameters=..., rope_theta=777.0, rope_scaling={"type": "linear", "factor": 3})
    assert config_map.parse(old).rope == linear
    plain = llama(rope_parameters=..., rope_theta=777.0, rope_scaling=None)
    assert config_map.parse(plain).rope == RopeConfig(theta=777.0)
    assert config_map.parse(llama(num_key_value_heads=...)).n_kv_heads == 4
    assert config_map.parse(llama(head_dim=...)).head_dim == 8
    assert config_map.parse(llama(architectures=..., torch_dtype="bfloat16")).family == "llama"
    gpt2 = config_write.to_hf(testing.tiny_config("gpt2"), dtype="float32")
    medium = {"n_special": 0, "predict_special_tokens": True, "gradient_checkpointing": False}
    assert config_map.parse(gpt2 | medium) == config_map.parse(gpt2)
    gemma = config_write.to_hf(testing.tiny_config("gemma2"), dtype="float32")
    window = gemma["sliding_window"]
    assert config_map.parse(gemma | {"sliding_window_size": window}) == config_map.parse(gemma)
    with pytest.raises(CheckpointError, match="sliding_window_size"):
        config_map.parse(gemma | {"sliding_window_size": window + 1})


def test_windows():
    base = config_write.to_hf(testing.tiny_config("qwen2"), dtype="float32")
    del base["layer_types"]
    window = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}

    def kinds(**changes) -> tuple:
        cfg: DecoderConfig = config_map.parse({**base, **changes})
        return cfg.window, cfg.layer_kinds

    assert kinds(**window) == (9, ("global", "local"))
    assert kinds(**window | {"use_sliding_window": False}) == (None, ())
    assert kinds(**window | {"sliding_window": None}) == (None, ())
    assert kinds(**window | {"max_window_layers": 2}) == (None, ())
    with pytest.raises(CheckpointError, match="layer_types"):
        kinds(layer_types=["sliding_attention", "full_attention"])
    with pytest.raises(CheckpointError, match="layer_types"):
        kinds(**window, layer_types=["sliding_attention"])
    mistral = config_write.to_hf(testing.tiny_config("mistral"), dtype="float32")
    assert config_map.parse(mistral | {"sliding_window": None}).layer_kinds == ()
    del mistral["sliding_window"]
    assert config_map.parse(mistral).window == 4096
