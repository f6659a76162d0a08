"""Tiny checkpoints of every family with random weights, saved by transformers, and its logits."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
import transformers

VOCAB, LENGTH, WINDOW, ORIGINAL_CONTEXT = 96, 40, 7, 16

LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
OPT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": 1,
    "bos_token_id": 0,
}
QWEN_WINDOWS: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "max_window_layers": 1,
}


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **settings}}


def _llama3() -> dict[str, Any]:
    return _rope(
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=ORIGINAL_CONTEXT,
    )


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "gpt2",
        {
            "vocab_size": VOCAB,
            "n_positions": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 48,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
    ),
    "opt": ("opt", OPT),
    "opt-350m": ("opt", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "opt-no-final-norm": ("opt", OPT | {"_remove_final_layer_norm": True, "enable_bias": False}),
    "llama": ("llama", LLAMA),
    "llama-biases": (
        "llama",
        LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-linear": ("llama", LLAMA | _rope("linear", factor=4.0)),
    "llama-llama3": ("llama", LLAMA | _llama3()),
    "mistral": ("mistral", LLAMA | {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", LLAMA | {"sliding_window": WINDOW}),
    "qwen2-sliding": ("qwen2", LLAMA | QWEN_WINDOWS),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 12}),
    "qwen3-sliding": ("qwen3", LLAMA | QWEN_WINDOWS | {"attention_bias": True}),
    "gemma2": (
        "gemma2",
        LLAMA
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 20.0,
            "sliding_window": WINDOW,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A checkpoint on disk and what transformers computes from it.

    Attributes:
        folder: saved by transformers.
        tokens: [3, LENGTH] int32.
        logits: [3, LENGTH, VOCAB] float32, each row on its own, without cache or padding.
        entropy_share: mean entropy of attention over that of uniform attention.
    """

    folder: pathlib.Path
    tokens: np.ndarray
    logits: np.ndarray
    entropy_share: float


def build(kind: str, settings: dict[str, Any]) -> transformers.PreTrainedModel:
    """A model whose every parameter is random and matters."""
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if (parameter.ndim == 1 and "norm" in name) or ".ln_" in name:
                is_scale = name.endswith("weight") and kind != "gemma2"
                scores = "q_norm" in name or "k_norm" in name  # what makes attention sharp there
                parameter.copy_(0.3 * draw + (2.0 if scores else 1.0 if is_scale else 0.0))
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * draw)
            elif "embed" in name or "wte" in name or "wpe" in name:
                # Small, so that the epsilon of the first norm counts; without a norm before the
                # first attention not so small that it becomes uniform.
                is_post = settings.get("do_layer_norm_before") is False
                parameter.copy_((0.3 if is_post else 0.05) * draw)
            else:
                attends = any(part in name for part in ("attn", "q_proj", "k_proj"))
                parameter.copy_((2.5 if attends else 1.5) * draw / parameter.shape[-1] ** 0.5)
        _spread(model)
    return model.eval()


def _spread(model: transformers.PreTrainedModel) -> None:
    """Scales the last weight before the head until the logits have a standard deviation of 4."""
    decoder = getattr(model.base_model, "decoder", model.base_model)
    names = ("project_out", "ln_f", "norm", "final_layer_norm")
    found = [m for name in names if (m := getattr(decoder, name, None)) is not None]
    last = found[0] if found else decoder.layers[-1].fc2
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        model.config.final_logit_softcapping = None
    probe = torch.arange(VOCAB)[None, :48]
    for _ in range(3):
        factor = 4.0 / model(probe).logits.std()
        if model.config.model_type == "gemma2":  # the stored weight is scale - 1
            last.weight.copy_((1 + last.weight) * factor - 1)
        else:
            for parameter in last.parameters():
                parameter.mul_(factor)
    if cap is not None:
        model.config.final_logit_softcapping = cap


def _entropy_share(model: transformers.PreTrainedModel, tokens: torch.Tensor) -> float:
    attentions = model(tokens, output_attentions=True).attentions
    shares = []
    for weights in attentions:  # [B, N, T, T]
        p = weights.double()
        entropy = -(p * (p + 1e-30).log()).sum(-1)
        visible = (p[:, :, 8:] > 0).sum(-1)
        shares.append((entropy[:, :, 8:] / visible.double().log()).mean())
    return float(torch.stack(shares).mean())


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """One reference per case."""
    tokens = np.random.default_rng(3).integers(2, VOCAB, (3, LENGTH)).astype(np.int32)
    out = {}
    torch.set_num_threads(2)
    for name, (kind, settings) in CASES.items():
        model = build(kind, settings)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        with torch.no_grad():
            ids = torch.tensor(tokens, dtype=torch.long)
            logits = torch.cat([model(row[None]).logits for row in ids]).numpy()
            share = _entropy_share(model, ids)
        out[name] = Reference(folder, tokens, logits, share)
    return out


@pytest.fixture(params=CASES)
def reference(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Reference:
    return references[request.param]
