"""What is compared: model shapes as Hugging Face configurations, cases and their targets.

Host only: neither side's framework is imported here.
"""

import dataclasses
import enum
import functools
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

from ariel_jax.errors import CheckpointError, ConfigError


class Metric(enum.StrEnum):
    """What a case times."""

    DECODE = "decode ms/token"
    PREFILL = "prefill ms"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table.

    Attributes:
        name: how `--cases` calls it.
        shape: key of `hf_config`.
        batch: requests at once.
        n_prompt: tokens of each prompt.
        n_new: tokens generated for each.
        metric: which of the two times is compared.
        target: least ratio of their time to ours, or None.
        bandwidth_target: least share of the measured read bandwidth, or None.
        measures_bandwidth: whether that share is reported (it means nothing for tiny models).
        grows: our cache grows as a measured profile advises, instead of being reserved at once; the
            split of a step is reported too.
        caches: further caches of the other side to report beside, once each.
        repetitions: at most this many pairs.
        dtype: of our weights: `f32`, `bf16` (activations and cache too), or `int8` (a scale a row,
            activations and cache in float32).
        their_dtype: of theirs: `f32` or `bf16`.
        verifies: how long a step over 8 rows takes beside one over a single row is reported too.
    """

    name: str
    shape: str
    batch: int
    n_prompt: int
    n_new: int
    metric: Metric = Metric.DECODE
    target: float | None = None
    bandwidth_target: float | None = None
    measures_bandwidth: bool = True
    grows: bool = False
    caches: tuple[str, ...] = ()
    repetitions: int | None = None
    dtype: str = "f32"
    their_dtype: str = "f32"
    verifies: bool = False


DTYPES = ("f32", "bf16", "int8")
_FULL = (
    Case(name="gpt2-p128", shape="gpt2", batch=1, n_prompt=128, n_new=64, target=1.2),
    Case(name="gpt2-p896", shape="gpt2", batch=1, n_prompt=896, n_new=64, target=1.35),
    Case(name="gpt2-b8", shape="gpt2", batch=8, n_prompt=512, n_new=64, target=1.1),
    Case(name="nano", shape="nano", batch=1, n_prompt=64, n_new=256, target=2.5),
    Case(
        name="llama-1b",
        shape="llama-1b",
        batch=1,
        n_prompt=16,
        n_new=16,
        target=0.97,
        bandwidth_target=0.85,
    ),
    Case(
        name="gpt2-prefill",
        shape="gpt2",
        batch=1,
        n_prompt=512,
        n_new=2,
        metric=Metric.PREFILL,
        target=0.75,
    ),
)
# No targets: at this size the fixed costs of a call decide, and those say nothing about models.
_SMOKE = (
    Case(name="tiny", shape="tiny", batch=1, n_prompt=16, n_new=32, measures_bandwidth=False),
    Case(name="tiny-b2", shape="tiny", batch=2, n_prompt=16, n_new=16, measures_bandwidth=False),
    Case(name="tiny-prefill", shape="tiny", batch=1, n_prompt=64, n_new=2, metric=Metric.PREFILL),
)
# From 64 tokens to all positions, against a cache that grows by a row for each token.
_OTHERS = ("static", "static, compiled")
_GROWING = (
    Case(
        name="growing-gpt2",
        shape="gpt2-2048",
        batch=1,
        n_prompt=64,
        n_new=1984,
        target=1.4,
        caches=_OTHERS,
        repetitions=3,
    ),
    Case(
        name="growing-gpt2-b8",
        shape="gpt2-2048",
        batch=8,
        n_prompt=64,
        n_new=1984,
        target=1.2,
        repetitions=1,
    ),
    Case(
        name="growing-nano",
        shape="nano",
        batch=1,
        n_prompt=64,
        n_new=1984,
        target=3.0,
        caches=_OTHERS,
        repetitions=3,
    ),
)
_GROWING_SMOKE = (
    Case(name="growing-tiny", shape="tiny", batch=2, n_prompt=16, n_new=200, caches=("static",)),
)
_GROW = tuple(
    dataclasses.replace(c, grows=True, measures_bandwidth=False)
    for c in (*_GROWING, *_GROWING_SMOKE)
)
CASES = {case.name: case for case in (*_FULL, *_SMOKE, *_GROW)}
SCALES = {
    "full": tuple(c.name for c in _FULL),
    "smoke": tuple(c.name for c in _SMOKE),
    "growing": tuple(c.name for c in _GROWING),
}


# What the native kernels are to reach: (theirs / ours, share of the read bandwidth), by case and
# dtype. Theirs is float32, for a prompt in bfloat16 bfloat16.
_AIMS: dict[tuple[str, str], tuple[float | None, float | None]] = {
    ("gpt2-p896", "f32"): (1.5, None),
    ("gpt2-p896", "bf16"): (2.2, None),
    ("gpt2-p896", "int8"): (3.0, None),
    ("gpt2-b8", "f32"): (1.8, None),
    ("llama-1b", "bf16"): (None, 0.85),
    ("llama-1b", "int8"): (None, 0.75),
    ("gpt2-prefill", "bf16"): (0.5, None),
}
_VERIFIED = ("gpt2-p128", "nano")


def in_dtypes(cases: Sequence[Case], dtypes: Sequence[str]) -> tuple[Case, ...]:
    """The cases in each dtype; the large model also against the other side's bfloat16.

    Raises:
        ConfigError: an unknown dtype, or none.
    """
    unknown = [name for name in dtypes if name not in DTYPES]
    if unknown or not dtypes:
        raise ConfigError(
            f"got the dtypes {list(dtypes)}: pass one or more of {', '.join(DTYPES)}."
        )
    found = []
    for case in cases:
        for dtype in dict.fromkeys(dtypes):
            theirs = ("f32", "bf16") if case.shape == "llama-1b" and dtype != "f32" else ("f32",)
            if dtype == "bf16" and case.metric == Metric.PREFILL:
                theirs = ("bf16",)
            for their_dtype in theirs:
                found.append(_in_dtype(case, dtype, their_dtype))
    return tuple(found)


def _in_dtype(case: Case, dtype: str, their_dtype: str) -> Case:
    none = (case.target, case.bandwidth_target) if dtype == "f32" else (None, None)
    target, bandwidth_target = _AIMS.get((case.name, dtype), none)
    name = case.name if dtype == "f32" else f"{case.name}-{dtype}"
    return dataclasses.replace(
        case,
        name=name if their_dtype == "f32" else f"{name} (theirs {their_dtype})",
        dtype=dtype,
        their_dtype=their_dtype,
        target=target,
        bandwidth_target=bandwidth_target,
        verifies=case.name in _VERIFIED,
    )


def select(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases of these names; `full` and `smoke` stand for their whole lists.

    Raises:
        ConfigError: an unknown name.
    """
    flat = [n for name in names for n in SCALES.get(name, (name,))]
    unknown = sorted(set(flat) - set(CASES))
    if unknown:
        raise ConfigError(
            f"no benchmark case {', '.join(map(repr, unknown))}: pass any of {', '.join(CASES)}, "
            f"or the lists {', '.join(SCALES)}."
        )
    return tuple(CASES[name] for name in dict.fromkeys(flat))


_GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
_LLAMA_1B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}
_TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}


@functools.cache
def _nano() -> dict[str, Any]:
    file = importlib.resources.files("ariel_jax") / "assets" / "nano" / "config.json"
    try:
        return json.loads(file.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"the model nano is not in this installation ({file} is missing). Install the package "
            "again, or choose other --cases."
        ) from error


def hf_config(shape: str) -> dict[str, Any]:
    """The Hugging Face configuration of a shape; both sides build their model from it."""
    longer = {**_GPT2, "n_positions": 2048}
    known = {"gpt2": _GPT2, "gpt2-2048": longer, "llama-1b": _LLAMA_1B, "tiny": _TINY}  # fmt: skip
    return dict(_nano() if shape == "nano" else known[shape])


def decoder_config(shape: str) -> Any:
    """The same configuration as this library's `DecoderConfig`."""
    from ariel_jax.models.hf import config_map

    return config_map.parse(hf_config(shape), f"the shape {shape}")


def n_float32_bytes(shape: str) -> int:
    """Roughly how much memory one side's weights take, for deciding who may be loaded at once."""
    hf = hf_config(shape)
    width = hf.get("hidden_size") or hf["n_embd"]
    layers = hf.get("num_hidden_layers") or hf["n_layer"]
    inner = hf.get("intermediate_size") or 4 * width
    per_layer = 4 * width * width + 3 * width * inner
    return 4 * (layers * per_layer + hf["vocab_size"] * width)
