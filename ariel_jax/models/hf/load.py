"""`load_pretrained`: a folder in Hugging Face form to a `Model`."""

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import backend
from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models import paths
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import config_map, quantized, weight_map
from ariel_jax.models.hf.leaves import load_leaves
from ariel_jax.models.hf.model import GenerationDefaults, Model
from ariel_jax.models.hf.safetensors_io import Checkpoint, read_json
from ariel_jax.models.hf.tokenizer import NoTokenizer, Tokenizer, check_vocabulary
from ariel_jax.models.sharding import leaf_specs

ASSETS = pathlib.Path(__file__).parents[2] / "assets"
SHIPPED = ("nano",)

# Settings of generation_config.json that are read, by our name.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_new",
}
# Settings that change no token.
_BOOKKEEPING = frozenset(
    {
        "_from_model_config",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "cache_implementation",
        "max_length",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "return_dict_in_generate",
        "transformers_version",
        "trust_remote_code",
        "use_cache",
    }
)


def load_pretrained(
    folder_or_name: str | pathlib.Path,
    *,
    precision: Precision | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Model:
    """Loads a model from a folder in Hugging Face form, or the one that ships in this package.

    Nothing is downloaded, no code of the folder runs, and nothing in it is unpickled. On a CPU,
    tensors that lie 64-byte aligned in the file (as `save_pretrained` writes them) in the wanted
    dtype are used where they are, without a copy: do not write into such a file afterwards
    (replacing it is safe). Others are copied one by one. Weights that `models.quantization.quantize`
    made are read as they were saved; no other form of quantised weights is.

    Args:
        folder_or_name: a folder with `config.json`, safetensors weights and `tokenizer.json`; or
            `"nano"`.
        precision: dtypes; None means float32 on a CPU and for float32 files, bfloat16 on a GPU or
            TPU for bfloat16 files.
        mesh: spreads the weights over devices, see `models.sharding.param_specs`; None puts them on
            the default device. Not for quantised weights.

    Returns:
        The model. Without a `tokenizer.json` it takes and gives token ids only.

    Raises:
        CheckpointError: a file is missing, damaged or not understood: unsupported architecture,
            unknown config attribute, missing or unknown tensor, wrong shape, missing or truncated
            shard, vocabularies that disagree. The message names it. So is an encoder: see
            `load_encoder`.
        ConfigError: a precision that cannot be had, a mesh with other axes, or a mesh for quantised
            weights.
    """
    folder = model_folder(folder_or_name)
    attributes = read_json(folder / "config.json")
    cfg = config_map.parse(attributes, str(folder / "config.json"))
    how = quantized.parse(attributes.get("quantization_config"), str(folder / "config.json"))
    if how is not None and mesh is not None:
        raise ConfigError(
            f"{folder} holds quantised weights, which cannot be spread over a mesh. Pass mesh=None, "
            "or load the model that they were made from."
        )
    tokenizer = load_tokenizer(folder, cfg.vocab_size)
    generation = _generation(folder, attributes, tokenizer)
    checkpoint = Checkpoint(folder)
    stored = {name: info.shape for name, info in checkpoint.items()}
    sources, tied = weight_map.resolve(cfg, stored, str(folder), how)
    _check_tied(folder, checkpoint, sources["embed"].key, tied)
    platform = mesh.devices.flat[0].platform if mesh is not None else backend.platform()
    if precision is None:
        kept = sources["embed" if how is None else "layers.0.attn_norm.scale"]
        precision = default_precision(platform, checkpoint[kept.key].dtype)
    exact = {} if how is None else how.dtypes(sources)
    specs = None if mesh is None else leaf_specs(cfg, mesh)
    leaves = load_leaves(
        checkpoint, sources, precision, platform, exact=exact, mesh=mesh, specs=specs
    )
    params = paths.assemble(cfg, leaves)
    return Model(
        cfg=cfg,
        params=params.replace(precision=precision),  # pyright: ignore[reportAttributeAccessIssue] flax.struct
        tokenizer=tokenizer,
        generation=generation,
        source=folder,
        early_exits=_early_exits(folder, attributes, cfg.n_layers),
    )


def default_precision(platform: str, stored: np.dtype) -> Precision:
    """bfloat16 where the file and the device are made for it, else float32.

    XLA:CPU converts bfloat16 weights to float32 in every product, which takes several times as
    long as reading float32 ones.
    """
    if platform != "cpu" and stored == np.dtype(jnp.bfloat16):
        return Precision.bf16()
    return Precision.f32()


def model_folder(folder_or_name: str | pathlib.Path) -> pathlib.Path:
    """The folder that a user means.

    Raises:
        CheckpointError: it has no `config.json`.
    """
    name = str(folder_or_name)
    folder = ASSETS / name if name in SHIPPED else pathlib.Path(folder_or_name)
    try:
        folder = folder.expanduser()
        is_there, is_folder = (folder / "config.json").is_file(), folder.is_dir()
    # No such user; a name too long for the file system, or with a NUL.
    except (RuntimeError, OSError, ValueError):
        is_there = is_folder = False
    if not is_there:
        what = "has no config.json" if is_folder else "is no folder"
        raise CheckpointError(
            f"{name!r} {what}. Pass {' or '.join(repr(n) for n in SHIPPED)}, or a folder with "
            "config.json, model.safetensors and tokenizer.json (nothing is downloaded)."
        )
    return folder


def load_tokenizer(folder: pathlib.Path, vocab_size: int) -> Tokenizer | NoTokenizer:
    """The tokenizer of a folder, if it has one.

    Raises:
        CheckpointError: it is damaged, or not that of a model with `vocab_size` tokens.
    """
    if not (folder / "tokenizer.json").is_file():
        return NoTokenizer(str(folder))
    tokenizer = Tokenizer.from_folder(folder)
    check_vocabulary(tokenizer, vocab_size)
    return tokenizer


def _generation(
    folder: pathlib.Path, attributes: dict[str, Any], tokenizer: Tokenizer | NoTokenizer
) -> GenerationDefaults:
    path = folder / "generation_config.json"
    given = read_json(path) if path.is_file() else {}
    known = {*_SAMPLING, *_BOOKKEEPING, "do_sample", "eos_token_id", "bos_token_id", "pad_token_id"}
    unknown = {k: v for k, v in given.items() if k not in known and v is not None}
    if unknown:
        raise CheckpointError(
            f"{path} asks for {unknown}, which this library does not do. Known: {sorted(known)}. "
            "Remove the attribute if texts generated without it are what you want."
        )

    def ids(name: str) -> tuple[int, ...]:
        value = given.get(name, attributes.get(name))
        listed = value if isinstance(value, list) else [] if value is None else [value]
        # OPT and others write -1 for "none".
        if any(type(i) is not int or i < -1 for i in listed):
            raise CheckpointError(
                f"{folder}: {name}={value!r} must be a token id or a list of them."
            )
        return tuple(i for i in listed if i >= 0)

    eos = ids("eos_token_id")
    if not eos and isinstance(tokenizer, Tokenizer) and tokenizer.eos_id is not None:
        eos = (tokenizer.eos_id,)
    for name in _SAMPLING:
        value = given.get(name)
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise CheckpointError(f"{path}: {name}={value!r} must be a finite number.")
    sampling: dict[str, Any] = {ours: given.get(name) for name, ours in _SAMPLING.items()}
    return GenerationDefaults(
        eos_ids=eos,
        bos_id=next(iter(ids("bos_token_id")), None),
        pad_id=next(iter(ids("pad_token_id")), None),
        do_sample=given.get("do_sample") is True,
        **sampling,
    )


def _early_exits(
    folder: pathlib.Path, attributes: dict[str, Any], n_layers: int
) -> tuple[int, ...]:
    """The layers that the files note as exits: a number, a list, or an object with `exits`."""
    path = folder / "generation_config.json"
    given = read_json(path) if path.is_file() else {}
    noted = attributes.get("early_exit")
    noted = noted.get("exits") if isinstance(noted, dict) else noted
    found: set[int] = set()
    for name, value in (
        ("early_exit", noted),
        ("assistant_early_exit", given.get("assistant_early_exit")),
    ):
        layers = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(layer) is not int or not 0 < layer < n_layers for layer in layers):
            raise CheckpointError(
                f"{folder}: {name}={value!r} must be a layer between 1 and {n_layers - 1}, or a list of "
                "them. Remove or correct it; what the model computes does not depend on it."
            )
        found.update(layers)
    return tuple(sorted(found))


def _check_tied(
    folder: pathlib.Path, checkpoint: Checkpoint, embed: str, tied: tuple[str, ...]
) -> None:
    """Raises unless every stored head that the config calls tied equals the embedding."""
    for head in tied:
        one, other = checkpoint.view(embed), checkpoint.view(head)
        same = one.shape == other.shape and one.dtype == other.dtype
        step = max(1, (8 << 20) // max(1, one[:1].nbytes))
        for first in range(0, len(one) if same else 0, step):
            # As bytes: NaNs are equal to themselves and no arithmetic is done.
            piece = one[first : first + step].tobytes()
            same = same and piece == other[first : first + step].tobytes()
        checkpoint.release(embed)
        checkpoint.release(head)
        if not same:
            raise CheckpointError(
                f"{folder}: config.json says tie_word_embeddings, but {head!r} differs from "
                f"{embed!r}. Set tie_word_embeddings to false if the head is meant to be used."
            )
