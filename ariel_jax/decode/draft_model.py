"""Drafts from a second, smaller model with a cache of its own."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import positive_int, whole_number
from ariel_jax.decode import programs
from ariel_jax.decode.sampling import perturbed, processed
from ariel_jax.decode.state import DecodeState
from ariel_jax.decode.strategy import sampling_context
from ariel_jax.decode.tree import Tree
from ariel_jax.decode.verifying import Draft, draw_own, processed_logits
from ariel_jax.errors import ConfigError
from ariel_jax.layers.kv_cache import KVCache, init_cache
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


@dataclasses.dataclass(frozen=True)
class DraftModel:
    """Drafts k tokens with another model of the same vocabulary; its weights are `extra`.

    Attributes:
        cfg: the other model's decoder.
        k: drafts per step, one after the other.
        alternatives: further tokens drafted beside each of them, the next best ones of the other
            model; they make the drafts a tree.

    Cost:
        k steps of the other model per step, the first of them over two rows, and its cache.
    """

    cfg: DecoderConfig
    k: int = 4
    alternatives: int = 0
    has_state: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(k=self.k)
        whole_number(0, self.cfg.vocab_size - 1, alternatives=self.alternatives)
        _ = self.tree  # not too large

    @property
    def tree(self) -> Tree:
        """A chain, with the alternatives of each token beside it."""
        return Tree.comb(1 + self.alternatives, self.k)

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> KVCache:
        """An empty cache of the other model, as long as the first model's.

        Raises:
            ConfigError: no weights, another vocabulary, or too few positions.
        """
        if not isinstance(extra, DecoderParams):
            raise ConfigError(
                f"DraftModel needs the draft model's weights as extra=; got {type(extra).__name__}."
            )
        if self.cfg.vocab_size != cfg.vocab_size:
            raise ConfigError(
                f"the draft model has {self.cfg.vocab_size} tokens and the model {cfg.vocab_size}: "
                "both must share one tokenizer."
            )
        longest = int(np.max(np.asarray(state.limit)))
        if longest > self.cfg.max_positions:
            raise ConfigError(
                f"texts of up to {longest} tokens exceed the draft model's "
                f"{self.cfg.max_positions} positions: ask for fewer tokens or draft with NGram."
            )
        dtype = extra.precision.dtype("cache")
        return init_cache(
            self.cfg.n_layers,
            state.batch,
            self.cfg.n_kv_heads,
            state.cache.capacity,
            self.cfg.head_dim,
            dtype,
        )

    def prefill(self, extra: Any, aux: KVCache, tokens: jax.Array, lengths: jax.Array) -> KVCache:
        """The cache after the other model has read the prompts."""
        B, T = tokens.shape
        rows = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
        attend, carry = aux.attend(self.cfg.attention, rows, lengths > 0, fresh=True)
        # Padding may go beyond this model's positions; it is never seen, but must stay finite.
        positions = jnp.minimum(rows, self.cfg.max_positions - 1)
        with extra.precision.scope():
            x = decoder.embed(self.cfg, extra, tokens, positions)
            _, carry = decoder.trunk(self.cfg, extra, x, positions, attend, carry)
        return aux.commit(carry, lengths)

    def propose(self, extra: Any, state: DecodeState, *, is_coupled: bool) -> tuple[Draft, KVCache]:
        """Drafts drawn one after the other, each seeing those before it."""
        length, active = state.cache.length, ~state.done
        # Rows of drafts that held are those that the text itself would have written, but for the
        # last known one: of the last draft nothing was written, or, where an alternative held,
        # the row of the token that it was alternative to. So that one is read again.
        cache = state.aux.replace(length=jnp.maximum(length - 1, 0))
        lead = jnp.arange(state.batch, dtype=jnp.int32)
        before = jnp.take_along_axis(state.tokens, cache.length[:, None], axis=1)
        inputs, drafted = jnp.concatenate([before, state.pending()[:, None]], axis=1), state
        drafts, laws = [], []
        for i in range(1, self.k + 1):
            at = cache.length[:, None] + jnp.arange(inputs.shape[1], dtype=jnp.int32)[None, :]
            attend, carry = cache.attend(self.cfg.attention, at, active)
            positions = jnp.minimum(at, self.cfg.max_positions - 1)
            last = jnp.full_like(length, inputs.shape[1] - 1)
            logits, carry = decoder.apply(
                self.cfg, extra, inputs, positions, attend, carry, logits_at=last
            )
            cache = cache.commit(carry, last + 1)
            tokens, law = self._choose(drafted, logits, length + i, is_coupled)
            drafts.append(tokens)
            laws.append(law)
            inputs = tokens[:, :1]
            known = drafted.tokens.at[lead, length + i].set(tokens[:, 0], mode="drop")
            drafted = drafted.replace(tokens=known)
        made = jnp.concatenate(drafts, axis=1)
        logq = None if laws[0] is None else jnp.stack(laws, axis=1)
        return Draft(tokens=made, valid=jnp.ones(made.shape, bool), logq=logq), cache

    def _choose(
        self, state: DecodeState, logits: jax.Array, position: jax.Array, is_coupled: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Tokens [B, 1 + alternatives] for one position, and the law that the first is drawn from."""
        if not is_coupled and not self.alternatives:
            law = jax.nn.log_softmax(processed_logits(state, logits, position), axis=-1)
            return draw_own(state, law, position)[:, None], law
        context = sampling_context(state, position, logits.shape[-1])
        values = perturbed(logits, context) if is_coupled else processed(logits, context)
        if not self.alternatives:
            return jnp.argmax(values, axis=-1).astype(jnp.int32)[:, None], None
        _, best = jax.lax.top_k(values, 1 + self.alternatives)
        return best.astype(jnp.int32), None

    def grow(self, aux: KVCache, capacity: int) -> Any:
        """The cache with room for `capacity` rows, moved leaf by leaf."""
        return programs.grow(aux, capacity)

    def reset_rows(self, aux: KVCache, rows: jax.Array) -> KVCache:
        """The cache with some rows emptied."""
        return aux.reset_rows(rows)
