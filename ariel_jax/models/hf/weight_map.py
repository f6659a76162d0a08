"""Names of tensors in Hugging Face files, one table per family, both ways.

A path such as `layers.3.attn.q.w` addresses a leaf of `DecoderParams`, see `models.paths`. Every tensor of a file is
used, or known to be derived from others, or refused by name.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.paths import abstract
from ariel_jax.models.quantization import Quantization, is_weight, scale_path

SCALE_SUFFIX = "_scale"  # of the tensor that holds the scales of quantised weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a leaf comes from.

    Attributes:
        key: name of the tensor in the file.
        transposed: stored `[in, out]` (GPT-2's Conv1D).
        part: which of `parts` equal pieces of the out axis it is.
        parts: 3 for GPT-2's fused query, key and value.
    """

    key: str
    transposed: bool = False
    part: int = 0
    parts: int = 1

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor in the file, for a leaf of `shape`."""
        whole = (shape[0] * self.parts, *shape[1:])
        return whole[::-1] if self.transposed else whole

    def pick(self, stored: np.ndarray) -> np.ndarray:
        """The leaf, as a view of the stored tensor."""
        whole = stored.T if self.transposed else stored
        n = whole.shape[0] // self.parts
        return whole[self.part * n : (self.part + 1) * n]

    @property
    def is_whole(self) -> bool:
        """Whether the leaf is the stored tensor as it is."""
        return not self.transposed and self.parts == 1


def _conv(key: str, part: int = 0, parts: int = 1) -> dict[str, Source]:
    return {
        "w": Source(key=f"{key}.weight", transposed=True, part=part, parts=parts),
        "b": Source(key=f"{key}.bias", part=part, parts=parts),
    }


def _linear(key: str) -> dict[str, Source]:
    return {"w": Source(key=f"{key}.weight"), "b": Source(key=f"{key}.bias")}


def _norm(key: str) -> dict[str, Source]:
    return {"scale": Source(key=f"{key}.weight"), "bias": Source(key=f"{key}.bias")}


def _table(**leaves: dict[str, Source]) -> dict[str, Source]:
    return {
        f"{name.replace('__', '.')}.{leaf}": source
        for name, group in leaves.items()
        for leaf, source in group.items()
    }


_H = "transformer.h.{}"
_GPT2 = {
    "embed": Source(key="transformer.wte.weight"),
    "pos_embed": Source(key="transformer.wpe.weight"),
    "unembed.w": Source(key="lm_head.weight"),
    **_table(
        final_norm=_norm("transformer.ln_f"),
        layers__attn_norm=_norm(f"{_H}.ln_1"),
        layers__attn__q=_conv(f"{_H}.attn.c_attn", 0, 3),
        layers__attn__k=_conv(f"{_H}.attn.c_attn", 1, 3),
        layers__attn__v=_conv(f"{_H}.attn.c_attn", 2, 3),
        layers__attn__o=_conv(f"{_H}.attn.c_proj"),
        layers__mlp_norm=_norm(f"{_H}.ln_2"),
        layers__mlp__up=_conv(f"{_H}.mlp.c_fc"),
        layers__mlp__down=_conv(f"{_H}.mlp.c_proj"),
    ),
}
_D = "model.decoder.layers.{}"
_OPT = {
    "embed": Source(key="model.decoder.embed_tokens.weight"),
    "pos_embed": Source(key="model.decoder.embed_positions.weight"),
    "unembed.w": Source(key="lm_head.weight"),
    **_table(
        embed_in=_linear("model.decoder.project_in"),
        embed_out=_linear("model.decoder.project_out"),
        final_norm=_norm("model.decoder.final_layer_norm"),
        layers__attn_norm=_norm(f"{_D}.self_attn_layer_norm"),
        layers__attn__q=_linear(f"{_D}.self_attn.q_proj"),
        layers__attn__k=_linear(f"{_D}.self_attn.k_proj"),
        layers__attn__v=_linear(f"{_D}.self_attn.v_proj"),
        layers__attn__o=_linear(f"{_D}.self_attn.out_proj"),
        layers__mlp_norm=_norm(f"{_D}.final_layer_norm"),
        layers__mlp__up=_linear(f"{_D}.fc1"),
        layers__mlp__down=_linear(f"{_D}.fc2"),
    ),
}
_L = "model.layers.{}"
_LLAMA = {
    "embed": Source(key="model.embed_tokens.weight"),
    "unembed.w": Source(key="lm_head.weight"),
    **_table(
        final_norm=_norm("model.norm"),
        layers__attn_norm=_norm(f"{_L}.input_layernorm"),
        layers__attn__q=_linear(f"{_L}.self_attn.q_proj"),
        layers__attn__k=_linear(f"{_L}.self_attn.k_proj"),
        layers__attn__v=_linear(f"{_L}.self_attn.v_proj"),
        layers__attn__o=_linear(f"{_L}.self_attn.o_proj"),
        layers__attn__q_norm=_norm(f"{_L}.self_attn.q_norm"),
        layers__attn__k_norm=_norm(f"{_L}.self_attn.k_norm"),
        layers__mlp_norm=_norm(f"{_L}.post_attention_layernorm"),
        layers__mlp__gate=_linear(f"{_L}.mlp.gate_proj"),
        layers__mlp__up=_linear(f"{_L}.mlp.up_proj"),
        layers__mlp__down=_linear(f"{_L}.mlp.down_proj"),
    ),
}
# Gemma-2 calls the norm after attention what Llama calls the one before the feed-forward.
_GEMMA2 = _LLAMA | _table(
    layers__attn_post_norm=_norm(f"{_L}.post_attention_layernorm"),
    layers__mlp_norm=_norm(f"{_L}.pre_feedforward_layernorm"),
    layers__mlp_post_norm=_norm(f"{_L}.post_feedforward_layernorm"),
)
TABLES: dict[str, dict[str, Source]] = {
    "gpt2": _GPT2,
    "opt": _OPT,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA2,
}
# What transformers puts before the names of the base model when it is part of a language model.
_PREFIX = {family: "transformer." if family == "gpt2" else "model." for family in TABLES}
# Buffers that old versions stored: causal masks and rotary tables, both recomputed from the config.
_DERIVED = {
    "gpt2": re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"),
    "opt": re.compile(r"(?!)"),
} | dict.fromkeys(
    ("llama", "mistral", "qwen2", "qwen3", "gemma2"),
    re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
)


def source(family: str, path: str) -> Source:
    """Where the leaf at `path` lies in a file of `family`."""
    layer = re.match(r"layers\.(\d+)\.(.*)", path)
    if layer is None:
        return TABLES[family][path]
    found = TABLES[family][f"layers.{layer[2]}"]
    return dataclasses.replace(found, key=found.key.format(layer[1]))


def _leaves(
    cfg: DecoderConfig, how: Quantization | None
) -> Iterator[tuple[str, Source, tuple[int, ...]]]:
    """Every leaf of a decoder: its path, where it lies, and the shape of the tensor there."""
    for path, shape in abstract(cfg).items():
        found = source(cfg.family, path)
        if how is None or not is_weight(path):
            yield path, found, found.stored_shape(shape)
            continue
        # As they lie in memory: groups and packed pairs run along the inputs.
        found = dataclasses.replace(found, transposed=False)
        scales = dataclasses.replace(found, key=found.key + SCALE_SUFFIX)
        try:
            n_groups = how.n_groups(path, shape[1])
        except ConfigError as error:
            raise CheckpointError(
                f"tensor {found.key!r} cannot be quantised so: {error}"
            ) from error
        yield path, found, found.stored_shape(how.stored_shape(path, shape))
        yield scale_path(path), scales, scales.stored_shape((shape[0], n_groups))


def resolve(
    cfg: DecoderConfig,
    stored: Mapping[str, tuple[int, ...]],
    where: str,
    how: Quantization | None = None,
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Matches the tensors of a checkpoint with the weights of a decoder.

    Args:
        cfg: the decoder.
        stored: shape of every tensor in the files, by name.
        where: how to call the checkpoint in messages.
        how: its weights are quantised; None where they are not.

    Returns:
        (source of every leaf by path; names of heads that must equal the tied embedding).

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape.
    """
    prefix = _PREFIX[cfg.family]
    # Files of the base model alone (the published GPT-2 among them) leave the prefix out.
    bare = not any(name.startswith(prefix) for name in stored)
    sources, used = {}, set()
    for path, found, expected in _leaves(cfg, how):
        if bare:
            found = dataclasses.replace(found, key=found.key.removeprefix(prefix))
        sources[path] = found
        used.add(found.key)
        if found.key not in stored:
            raise CheckpointError(
                f"{where} lacks the tensor {found.key!r} (our {path}) that its config.json calls "
                f"for. It holds {_some(stored)}. Use a complete checkpoint of this model."
            )
        if tuple(stored[found.key]) != expected:
            raise CheckpointError(
                f"{where}: tensor {found.key!r} has shape {list(stored[found.key])}, its "
                f"config.json calls for {list(expected)}. Config and weights are of different "
                "models; download both again."
            )
    left = set(stored) - used
    tied = ("lm_head.weight",) if cfg.tie_embed and "lm_head.weight" in left else ()
    unknown = sorted(k for k in left - set(tied) if not _DERIVED[cfg.family].fullmatch(k))
    if unknown:
        raise CheckpointError(
            f"{where} has tensors that a {cfg.family} decoder of this config does not use: "
            f"{_some(unknown)}. Config and weights are of different models, or the checkpoint has "
            "parts (a classifier, an adapter) that are not supported. Use the plain language model."
        )
    return sources, tied


def _some(names: Collection[str]) -> str:
    listed = sorted(names)
    return f"{listed[:6]}" + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def stored_shapes(
    cfg: DecoderConfig, how: Quantization | None = None
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a file of this decoder, quantised or not."""
    return {found.key: shape for _, found, shape in _leaves(cfg, how)}


def to_stored(
    cfg: DecoderConfig, leaves: Mapping[str, Any], how: Quantization | None = None
) -> dict[str, list[tuple[str, Source]]]:
    """For every tensor of a file, the leaves that it is made of, in order of their parts."""
    sources = {path: found for path, found, _ in _leaves(cfg, how)}
    out: dict[str, list[tuple[str, Source]]] = {}
    for path in leaves:
        out.setdefault(sources[path].key, []).append((path, sources[path]))
    return {key: sorted(group, key=lambda item: item[1].part) for key, group in out.items()}


def join(group: list[tuple[str, Source]], leaves: Mapping[str, Any]) -> np.ndarray:
    """The stored tensor made of a `to_stored` group, on the host."""
    whole = np.concatenate([np.asarray(leaves[path]) for path, _ in group])
    return whole.T if group[0][1].transposed else whole
