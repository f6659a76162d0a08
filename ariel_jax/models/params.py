"""The decoder's weights: plain frozen pytrees, addressed by path, one leaf per stored tensor."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._numerics import at_least_f32
from ariel_jax.errors import ConfigError
from ariel_jax.layers.embedding import Tapped
from ariel_jax.layers.linear import Linear
from ariel_jax.layers.norms import Norm
from ariel_jax.models.config import DecoderConfig, Precision


class AttnParams(struct.PyTreeNode):
    """Projections of one attention layer; heads are folded into the out axis."""

    q: Linear  # w [N*H, D]
    k: Linear  # w [K*H, D]
    v: Linear  # w [K*H, D]
    o: Linear  # w [D, N*H]
    q_norm: Norm | None = None  # scale [H]
    k_norm: Norm | None = None


class MlpParams(struct.PyTreeNode):
    """Feed-forward weights; `gate` only where the config says gated."""

    up: Linear  # w [F, D]
    down: Linear  # w [D, F]
    gate: Linear | None = None  # w [F, D]


class BlockParams(struct.PyTreeNode):
    """One transformer block. Norms that the family does not have are None."""

    attn_norm: Norm
    attn: AttnParams
    mlp_norm: Norm
    mlp: MlpParams
    attn_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None


class DecoderParams(struct.PyTreeNode):
    """All weights of a decoder, and the precision they are used in.

    `layers` is a tuple for decoding; `stack_layers` makes it one BlockParams whose leaves have a
    leading layer axis, for training scans.
    """

    embed: jax.Array  # [V, D] (or [V, embed_dim])
    layers: Any  # tuple[BlockParams, ...] or a stacked BlockParams
    pos_embed: jax.Array | None = None  # [max_positions + pos_offset, D]
    final_norm: Norm | None = None
    unembed: Linear | None = None  # w [V, D], None when tied
    embed_in: Linear | None = None  # w [D, embed_dim]
    embed_out: Linear | None = None  # w [embed_dim, D]
    embed_quant_scale: jax.Array | None = None  # [V, groups] float32, where embed is quantised
    precision: Precision = struct.field(pytree_node=False, default=Precision())


Params = TypeVar("Params", bound=Any)


def head(params: DecoderParams) -> Linear:
    """The output projection: `unembed`, or the token embedding where they are tied."""
    if params.unembed is not None:
        return params.unembed
    if isinstance(params.embed, Tapped):
        raise ConfigError(
            "the token embedding is this model's head too, so its gradient is not that of its lookups "
            "alone: freeze it, or train it in full."
        )
    return Linear(w=params.embed, scale=params.embed_quant_scale)


def stack_layers(params: Params) -> Params:
    """The same weights, of a decoder or an encoder, with `layers` as one BlockParams of `[L, ...]` leaves."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params.layers)
    return params.replace(layers=stacked)


def unstack_layers(params: Params) -> Params:
    """The inverse of `stack_layers`: `layers` as a tuple of L BlockParams."""
    n_layers = jax.tree.leaves(params.layers)[0].shape[0]
    leaves, treedef = jax.tree.flatten(params.layers)
    layers = tuple(treedef.unflatten([leaf[i] for leaf in leaves]) for i in range(n_layers))
    return params.replace(layers=layers)


