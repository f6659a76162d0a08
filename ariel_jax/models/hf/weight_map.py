"""Names of tensors in Hugging Face files, one table per family, both ways.

A path such as `layers.3.attn.q.w` addresses a leaf of a model, see `models.paths`. Every tensor of a file is
used, or known to be derived from others, or refused by name.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.encoder import EncoderConfig
from ariel_jax.models.paths import AnyConfig, abstract
from ariel_jax.models.quantization import Quantization, is_weight, scale_path
from ariel_jax.models.vit import ViTConfig

SCALE_SUFFIX = "_scale"  # of the tensor that holds the scales of quantised weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a leaf comes from.

    Attributes:
        key: name of the tensor in the file.
        transposed: stored `[in, out]` (GPT-2's Conv1D).
        part: which of `parts` equal pieces of the out axis it is.
        parts: 3 for GPT-2's fused query, key and value.
        ones: axes of length 1 before the others.
        kernel: (p, C) of a convolution over patches, stored [out, C, p, p]; the leaf's inputs are the
            pixels of a patch row by row, of each pixel its channels.
    """

    key: str
    transposed: bool = False
    part: int = 0
    parts: int = 1
    ones: int = 0
    kernel: tuple[int, int] | None = None

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor in the file, for a leaf of `shape`."""
        if self.kernel is not None:
            p, n_channels = self.kernel
            return (shape[0], n_channels, p, p)
        whole = (*(1,) * self.ones, shape[0] * self.parts, *shape[1:])
        return whole[::-1] if self.transposed else whole

    def pick(self, stored: np.ndarray) -> np.ndarray:
        """The leaf, as a view of the stored tensor (a copy of a kernel)."""
        if self.kernel is not None:
            return stored.transpose(0, 2, 3, 1).reshape(stored.shape[0], -1)
        whole: np.ndarray = stored.T if self.transposed else stored
        if self.ones:
            whole = np.squeeze(whole, tuple(range(self.ones)))
        n = whole.shape[0] // self.parts
        return whole[self.part * n : (self.part + 1) * n]

    def unpick(self, whole: np.ndarray) -> np.ndarray:
        """The stored tensor, of all its leaves along the out axis: the inverse of `pick`."""
        if self.kernel is not None:
            p, n_channels = self.kernel
            return whole.reshape(-1, p, p, n_channels).transpose(0, 3, 1, 2)
        return whole.T if self.transposed else whole.reshape((1,) * self.ones + whole.shape)

    @property
    def is_whole(self) -> bool:
        """Whether the leaf is the stored tensor as it is."""
        return not self.transposed and self.parts == 1 and not self.ones and self.kernel is None


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


def _bert(base: str) -> dict[str, Source]:
    layer = base + ".encoder.layer.{}"
    return {
        "embed": Source(key=f"{base}.embeddings.word_embeddings.weight"),
        "pos_embed": Source(key=f"{base}.embeddings.position_embeddings.weight"),
        "embed_types": Source(key=f"{base}.embeddings.token_type_embeddings.weight"),
        **_table(
            input_norm=_norm(f"{base}.embeddings.LayerNorm"),
            layers__attn__q=_linear(f"{layer}.attention.self.query"),
            layers__attn__k=_linear(f"{layer}.attention.self.key"),
            layers__attn__v=_linear(f"{layer}.attention.self.value"),
            layers__attn__o=_linear(f"{layer}.attention.output.dense"),
            layers__attn_norm=_norm(f"{layer}.attention.output.LayerNorm"),
            layers__mlp__up=_linear(f"{layer}.intermediate.dense"),
            layers__mlp__down=_linear(f"{layer}.output.dense"),
            layers__mlp_norm=_norm(f"{layer}.output.LayerNorm"),
            pooler=_linear(f"{base}.pooler.dense"),
            classifier=_linear("classifier"),
        ),
    }


_ROBERTA_CLASSIFIER = _table(
    pooler=_linear("classifier.dense"), classifier=_linear("classifier.out_proj")
)
_V = "vit.encoder.layer.{}"
_VIT = {
    "embed_class": Source(key="vit.embeddings.cls_token", ones=2),
    "pos_embed": Source(key="vit.embeddings.position_embeddings", ones=1),
    **_table(
        patch=_linear("vit.embeddings.patch_embeddings.projection"),
        layers__attn_norm=_norm(f"{_V}.layernorm_before"),
        layers__attn__q=_linear(f"{_V}.attention.attention.query"),
        layers__attn__k=_linear(f"{_V}.attention.attention.key"),
        layers__attn__v=_linear(f"{_V}.attention.attention.value"),
        layers__attn__o=_linear(f"{_V}.attention.output.dense"),
        layers__mlp_norm=_norm(f"{_V}.layernorm_after"),
        layers__mlp__up=_linear(f"{_V}.intermediate.dense"),
        layers__mlp__down=_linear(f"{_V}.output.dense"),
        final_norm=_norm("vit.layernorm"),
        classifier=_linear("classifier"),
    ),
}
TABLES: dict[str, dict[str, Source]] = {
    "gpt2": _GPT2,
    "opt": _OPT,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA2,
    "bert": _bert("bert"),
    "roberta": _bert("roberta"),
    "vit": _VIT,
}
# What transformers puts before the names of the base model when it is part of a larger one.
_PREFIX = dict.fromkeys(TABLES, "model.") | {
    "gpt2": "transformer.",
    "bert": "bert.",
    "roberta": "roberta.",
    "vit": "vit.",
}
# Buffers that old versions stored: causal masks, rotary tables and counts of positions, all recomputed
# from the config.
_DERIVED = {
    "gpt2": re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"),
    "opt": re.compile(r"(?!)"),
    "bert": re.compile(r"(bert\.)?embeddings\.position_ids"),
    # The pooler that RoBERTa's classifier does without is in files of old versions nevertheless.
    "roberta": re.compile(r"(roberta\.)?embeddings\.position_ids|roberta\.pooler\.dense\.\w+"),
    "vit": re.compile(r"(?!)"),
} | dict.fromkeys(
    ("llama", "mistral", "qwen2", "qwen3", "gemma2"),
    re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
)

# Heads of another task, which an encoder without a classifier leaves behind.
_LEFT_BEHIND = {
    "bert": re.compile(r"cls\..*"),
    "roberta": re.compile(r"lm_head\..*"),
    "vit": re.compile(r"(vit\.)?pooler\.dense\.\w+"),
}


def _table_of(cfg: AnyConfig) -> dict[str, Source]:
    table = TABLES[cfg.family]
    if isinstance(cfg, ViTConfig):
        kernel = (cfg.patch_size, cfg.n_channels)
        return table | {"patch.w": dataclasses.replace(table["patch.w"], kernel=kernel)}
    if isinstance(cfg, EncoderConfig) and cfg.family == "roberta" and cfg.n_classes is not None:
        return table | _ROBERTA_CLASSIFIER
    return table


def _is_ignored(cfg: AnyConfig, key: str) -> bool:
    """Whether a tensor that no leaf is made of changes nothing that the model computes."""
    is_encoder = not isinstance(cfg, DecoderConfig) and cfg.n_classes is None
    left = is_encoder and _LEFT_BEHIND[cfg.family].fullmatch(key)
    return bool(left or _DERIVED[cfg.family].fullmatch(key))


def source(table: Mapping[str, Source], path: str) -> Source:
    """Where the leaf at `path` lies in the files that a table describes."""
    layer = re.match(r"layers\.(\d+)\.(.*)", path)
    if layer is None:
        return table[path]
    found = table[f"layers.{layer[2]}"]
    return dataclasses.replace(found, key=found.key.format(layer[1]))


def _leaves(
    cfg: AnyConfig, how: Quantization | None
) -> Iterator[tuple[str, Source, tuple[int, ...]]]:
    """Every leaf of a model: its path, where it lies, and the shape of the tensor there."""
    table = _table_of(cfg)
    for path, shape in abstract(cfg).items():
        found = source(table, path)
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


def has_pooler(family: str, stored: Collection[str]) -> bool:
    """Whether a file of an encoder without a classifier holds the pooler, which config.json does not say."""
    key = TABLES[family]["pooler.w"].key
    return key in stored or key.removeprefix(_PREFIX[family]) in stored


def _current(stored: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The names in a file by their names of today: the first BERTs have other words in their norms."""
    words = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    pattern = re.compile(r"LayerNorm\.(gamma|beta)$")
    return {pattern.sub(lambda found: words[found[0]], name): name for name in stored}


