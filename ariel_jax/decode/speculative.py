"""Speculative decoding: drafts ride in spare cache rows and are verified exactly in one pass.

A step feeds the pending token and k drafts, so it fills k + 1 cache rows; rows of drafts that do
not hold are forgotten by a smaller length. What holds is decided by a verifier, and none of them
changes the law of the text.

References:
    Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv
    2211.17192: the rejection rule. Daliri et al. 2024, "Coupling without Communication and
    Drafter-Invariant Speculative Decoding", arXiv 2408.07978: the coupled rule.
"""

import dataclasses
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._checks import one_of, positive_int
from ariel_jax.decode.sampling import processed
from ariel_jax.decode.state import DecodeState, StepInfo
from ariel_jax.decode.strategy import Autoregressive, WithoutChoice, emit, sample, sampling_context
from ariel_jax.errors import ConfigError
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

_ACCEPT, _RESIDUAL, _DRAFT = (
    1,
    2,
    3,
)  # folded into a position's key: independent of its Gumbel noise


class Draft(struct.PyTreeNode):
    """Guesses of the tokens after the pending one."""

    tokens: jax.Array  # [B, k] int32
    valid: jax.Array  # [B, k] bool; a slot behind an invalid one is never accepted
    logq: jax.Array | None = None  # [B, k, V] log-probabilities they were drawn from; None: certain


class Proposer(Protocol):
    """Where drafts come from; a frozen dataclass. Its arrays are in `state.aux`."""

    @property
    def k(self) -> int:
        """Drafts per step."""
        ...

    @property
    def has_state(self) -> bool:
        """Whether it keeps arrays in `state.aux` that every step must feed."""
        ...

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Any:
        """Its own state for an empty batch."""
        ...

    def prefill(self, extra: Any, aux: Any, tokens: jax.Array, lengths: jax.Array) -> Any:
        """Its state after prompts tokens [B, T] of lengths [B] were read."""
        ...

    def propose(self, extra: Any, state: DecodeState, *, is_coupled: bool) -> tuple[Draft, Any]:
        """`(draft, aux)` for the positions after the pending token.

        With `is_coupled`, drafts that are sampled use the noise that verification will use;
        otherwise their own, and `logq` says what they were drawn from.
        """
        ...

    def grow(self, aux: Any, capacity: int) -> Any:
        """`aux` with room for `capacity` rows (host)."""
        ...

    def reset_rows(self, aux: Any, rows: jax.Array) -> Any:
        """`aux` with the batch rows where rows [B] bool is set emptied."""
        ...


@dataclasses.dataclass(frozen=True)
class NGram:
    """Drafts what followed the last occurrence of the current n-gram in the request's own text.

    Prompt lookup (Saxena 2023; also in transformers as `prompt_lookup_num_tokens`), on the device:
    the longest of the suffixes of `shortest` to `longest` tokens that occurs earlier wins, the
    latest occurrence of it; a text that repeats with a period shorter than k is continued
    periodically.

    Attributes:
        k: drafts per step.
        longest: longest suffix looked for.
        shortest: shortest suffix that counts.

    Cost:
        Nmax x longest comparisons per row and step.
    """

    k: int = 4
    longest: int = 3
    shortest: int = 2
    has_state: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(k=self.k, longest=self.longest, shortest=self.shortest)
        if self.shortest > self.longest:
            raise ConfigError(
                f"NGram(shortest={self.shortest}, longest={self.longest}): the shortest suffix may "
                "not exceed the longest."
            )

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Any:
        """No state: the tokens are all it looks at."""
        return None

    def prefill(self, extra: Any, aux: Any, tokens: jax.Array, lengths: jax.Array) -> Any:
        """Nothing to read."""
        return None

    def propose(self, extra: Any, state: DecodeState, *, is_coupled: bool) -> tuple[Draft, Any]:
        """Certain drafts; invalid in rows without a match."""
        tokens, valid = lookup(
            state.tokens, state.n_known(), k=self.k, longest=self.longest, shortest=self.shortest
        )
        return Draft(tokens=tokens, valid=valid), None

    def grow(self, aux: Any, capacity: int) -> Any:
        """Nothing to grow."""
        return None

    def reset_rows(self, aux: Any, rows: jax.Array) -> Any:
        """Nothing to reset."""
        return None


