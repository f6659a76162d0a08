"""`config.json` to `EncoderConfig` or `ViTConfig` and back, as strictly as for decoders."""

from collections.abc import Callable, Sequence
from typing import Any

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models.encoder import EncoderConfig
from ariel_jax.models.hf.config_map import ARCHITECTURES, ENCODER_ARCHITECTURES
from ariel_jax.models.hf.config_reader import MAX_LAYERS, Reader, divide, family, is_of
from ariel_jax.models.vit import ViTConfig

AnyEncoderConfig = EncoderConfig | ViTConfig

# Training-time settings and those of heads that are not read.
_HARMLESS = frozenset(
    {
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "encoder_stride",
        "hidden_dropout_prob",
        "pooler_act",
        "pooler_output_size",
        "tie_word_embeddings",
    }
)
_HF_ACTIVATION = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
_CLASSIFIERS = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "vit": "ViTForImageClassification",
}
_MODELS = {"bert": "BertModel", "roberta": "RobertaModel", "vit": "ViTModel"}


def _blocks(r: Reader) -> dict[str, Any]:
    d_model, n_heads = r.size("hidden_size"), r.size("num_attention_heads")
    divide(r, d_model, n_heads)
    r.fixed("is_decoder", False)
    return {
        "n_layers": r.size("num_hidden_layers", largest=MAX_LAYERS),
        "d_model": d_model,
        "n_heads": n_heads,
        "d_ff": r.size("intermediate_size"),
        "norm_eps": r.number("layer_norm_eps", 1e-12),
        "act": r.activation("hidden_act", "gelu"),
    }


def _bert(r: Reader) -> dict[str, Any]:
    r.fixed("position_embedding_type", "absolute", None)
    return _blocks(r) | {
        "vocab_size": r.size("vocab_size"),
        "max_positions": r.size("max_position_embeddings"),
        "n_types": r.size("type_vocab_size", 2),
    }


def _roberta(r: Reader) -> dict[str, Any]:
    fields = _bert(r)
    pad_id = r.raw("pad_token_id", 1)
    rows = fields["max_positions"]
    if type(pad_id) is not int or not 0 <= pad_id < rows - 1:
        raise r.error(
            "pad_token_id", f"a whole number from 0 to {rows - 2}: positions begin after it"
        )
    offset = pad_id + 1
    return fields | {"positions": "tokens", "pos_offset": offset, "max_positions": rows - offset}


def _vit(r: Reader) -> dict[str, Any]:
    return _blocks(r) | {
        "image_size": r.size("image_size", 224),
        "patch_size": r.size("patch_size", 16),
        "n_channels": r.size("num_channels", 3),
        "qkv_bias": r.flag("qkv_bias", True),
    }


_READERS: dict[str, Callable[[Reader], dict[str, Any]]] = {
    "bert": _bert,
    "roberta": _roberta,
    "vit": _vit,
}


def _labels(r: Reader) -> tuple[str, ...]:
    """Names of the classes, in order."""
    named = r.raw("id2label", None)
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(r.size("num_labels", 2)))
    wanted = [str(i) for i in range(len(named))] if isinstance(named, dict) else []
    if not wanted or any(not isinstance(named.get(i), str) for i in wanted):
        raise r.error("id2label", 'an object with a text for each of "0", "1", ...')
    return tuple(named[i] for i in wanted)


def parse(
    attributes: dict[str, Any], source: str = "config.json"
) -> tuple[AnyEncoderConfig, tuple[str, ...]]:
    """The encoder that a `config.json` describes, and the names of its classes (none without a classifier).

    Args:
        attributes: its content.
        source: how to call it in messages.

    Raises:
        CheckpointError: a decoder, an unsupported architecture (the message lists the supported ones),
            an unknown attribute, or a value that is not implemented; each by name.
    """
    if is_of(attributes, ARCHITECTURES):
        raise CheckpointError(
            f"{source} describes a decoder (model_type={attributes.get('model_type')!r}, "
            f"architectures={attributes.get('architectures')!r}) and no encoder. "
            "Use load_pretrained(folder)."
        )
    name = family(attributes, source, ENCODER_ARCHITECTURES)
    reader = Reader(attributes, source)
    fields = _READERS[name](reader)
    has_classifier = attributes.get("architectures") == [_CLASSIFIERS[name]]
    labels = _labels(reader) if has_classifier else ()
    reader.finish(_HARMLESS)
    fields["n_classes"] = len(labels) or None
    kind = ViTConfig if name == "vit" else EncoderConfig
    try:
        return kind.create(family=name, **fields), labels
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def to_hf(cfg: AnyEncoderConfig, *, dtype: str, labels: Sequence[str] = ()) -> dict[str, Any]:
    """The `config.json` of an encoder: what `parse` maps back to it.

    Args:
        cfg: the encoder.
        dtype: of the stored weights, as numpy calls it.
        labels: names of the classes; none gives them numbers.

    Raises:
        ConfigError: not one label for each class.
        CheckpointError: the family's format cannot say what `cfg` computes.
    """
    out = {
        "architectures": [(_MODELS if cfg.n_classes is None else _CLASSIFIERS)[cfg.family]],
        "model_type": cfg.family,
        "dtype": dtype,
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "intermediate_size": cfg.d_ff,
        "layer_norm_eps": cfg.norm_eps,
        "hidden_act": _HF_ACTIVATION[cfg.act],
    }
    if isinstance(cfg, ViTConfig):
        out |= {
            "image_size": cfg.image_size,
            "patch_size": cfg.patch_size,
            "num_channels": cfg.n_channels,
            "qkv_bias": cfg.qkv_bias,
        }
    else:
        out |= {
            "vocab_size": cfg.vocab_size,
            "max_position_embeddings": cfg.max_positions + cfg.pos_offset,
            "type_vocab_size": cfg.n_types,
            "pad_token_id": cfg.pos_offset - 1 if cfg.family == "roberta" else 0,
        }
    if len(labels) not in (0, cfg.n_classes or 0):
        raise ConfigError(
            f"{len(labels)} labels for {cfg.n_classes or 0} classes: pass one for each, or none."
        )
    if cfg.n_classes is not None:
        names = labels or [f"LABEL_{i}" for i in range(cfg.n_classes)]
        out["id2label"] = {str(i): label for i, label in enumerate(names)}
        out["label2id"] = {label: i for i, label in enumerate(names)}
    back, _ = parse(out)
    if isinstance(back, EncoderConfig) and isinstance(cfg, EncoderConfig):
        back = back.replace(has_pooler=cfg.has_pooler)  # the tensors say it, not the config
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
