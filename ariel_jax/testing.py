"""Tiny models, checkpoints and tokenizers for tests, ours and yours; needs no other framework."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ariel_jax._checks import one_of, positive_int
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models import paths
from ariel_jax.models.config import DecoderConfig, Precision
from ariel_jax.models.encoder import EncoderConfig
from ariel_jax.models.hf import EncoderModel, Model, Tokenizer, save_pretrained
from ariel_jax.models.hf.model import GenerationDefaults
from ariel_jax.models.hf.tokenizer import NoTokenizer
from ariel_jax.models.params import DecoderParams
from ariel_jax.models.vit import ViTConfig

TOY_VOCAB_SIZE = 320
TOY_SPECIAL_TOKENS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
TOY_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] not in ('user', 'assistant') %}"
    "{{ raise_exception('unknown role ' + m['role']) }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 8,
    "d_ff": 48,
    "vocab_size": TOY_VOCAB_SIZE,
    "max_positions": 128,
}
_LEARNED: dict[str, Any] = {
    "n_kv_heads": 4,
    "norm": "layer",
    "pos": "learned",
    "gated": False,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}
_ROTARY: dict[str, Any] = {"rope": RopeConfig(), "norm_eps": 1e-6}
_WINDOW = 7
_VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", **_LEARNED, "act": "gelu_tanh", "d_ff": 128},
    "opt": {"family": "opt", **_LEARNED, "act": "relu", "pos_offset": 2},
    "opt-350m": {
        "family": "opt",
        **_LEARNED,
        "act": "relu",
        "pos_offset": 2,
        "norm_place": "post",
        "final_norm": False,
        "embed_dim": 24,
    },
    "llama": {"family": "llama", **_ROTARY, "tie_embed": False},
    "llama-biases": {
        "family": "llama",
        **_ROTARY,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
    },
    "llama-linear": {
        "family": "llama",
        **_ROTARY,
        "rope": RopeConfig(kind="linear", factor=4.0),
    },
    "llama-llama3": {
        "family": "llama",
        **_ROTARY,
        "rope": RopeConfig(
            theta=500.0,
            kind="llama3",
            factor=8.0,
            original_max_positions=16,
        ),
    },
    "mistral": {
        "family": "mistral",
        **_ROTARY,
        "tie_embed": False,
        "window": _WINDOW,
        "layer_kinds": ("local",) * 2,
    },
    "qwen2": {"family": "qwen2", **_ROTARY, "qkv_bias": True},
    "qwen2-sliding": {
        "family": "qwen2",
        **_ROTARY,
        "qkv_bias": True,
        "window": _WINDOW,
        "layer_kinds": ("global", "local"),
    },
    "qwen3": {"family": "qwen3", **_ROTARY, "qk_norm": True, "head_dim": 12},
    "gemma2": {
        "family": "gemma2",
        **_ROTARY,
        "norm": "rms_plus_one",
        "norm_place": "sandwich",
        "act": "gelu_tanh",
        "head_dim": 12,
        "query_scale": 16**-0.5,
        "attn_softcap": 5.0,
        "final_softcap": 10.0,
        "window": _WINDOW,
        "layer_kinds": ("local", "global"),
        "embed_scale": 32**0.5,
    },
}
VARIANTS: tuple[str, ...] = tuple(_VARIANTS)


def tiny_config(variant: str = "llama", **changes: Any) -> DecoderConfig:
    """A two-layer decoder of a family.

    Args:
        variant: one of `VARIANTS`: each family, and the forms in which it differs.
        **changes: fields of `DecoderConfig` to set otherwise.

    Raises:
        ConfigError: no such variant, or fields that do not fit together.
    """
    one_of(VARIANTS, variant=variant)
    return DecoderConfig.create(**{**_SIZES, **_VARIANTS[variant], **changes})


def tiny_params(
    cfg: DecoderConfig, *, seed: int = 0, precision: Precision | None = None
) -> DecoderParams:
    """Random weights under which every part of a small decoder matters.

    Weights are drawn so that logits spread over several units and attention is far from uniform;
    biases and norms are random too. Drawn by NumPy, so nothing is compiled.

    Args:
        cfg: the decoder.
        seed: of the draw.
        precision: dtypes; default float32.
    """
    precision = precision or Precision()
    params = paths.assemble(cfg, _tiny_leaves(cfg, seed, precision))
    return params.replace(precision=precision)  # pyright: ignore[reportAttributeAccessIssue] flax.struct


def _tiny_leaves(cfg: paths.AnyConfig, seed: int, precision: Precision) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    dtype = precision.dtype("param")

    def draw(path: str, shape: tuple[int, ...]) -> jax.Array:
        leaf = path.rpartition(".")[2]
        values = rng.standard_normal(shape)
        if leaf == "scale":
            values = 0.2 * values + (0.0 if cfg.norm == "rms_plus_one" else 1.0)
        elif leaf in ("b", "bias"):
            values = 0.3 * values
        else:
            gain = 2.0 if leaf == "w" and ".attn." in path else 1.2
            values = gain * values * shape[-1] ** -0.5
        return jax.device_put(values.astype(dtype))

    return {path: draw(path, shape) for path, shape in paths.abstract(cfg).items()}


ENCODER_VARIANTS: tuple[str, ...] = ("bert", "roberta", "vit")
_ENCODER_SIZES: dict[str, Any] = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 48}
_TEXTS: dict[str, Any] = {**_ENCODER_SIZES, "vocab_size": TOY_VOCAB_SIZE, "max_positions": 32}


def tiny_encoder(
    variant: str = "bert", *, seed: int = 0, precision: Precision | None = None, **changes: Any
) -> EncoderModel:
    """A tiny random encoder with three classes, as `load_encoder` would return it.

    Weights as by `tiny_params`. Texts have at most 32 tokens of the toy tokenizer, images 12 by 12
    pixels of 3 channels in patches of 4 by 4.

    Args:
        variant: `bert`, `roberta` or `vit`.
        seed: of the weights.
        precision: dtypes; default float32.
        **changes: fields of `EncoderConfig` or `ViTConfig` to set otherwise.

    Raises:
        ConfigError: no such variant, or fields that do not fit together.
    """
    one_of(ENCODER_VARIANTS, variant=variant)
    fields: dict[str, Any] = {"family": variant, "n_classes": 3}
    if variant == "vit":
        fields |= {**_ENCODER_SIZES, "image_size": 12, "patch_size": 4}
        cfg = ViTConfig.create(**(fields | changes))
    else:
        fields |= _TEXTS
        if variant == "roberta":
            fields |= {"n_types": 1, "positions": "tokens", "pos_offset": 2, "norm_eps": 1e-5}
        cfg = EncoderConfig.create(**(fields | changes))
    precision = precision or Precision()
    params = paths.assemble_encoder(cfg, _tiny_leaves(cfg, seed, precision))
    return EncoderModel(
        cfg=cfg,
        params=params.replace(precision=precision),  # pyright: ignore[reportAttributeAccessIssue] flax.struct
        tokenizer=NoTokenizer("the tiny ViT") if variant == "vit" else toy_tokenizer(),
        labels=tuple(f"class {i}" for i in range(cfg.n_classes or 0)),
    )


def toy_tokenizer(*, vocab_size: int = TOY_VOCAB_SIZE) -> Tokenizer:
    """A byte-level tokenizer with four special tokens, a two-role chat template and a few merges.

    Any text survives `decode(encode(text))`.

    Args:
        vocab_size: of the model it is for: at least 320; the tokens beyond are merges of letters.

    Raises:
        ConfigError: `vocab_size` is no whole number above 0.
    """
    positive_int(vocab_size=vocab_size)
    n_merges = TOY_VOCAB_SIZE - 256 - len(TOY_SPECIAL_TOKENS)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = "etaoinsr"
    merges = [(a, b) for a in letters for b in letters][:n_merges]
    tokens = [*TOY_SPECIAL_TOKENS, *alphabet, *(a + b for a, b in merges)]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    )
    backend.add_special_tokens(list(TOY_SPECIAL_TOKENS))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": TOY_SPECIAL_TOKENS[0],
        "eos_token": TOY_SPECIAL_TOKENS[0],
        "chat_template": TOY_CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    return Tokenizer(backend, settings, "the toy tokenizer")


def tiny_model(
    variant: str = "llama", *, seed: int = 0, precision: Precision | None = None, **changes: Any
) -> Model:
    """A tiny random model with a toy tokenizer, as `load_pretrained` would return it.

    Args:
        variant: one of `VARIANTS`.
        seed: of the weights.
        precision: dtypes; default float32.
        **changes: fields of `DecoderConfig` to set otherwise.
    """
    cfg = tiny_config(variant, **changes)
    return Model(
        cfg=cfg,
        params=tiny_params(cfg, seed=seed, precision=precision),
        tokenizer=toy_tokenizer(),
        generation=GenerationDefaults(eos_ids=(0,), bos_id=0),
    )


def write_toy_checkpoint(
    folder: str | pathlib.Path, variant: str = "llama", *, seed: int = 0, **changes: Any
) -> Model:
    """Writes a tiny model as a Hugging Face folder and returns it.

    Args:
        folder: to create; its parent exists.
        variant: one of `VARIANTS`.
        seed: of the weights.
        **changes: fields of `DecoderConfig` to set otherwise.
    """
    model = tiny_model(variant, seed=seed, **changes)
    save_pretrained(model, folder)
    return model


def edit_json(path: pathlib.Path, **changes: Any) -> None:
    """Sets attributes of a JSON object in a file; the value `...` removes one."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        if value is ...:
            del content[name]
        else:
            content[name] = value
    path.write_text(json.dumps(content))


_TRACING = "/jax/core/compile/jaxpr_trace_duration"


class TraceCounter:
    """How many functions jax has traced since the counter was made."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str) -> None:
        """Take note of an event of `jax.monitoring`."""
        self.count += event == _TRACING


_counters: list[TraceCounter] = []


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    for counter in _counters:
        counter(event)


@contextlib.contextmanager
def assert_no_retrace() -> Iterator[None]:
    """Fails if any function is traced or compiled in the block: a second call must reuse the first.

    Raises:
        AssertionError: something was traced.
    """
    counter = TraceCounter()
    global _is_listening
    if not _is_listening:
        jax.monitoring.register_event_duration_secs_listener(_listen)
        _is_listening = True
    _counters.append(counter)
    try:
        yield
    finally:
        _counters.remove(counter)
    if counter.count:
        raise AssertionError(
            f"{counter.count} function(s) were traced again; a static argument, shape, dtype or "
            "sharding differs from the call before. Set jax.config.jax_explain_cache_misses."
        )


_is_listening = False
