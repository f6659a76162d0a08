"""Encoders of texts: BERT and RoBERTa, from the blocks of the decoder with attention both ways.

All functions are pure and callable un-jitted, and compute what they would of each text alone: batches
may be padded, mapped over and differentiated example by example. There is no dropout.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._checks import known_keys, one_of, positive, positive_int
from ariel_jax._numerics import at_least_f32
from ariel_jax.errors import ConfigError
from ariel_jax.layers.attention import Attend, bidirectional
from ariel_jax.layers.embedding import lookup
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.layers.mlp import ACTIVATIONS
from ariel_jax.layers.norms import Norm, norm
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import BlockConfig, Precision
from ariel_jax.models.decoder import block
from ariel_jax.models.params import BlockParams, drawer, new_block, new_linear, new_norm

ENCODER_FAMILIES: tuple[str, ...] = ("bert", "roberta")
POOLS: tuple[str, ...] = ("mean", "first")


class EncoderBlocks:
    """What the blocks of all encoders have alike, beside the sizes that a config has as fields."""

    d_model: int
    n_heads: int

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.d_model // self.n_heads

    @property
    def n_kv_heads(self) -> int:
        """As many as of queries."""
        return self.n_heads

    @property
    def norm(self) -> Literal["layer"]:
        """Layer norm."""
        return "layer"

    @property
    def rope(self) -> RopeConfig | None:
        """None: positions are learned."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(EncoderBlocks):
    """Everything that decides what an encoder of texts computes. Hashable, static under jit.

    Build it with `EncoderConfig.create`, which checks it.

    Attributes:
        family: which checkpoint format it belongs to; the layers never look at it.
        n_layers, d_model, n_heads, d_ff, vocab_size: sizes.
        max_positions: tokens of the longest text.
        n_types: rows of the token type table.
        positions: `columns` counts the columns of a batch (BERT); `tokens` counts the tokens that
            exist, so that padding on either side changes nothing (RoBERTa).
        pos_offset: rows of the position table before that of a text's first token (RoBERTa: 2). With
            `tokens`, padding has the row before it, and the offset is at least 1.
        norm_eps: added under the square root.
        act: `gelu`, `gelu_tanh`, `relu` or `silu`.
        has_pooler: there is a dense layer with tanh over the first token.
        n_classes: of the classifier behind it; None for an encoder without one.

    References:
        Devlin et al. 2018, arXiv 1810.04805; Liu et al. 2019, arXiv 1907.11692. MiniLM (Wang et al.
        2020, arXiv 2002.10957) is a small BERT.
    """

    family: Literal["bert", "roberta"]
    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    vocab_size: int
    max_positions: int
    n_types: int = 2
    positions: Literal["columns", "tokens"] = "columns"
    pos_offset: int = 0
    norm_eps: float = 1e-12
    act: Literal["silu", "gelu_tanh", "gelu", "relu"] = "gelu"
    has_pooler: bool = True
    n_classes: int | None = None

    @classmethod
    def create(cls, **fields: Any) -> "EncoderConfig":
        """A checked config from keyword fields.

        Raises:
            ConfigError: an unknown field, or sizes that cannot be an encoder.
        """
        known_keys(cls.__name__, {f.name for f in dataclasses.fields(cls)}, fields)
        cfg = cls(**fields)
        cfg.check()
        return cfg

    def check(self) -> None:
        """Raise ConfigError unless the sizes and choices fit together."""
        one_of(ENCODER_FAMILIES, family=self.family)
        one_of(("columns", "tokens"), positions=self.positions)
        check_blocks(self)
        positive_int(
            vocab_size=self.vocab_size, max_positions=self.max_positions, n_types=self.n_types
        )
        lowest = 1 if self.positions == "tokens" else 0
        if type(self.pos_offset) is not int or self.pos_offset < lowest:
            raise ConfigError(
                f"pos_offset={self.pos_offset!r} is not allowed with positions={self.positions!r}: "
                f"pass a whole number of at least {lowest}."
            )
        if self.n_classes is not None and not self.has_pooler:
            raise ConfigError(
                f"n_classes={self.n_classes} with has_pooler=False: the classifier reads the pooler. "
                "Set has_pooler=True."
            )

    def replace(self, **fields: Any) -> "EncoderConfig":
        """A checked copy with some fields changed.

        Raises:
            ConfigError: an unknown field, or sizes that cannot be an encoder.
        """
        now = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self.create(**(now | fields))

    @property
    def norm_place(self) -> Literal["post", "pre"]:
        """After the residual sum."""
        return "post"