def resolve(
    cfg: AnyConfig,
    stored: Mapping[str, tuple[int, ...]],
    where: str,
    how: Quantization | None = None,
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Matches the tensors of a checkpoint with the weights of a model.

    Args:
        cfg: the model.
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
    names = _current(stored) if cfg.family == "bert" else {}
    for path, found, expected in _leaves(cfg, how):
        if bare:
            found = dataclasses.replace(found, key=found.key.removeprefix(prefix))
        found = dataclasses.replace(found, key=names.get(found.key, found.key))
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
    is_tied = isinstance(cfg, DecoderConfig) and cfg.tie_embed and "lm_head.weight" in left
    tied = ("lm_head.weight",) if is_tied else ()
    unknown = sorted(k for k in left - set(tied) if not _is_ignored(cfg, k))
    if unknown:
        raise CheckpointError(
            f"{where} has tensors that a {cfg.family} model of this config does not use: "
            f"{_some(unknown)}. Config and weights are of different models, or the checkpoint has "
            "parts (another head, an adapter) that are not supported. Use the plain model."
        )
    return sources, tied


def _some(names: Collection[str]) -> str:
    listed = sorted(names)
    return f"{listed[:6]}" + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def stored_shapes(cfg: AnyConfig, how: Quantization | None = None) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a file of this model, quantised or not."""
    return {found.key: shape for _, found, shape in _leaves(cfg, how)}


def to_stored(
    cfg: AnyConfig, leaves: Mapping[str, Any], how: Quantization | None = None
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
    return group[0][1].unpick(whole)
