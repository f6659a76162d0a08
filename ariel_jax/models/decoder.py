"""The one decoder: every family is a row of configuration, none is a file of layers.

All functions are pure and callable un-jitted; programs that jit them live in files of that name.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax.errors import ConfigError
from ariel_jax.layers.attention import Attend, Carry
from ariel_jax.layers.embedding import lookup
from ariel_jax.layers.linear import dequantize, linear
from ariel_jax.layers.mlp import activate
from ariel_jax.layers.norms import Norm, norm
from ariel_jax.layers.rope import rotate
from ariel_jax.models.config import BlockConfig, DecoderConfig
from ariel_jax.models.params import BlockParams, DecoderParams, head
from ariel_jax.pallas_kernels.vocab_top1 import vocab_top1


def _norm(cfg: BlockConfig, p: Norm, x: jax.Array) -> jax.Array:
    return norm(cfg.norm, cfg.norm_eps, p, x)


def embed(
    cfg: DecoderConfig, params: DecoderParams, tokens: jax.Array, positions: jax.Array
) -> jax.Array:
    """Token (and learned position) embeddings.

    Args:
        cfg: the decoder.
        params: its weights.
        tokens: [B, T] int32.
        positions: [B, T] int32 absolute positions.

    Returns:
        [B, T, D] in the compute dtype.
    """
    dtype = params.precision.dtype("compute")
    x = lookup(params.embed, tokens)
    if params.embed_quant_scale is None:
        x = x.astype(dtype)
    else:
        x = dequantize(x, jnp.take(params.embed_quant_scale, tokens, axis=0), dtype)
    if params.embed_in is not None:
        x = linear(x, params.embed_in)
    if cfg.embed_scale is not None:
        x = x * jnp.asarray(cfg.embed_scale, dtype)
    if params.pos_embed is not None:
        x = x + lookup(params.pos_embed, positions + cfg.pos_offset).astype(dtype)
    return x


def block_in(
    cfg: BlockConfig, p: BlockParams, x: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The half of a block before attention.

    Args:
        cfg: the decoder, or an encoder.
        p: the block's weights.
        x: [B, T, D] residual stream.
        positions: [B, T] int32.

    Returns:
        (h, q, k, v): the residual h = x [B, T, D], q [B, T, N, H] and k [B, T, K, H] normalised
        and rotated as the family does, v [B, T, K, H].
    """
    B, T, _ = x.shape
    y = x if cfg.norm_place == "post" else _norm(cfg, p.attn_norm, x)
    q = linear(y, p.attn.q).reshape(B, T, cfg.n_heads, cfg.head_dim)
    k = linear(y, p.attn.k).reshape(B, T, cfg.n_kv_heads, cfg.head_dim)
    v = linear(y, p.attn.v).reshape(B, T, cfg.n_kv_heads, cfg.head_dim)
    if p.attn.q_norm is not None and p.attn.k_norm is not None:
        q, k = _norm(cfg, p.attn.q_norm, q), _norm(cfg, p.attn.k_norm, k)
    if cfg.rope is not None:
        q, k = rotate(cfg.rope, q, positions), rotate(cfg.rope, k, positions)
    return x, q, k, v


def mlp(cfg: BlockConfig, p: BlockParams, x: jax.Array) -> jax.Array:
    """The feed-forward of one block, without norms or residual: [B, T, D] -> [B, T, D]."""
    up = linear(x, p.mlp.up)
    if p.mlp.gate is None:
        return linear(activate(cfg.act, up), p.mlp.down)
    return linear(activate(cfg.act, linear(x, p.mlp.gate)) * up, p.mlp.down)


def block_out(cfg: BlockConfig, p: BlockParams, h: jax.Array, mixed: jax.Array) -> jax.Array:
    """The half of a block after attention.

    Args:
        cfg: the decoder, or an encoder.
        p: the block's weights.
        h: [B, T, D] residual from `block_in`.
        mixed: [B, T, N, H] attention output.

    Returns:
        [B, T, D] the block's output.
    """
    B, T = h.shape[:2]
    a = linear(mixed.reshape(B, T, cfg.n_heads * cfg.head_dim), p.attn.o)
    if p.attn_post_norm is not None:
        a = _norm(cfg, p.attn_post_norm, a)
    x = h + a
    if cfg.norm_place == "post":
        x = _norm(cfg, p.attn_norm, x)
        return _norm(cfg, p.mlp_norm, x + mlp(cfg, p, x))
    m = mlp(cfg, p, _norm(cfg, p.mlp_norm, x))
    if p.mlp_post_norm is not None:
        m = _norm(cfg, p.mlp_post_norm, m)
    return x + m


