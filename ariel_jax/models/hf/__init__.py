"""Models in Hugging Face form: folders of `config.json`, safetensors and `tokenizer.json`."""

from ariel_jax.models.hf.encoders import EncoderModel, load_encoder, save_encoder
from ariel_jax.models.hf.load import load_pretrained
from ariel_jax.models.hf.model import GenerationDefaults, Model
from ariel_jax.models.hf.save import save_pretrained
from ariel_jax.models.hf.tokenizer import Tokenizer

__all__ = [
    "EncoderModel",
    "GenerationDefaults",
    "Model",
    "Tokenizer",
    "load_encoder",
    "load_pretrained",
    "save_encoder",
    "save_pretrained",
]
