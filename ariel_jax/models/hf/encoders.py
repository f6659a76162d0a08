"""`load_encoder` and `save_encoder`: folders of BERT, RoBERTa and ViT in Hugging Face form."""

import dataclasses
import pathlib

from ariel_jax import backend, durable
from ariel_jax._checks import positive_int
from ariel_jax.models import paths
from ariel_jax.models.config import Precision
from ariel_jax.models.encoder import EncoderConfig, EncoderParams
from ariel_jax.models.hf import encoder_map, weight_map
from ariel_jax.models.hf.leaves import load_leaves
from ariel_jax.models.hf.load import default_precision, load_tokenizer, model_folder
from ariel_jax.models.hf.safetensors_io import Checkpoint, read_json
from ariel_jax.models.hf.save import check_target, write_json, write_tokenizer, write_weights
from ariel_jax.models.hf.tokenizer import NoTokenizer, Tokenizer
from ariel_jax.models.vit import ViTConfig, ViTParams


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncoderModel:
    """What `load_encoder` returns; lives on the host, its weights on devices.

    Attributes:
        cfg: what the encoder computes: an `EncoderConfig`, or a `ViTConfig`.
        params: its weights and their precision: `EncoderParams`, or `ViTParams`.
        tokenizer: text to ids.
        labels: names of the classes; none without a classifier.
        source: the folder it was loaded from, or None.
    """

    cfg: EncoderConfig | ViTConfig
    params: EncoderParams | ViTParams
    tokenizer: Tokenizer | NoTokenizer
    labels: tuple[str, ...] = ()
    source: pathlib.Path | None = None


def load_encoder(folder: str | pathlib.Path, *, precision: Precision | None = None) -> EncoderModel:
    """Loads a BERT (MiniLM is one), RoBERTa or ViT from a folder in Hugging Face form.

    As strict as `load_pretrained`, and like it without downloads, code of the folder, pickles or
    needless copies. Of a masked language model the encoder is loaded and the head left behind, of a
    `ViTModel` the pooler.

    Args:
        folder: with `config.json`, safetensors weights, and `tokenizer.json` if it has texts. How images
            are prepared (`preprocessor_config.json`) is not read.
        precision: dtypes; None means float32 on a CPU and for float32 files, bfloat16 on a GPU or
            TPU for bfloat16 files.

    Returns:
        The encoder; without a `tokenizer.json` it takes token ids only.

    Raises:
        CheckpointError: a file is missing, damaged or not understood, as for `load_pretrained`; or
            the model is a decoder. The message names it.
        ConfigError: a precision that cannot be had.
    """
    folder = model_folder(folder)
    cfg, labels = encoder_map.parse(read_json(folder / "config.json"), str(folder / "config.json"))
    is_text = isinstance(cfg, EncoderConfig)
    tokenizer = load_tokenizer(folder, cfg.vocab_size) if is_text else NoTokenizer(str(folder))
    checkpoint = Checkpoint(folder)
    if is_text and cfg.n_classes is None:
        cfg = cfg.replace(has_pooler=weight_map.has_pooler(cfg.family, checkpoint))
    stored = {name: info.shape for name, info in checkpoint.items()}
    sources, _ = weight_map.resolve(cfg, stored, str(folder))
    platform = backend.platform()
    if precision is None:
        kept = sources["layers.0.attn_norm.scale"]
        precision = default_precision(platform, checkpoint[kept.key].dtype)
    leaves = load_leaves(checkpoint, sources, precision, platform)
    params = paths.assemble_encoder(cfg, leaves)
    return EncoderModel(
        cfg=cfg,
        params=params.replace(precision=precision),  # pyright: ignore[reportAttributeAccessIssue] flax.struct
        tokenizer=tokenizer,
        labels=labels,
        source=folder,
    )


def save_encoder(
    model: EncoderModel, folder: str | pathlib.Path, *, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Saves an encoder so that `load_encoder` and transformers can load it.

    Args:
        model: to save; its weights are stored in the dtype that they have, `layers` is a tuple.
        folder: to create, or to replace if it holds a model and nothing else; its parent exists.
        max_shard_bytes: weights above this are split into several files.

    Guarantees:
        As `save_pretrained`: the folder appears complete or not at all.

    Raises:
        ConfigError: the folder holds files that saving would remove, config and weights do not belong
            together, or labels and classes differ in number.
        CheckpointError: the family's format cannot say what the config computes.
        StorageError: the disk is full, read-only or the parent folder is missing.
    """
    positive_int(max_shard_bytes=max_shard_bytes)
    target = pathlib.Path(folder).resolve()  # a link stays, what it leads to is replaced
    check_target(target)
    leaves = paths.flatten(model.params)
    paths.check_shapes(model.cfg, leaves)
    dtype = leaves["layers.0.attn_norm.scale"].dtype.name
    config = encoder_map.to_hf(model.cfg, dtype=dtype, labels=model.labels)
    with durable.replacing_directory(target) as new:
        write_json(new / "config.json", config)
        if isinstance(model.tokenizer, Tokenizer):
            write_tokenizer(new, model.tokenizer)
        write_weights(new, model.cfg, leaves, max_shard_bytes=max_shard_bytes)