def block(
    cfg: BlockConfig,
    p: BlockParams,
    layer: int,
    x: jax.Array,
    positions: jax.Array,
    attend: Attend,
    carry: Carry,
) -> tuple[jax.Array, Carry]:
    """One block: `block_in`, `attend`, `block_out`. x is [B, T, D], positions [B, T] int32."""
    with jax.named_scope(f"layer_{layer}"):
        h, q, k, v = block_in(cfg, p, x, positions)
        mixed, carry = attend(layer, q, k, v, carry)
        return block_out(cfg, p, h, mixed), carry


def trunk(
    cfg: DecoderConfig,
    params: DecoderParams,
    x: jax.Array,
    positions: jax.Array,
    attend: Attend,
    carry: Carry,
    *,
    first: int = 0,
    last: int | None = None,
    remat: bool = False,
) -> tuple[jax.Array, Carry]:
    """Blocks `first` up to (not including) `last` over x [B, T, D]; None means all of them.

    Stacked layers are scanned, so that a program's length does not grow with their number; all of
    them then run, with the attention of the first. With `remat` a backward pass computes each block
    again from its input instead of keeping what is inside.

    Raises:
        ConfigError: stacked layers of several kinds, or only some of them.
    """

    def run(p: BlockParams, i: int, x: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        return block(cfg, p, i, x, positions, attend, carry)

    run = jax.checkpoint(run, static_argnums=1) if remat else run
    if not isinstance(params.layers, BlockParams):
        for i in range(first, cfg.n_layers if last is None else last):
            x, carry = run(params.layers[i], i, x, carry)
        return x, carry
    kinds = {cfg.attention(i) for i in range(cfg.n_layers)}
    if len(kinds) > 1 or first or last not in (None, cfg.n_layers):
        raise ConfigError(
            f"stacked layers run all together and attend alike; asked for are layers {first} to "
            f"{last or cfg.n_layers} of {cfg.n_layers}, of {len(kinds)} kinds. Use unstack_layers."
        )

    def step(both: tuple[jax.Array, Carry], p: BlockParams) -> tuple[tuple[jax.Array, Carry], None]:
        return run(p, 0, *both), None

    return jax.lax.scan(step, (x, carry), params.layers)[0]


def before_head(cfg: DecoderConfig, params: DecoderParams, x: jax.Array) -> jax.Array:
    """What the output head is multiplied with: residual rows [..., D] after the final norm."""
    if params.final_norm is not None:
        x = _norm(cfg, params.final_norm, x)
    return x if params.embed_out is None else linear(x, params.embed_out)


def unembed(cfg: DecoderConfig, params: DecoderParams, x: jax.Array) -> jax.Array:
    """Logits of residual rows, final norm included: [..., D] -> [..., V] in the logits dtype."""
    x = before_head(cfg, params, x)
    logits = linear(x, head(params), out_dtype=params.precision.dtype("logits"))
    if cfg.final_softcap is not None:
        cap = jnp.asarray(cfg.final_softcap, logits.dtype)
        logits = cap * jnp.tanh(logits / cap)
    return logits


def top1(
    cfg: DecoderConfig, params: DecoderParams, x: jax.Array, *, piece: int | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The likeliest token of residual rows, without keeping logits: [..., D] -> three of [...].

    Args:
        cfg: the decoder.
        params: its weights.
        x: residual rows, before the final norm.
        piece: tokens whose logits may exist at once; None leaves it to the operation.

    Returns:
        (index int32, logit, lse) of `unembed`'s logits before they are rounded to their dtype; the
        logit is NaN where one of the logits is.
    """
    p = head(params)
    x = before_head(cfg, params, x)
    return vocab_top1(x, p.w, p.b, scale=p.scale, softcap=cfg.final_softcap, piece=piece)


def apply(
    cfg: DecoderConfig,
    params: DecoderParams,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    carry: Carry,
    *,
    logits_at: jax.Array | None = None,
    ending: Callable[[DecoderConfig, DecoderParams, jax.Array], Any] = unembed,
) -> tuple[Any, Carry]:
    """The whole model.

    Args:
        cfg: the decoder.
        params: its weights.
        tokens: [B, T] int32.
        positions: [B, T] int32 absolute positions.
        attend: how queries meet keys and values.
        carry: whatever `attend` keeps (None for none).
        logits_at: [B] int32 index into T, or None for all positions.
        ending: what makes the result of the last residual rows: `unembed`, or `top1`.

    Returns:
        (logits, carry): [B, T, V], or [B, V] with `logits_at`; with another `ending` its result.
    """
    with params.precision.scope():
        x = embed(cfg, params, tokens, positions)
        x, carry = trunk(cfg, params, x, positions, attend, carry)
        if logits_at is not None:
            x = jnp.take_along_axis(x, logits_at[:, None, None], axis=1)[:, 0]
        return ending(cfg, params, x), carry
