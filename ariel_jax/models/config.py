"""Static descriptions of a decoder: what it computes (config) and how precisely (precision)."""

import contextlib
import dataclasses
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from ariel_jax._checks import one_of, positive_int
from ariel_jax.errors import ConfigError
from ariel_jax.layers.attention import AttentionOptions
from ariel_jax.layers.rope import RopeConfig

Family = Literal["gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2"]
FAMILIES: tuple[str, ...] = ("gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2")


class BlockConfig(Protocol):
    """What a transformer block asks of a configuration: decoders and encoders run the same blocks.

    The attributes are those of `DecoderConfig`.
    """

    @property
    def n_heads(self) -> int:
        """Heads of queries."""
        ...

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values."""
        ...

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        ...

    @property
    def norm(self) -> Literal["rms", "rms_plus_one", "layer"]:
        """Which normalisation."""
        ...

    @property
    def norm_eps(self) -> float:
        """Added under its square root."""
        ...

    @property
    def norm_place(self) -> Literal["pre", "post", "sandwich"]:
        """Where it stands."""
        ...

    @property
    def rope(self) -> RopeConfig | None:
        """Rotary settings, or None."""
        ...

    @property
    def act(self) -> Literal["silu", "gelu_tanh", "gelu", "relu"]:
        """Activation of the feed-forward."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that decides what a decoder-only transformer computes. Hashable, static under jit.

    Build it with `DecoderConfig.create`, which checks it; a family is a row of these fields.

    Attributes:
        family: which checkpoint format it belongs to; the layers never look at it.
        n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size, max_positions: sizes.
        norm: `rms`, `rms_plus_one` (weight stored as scale - 1) or `layer`.
        norm_eps: added under the square root.
        norm_place: `pre`, `post` (after the residual sum) or `sandwich` (before and after).
        final_norm: a norm before the logits (never with `norm_place == "post"`).
        pos: `rope`, `learned` or `none`.
        pos_offset: rows skipped at the start of the learned position table (OPT: 2).
        rope: rotary settings, None unless `pos == "rope"`.
        act: `silu`, `gelu_tanh`, `gelu` or `relu`.
        gated: mlp is `down(act(gate(x)) * up(x))`, else `down(act(up(x)))`.
        qkv_bias, out_bias, mlp_bias: which linears have one.
        qk_norm: queries and keys are normalised per head before the rotation.
        query_scale: scores are multiplied by this; None means `head_dim ** -0.5`.
        attn_softcap, final_softcap: tanh caps on scores and logits.
        window: positions a `local` layer sees.
        layer_kinds: one of `global`, `local` per layer; empty means all global.
        embed_scale: the embedding is multiplied by this.
        embed_dim: width of the embedding table where it differs from d_model (OPT-350m).
        tie_embed: logits use the embedding table.
    """

    family: Family
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    max_positions: int
    norm: Literal["rms", "rms_plus_one", "layer"] = "rms"
    norm_eps: float = 1e-5
    norm_place: Literal["pre", "post", "sandwich"] = "pre"
    final_norm: bool = True
    pos: Literal["rope", "learned", "none"] = "rope"
    pos_offset: int = 0
    rope: RopeConfig | None = None
    act: Literal["silu", "gelu_tanh", "gelu", "relu"] = "silu"
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    query_scale: float | None = None
    attn_softcap: float | None = None
    final_softcap: float | None = None
    window: int | None = None
    layer_kinds: tuple[str, ...] = ()
    embed_scale: float | None = None
    embed_dim: int | None = None
    tie_embed: bool = True

    @classmethod
    def create(cls, **fields: Any) -> "DecoderConfig":
        """A checked config from keyword fields.

        Raises:
            ConfigError: an unknown field, or sizes that cannot be a decoder.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ConfigError(
                f"DecoderConfig got unknown field(s) {unknown}; allowed: {sorted(known)}. Remove them."
            )
        cfg = cls(**fields)
        cfg.check()
        return cfg

    def check(self) -> None:
        """Raise ConfigError unless the sizes and choices fit together."""
        one_of(FAMILIES, family=self.family)
        positive_int(
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            d_ff=self.d_ff,
            vocab_size=self.vocab_size,
            max_positions=self.max_positions,
        )
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}; "
                "each kv head must serve the same number of query heads."
            )
        if self.layer_kinds and len(self.layer_kinds) != self.n_layers:
            raise ConfigError(
                f"layer_kinds has {len(self.layer_kinds)} entries for {self.n_layers} layers; "
                "give one of 'global', 'local' per layer, or none."
            )
        for kind in self.layer_kinds:
            one_of(("global", "local"), layer_kind=kind)
        if "local" in self.layer_kinds and not self.window:
            raise ConfigError(
                "layer_kinds names local layers but window is not set; give a window."
            )
        if self.norm_place == "post" and self.final_norm:
            raise ConfigError(
                "norm_place='post' already normalises what the last layer gives; set final_norm=False."
            )
        if self.pos == "rope" and (self.rope is None or self.head_dim % 2):
            raise ConfigError(
                f"pos='rope' needs a RopeConfig and an even head_dim; got rope={self.rope}, "
                f"head_dim={self.head_dim}."
            )

    def replace(self, **fields: Any) -> "DecoderConfig":
        """A checked copy with some fields changed.

        Raises:
            ConfigError: an unknown field, or sizes that cannot be a decoder.
        """
        now = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self.create(**(now | fields))

    def attention(self, layer: int) -> AttentionOptions:
        """The score options of one layer: scale, cap and window."""
        local = bool(self.layer_kinds) and self.layer_kinds[layer] == "local"
        return AttentionOptions(
            scale=self.query_scale if self.query_scale is not None else self.head_dim**-0.5,
            softcap=self.attn_softcap,
            window=self.window if local else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """Which dtypes a model computes in. Changes speed and rounding, never meaning.

    It is a static field of `DecoderParams`, so it travels with the weights through every program.
    Norms, softmax and losses run in at least float32 whatever is set here.

    Attributes:
        param: dtype of the weights.
        compute: dtype of activations between operations.
        cache: dtype of stored keys and values.
        logits: dtype of the logits.
        matmul: `jax.default_matmul_precision` inside the model's programs; None leaves the user's.
    """

    param: str = "float32"
    compute: str = "float32"
    cache: str = "float32"
    logits: str = "float32"
    matmul: str | None = None

    @classmethod
    def f32(cls) -> "Precision":
        """Everything in float32: the default, and the fast choice on a CPU."""
        return cls()

    @classmethod
    def bf16(cls) -> "Precision":
        """Weights, activations and cache in bfloat16, logits in float32: for GPU and TPU."""
        return cls(param="bfloat16", compute="bfloat16", cache="bfloat16")

    @classmethod
    def f64(cls) -> "Precision":
        """Everything in float64, for tests; needs `jax_enable_x64`."""
        return cls(param="float64", compute="float64", cache="float64", logits="float64")

    def dtype(self, which: Literal["param", "compute", "cache", "logits"]) -> jnp.dtype:
        """The named dtype as a jax dtype."""
        return jnp.dtype(getattr(self, which))

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Context that applies the matmul precision while a program is traced."""
        return (
            jax.default_matmul_precision(self.matmul) if self.matmul else contextlib.nullcontext()
        )
