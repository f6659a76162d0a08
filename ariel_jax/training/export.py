"""A trained tree as a model folder."""

import pathlib

import jax
import jax.numpy as jnp

from ariel_jax.models.config import DecoderConfig, Precision
from ariel_jax.models.hf import Model, Tokenizer, save_pretrained
from ariel_jax.models.hf.model import GenerationDefaults
from ariel_jax.models.params import DecoderParams
from ariel_jax.models.quantization import check_not_quantized


def export_model(
    cfg: DecoderConfig,
    params: DecoderParams,
    tokenizer: Tokenizer,
    folder: str | pathlib.Path,
    *,
    dtype: str = "bfloat16",
    stop_tokens: tuple[str, ...] = (),
) -> Model:
    """Rounds the weights to a dtype and saves them in Hugging Face form.

    Args:
        cfg: the decoder.
        params: its trained weights, on this process's devices.
        tokenizer: saved with the model.
        folder: to create, or to replace if it holds a model and nothing else.
        dtype: of the stored weights.
        stop_tokens: tokens that end a text beside the tokenizer's end-of-sequence token.

    Returns:
        The model as it was saved.

    Raises:
        ConfigError: the folder holds files that saving would remove, or the weights are quantised
            (`save_pretrained` saves those).
        StorageError: the folder cannot be written.
    """
    check_not_quantized(params, "export_model")
    wanted = jnp.dtype(dtype)
    weights = jax.tree.map(lambda leaf: leaf.astype(wanted), params)
    precision = Precision(param=dtype)
    ids = [tokenizer.eos_id, *(tokenizer.id_of(token) for token in stop_tokens)]
    bos, pad = tokenizer.special("bos_token"), tokenizer.special("pad_token")
    model = Model(
        cfg=cfg,
        params=weights.replace(precision=precision),
        tokenizer=tokenizer,
        generation=GenerationDefaults(
            eos_ids=tuple(i for i in ids if i is not None),
            bos_id=None if bos is None else tokenizer.id_of(bos),
            pad_id=None if pad is None else tokenizer.id_of(pad),
        ),
    )
    save_pretrained(model, folder)
    return model
