"""`save_pretrained`: a `Model` to a folder in Hugging Face form."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ariel_jax import durable
from ariel_jax._checks import positive_int
from ariel_jax.errors import ConfigError
from ariel_jax.models import paths
from ariel_jax.models.hf import config_write, quantized, safetensors_io, weight_map
from ariel_jax.models.hf.model import GenerationDefaults, Model
from ariel_jax.models.hf.tokenizer import Tokenizer
from ariel_jax.models.quantization import Quantization

_OWN_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }
)


def save_pretrained(
    model: Model, folder: str | pathlib.Path, *, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Saves a model so that `load_pretrained` and transformers can load it.

    Args:
        model: to save; its weights are stored in the dtype that they have. Quantised ones are
            stored as they lie in memory, scales beside them; only this library reads them.
        folder: to create, or to replace if it holds a model and nothing else; its parent exists.
        max_shard_bytes: weights above this are split into several files.

    Guarantees:
        The folder appears complete or not at all; on an error what was there before is unchanged.
        Every tensor whose size is a multiple of 64 bytes begins at such a multiple in its file.

    Raises:
        ConfigError: the folder holds files that saving would remove.
        CheckpointError: the family's format cannot say what the config computes, or the weights
            are not all quantised in the same way.
        StorageError: the disk is full, read-only or the parent folder is missing.
    """
    positive_int(max_shard_bytes=max_shard_bytes)
    target = pathlib.Path(folder).resolve()  # a link stays, what it leads to is replaced
    check_target(target)
    leaves = paths.flatten(model.params)
    how = quantized.describe(leaves)
    dtype = np.dtype(leaves["embed" if how is None else "layers.0.attn_norm.scale"].dtype)
    config = config_write.to_hf(model.cfg, dtype=dtype.name) | _ids(model.generation)
    if model.early_exits:
        config["early_exit"] = {"exits": list(model.early_exits)}
    if how is not None:
        config["quantization_config"] = quantized.to_hf(how)
    with durable.replacing_directory(target) as new:
        write_json(new / "config.json", config)
        write_json(new / "generation_config.json", _generation_json(model.generation))
        if isinstance(model.tokenizer, Tokenizer):
            write_tokenizer(new, model.tokenizer)
        write_weights(new, model.cfg, leaves, how, max_shard_bytes=max_shard_bytes)


def write_weights(
    folder: pathlib.Path,
    cfg: paths.AnyConfig,
    leaves: Mapping[str, Any],
    how: Quantization | None = None,
    *,
    max_shard_bytes: int,
) -> None:
    """Writes the weights of a model, by path, into a new folder; see `save_pretrained`."""
    groups = weight_map.to_stored(cfg, leaves, how)
    shapes = weight_map.stored_shapes(cfg, how)
    tensors = {
        key: (shapes[key], np.dtype(leaves[group[0][0]].dtype)) for key, group in groups.items()
    }
    shards = safetensors_io.split_shards(tensors, max_shard_bytes)
    where: dict[str, str] = {}
    for name, keys in zip(safetensors_io.names(shards), shards, strict=True):
        with open(folder / name, "wb") as file:
            safetensors_io.write(
                file,
                {key: tensors[key] for key in keys},
                lambda key: weight_map.join(groups[key], leaves),
            )
        where |= dict.fromkeys(keys, name)
    if len(shards) > 1:
        total = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_json(folder / "model.safetensors.index.json", index)


def check_target(folder: pathlib.Path) -> None:
    """Checks that saving to a folder would remove nothing but a model.

    Raises:
        ConfigError: it would, or it is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file; pass the name of a folder to create.")
    foreign = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() or (entry.name not in _OWN_FILES and not _is_weights(entry.name))
    )
    if foreign:
        raise ConfigError(
            f"{folder} holds {foreign[:5]}, which saving would remove. Choose a new folder."
        )


def _is_weights(name: str) -> bool:
    return name.startswith("model") and name.endswith(".safetensors")


def _ids(generation: GenerationDefaults) -> dict[str, Any]:
    eos = list(generation.eos_ids)
    return {
        "eos_token_id": (eos[0] if len(eos) == 1 else eos) if eos else None,
        "bos_token_id": generation.bos_id,
        "pad_token_id": generation.pad_id,
    }


def _generation_json(generation: GenerationDefaults) -> dict[str, Any]:
    settings = {
        "do_sample": generation.do_sample or None,
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
        "min_p": generation.min_p,
        "repetition_penalty": generation.repetition_penalty,
        "max_new_tokens": generation.max_new,
    }
    return {k: v for k, v in {**_ids(generation), **settings}.items() if v is not None}


def write_tokenizer(folder: pathlib.Path, tokenizer: Tokenizer) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` into a folder."""
    text = tokenizer.backend.to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer.settings}
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    """Writes a JSON object as transformers lays it out."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