def check_blocks(cfg: Any) -> None:
    """Raise ConfigError unless the fields that all encoders share fit together."""
    positive_int(n_layers=cfg.n_layers, d_model=cfg.d_model, n_heads=cfg.n_heads, d_ff=cfg.d_ff)
    if cfg.n_classes is not None:
        positive_int(n_classes=cfg.n_classes)
    positive(norm_eps=cfg.norm_eps)
    one_of(ACTIVATIONS, act=cfg.act)
    if cfg.d_model % cfg.n_heads:
        raise ConfigError(
            f"d_model={cfg.d_model} is not a multiple of n_heads={cfg.n_heads}; pass sizes of which "
            "it is: every head has the same width."
        )


class EncoderParams(struct.PyTreeNode):
    """All weights of an encoder of texts, and the precision they are used in.

    `layers` is a tuple, or one BlockParams whose leaves have a leading layer axis
    (`models.params.stack_layers`), over which the blocks are scanned. Of RoBERTa's classifier
    `pooler` is the dense layer and `classifier` the projection behind it.
    """

    embed: jax.Array  # [V, D]
    pos_embed: jax.Array  # [max_positions + pos_offset, D]
    embed_types: jax.Array  # [n_types, D]
    input_norm: Norm
    layers: Any  # tuple[BlockParams, ...] or a stacked BlockParams
    pooler: Linear | None = None  # w [D, D]
    classifier: Linear | None = None  # w [n_classes, D]
    precision: Precision = struct.field(pytree_node=False, default=Precision())


def encode(
    cfg: EncoderConfig,
    params: EncoderParams,
    ids: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    remat: bool = False,
) -> jax.Array:
    """A vector for every token of every text.

    Args:
        cfg: the encoder.
        params: its weights.
        ids: [B, T] int32.
        mask: [B, T] bool, True where a token exists.
        token_types: [B, T] int32, or None for type 0 everywhere.
        remat: blocks are computed again on the way back instead of kept: less memory for gradients.

    Returns:
        [B, T, D] in the compute dtype; finite and without meaning where no token exists.

    Guarantees:
        Padding behind a text changes its vectors by rounding only.

    Raises:
        ConfigError: texts longer than `max_positions`, or shapes that differ.
    """
    _check_text(cfg, ids, mask, token_types)
    with params.precision.scope():
        dtype = params.precision.dtype("compute")
        types = jnp.zeros_like(ids) if token_types is None else token_types
        x = lookup(params.embed, ids).astype(dtype)
        x = x + lookup(params.embed_types, types).astype(dtype)
        x = x + lookup(params.pos_embed, position_rows(cfg, mask)).astype(dtype)
        x = norm(cfg.norm, cfg.norm_eps, params.input_norm, x)
        attend = bidirectional(cfg.head_dim**-0.5, mask)
        return run_blocks(cfg, params.layers, x, attend, remat=remat)


def _check_text(
    cfg: EncoderConfig, ids: jax.Array, mask: jax.Array, token_types: jax.Array | None
) -> None:
    shapes = [a.shape for a in (ids, mask, token_types) if a is not None]
    if len(ids.shape) != 2 or len(set(shapes)) > 1 or mask.dtype != jnp.bool_:
        raise ConfigError(
            f"ids, mask and token_types are {shapes}, mask {mask.dtype}: they must be [B, T] alike, "
            "the mask bool."
        )
    if ids.shape[1] > cfg.max_positions:
        raise ConfigError(
            f"texts of {ids.shape[1]} tokens: the encoder has {cfg.max_positions} positions. Shorten "
            "them."
        )


def position_rows(cfg: EncoderConfig, mask: jax.Array) -> jax.Array:
    """[B, T] int32: the row of the position table of every column, from mask [B, T] bool."""
    if cfg.positions == "columns":
        columns = jnp.arange(mask.shape[1], dtype=jnp.int32) + cfg.pos_offset
        return jnp.broadcast_to(columns[None], mask.shape)
    here = mask.astype(jnp.int32)
    return jnp.cumsum(here, axis=1) * here + (cfg.pos_offset - 1)


def run_blocks(
    cfg: BlockConfig, layers: Any, x: jax.Array, attend: Attend, *, remat: bool = False
) -> jax.Array:
    """All blocks over x [B, T, D]: one after the other, or scanned where `layers` is stacked."""
    nowhere = jnp.zeros(x.shape[:2], jnp.int32)  # positions are in x already

    def step(x: jax.Array, p: BlockParams) -> jax.Array:
        return block(cfg, p, 0, x, nowhere, attend, None)[0]

    if remat:
        step = jax.checkpoint(step)
    if isinstance(layers, BlockParams):
        return jax.lax.scan(lambda x, p: (step(x, p), None), x, layers)[0]
    for p in layers:
        x = step(x, p)
    return x


