"""Speculative decoding: drafts ride in spare cache rows and are verified exactly in one pass.

A step feeds the pending token and the drafts, so it fills one cache row for each; rows of drafts that
do not hold are forgotten by a smaller length. What holds is decided by a verifier
(`decode.verifying`), and none of them changes the law of the text.
"""

import dataclasses
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp

from ariel_jax._checks import one_of, positive_int
from ariel_jax.decode import verifying
from ariel_jax.decode.state import DecodeState, StepInfo
from ariel_jax.decode.strategy import (
    Autoregressive,
    WithoutChoice,
    emit,
    only_the_likeliest,
)
from ariel_jax.decode.tree import Tree
from ariel_jax.decode.verifying import Draft
from ariel_jax.errors import ConfigError
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

VERIFIERS = ("coupled", "greedy", "rejection")


class Proposer(Protocol):
    """Where drafts come from; a frozen dataclass. Its arrays are in `state.aux`."""

    @property
    def tree(self) -> Tree:
        """The shape of a step's drafts."""
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
        k: drafts per step and branch.
        longest: longest suffix looked for.
        shortest: shortest suffix that counts.
        branches: occurrences that are followed, each with another first token; more than one makes
            the drafts a tree of that many chains.

    Cost:
        Nmax x (longest + branches) comparisons per row and step.
    """

    k: int = 4
    longest: int = 3
    shortest: int = 2
    branches: int = 1
    has_state: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(k=self.k, longest=self.longest, shortest=self.shortest, branches=self.branches)
        _ = self.tree  # not too large
        if self.shortest > self.longest:
            raise ConfigError(
                f"NGram(shortest={self.shortest}, longest={self.longest}): the shortest suffix may "
                "not exceed the longest."
            )

    @property
    def tree(self) -> Tree:
        """One chain per branch."""
        return Tree.branches(self.branches, self.k)

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
            state.tokens,
            state.n_known(),
            k=self.k,
            longest=self.longest,
            shortest=self.shortest,
            branches=self.branches,
        )
        return Draft(tokens=tokens, valid=valid), None

    def grow(self, aux: Any, capacity: int) -> Any:
        """Nothing to grow."""
        return None

    def reset_rows(self, aux: Any, rows: jax.Array) -> Any:
        """Nothing to reset."""
        return None


def lookup(
    tokens: jax.Array,
    n_known: jax.Array,
    *,
    k: int,
    longest: int,
    shortest: int,
    branches: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """What followed the latest occurrence of the longest suffix that occurs twice.

    Args:
        tokens: [B, Nmax] int32.
        n_known: [B] int32, tokens that count; what lies behind them is never looked at.
        k: tokens to return.
        longest: longest suffix looked for.
        shortest: shortest one that counts.
        branches: occurrences to follow; each next one is the best of those followed by another
            token than the ones before.

    Returns:
        (drafts [B, branches x k] int32, valid, the same in bool), branch by branch.
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
    score = jnp.where(length > 0, length * N + index, -1)
    following = jnp.roll(tokens, -1, axis=1)
    slot = jnp.arange(k, dtype=jnp.int32)[None, :]
    drafts, valid = [], []
    for _ in range(branches):
        end = jnp.argmax(score, axis=1).astype(jnp.int32)[:, None]
        found = (score >= 0).any(axis=1, keepdims=True)
        period = jnp.maximum(last - end, 1)
        at = jnp.minimum(end + 1 + slot % period, N - 1)
        drafts.append(jnp.take_along_axis(tokens, at, axis=1))
        valid.append(jnp.broadcast_to(found, (B, k)))
        score = jnp.where(following == drafts[-1][:, :1], -1, score)
    return jnp.concatenate(drafts, axis=1), jnp.concatenate(valid, axis=1)


@dataclasses.dataclass(frozen=True)
class Speculative(WithoutChoice):
    """Drafts tokens, verifies them in one pass, keeps those that hold and one more.

    Attributes:
        proposer: where drafts come from.
        verifier: `coupled` keeps a draft if it is the token that plain decoding would draw there,
            with the noise of that request and position. `greedy` is the same for requests of
            temperature 0 only, and refuses others. `rejection` keeps it with the probability that
            leaves the law of the text unchanged (Leviathan et al., algorithm 1), which accepts
            more of sampled drafts.

    Guarantees:
        `coupled` and `greedy`: the tokens of plain decoding, one by one, whatever the proposer.
        `rejection`: the law of plain decoding.
    """

    proposer: Any
    verifier: Literal["coupled", "greedy", "rejection"] = "coupled"

    def __post_init__(self) -> None:
        """Check the settings."""
        one_of(VERIFIERS, verifier=self.verifier)

    @property
    def rows(self) -> int:
        """The pending token's row and one per draft."""
        return self.proposer.tree.size

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Any:
        """The proposer's state.

        Raises:
            ConfigError: a request that samples, under the verifier `greedy`.
        """
        verifying.check_requests(self.verifier, state)
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
        tree = self.proposer.tree
        is_coupled = self.verifier != "rejection"
        draft, aux = self.proposer.propose(extra, state, is_coupled=is_coupled)
        inputs = jnp.concatenate([state.pending()[:, None], draft.tokens], axis=1)
        at = length[:, None] + jnp.asarray(tree.depths)[None, :]
        # A draft beyond the last position is never kept, but its row must stay finite.
        positions = jnp.minimum(at, cfg.max_positions - 1)
        parents = None if tree.is_chain else tree.parents
        attend, carry = state.cache.attend(cfg.attention, at, active, parents=parents)
        alone = is_coupled and only_the_likeliest(params, state)  # then nobody else sees logits
        ending = decoder.top1 if alone else decoder.unembed
        said, carry = decoder.apply(cfg, params, inputs, positions, attend, carry, ending=ending)
        if alone:
            token, logit, _ = said
            found, logits = verifying.agreeing(state, token, draft, tree), logit[..., None]
        else:
            verify = verifying.coupled if is_coupled else verifying.rejection
            found, logits = verify(state, said, draft, tree, length), said
        path = None if tree.is_chain else found.path
        if path is not None:
            logits = jnp.take_along_axis(logits, path[:, :, None], axis=1)
        written = state.cache.commit(carry, jnp.zeros_like(length))
        state, emitted = emit(state, written, found.out, found.n_held + 1, logits)
        proposed = jnp.where(active, jnp.sum(draft.valid, axis=1, dtype=jnp.int32), 0)
        accepted = jnp.where(active, jnp.minimum(found.n_held, emitted), 0)
        stats = state.stats.replace(
            steps=state.stats.steps + active.astype(jnp.int32),
            proposed=state.stats.proposed + proposed,
            accepted=state.stats.accepted + accepted,
        )
        state = state.replace(cache=written.commit(carry, emitted, path), stats=stats, aux=aux)
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
