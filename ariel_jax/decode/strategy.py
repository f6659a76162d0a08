"""What one decoding step does: the `Strategy` protocol, plain decoding, and the shared pieces."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ariel_jax._numerics import at_least_f32
from ariel_jax.decode.sampling import (
    SamplerKind,
    SamplingContext,
    seen_tokens,
    standard_chain,
)
from ariel_jax.decode.state import DecodeState, Flag, Logprobs, StepInfo
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


class Strategy(Protocol):
    """How tokens are found. A frozen dataclass: two equal ones share one compiled program.

    User-tunable numbers and draft weights are `extra` (read-only arrays), never fields.
    """

    @property
    def rows(self) -> int:
        """Cache rows one step may write."""
        ...

    @property
    def max_rows(self) -> int:
        """Cache rows one step may write after any later choice."""
        ...

    @property
    def now(self) -> "Strategy":
        """What a step does now, and what a program is compiled for; usually itself."""
        ...

    @property
    def review_steps(self) -> int | None:
        """After how many steps `choose` wants to be asked; None: whenever a segment ends."""
        ...

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Any:
        """The strategy's own state (`state.aux`) for an empty batch."""
        ...

    def prefill(
        self,
        cfg: DecoderConfig,
        params: DecoderParams,
        extra: Any,
        state: DecodeState,
        tokens: jax.Array,
        lengths: jax.Array,
    ) -> DecodeState:
        """The state after reading prompts tokens [B, T] of lengths [B]: one more token is known."""
        ...

    def step(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> tuple[DecodeState, StepInfo]:
        """One step; rows that are done stay as they are."""
        ...

    def grow(self, aux: Any, capacity: int) -> Any:
        """`aux` with room for `capacity` rows (host, between segments)."""
        ...

    def reset_rows(self, aux: Any, rows: jax.Array) -> Any:
        """`aux` with the batch rows where rows [B] bool is set emptied."""
        ...

    def choose(self, stats: dict[str, Any]) -> "Strategy":
        """The strategy for the next segment, from what the last one did (host).

        `stats` holds, as NumPy arrays, `emitted`, `steps`, `proposed` and `accepted` of the last
        segment, each [B] int32, and as they are now `tokens` [B, Nmax], `length` [B] int32 (known
        tokens less one) and `done` [B] bool.

        What is chosen must take over `state.aux` as it is.
        """
        ...


def sample(
    state: DecodeState, logits: jax.Array, position: jax.Array, *, seen: jax.Array | None = None
) -> jax.Array:
    """The token each row draws at `position`.

    Args:
        state: whose settings and keys apply.
        logits: [B, V] of the preceding position.
        position: [B] int32 position of the token to be drawn.
        seen: [B, V] bool history for the repetition penalty; None takes the known tokens.

    Returns:
        [B] int32.
    """
    context = sampling_context(state, position, logits.shape[-1], seen=seen)
    links = standard_chain(state.sampling.kind)
    token, _ = links.update(logits, links.init(logits.shape[0]), context)
    return token


def sampling_context(
    state: DecodeState, position: jax.Array, n_vocab: int, *, seen: jax.Array | None = None
) -> SamplingContext:
    """What sampling transforms look at for the token at `position` [B]; `seen` as in `sample`."""
    if state.sampling.kind.penalises and seen is None:
        seen = seen_tokens(state.tokens, position, n_vocab)
    return SamplingContext(
        rows=state.sampling,
        keys=state.keys,
        position=position,
        n_new=position - state.prompt_length,
        seen=seen,
    )


def emit(
    state: DecodeState, cache: Any, out: jax.Array, n: jax.Array, logits: jax.Array
) -> tuple[DecodeState, jax.Array]:
    """Append up to n of the tokens `out`, stopping at a row's limit and first end of sequence.

    Args:
        state: before the step; its cache is not read.
        cache: the cache to go on with; its `length` is still the one before the step.
        out: [B, S] int32 tokens for positions length+1...
        n: [B] int32 how many of them are valid, 0..S.
        logits: [B, S, V] that they were drawn from, for log-probabilities and the flag of rows
            in which the first n are NaN or infinite. Without log-probabilities [B, S, 1] will do:
            the largest, which is NaN or infinite where one of them is NaN or plus infinity.

    Returns:
        (state, emitted [B] int32). The caller commits `emitted` rows to the cache.
    """
    B, S = out.shape
    length = cache.length
    lead = jnp.arange(B, dtype=jnp.int32)[:, None]
    slot = jnp.arange(S, dtype=jnp.int32)[None, :]
    read = slot < n[:, None]  # what stands behind a draft that does not hold is nobody's text
    n = jnp.where(state.done, 0, jnp.minimum(n, state.limit - 1 - length))
    is_eos = (out[:, :, None] == state.sampling.eos[:, None, :]).any(-1) & (slot < n[:, None])
    ends = is_eos.any(1)
    n = jnp.where(ends, jnp.argmax(is_eos, axis=1).astype(jnp.int32) + 1, n)
    n_max = state.tokens.shape[1]
    at = jnp.where(slot < n[:, None], length[:, None] + 1 + slot, n_max)
    tokens = state.tokens.at[lead, at].set(out, mode="drop")
    logprobs = state.logprobs
    if logprobs is not None:
        rows = jax.nn.log_softmax(logits.astype(at_least_f32(logits.dtype)), -1)
        rows = rows.astype(jnp.float32)
        chosen = jnp.take_along_axis(rows, out[:, :, None], axis=-1)[:, :, 0]
        top, top_ids = jax.lax.top_k(rows, logprobs.top.shape[-1])
        logprobs = Logprobs(
            token=logprobs.token.at[lead, at].set(chosen, mode="drop"),
            top=logprobs.top.at[lead, at].set(top, mode="drop"),
            top_ids=logprobs.top_ids.at[lead, at].set(top_ids.astype(jnp.int32), mode="drop"),
        )
    done = state.done | ends | (length + n + 1 >= state.limit)
    is_bad = (~jnp.isfinite(logits).all(axis=2) & read).any(axis=1) & ~state.done
    flags = state.stats.flags | jnp.where(is_bad, jnp.uint32(Flag.NOT_FINITE), jnp.uint32(0))
    stats = state.stats.replace(flags=flags)
    return state.replace(cache=cache, tokens=tokens, done=done, logprobs=logprobs, stats=stats), n


def only_the_likeliest(params: DecoderParams, state: DecodeState) -> bool:
    """Whether nobody asks for more than the arg-max of logits that are not rounded."""
    exact = params.precision.dtype("logits") == at_least_f32(params.precision.dtype("compute"))
    return exact and state.sampling.kind == SamplerKind()


def first_token(
    state: DecodeState, logits: jax.Array, lengths: jax.Array, carry: Any
) -> DecodeState:
    """The state after a prefill: each row's first token drawn and pending.

    Args:
        state: fresh, with the prompts already in `tokens`.
        logits: [B, V] of each prompt's last position.
        lengths: [B] int32 prompt lengths.
        carry: of the pass over the prompts.
    """
    out = sample(state, logits, lengths)
    before = state.cache.commit(carry, lengths - 1)
    state, emitted = emit(state, before, out[:, None], jnp.ones_like(lengths), logits[:, None])
    return state.replace(cache=before.commit(carry, emitted))


class WithoutChoice:
    """What a strategy that never changes answers to the questions about choosing."""

    @property
    def max_rows(self: Strategy) -> int:
        """The rows of every step."""
        return self.rows

    @property
    def now(self: Strategy) -> Strategy:
        """Itself."""
        return self

    @property
    def review_steps(self) -> int | None:
        """Never: there is nothing to choose."""
        return None

    def choose(self: Strategy, stats: dict[str, Any]) -> Strategy:
        """Always itself."""
        return self


@dataclasses.dataclass(frozen=True)
class Autoregressive(WithoutChoice):
    """One token a step: plain decoding, the meaning that every lossless strategy must reproduce."""

    @property
    def rows(self) -> int:
        """One cache row a step."""
        return 1

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Any:
        """No state of its own."""
        return None

    def prefill(
        self,
        cfg: DecoderConfig,
        params: DecoderParams,
        extra: Any,
        state: DecodeState,
        tokens: jax.Array,
        lengths: jax.Array,
    ) -> DecodeState:
        """Read the prompts into an empty cache and draw each row's first token.

        Args:
            cfg: the decoder.
            params: its weights.
            extra: unused.
            state: fresh, with the prompts already in `tokens`.
            tokens: [B, T] int32 right-padded prompts.
            lengths: [B] int32 prompt lengths, at least 1.

        Returns:
            The state with cache.length = lengths and one pending token.
        """
        B, T = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
        attend, carry = state.cache.attend(cfg.attention, positions, ~state.done, fresh=True)
        logits, carry = decoder.apply(
            cfg, params, tokens, positions, attend, carry, logits_at=lengths - 1
        )
        return first_token(state, logits, lengths, carry)

    def step(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> tuple[DecodeState, StepInfo]:
        """Feed the pending token, draw the next."""
        active = ~state.done
        position = state.cache.length
        attend, carry = state.cache.attend(cfg.attention, position[:, None], active)
        inputs = (cfg, params, state.pending()[:, None], position[:, None], attend, carry)
        if only_the_likeliest(params, state):
            (likeliest, logit, _), carry = decoder.apply(*inputs, ending=decoder.top1)
            out, logits = likeliest[:, 0], logit[:, :, None]
        else:
            logits, carry = decoder.apply(*inputs)
            out = sample(state, logits[:, 0], position + 1)
        written = state.cache.commit(carry, jnp.zeros_like(position))
        state, emitted = emit(state, written, out[:, None], jnp.ones_like(position), logits)
        state = state.replace(
            cache=state.cache.commit(carry, emitted),
            stats=state.stats.replace(steps=state.stats.steps + active.astype(jnp.int32)),
        )
        none = jnp.zeros_like(emitted)
        flags = state.stats.flags
        return state, StepInfo(emitted=emitted, proposed=none, accepted=none, flags=flags)

    def grow(self, aux: Any, capacity: int) -> Any:
        """Nothing to grow."""
        return aux

    def reset_rows(self, aux: Any, rows: jax.Array) -> Any:
        """Nothing to reset."""
        return aux
