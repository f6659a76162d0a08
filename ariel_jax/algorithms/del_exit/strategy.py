"""`SelfSpeculative`: decoding in which a model drafts for itself with its first layers."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ariel_jax._checks import one_of
from ariel_jax.algorithms.del_exit import controller, passes, rounds, shadow, tracing
from ariel_jax.algorithms.del_exit.config import Config, Tuning, tuning
from ariel_jax.algorithms.del_exit.rounds import Aux, Job
from ariel_jax.decode import verifying
from ariel_jax.decode.speculative import VERIFIERS
from ariel_jax.decode.state import DecodeState, StepInfo
from ariel_jax.decode.strategy import WithoutChoice, first_token
from ariel_jax.errors import ConfigError
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


@dataclasses.dataclass(frozen=True)
class SelfSpeculative(WithoutChoice):
    """Drafts with the first layers of the model, verifies with the others, exactly.

    Which layer, and how many drafts, is decided round by round by the controller that `config` names;
    its numbers are `extra`, made by `tuning` (None: the defaults).

    Attributes:
        config: exits, most drafts and rules.
        verifier: `coupled`, `greedy` or `rejection`, as for `decode.Speculative`.

    Guarantees:
        `coupled` and `greedy`: the tokens of plain decoding, one by one, whatever the exits and the
        lengths. `rejection`: the law of plain decoding.

    Cost:
        No second model and no second cache. A round of d drafts at exit E of L layers loads L + d E
        of them, and d + 1 times the head. The decision is taken on the device.
    """

    config: Config
    verifier: Literal["coupled", "greedy", "rejection"] = "coupled"

    def __post_init__(self) -> None:
        """Check the settings."""
        one_of(VERIFIERS, verifier=self.verifier)

    @property
    def rows(self) -> int:
        """The pending token's row and one per draft."""
        return self.config.rows

    def job(self, cfg: DecoderConfig, params: DecoderParams, extra: Any) -> Job:
        """What the parts of a round (`rounds`) need."""
        numbers = tuning(self.config, cfg.n_layers) if extra is None else extra
        return Job(cfg, params, self.config, numbers, self.verifier)

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Aux:
        """Nothing seen yet.

        Raises:
            ConfigError: exits that the model does not have, a model without a final norm, an `extra`
                that is no `Tuning` of this config, or a request that samples under `greedy`.
        """
        self.config.check(cfg.n_layers)
        if not cfg.final_norm:
            raise ConfigError(
                "this model has no norm before its head (final_norm=False), so the head reads its "
                "last layer only and no exit: decode it with another strategy."
            )
        if extra is not None and not isinstance(extra, Tuning):
            raise ConfigError(
                f"SelfSpeculative got extra= of type {type(extra).__name__}: pass what "
                "`del_exit.tuning(config, n_layers)` returns, or None."
            )
        verifying.check_requests(self.verifier, state)
        numbers = self.job(cfg, params, extra).tuning
        self._check_costs(numbers)
        B, R = state.batch, self.config.n_trace
        control = controller.init_control(self.config, numbers, B)
        zero = jnp.zeros((B,), jnp.int32)
        aux = Aux(
            control=control,
            plan=controller.plan(self.config, numbers, control, ~state.done),
            rounds=zero,
            drafting=zero,
            loads=jnp.zeros_like(zero),
            recent=self._recent(cfg, params, B) if self.config.looks else None,
            n_recent=jnp.zeros_like(zero),
            trace=tracing.empty(B, R) if R else None,
        )
        # The state is donated and `extra` is not: they may share no array.
        return jax.tree.map(jnp.copy, aux)

    def _recent(self, cfg: DecoderConfig, params: DecoderParams, batch: int) -> jax.Array:
        shape = (batch, len(self.config.exits), self.config.rows, cfg.d_model)
        return jnp.zeros(shape, params.precision.dtype("compute"))

    def _check_costs(self, numbers: Tuning) -> None:
        K, rows = len(self.config.exits), self.config.rows
        if numbers.costs.draft.shape != (K,) or numbers.costs.verify.shape != (K, rows):
            raise ConfigError(
                f"the costs in extra= are for {numbers.costs.draft.shape[0]} exits and "
                f"{numbers.costs.verify.shape[1] - 1} drafts, and the config has {K} exits and "
                f"{rows - 1} drafts: make both from one config."
            )

    def prefill(
        self,
        cfg: DecoderConfig,
        params: DecoderParams,
        extra: Any,
        state: DecodeState,
        tokens: jax.Array,
        lengths: jax.Array,
    ) -> DecodeState:
        """Plain decoding's prefill, and a look at the exits over the last positions of the prompts.

        There an exit counts as right where it names the token that the whole model finds likeliest.
        """
        B, T = tokens.shape
        how, job = self.config, self.job(cfg, params, extra)
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
        attend, carry = state.cache.attend(cfg.attention, positions, ~state.done, fresh=True)
        n = min(how.n_prompt, T)
        slot = jnp.arange(n, dtype=jnp.int32)[None, :] - n
        at = lengths[:, None] + slot
        kept = []
        x = decoder.embed(cfg, params, tokens, positions)
        for first, last in passes.bounds(how, cfg.n_layers):
            x, carry = decoder.trunk(
                cfg, params, x, positions, attend, carry, first=first, last=last
            )
            if how.looks:
                index = jnp.maximum(at, 0)[:, :, None]
                kept.append(jnp.take_along_axis(x, index, axis=1))
        last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
        logits = decoder.unembed(cfg, params, last)
        before: Aux = state.aux
        control = before.control
        if how.looks:
            token, sureness = shadow.likeliest(cfg, params, jnp.stack(kept))
            match, sureness = token[:-1] == token[-1:], sureness[:-1]
            seen = controller.update(
                control.seen,
                jnp.swapaxes(match, 0, 1),
                jnp.swapaxes(sureness, 0, 1),
                at >= 0,
                job.tuning.omega,
            )
            control = control.replace(seen=seen)
        state = first_token(state, logits, lengths, carry)
        plan = controller.plan(how, job.tuning, control, ~state.done)
        return state.replace(aux=before.replace(control=control, plan=plan))

    def step(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> tuple[DecodeState, StepInfo]:
        """One round, with drafts or without."""
        job = self.job(cfg, params, extra)
        limit = rounds.draft_limit(state)
        zero = jnp.zeros_like(limit)
        info = StepInfo(emitted=zero, proposed=zero, accepted=zero, flags=state.stats.flags)
        drafting = (limit > 0).any()
        value = passes.once(~drafting, lambda v: rounds.plain_step(job, v[0]), (state, info))
        return passes.once(drafting, lambda v: rounds.drafting_step(job, v[0], limit), value)

    def grow(self, aux: Any, capacity: int) -> Any:
        """Nothing to grow: drafts ride in the model's own cache."""
        return aux

    def reset_rows(self, aux: Aux, rows: jax.Array) -> Aux:
        """What was seen of some requests forgotten."""

        def cleared(leaf: jax.Array) -> jax.Array:
            if not leaf.ndim:
                return leaf
            where = rows.reshape(rows.shape[0], *[1] * (leaf.ndim - 1))
            return jnp.where(where, jnp.zeros((), leaf.dtype), leaf)

        return jax.tree.map(cleared, aux)
