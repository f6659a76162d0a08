"""Reading of `config.json`, shared by all families: every attribute accounted for."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from ariel_jax.errors import CheckpointError

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


class Reader:
    """Hands out attributes of one config and remembers which were asked for."""

    def __init__(self, attributes: dict[str, Any], source: str):
        self.attributes, self.source = attributes, source
        self.used: set[str] = set()

    def error(self, name: str, allowed: str) -> CheckpointError:
        """One attribute is not supported, and what would be."""
        given = self.attributes.get(name, "(absent)")
        return CheckpointError(
            f"{self.source}: {name}={given!r} is not supported; allowed: {allowed}. "
            "Use a checkpoint of a supported form."
        )

    def raw(self, name: str, default: Any = _NO_DEFAULT) -> Any:
        """As it stands there; without a default it must be."""
        self.used.add(name)
        if name in self.attributes:
            return self.attributes[name]
        if default is _NO_DEFAULT:
            raise self.error(name, "it must be given")
        return default

    def size(self, name: str, default: Any = _NO_DEFAULT, *, largest: int = 2**31 - 1) -> Any:
        """A whole number of at least 1 (or a default of None)."""
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
        """A finite number above 0."""
        value = self.raw(name, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self.error(name, "a finite number above 0")
        return float(value)

    def optional_number(self, name: str, default: float | None) -> float | None:
        """`default` where the attribute is absent, None where it is null."""
        return None if self.raw(name, default) is None else self.number(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.raw(name, default)
        if type(value) is not bool:
            raise self.error(name, "true or false")
        return value

    def fixed(self, name: str, *values: Any) -> None:
        """Raise unless it is one of these; the first where it is absent."""
        if self.raw(name, values[0]) not in values:
            raise self.error(name, " or ".join(repr(v) for v in values))

    def activation(self, name: str, default: str) -> str:
        """An activation, by our name."""
        value = self.raw(name, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise self.error(name, ", ".join(sorted(_ACTIVATIONS)))
        return _ACTIVATIONS[value]

    def finish(self, harmless: Collection[str] = ()) -> None:
        """Refuses what nobody asked for and is not `harmless`."""
        for name, values in _FIXED.items():
            if name in self.attributes:
                self.fixed(name, *values)
        unknown = sorted(set(self.attributes) - self.used - _HARMLESS - set(harmless))
        if unknown:
            raise CheckpointError(
                f"{self.source} has attributes that this library does not know: "
                + ", ".join(f"{name}={self.attributes[name]!r}" for name in unknown)
                + f". Known here: {sorted(self.used)}. The model may compute something else than "
                "what is implemented; remove them only if you know that they change nothing."
            )


def divide(r: Reader, d_model: int, n_heads: int) -> int:
    """The width of a head."""
    if d_model % n_heads:
        raise CheckpointError(
            f"{r.source}: the width {d_model} is not a multiple of the {n_heads} attention heads; "
            "this is no such model. Use a sound config.json."
        )
    return d_model // n_heads


def is_of(attributes: dict[str, Any], architectures: Mapping[str, str]) -> bool:
    """Whether a `config.json` names one of these architectures or, without one, families."""
    given = attributes.get("architectures")
    if isinstance(given, list) and given:
        return given[0] in list(architectures)
    return attributes.get("model_type") in list(architectures.values())


def family(attributes: dict[str, Any], source: str, architectures: Mapping[str, str]) -> str:
    """The family of a `config.json`, among those of `architectures` (family by name).

    Raises:
        CheckpointError: it is of none of them; the message lists them.
    """
    given = attributes.get("architectures")
    supported = ", ".join(architectures)
    if given is not None and (
        not isinstance(given, list) or len(given) != 1 or given[0] not in list(architectures)
    ):
        raise CheckpointError(
            f"{source}: architectures={given!r} is not supported; supported: {supported}. "
            "Use a checkpoint of one of these."
        )
    model_type = attributes.get("model_type")
    found = architectures[given[0]] if given else model_type
    families = list(dict.fromkeys(architectures.values()))
    if found not in families or model_type not in (None, found):
        raise CheckpointError(
            f"{source}: model_type={model_type!r} with architectures={given!r} is not supported; "
            f"supported: {', '.join(families)} ({supported}). Use a checkpoint of one of these."
        )
    return str(found)
