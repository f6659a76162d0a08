"""`quantization_config` of `config.json`: what is written there, and what is understood."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models.quantization import Quantization, is_vocabulary, is_weight, scale_path
from ariel_jax.pallas_kernels.linear.packing import n_inputs

METHOD = "ariel_jax"
_FIELDS = ("bits", "group", "vocab_bits", "vocab_group")


def parse(value: Any, source: str) -> Quantization | None:
    """What a `quantization_config` says; None for None.

    Args:
        value: of the attribute.
        source: how to call the file in messages.

    Raises:
        CheckpointError: it is of another library, or not well formed.
    """
    if value is None:
        return None
    what = f"{source}: quantization_config={value!r}"
    if not isinstance(value, dict) or value.get("quant_method") != METHOD:
        raise CheckpointError(
            f"{what} is not supported; allowed: quant_method {METHOD!r}, as save_pretrained writes "
            "it. Use the original checkpoint, and quantise it with: ariel-jax quantize --model "
            "FOLDER --out NEW_FOLDER"
        )
    if set(value) != {"quant_method", *_FIELDS}:
        raise CheckpointError(
            f"{what} must have exactly quant_method, {', '.join(_FIELDS)}. Save the model again "
            "with the version of this library that loads it."
        )
    numbers = {name: value[name] for name in _FIELDS}
    if any(type(number) not in (int, type(None)) for number in numbers.values()):
        raise CheckpointError(
            f"{what} must hold whole numbers, or null for a group. Use a sound config.json."
        )
    try:
        return Quantization(**numbers)
    except ConfigError as error:
        raise CheckpointError(f"{what}: {error}") from error


def to_hf(how: Quantization) -> dict[str, Any]:
    """The `quantization_config` that `parse` maps back to `how`."""
    return {"quant_method": METHOD} | {name: getattr(how, name) for name in _FIELDS}


def describe(leaves: Mapping[str, Any]) -> Quantization | None:
    """How the weights at these paths are quantised; None where they are not.

    Raises:
        CheckpointError: not all of them are, or not all in the same way, which the format cannot say.
    """
    weights = [path for path in leaves if is_weight(path)]
    if not any(scale_path(path) in leaves for path in weights):
        return None
    bits, group = _in_common(leaves, [path for path in weights if not is_vocabulary(path)])
    vocab_bits, vocab_group = _in_common(leaves, filter(is_vocabulary, weights))
    return Quantization(bits=bits, group=group, vocab_bits=vocab_bits, vocab_group=vocab_group)


def _in_common(leaves: Mapping[str, Any], weights: Iterable[str]) -> tuple[int, int | None]:
    """(bits, group) of weights; no group where each has one scale in a row."""
    widths = {jnp.dtype(jnp.int8): 8, jnp.dtype(jnp.uint8): 4}
    found: dict[str, tuple[int | None, int, int]] = {}
    for path in weights:
        w, scale = leaves[path], leaves.get(scale_path(path))
        n_groups = 0 if scale is None else scale.shape[-1]
        found[path] = (widths.get(w.dtype) if n_groups else None, n_inputs(w), n_groups)
    groups = {n_in // n for _, n_in, n in found.values() if n > 1}
    group = next(iter(groups), None)
    bits = next(iter(found.values()))[0]
    for path, (its_bits, n_in, n) in found.items():
        is_like_the_others = its_bits == bits and group in (None, n_in // max(n, 1))
        if bits is None or len(groups) > 1 or not is_like_the_others:
            raise CheckpointError(
                f"{path} is quantised otherwise than other weights, or not at all; a checkpoint "
                "holds all in the same way. Quantise them with models.quantization.quantize."
            )
    assert bits is not None
    return bits, group
