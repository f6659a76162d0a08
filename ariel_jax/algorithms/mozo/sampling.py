"""One token: support and anchor from the zero-shot row, contract, pool, one draw.

`step` is the plain function; `links` are the same four as links of `decode.sampling.chain`, which refuses
anything after the pool but the draw.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._numerics import at_least_f32
from ariel_jax._typing import Array, Bool, Float, Int, Key, UInt, typed
from ariel_jax.algorithms.mozo import bits
from ariel_jax.algorithms.mozo.config import FLOOR, Config
from ariel_jax.algorithms.mozo.contract import contract_rows, is_present
from ariel_jax.algorithms.mozo.parameters import Parameters
from ariel_jax.algorithms.mozo.pool import pool
from ariel_jax.decode.sampling import SamplingContext, SamplingTransform, Stage
from ariel_jax.errors import ModelOutputError

NOTHING_TO_DRAW = 1
"""Flag of a step whose zero-shot row was NaN, or had no token left to draw."""


class StepInfo(struct.PyTreeNode):
    """Of one step.

    Attributes:
        flags: [] uint32; `NOTHING_TO_DRAW` or 0. It follows from public data: the host raises.
        dropped: [] int32 present rows that were not finite and counted as absent. Private: for tests
            and debugging, never to be shown, logged or acted on.
    """

    flags: jax.Array
    dropped: jax.Array


class Support(struct.PyTreeNode):
    """What the zero-shot row says: tokens that can be drawn, and the anchor on them.

    Attributes:
        ids: [k] int32, likeliest first with a top_k, in order without.
        logits0: [k] the zero-shot row's logits.
        logp0: [k] log-probabilities after tau0 and bias; minus infinity where nothing can be drawn.
        logits: [N, k] the other rows' logits, or what the contract made of them.
    """

    ids: jax.Array
    logits0: jax.Array
    logp0: jax.Array
    logits: jax.Array


@typed
def step(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
    config: Config,
    parameters: Parameters,
    bias: Float[Array, " V"] | None = None,
) -> tuple[Int[Array, ""], StepInfo]:
    """Draws one token.

    Args:
        logits: row 0 zero-shot, then one row for each of N slots (R = N + 1).
        mask: which slots hold a demonstration. The others are computed with, to no effect.
        key: used for this token only, and secret: whoever knows it undoes the privacy.
        config: static.
        parameters: traced.
        bias: on the zero-shot row's logits; a function of public data. Minus infinity forbids a token.

    Returns:
        (token id int32, info).
    """
    found = support(logits, config, parameters, bias)
    log_r = contract_rows(found.logp0, found.logits0, found.logits, config, parameters)
    logp = pool(found.logp0, log_r, mask, config, parameters)
    return found.ids[draw(logp, key)], step_info(found, logits, mask)


def step_info(found: Support, logits: jax.Array, mask: jax.Array) -> StepInfo:
    """Of one step over rows [N + 1, V], N of which `mask` [N] tells to hold a demonstration."""
    dropped = mask & ~is_present(found.logits, found.logp0 > -jnp.inf)
    return StepInfo(flags=flags(logits[0], found.logp0), dropped=jnp.sum(dropped, dtype=jnp.int32))


@typed
def law(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    config: Config,
    parameters: Parameters,
    bias: Float[Array, " V"] | None = None,
) -> tuple[Int[Array, " k"], Float[Array, " k"]]:
    """(token ids [k], log-probabilities [k]) that `step` draws from. Private: for audits."""
    found = support(logits, config, parameters, bias)
    log_r = contract_rows(found.logp0, found.logits0, found.logits, config, parameters)
    return found.ids, pool(found.logp0, log_r, mask, config, parameters)


@typed
def support(
    logits: Float[Array, "R V"],
    config: Config,
    parameters: Parameters,
    bias: Float[Array, " V"] | None = None,
) -> Support:
    """Tokens that can be drawn and the anchor, from row 0 alone, and all rows on these tokens.

    Tokens that the anchor gives less than e^`FLOOR` cannot be drawn.
    """
    V = logits.shape[1]
    dtype = at_least_f32(logits.dtype)
    if config.top_k is None or config.top_k >= V:
        ids = jnp.arange(V, dtype=jnp.int32)
        rows = logits.astype(dtype)
    else:
        ids = jax.lax.top_k(logits[0], config.top_k)[1].astype(jnp.int32)
        rows = jnp.take(logits, ids, axis=1).astype(dtype)
    biased = rows[0] / parameters.tau0.astype(dtype)
    if bias is not None:
        biased = biased + jnp.take(bias, ids, axis=0).astype(dtype)
    logp0 = jax.nn.log_softmax(biased)
    # Not lifted to what arithmetic can hold: rows inside their balls may favour such a token so much
    # that a lifted one would be drawn.
    logp0 = jnp.where(logp0 < FLOOR, -jnp.inf, logp0)
    return Support(ids=ids, logits0=rows[0], logp0=logp0, logits=rows[1:])


@typed
def flags(logits0: Float[Array, " V"], logp0: Float[Array, " k"]) -> UInt[Array, ""]:
    """`NOTHING_TO_DRAW` where a row [V] has a NaN, or no token of it can be drawn."""
    bad = jnp.isnan(logits0).any() | jnp.isnan(logp0).any()
    return jnp.where(bad, NOTHING_TO_DRAW, 0).astype(jnp.uint32)


def raise_for(found: int) -> None:
    """Raises for the flags of a step, once they are on the host.

    Raises:
        ModelOutputError: the zero-shot row was NaN, or its bias forbade every token of the support.
    """
    if found & NOTHING_TO_DRAW:
        raise ModelOutputError(
            "the zero-shot row's logits have a NaN, or no token that the bias allows: nothing can be "
            "drawn. Check the model's weights and dtype (bfloat16 or float32 instead of float16), and "
            "pass a bias that leaves tokens of the top-k."
        )


@typed
def draw(logp: Float[Array, " k"], key: Key[Array, ""]) -> Int[Array, ""]:
    """The place of one draw from log-probabilities: arg-max with Gumbel noise of 64 random bits."""
    k = logp.shape[0]
    noisy = logp + (-jnp.log(-bits.words(key, k, _log_uniform))).astype(logp.dtype)  # `gumbel`
    # The first of the largest, as argmax finds it; XLA:CPU reduces values and places together by one at a time.
    place = jnp.arange(k, dtype=jnp.int32)
    return jnp.min(jnp.where(noisy >= jnp.max(noisy), place, k - 1))


@typed
def gumbel(high: UInt[Array, " k"], low: UInt[Array, " k"]) -> Float[Array, " k"]:
    """Standard Gumbel noise in float32 from 64 random bits each: up to 45, as far as tails reach.

    Noise of one 23-bit uniform ends at 16: a token that is e^16 less likely than another one could
    never win, and whether it is so depends on private rows.
    """
    return -jnp.log(-_log_uniform(high, low))


def _log_uniform(high: jax.Array, low: jax.Array) -> jax.Array:
    """log(1 - u) of a uniform u of 64 bits; u and 1 - u are each taken to float32's digits."""
    below, above = _uniform(high, low), _uniform(~high, ~low)
    is_low = high < jnp.uint32(2**31)
    return jnp.where(is_low, jnp.log1p(-jnp.where(is_low, below, 0)), jnp.log(above))