def lookup(
    tokens: jax.Array, n_known: jax.Array, *, k: int, longest: int, shortest: int
) -> tuple[jax.Array, jax.Array]:
    """What followed the latest occurrence of the longest suffix that occurs twice.

    Args:
        tokens: [B, Nmax] int32.
        n_known: [B] int32, tokens that count; what lies behind them is never looked at.
        k: tokens to return.
        longest: longest suffix looked for.
        shortest: shortest one that counts.

    Returns:
        (drafts [B, k] int32, valid [B, k] bool).
    """
    B, N = tokens.shape
    index = jnp.arange(N, dtype=jnp.int32)[None, :]
    last = n_known[:, None] - 1
    run = jnp.ones((B, N), bool)
    length = jnp.zeros((B, N), jnp.int32)  # of the suffix that also ends at each index
    for i in range(longest):
        wanted = jnp.take_along_axis(tokens, jnp.maximum(last - i, 0), axis=1)
        here = jnp.roll(tokens, i, axis=1)
        run = run & (here == wanted) & (index >= i) & (last >= i)
        length = length + run.astype(jnp.int32)
    length = jnp.where((index < last) & (length >= shortest), length, 0)
    score = length * N + index
    end = jnp.argmax(jnp.where(length > 0, score, -1), axis=1).astype(jnp.int32)[:, None]
    found = (length > 0).any(axis=1, keepdims=True)
    period = jnp.maximum(last - end, 1)
    slot = jnp.arange(k, dtype=jnp.int32)[None, :]
    at = jnp.minimum(end + 1 + slot % period, N - 1)
    drafts = jnp.take_along_axis(tokens, at, axis=1)
    return drafts, jnp.broadcast_to(found, drafts.shape)