def init_params(
    cfg: DecoderConfig, *, key: jax.Array, precision: Precision | None = None
) -> DecoderParams:
    """Random weights: normal 0.02, output projections shrunk by sqrt(2 L) as in GPT-2.

    Args:
        cfg: the decoder.
        key: consumed.
        precision: dtypes; default float32.

    Returns:
        DecoderParams with `layers` as a tuple.
    """
    precision = precision or Precision()
    dtype = precision.dtype("param")
    D, F, N, K, H = cfg.d_model, cfg.d_ff, cfg.n_heads, cfg.n_kv_heads, cfg.head_dim
    out_std = 0.02 / (2 * cfg.n_layers) ** 0.5
    keys = iter(jax.random.split(key, 8 * cfg.n_layers + 8))

    def weight(shape: tuple[int, ...], std: float = 0.02) -> jax.Array:
        draw = jax.random.normal(next(keys), shape, at_least_f32(dtype))
        return (draw * std).astype(dtype)

    def linear(n_out: int, n_in: int, bias: bool, std: float = 0.02) -> Linear:
        return Linear(w=weight((n_out, n_in), std), b=jnp.zeros(n_out, dtype) if bias else None)

    def norm(width: int) -> Norm:
        scale = jnp.zeros if cfg.norm == "rms_plus_one" else jnp.ones
        bias = jnp.zeros(width, dtype) if cfg.norm == "layer" else None
        return Norm(scale=scale(width, dtype), bias=bias)

    def block() -> BlockParams:
        sandwich = cfg.norm_place == "sandwich"
        return BlockParams(
            attn_norm=norm(D),
            attn=AttnParams(
                q=linear(N * H, D, cfg.qkv_bias),
                k=linear(K * H, D, cfg.qkv_bias),
                v=linear(K * H, D, cfg.qkv_bias),
                o=linear(D, N * H, cfg.out_bias, out_std),
                q_norm=norm(H) if cfg.qk_norm else None,
                k_norm=norm(H) if cfg.qk_norm else None,
            ),
            attn_post_norm=norm(D) if sandwich else None,
            mlp_norm=norm(D),
            mlp=MlpParams(
                up=linear(F, D, cfg.mlp_bias),
                gate=linear(F, D, cfg.mlp_bias) if cfg.gated else None,
                down=linear(D, F, cfg.mlp_bias, out_std),
            ),
            mlp_post_norm=norm(D) if sandwich else None,
        )

    E = cfg.embed_dim or D
    return DecoderParams(
        embed=weight((cfg.vocab_size, E)),
        pos_embed=weight((cfg.max_positions + cfg.pos_offset, D)) if cfg.pos == "learned" else None,
        layers=tuple(block() for _ in range(cfg.n_layers)),
        final_norm=norm(D) if cfg.final_norm else None,
        unembed=None if cfg.tie_embed else linear(cfg.vocab_size, E, False),
        embed_in=linear(D, E, False) if E != D else None,
        embed_out=linear(E, D, False) if E != D else None,
        precision=precision,
    )


Drawer = Callable[..., jax.Array]


def drawer(key: jax.Array, n: int, precision: Precision) -> Drawer:
    """A function of a shape that draws up to n weights, normal with a standard deviation of 0.02."""
    dtype = precision.dtype("param")
    keys: Iterator[jax.Array] = iter(jax.random.split(key, n))

    def weight(*shape: int) -> jax.Array:
        draw = jax.random.normal(next(keys), shape, at_least_f32(dtype))
        return (draw * 0.02).astype(dtype)

    return weight


def new_linear(weight: Drawer, n_out: int, n_in: int, *, bias: bool = True) -> Linear:
    """A linear layer with weights from `weight` and biases of zero."""
    w = weight(n_out, n_in)
    return Linear(w=w, b=jnp.zeros(n_out, w.dtype) if bias else None)


def new_norm(width: int, precision: Precision) -> Norm:
    """A layer norm that scales by one."""
    dtype = precision.dtype("param")
    return Norm(scale=jnp.ones(width, dtype), bias=jnp.zeros(width, dtype))


def new_block(
    weight: Drawer, D: int, F: int, precision: Precision, *, qkv_bias: bool = True
) -> BlockParams:
    """A block of width D with a feed-forward of width F; draws six weights."""
    q, k, v = (new_linear(weight, D, D, bias=qkv_bias) for _ in range(3))
    return BlockParams(
        attn_norm=new_norm(D, precision),
        attn=AttnParams(q=q, k=k, v=v, o=new_linear(weight, D, D)),
        mlp_norm=new_norm(D, precision),
        mlp=MlpParams(up=new_linear(weight, F, D), down=new_linear(weight, D, F)),
    )


def n_params(params: Any) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