def _uniform(high: jax.Array, low: jax.Array) -> jax.Array:
    return high.astype(jnp.float32) * 2.0**-32 + (low.astype(jnp.float32) * 2.0**-64 + 2.0**-65)


def links(
    config: Config,
    parameters: Parameters,
    mask: jax.Array,
    bias: jax.Array | None = None,
) -> tuple[SamplingTransform, SamplingTransform, SamplingTransform, SamplingTransform]:
    """`step` as (support, contract, pool, draw) for `decode.sampling.chain`, made inside a program.

    Links for all rows alike, such as a repetition penalty, may go before them: they see one row at a
    time. Nothing may come between the pool and the draw. The batch is the N + 1 rows of one request;
    the draw takes the first row's key, folded with its position, and returns one token [1].

    Args:
        config: static.
        parameters: traced.
        mask: [N] bool.
        bias: [V]; see `step`.
    """

    def anchored(values: Any, context: SamplingContext) -> Any:
        return support(values, config, parameters, bias)

    def contracted(values: Any, context: SamplingContext) -> Any:
        log_r = contract_rows(values.logp0, values.logits0, values.logits, config, parameters)
        return values.replace(logits=log_r)

    def pooled(values: Any, context: SamplingContext) -> Any:
        return values.ids, pool(values.logp0, values.logits, mask, config, parameters)

    def drawn(values: Any, context: SamplingContext) -> Any:
        ids, logp = values
        return ids[draw(logp, bits.fold_in(context.keys[0], context.position[0]))][None]

    def link(name: str, stage: Stage, fun: Any) -> SamplingTransform:
        return SamplingTransform(
            name,
            stage,
            lambda batch: (),
            lambda values, state, context: (fun(values, context), state),
            is_fresh_draw=stage is Stage.DRAW,
        )

    return (
        link("mozo support", Stage.PUBLIC, anchored),
        link("mozo contract", Stage.CONTRACT, contracted),
        link("mozo pool", Stage.POOL, pooled),
        link("mozo draw", Stage.DRAW, drawn),
    )
