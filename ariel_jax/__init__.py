"""Decoder language models in JAX: load, decode in one compiled program, train.

The public names below are imported when they are first used, so `import ariel_jax` itself loads
neither jax nor a backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that defines it
_HOME = {
    "Arithmetic": "ariel_jax.decode",
    "ArielError": "ariel_jax.errors",
    "Autoregressive": "ariel_jax.decode",
    "SamplingParams": "ariel_jax.decode",
    "Upfront": "ariel_jax.decode",
    "generate": "ariel_jax.decode",
    "load_encoder": "ariel_jax.models.hf",
    "load_pretrained": "ariel_jax.models.hf",
    "save_encoder": "ariel_jax.models.hf",
    "save_pretrained": "ariel_jax.models.hf",
}

if TYPE_CHECKING:
    from ariel_jax.decode import Arithmetic, Autoregressive, SamplingParams, Upfront, generate
    from ariel_jax.errors import ArielError
    from ariel_jax.models.hf import (
        load_encoder,
        load_pretrained,
        save_encoder,
        save_pretrained,
    )

__all__ = [
    "ArielError",
    "Arithmetic",
    "Autoregressive",
    "SamplingParams",
    "Upfront",
    "__version__",
    "generate",
    "load_encoder",
    "load_pretrained",
    "save_encoder",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ariel_jax' has no attribute {name!r}: it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