@dataclasses.dataclass(frozen=True)
class Speculative(WithoutChoice):
    """Drafts k tokens, verifies them in one pass, keeps those that hold and one more.

    Attributes:
        proposer: where drafts come from.
        verifier: `coupled` keeps a draft if it is the token that plain decoding would draw there,
            with the noise of that request and position; at temperature 0 that is the likeliest
            token. `rejection` keeps it with the probability that leaves the law of the text
            unchanged (Leviathan et al., algorithm 1), which accepts more of sampled drafts.

    Guarantees:
        `coupled`: the tokens of plain decoding, one by one, whatever the proposer. `rejection`: the
        law of plain decoding.
    """

    proposer: Any
    verifier: Literal["coupled", "rejection"] = "coupled"

    def __post_init__(self) -> None:
        """Check the settings."""
        one_of(("coupled", "rejection"), verifier=self.verifier)

    @property
    def rows(self) -> int:
        """The pending token's row and one per draft."""
        return self.proposer.k + 1

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Any:
        """The proposer's state."""
        return self.proposer.init(cfg, params, extra, state)

    def prefill(
        self,
        cfg: DecoderConfig,
        params: DecoderParams,
        extra: Any,
        state: DecodeState,
        tokens: jax.Array,
        lengths: jax.Array,
    ) -> DecodeState:
        """Plain decoding's prefill, and the proposer's."""
        state = Autoregressive().prefill(cfg, params, extra, state, tokens, lengths)
        return state.replace(aux=self.proposer.prefill(extra, state.aux, tokens, lengths))

    def step(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> tuple[DecodeState, StepInfo]:
        """Draft, verify, keep."""
        active = ~state.done
        length = state.cache.length
        is_coupled = self.verifier == "coupled"
        draft, aux = self.proposer.propose(extra, state, is_coupled=is_coupled)
        inputs = jnp.concatenate([state.pending()[:, None], draft.tokens], axis=1)
        slot = jnp.arange(self.rows, dtype=jnp.int32)[None, :]
        rows = length[:, None] + slot
        # A draft beyond the last position is never kept, but its row must stay finite.
        positions = jnp.minimum(rows, cfg.max_positions - 1)
        attend, carry = state.cache.attend(cfg.attention, rows, active)
        logits, carry = decoder.apply(cfg, params, inputs, positions, attend, carry)
        # Row i is judged with the history it would have had: all drafts before it.
        lead = jnp.arange(state.batch, dtype=jnp.int32)[:, None]
        tokens = state.tokens.at[lead, rows[:, 1:]].set(draft.tokens, mode="drop")
        drafted = state.replace(tokens=tokens)
        if is_coupled:
            out, n_held = _coupled(drafted, logits, draft, length)
        else:
            out, n_held = _rejection(drafted, logits, draft, length)
        written = state.cache.commit(carry, jnp.zeros_like(length))
        state, emitted = emit(state, written, out, n_held + 1, logits)
        proposed = jnp.where(active, jnp.sum(draft.valid, axis=1, dtype=jnp.int32), 0)
        accepted = jnp.where(active, jnp.minimum(n_held, emitted), 0)
        stats = state.stats.replace(
            steps=state.stats.steps + active.astype(jnp.int32),
            proposed=state.stats.proposed + proposed,
            accepted=state.stats.accepted + accepted,
        )
        state = state.replace(cache=state.cache.commit(carry, emitted), stats=stats, aux=aux)
        info = StepInfo(
            emitted=emitted, proposed=proposed, accepted=accepted, flags=state.stats.flags
        )
        return state, info

    def grow(self, aux: Any, capacity: int) -> Any:
        """The proposer's growth."""
        return self.proposer.grow(aux, capacity)

    def reset_rows(self, aux: Any, rows: jax.Array) -> Any:
        """The proposer's reset."""
        return self.proposer.reset_rows(aux, rows)


def _leading(held: jax.Array) -> jax.Array:
    """[B] int32: how many of the first entries of held [B, k] are set without a gap."""
    return jnp.sum(jnp.cumprod(held, axis=1, dtype=jnp.int32), axis=1, dtype=jnp.int32)


def _coupled(
    state: DecodeState, logits: jax.Array, draft: Draft, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(tokens [B, S], drafts held [B]): what plain decoding draws at each position."""
    S = logits.shape[1]
    drawn = [sample(state, logits[:, i], length + 1 + i) for i in range(S)]
    out = jnp.stack(drawn, axis=1)
    return out, _leading((out[:, :-1] == draft.tokens) & draft.valid)


def _rejection(
    state: DecodeState, logits: jax.Array, draft: Draft, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(tokens [B, S], drafts held [B]) by accept-with-p/q and a draw from the residual."""
    B, S, V = logits.shape
    p = jnp.stack(
        [
            jax.nn.softmax(processed_logits(state, logits[:, i], length + 1 + i), axis=-1)
            for i in range(S)
        ],
        axis=1,
    )
    if draft.logq is None:
        q = jax.nn.one_hot(draft.tokens, V, dtype=p.dtype)
    else:
        q = jnp.exp(draft.logq.astype(p.dtype))
    of_draft = lambda x: jnp.take_along_axis(x, draft.tokens[..., None], axis=-1)[..., 0]
    u = jnp.stack([_uniform(state, length + 1 + i, p.dtype) for i in range(S - 1)], axis=1)
    # Multiplied instead of divided: no 0 / 0, and a draft of probability 0 never holds.
    n_held = _leading((u * of_draft(q) < of_draft(p[:, :-1])) & draft.valid)
    at = n_held[:, None, None]
    # The law after the last held draft; a slot without a draft leaves p as it is.
    last = jnp.take_along_axis(p, at, axis=1)[:, 0]
    used = jnp.concatenate([jnp.where(draft.valid[..., None], q, 0), jnp.zeros_like(p[:, :1])], 1)
    residual = jnp.maximum(last - jnp.take_along_axis(used, at, axis=1)[:, 0], 0)
    mass = jnp.sum(residual, axis=-1, keepdims=True)
    weights = jnp.where(mass > 1e-6, residual, last)  # rounding alone can leave nothing
    corrected = _draw(state, jnp.log(weights), length + 1 + n_held, _RESIDUAL)
    slot = jnp.arange(S, dtype=jnp.int32)[None, :]
    drafts = jnp.concatenate([draft.tokens, jnp.zeros((B, 1), jnp.int32)], axis=1)
    return jnp.where(slot < n_held[:, None], drafts, corrected[:, None]), n_held


def processed_logits(state: DecodeState, logits: jax.Array, position: jax.Array) -> jax.Array:
    """Logits [B, V] after the request's transforms; at temperature 0 all but the best are -inf."""
    values = processed(logits, sampling_context(state, position, logits.shape[-1]))
    is_greedy = (state.sampling.temperature == 0)[:, None]
    best = jnp.argmax(values, axis=-1)[:, None] == jnp.arange(values.shape[-1])[None, :]
    return jnp.where(is_greedy & ~best, -jnp.inf, values)


def _keys(state: DecodeState, position: jax.Array, purpose: int) -> jax.Array:
    fold = jax.vmap(jax.random.fold_in)
    return fold(fold(state.keys, position), jnp.full_like(position, purpose))


def _uniform(state: DecodeState, position: jax.Array, dtype: Any) -> jax.Array:
    """[B] uniform numbers in [0, 1) keyed by request and position."""
    keys = _keys(state, position, _ACCEPT)
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys).astype(dtype)


def draw_own(state: DecodeState, log_weights: jax.Array, position: jax.Array) -> jax.Array:
    """[B] int32 drafts drawn in proportion to exp(log_weights [B, V]), with noise of their own."""
    return _draw(state, log_weights, position, _DRAFT)


def _draw(
    state: DecodeState, log_weights: jax.Array, position: jax.Array, purpose: int
) -> jax.Array:
    V = log_weights.shape[-1]
    keys = _keys(state, position, purpose)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (V,), jnp.float32))(keys)
    return jnp.argmax(log_weights + noise.astype(log_weights.dtype), axis=-1).astype(jnp.int32)