def pool(x: jax.Array, mask: jax.Array, kind: Literal["mean", "first"] = "mean") -> jax.Array:
    """One vector for a text.

    Args:
        x: [B, T, D] from `encode`.
        mask: [B, T] bool, True where a token exists.
        kind: `mean` over the tokens that exist (sentence embeddings such as those of MiniLM), or
            that of the `first` column.

    Returns:
        [B, D] in x's dtype, the mean taken in at least float32; zeros for the mean of no token.

    Raises:
        ConfigError: another kind.
    """
    one_of(POOLS, kind=kind)
    if kind == "first":
        return x[:, 0]
    wide = x.astype(at_least_f32(x.dtype))
    total = jnp.sum(jnp.where(mask[:, :, None], wide, 0), axis=1)
    count = jnp.sum(mask, axis=1, dtype=jnp.int32).astype(wide.dtype)
    return (total / jnp.maximum(count, 1)[:, None]).astype(x.dtype)


def pooled(params: EncoderParams, x: jax.Array) -> jax.Array:
    """The pooler's vector of a text, `tanh` of a dense layer over the first token: [B, T, D] -> [B, D].

    Raises:
        ConfigError: the encoder has no pooler.
    """
    if params.pooler is None:
        raise ConfigError(
            "this encoder has no pooler: use pool(x, mask), or a config with has_pooler."
        )
    with params.precision.scope():
        return jnp.tanh(linear(x[:, 0], params.pooler))


def classify(
    cfg: EncoderConfig,
    params: EncoderParams,
    ids: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    remat: bool = False,
) -> jax.Array:
    """Class logits of every text; arguments as for `encode`.

    Returns:
        [B, n_classes] in the logits dtype.

    Raises:
        ConfigError: as `encode`, or an encoder without a classifier.
    """
    if params.classifier is None:
        raise ConfigError(
            "this encoder has no classifier: use a config with n_classes, and `with_classifier` to add "
            "one to loaded weights."
        )
    x = encode(cfg, params, ids, mask, token_types, remat=remat)
    with params.precision.scope():
        dtype = params.precision.dtype("logits")
        return linear(pooled(params, x), params.classifier, out_dtype=dtype)


def with_classifier(
    cfg: EncoderConfig, params: EncoderParams, n_classes: int, *, key: jax.Array
) -> tuple[EncoderConfig, EncoderParams]:
    """The encoder with a new classifier, and a new pooler where it had none: where fine-tuning starts.

    Args:
        cfg: the encoder.
        params: its weights; a pooler is kept.
        n_classes: of the new classifier.
        key: consumed.

    Returns:
        (config, weights): those of the encoder itself are shared with `params`.
    """
    cfg = cfg.replace(n_classes=n_classes, has_pooler=True)
    weight = drawer(key, 2, params.precision)
    D = cfg.d_model
    pooler = params.pooler or new_linear(weight, D, D)
    classifier = new_linear(weight, n_classes, D)
    return cfg, params.replace(pooler=pooler, classifier=classifier)  # pyright: ignore[reportAttributeAccessIssue] flax.struct


def init_encoder(
    cfg: EncoderConfig, *, key: jax.Array, precision: Precision | None = None
) -> EncoderParams:
    """Random weights: normal 0.02, biases zero, norms one, as the authors of BERT draw them.

    Args:
        cfg: the encoder.
        key: consumed.
        precision: dtypes; default float32.

    Returns:
        EncoderParams with `layers` as a tuple.
    """
    precision = precision or Precision()
    D, F = cfg.d_model, cfg.d_ff
    weight = drawer(key, 6 * cfg.n_layers + 5, precision)
    return EncoderParams(
        embed=weight(cfg.vocab_size, D),
        pos_embed=weight(cfg.max_positions + cfg.pos_offset, D),
        embed_types=weight(cfg.n_types, D),
        input_norm=new_norm(D, precision),
        layers=tuple(new_block(weight, D, F, precision) for _ in range(cfg.n_layers)),
        pooler=new_linear(weight, D, D) if cfg.has_pooler else None,
        classifier=None if cfg.n_classes is None else new_linear(weight, cfg.n_classes, D),
        precision=precision,
    )
