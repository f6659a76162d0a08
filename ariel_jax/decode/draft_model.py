"""Drafts from a second, smaller model with a cache of its own."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import positive_int
from ariel_jax.decode import programs
from ariel_jax.decode.speculative import Draft, draw_own, processed_logits
from ariel_jax.decode.state import DecodeState
from ariel_jax.decode.strategy import sample
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
        k: drafts per step.

    Cost:
        k + 1 steps of the other model per step (the last one only fills its cache), and its cache.
    """

    cfg: DecoderConfig
    k: int = 4
    has_state: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(k=self.k)

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
        # Rows of drafts that held are those that the text itself would have written; rows behind
        # the known text are written again.
        cache = state.aux.replace(length=length)
        lead = jnp.arange(state.batch, dtype=jnp.int32)
        token, drafted = state.pending(), state
        drafts, laws = [], []
        for i in range(self.k + 1):
            row = (length + i)[:, None]
            attend, carry = cache.attend(self.cfg.attention, row, active)
            position = jnp.minimum(row, self.cfg.max_positions - 1)
            logits, carry = decoder.apply(self.cfg, extra, token[:, None], position, attend, carry)
            cache = cache.commit(carry, jnp.ones_like(length))
            if i == self.k:
                break
            if is_coupled:
                token = sample(drafted, logits[:, 0], length + i + 1)
            else:
                law = jax.nn.log_softmax(
                    processed_logits(drafted, logits[:, 0], length + i + 1), axis=-1
                )
                token = draw_own(drafted, law, length + i + 1)
                laws.append(law)
            drafts.append(token)
            tokens = drafted.tokens.at[lead, length + i + 1].set(token, mode="drop")
            drafted = drafted.replace(tokens=tokens)
        made = jnp.stack(drafts, axis=1)
        logq = None if is_coupled else jnp.stack(laws, axis=1)
        return Draft(tokens=made, valid=jnp.ones(made.shape, bool), logq=logq), cache

    def grow(self, aux: KVCache, capacity: int) -> Any:
        """The cache with room for `capacity` rows, moved leaf by leaf."""
        return programs.grow(aux, capacity)

    def reset_rows(self, aux: KVCache, rows: jax.Array) -> KVCache:
        """The cache with some rows emptied."""
        return aux.reset_rows(rows)
