"""Shadow tokens: what each exit would have drafted at positions that are verified by now.

All logits of all exits are never there at once. Where only the likeliest token counts, the vocabulary
is gone through in pieces; where sampling settings matter, one exit at a time.
"""

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32
from ariel_jax.decode import verifying
from ariel_jax.decode.sampling import SamplerKind, perturbed
from ariel_jax.decode.state import DecodeState
from ariel_jax.decode.strategy import sampling_context
from ariel_jax.decode.tree import Tree
from ariel_jax.decode.verifying import Draft
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

PIECES = 8  # of the vocabulary


def likeliest(
    cfg: DecoderConfig, params: DecoderParams, hidden: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(tokens int32, their probability f32), each [...], that the head reads from hidden [..., D].

    Memory: at most an eighth of the logits.
    """
    piece = -(-cfg.vocab_size // PIECES)
    token, logit, total = decoder.top1(cfg, params, hidden, piece=piece)
    return token, jnp.exp(logit - total).astype(jnp.float32)


def is_plain(kind: SamplerKind) -> bool:
    """Whether the likeliest token is the one that every request draws."""
    return not (kind.draws or kind.penalises or kind.has_min_new)


def matches(
    cfg: DecoderConfig,
    params: DecoderParams,
    state: DecodeState,
    length: jax.Array,
    draft: Draft,
    hidden: jax.Array,
    out: jax.Array,
    logits: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """How each exit would have done at the rows of a round.

    Args:
        cfg: the decoder.
        params: its weights.
        state: whose settings and keys apply.
        length: [B] int32 position of the first row.
        draft: inputs of the rows behind the first one.
        hidden: [K, B, W, D] residual stream at the exits.
        out: [B, W] int32 verified tokens.
        logits: [B, W, V] of the whole model, where drafts are drawn with noise of their own: they
            hold with a chance, the overlap of the two laws. None where an exit drafts with the noise
            of the verification.

    Returns:
        (match, sureness), each [B, K, W] f32.
    """
    if is_plain(state.sampling.kind):
        token, sureness = likeliest(cfg, params, hidden)
        match = (token == out[None]).astype(jnp.float32)
        return jnp.swapaxes(match, 0, 1), jnp.swapaxes(sureness, 0, 1)
    (B, W), V = out.shape, cfg.vocab_size
    nodes, position = verifying.by_node(state, draft, Tree.chain(W - 1), length)

    def processed_law(values: jax.Array) -> jax.Array:
        return jax.nn.softmax(verifying.processed_logits(nodes, values, position), axis=-1)

    target = None if logits is None else processed_law(logits.reshape(B * W, V))

    def of_exit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = decoder.unembed(cfg, params, x).reshape(B * W, V)
        if target is None:
            token = jnp.argmax(perturbed(values, sampling_context(nodes, position, V)), axis=-1)
            match = (token.astype(jnp.int32) == out.reshape(-1)).astype(jnp.float32)
        else:
            match = jnp.sum(jnp.minimum(target, processed_law(values)), axis=-1)
        return match.astype(jnp.float32).reshape(B, W), surest(values).reshape(B, W)

    match, sureness = jax.lax.map(of_exit, hidden)
    return jnp.swapaxes(match, 0, 1), jnp.swapaxes(sureness, 0, 1)


def surest(logits: jax.Array) -> jax.Array:
    """[...] f32 largest probability of logits [..., V] at temperature 1, before any transform."""
    wide = logits.astype(at_least_f32(logits.dtype))
    top = jnp.max(wide, axis=-1)
    total = jnp.sum(jnp.exp(wide - top[..., None]), axis=-1)
    return (1 / total).astype(jnp.float32)
