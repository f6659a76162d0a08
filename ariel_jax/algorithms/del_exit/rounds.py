"""A round of DEL: draft at an exit, verify with the rest of the layers, look at all exits.

Everything here happens inside the segment program. Drafts ride in the spare rows of the cache, as all
drafts do: the layers up to the exit write a draft's keys and values once, and verification runs the
layers behind it alone, from the residual stream kept at the exit.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax._numerics import at_least_f32
from ariel_jax.algorithms.del_exit import controller, heads, passes, shadow, tracing
from ariel_jax.algorithms.del_exit.config import Config, Tuning
from ariel_jax.algorithms.del_exit.controller import Control, Plan
from ariel_jax.algorithms.del_exit.heads import Reading
from ariel_jax.algorithms.del_exit.tracing import Trace
from ariel_jax.decode import verifying
from ariel_jax.decode.state import DecodeState, StepInfo
from ariel_jax.decode.strategy import emit, sample
from ariel_jax.decode.tree import Tree
from ariel_jax.decode.verifying import Draft, Verdict
from ariel_jax.errors import ConfigError
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


class Aux(struct.PyTreeNode):
    """The strategy's state: every array has a leading axis of requests, or none."""

    control: Control
    plan: Plan
    rounds: jax.Array  # [B] int32 that the request took part in
    drafting: jax.Array  # [B] int32 of them in which it had drafts
    loads: jax.Array  # [B] int32 layers loaded in them
    recent: jax.Array | None  # [B, K, W, D] residual streams of the last rounds without drafts
    n_recent: jax.Array  # [B] int32 how many of them there are, at the end
    trace: Trace | None


@dataclasses.dataclass(frozen=True)
class Job:
    """What all parts of a round need and none changes.

    Attributes:
        cfg: the decoder.
        params: its weights.
        how: the settings.
        tuning: the numbers.
        verifier: as in `decode.Speculative`.
    """

    cfg: DecoderConfig
    params: DecoderParams
    how: Config
    tuning: Tuning
    verifier: str


class Drafted(struct.PyTreeNode):
    """A round between drafting and verifying."""

    draft: Draft
    hidden: jax.Array  # [K, B, W, D] residual stream at the exits up to the round's
    n_rows: jax.Array  # [] int32 rows of the round


def empty_hidden(job: Job, batch: int, n_rows: int) -> jax.Array:
    """[K, B, n_rows, D] zeros."""
    shape = (len(job.how.exits), batch, n_rows, job.cfg.d_model)
    return jnp.zeros(shape, job.params.precision.dtype("compute"))


def draft_limit(state: DecodeState) -> jax.Array:
    """[B] int32 most drafts of the next round; 0 for requests that are done.

    A round emits one token more than it accepts, so none beyond a request's limit.
    """
    left = state.limit - 1 - state.cache.length - 1
    return jnp.where(state.done, 0, jnp.minimum(state.aux.plan.limit, left))


def draft(
    job: Job, state: DecodeState, exit: jax.Array, limit: jax.Array, stop: jax.Array
) -> tuple[DecodeState, Drafted]:
    """Drafts one token after the other, and runs the layers up to the exit on the last one too.

    Args:
        job: the model and the settings.
        state: before the round.
        exit: [] int32 index of the exit.
        limit: [B] int32 most drafts, 0 for requests that are done.
        stop: [B] f32: a draft ends with a token at which the exit was less sure. The token itself
            stays and is verified: to drop it for its probability would change the law of the text.

    Returns:
        (state, round): the drafts stand behind the known tokens and in spare rows of the cache, whose
        length is as before.
    """
    B, D, V = state.batch, job.how.max_draft, job.cfg.vocab_size
    active, length = ~state.done, state.cache.length
    lead = jnp.arange(B, dtype=jnp.int32)
    wide = at_least_f32(job.params.precision.dtype("logits"))
    logq = jnp.zeros((B, D, V), wide) if job.verifier == "rejection" else None
    held = Draft(tokens=jnp.zeros((B, D), jnp.int32), valid=jnp.zeros((B, D), bool), logq=logq)

    def pick(row: jax.Array, carry: Any) -> Any:
        _, going, held, tokens, hidden = carry
        zero = jnp.zeros((), jnp.int32)
        at_exit = jax.lax.dynamic_slice(hidden, (exit, zero, row, zero), (1, B, 1, job.cfg.d_model))
        seen, position = state.replace(tokens=tokens), length + 1 + row
        if held.logq is None:
            token, sure = heads.draw(job.cfg, job.params, seen, at_exit[0, :, 0], position)
            logq = None
        else:
            logits = decoder.unembed(job.cfg, job.params, at_exit[0])[:, 0]
            sure = shadow.surest(logits)
            values = verifying.processed_logits(seen, logits.astype(wide), position)
            law = jax.nn.log_softmax(values, axis=-1)
            token = verifying.draw_own(seen, law, position)
            logq = jax.lax.dynamic_update_slice(held.logq, law[:, None], (zero, row, zero))
        held = Draft(
            tokens=jax.lax.dynamic_update_slice(held.tokens, token[:, None], (zero, row)),
            valid=jax.lax.dynamic_update_slice(held.valid, going[:, None], (zero, row)),
            logq=logq,
        )
        tokens = tokens.at[lead, position].set(token, mode="drop")
        ends = (token[:, None] == state.sampling.eos).any(axis=1) | (row + 1 >= limit)
        if job.how.length_rule in ("confidence", "draft_verify"):
            ends = ends | (sure < stop)
        return token, going & ~ends, held, tokens, hidden

    def body(carry: Any) -> Any:
        row, _, cache, token, going, held, tokens, hidden = carry
        cache, hidden = passes.to_exit(
            job.cfg, job.params, job.how, token, row, exit, (cache, hidden), active
        )
        more = going.any()
        new = (token, going, held, tokens, hidden)
        token, going, held, tokens, hidden = passes.once(more, lambda c: pick(row, c), new)
        return row + 1, more, cache, token, going, held, tokens, hidden

    first = (
        jnp.zeros((), jnp.int32),
        jnp.ones((), bool),
        state.cache,
        state.pending(),
        active & (limit > 0),
        held,
        state.tokens,
        empty_hidden(job, B, D + 1),
    )
    last = jax.lax.while_loop(lambda carry: carry[1], body, first)
    n_rows, _, cache, _, _, held, tokens, hidden = last
    state = state.replace(cache=cache, tokens=tokens)
    return state, Drafted(draft=held, hidden=hidden, n_rows=n_rows)


def verify(
    job: Job, state: DecodeState, made: Drafted, exit: jax.Array
) -> tuple[DecodeState, Reading, jax.Array]:
    """The rest of the layers over all rows of a round.

    Returns:
        (state, what the head says of [B, W] rows, residual stream at all exits); zero behind the rows
        of the bucket.
    """
    cfg, params, how = job.cfg, job.params, job.how
    active, law = ~state.done, job.verifier == "rejection"

    def run(n_rows: int, carry: Any) -> Any:
        said, cache, hidden = carry
        x, cache, hidden = passes.from_exit(cfg, params, how, n_rows, exit, (cache, hidden), active)
        found = heads.read(cfg, params, state, x, law=law)
        return jax.tree.map(lambda a, new: a.at[:, :n_rows].set(new), said, found), cache, hidden

    carry = (heads.nothing(cfg, params, state, how.rows, law=law), state.cache, made.hidden)
    if len(how.buckets) == 1:
        said, cache, hidden = run(how.rows, carry)
    else:
        said, cache, hidden = _in_bucket(how, made.n_rows, run, carry)
    return state.replace(cache=cache), said, hidden


def judge(job: Job, state: DecodeState, made: Drafted, said: Reading) -> Verdict:
    """Which drafts hold, by the rule of the verifier.

    Raises:
        ConfigError: the rejection rule, and drafts without the law that they were drawn from.
    """
    if job.verifier == "rejection" and made.draft.logq is None:
        raise ConfigError(
            "the rejection rule weighs a draft that an exit drew against the law it was drawn from, and "
            "these have none (logq=None): draft under verifier='rejection', or verify with 'coupled'."
        )
    tree = Tree.chain(job.how.max_draft)
    if said.token is not None:
        return verifying.agreeing(state, said.token, made.draft, tree)
    rule = verifying.rejection if job.verifier == "rejection" else verifying.coupled
    return rule(state, said.logits, made.draft, tree, state.cache.length)


def _in_bucket(how: Config, n_rows: jax.Array, run: Any, carry: Any) -> Any:
    """`run(bucket, carry)` for the smallest bucket that holds `n_rows`, which is 0 for none."""
    below = 0
    for bucket in how.buckets:
        here = (n_rows > below) & (n_rows <= bucket)
        carry = passes.once(here, lambda c, bucket=bucket: run(bucket, c), carry)
        below = bucket
    return carry


def observe(
    job: Job,
    state: DecodeState,
    made: Drafted,
    hidden: jax.Array,
    found: Verdict,
    said: Reading,
) -> Control:
    """What the controller makes of a round, with a look at the exits if one is due."""
    aux: Aux = state.aux
    active = ~state.done
    proposed, held = _drafted(state, made), jnp.where(active, found.n_held, 0)
    control = controller.after_round(job.how, job.tuning, aux.control, proposed, held)
    if not job.how.looks:
        return control
    is_due = controller.due(job.tuning, aux.control, drafting=True)
    keep = job.tuning.omega ** job.tuning.shadow_every.astype(jnp.float32)
    n_rows = jnp.where(is_due, jnp.max(held) + 1, 0)
    is_coupled = job.verifier != "rejection"
    draft = made.draft.replace(logq=None)

    def run(bucket: int, carry: Any) -> Any:
        control, hidden, out, logits = carry
        match, sureness = shadow.matches(
            job.cfg,
            job.params,
            state,
            state.cache.length,
            draft,
            hidden[:, :, :bucket],
            out[:, :bucket],
            None if is_coupled else logits[:, :bucket],
        )
        slot = jnp.arange(bucket, dtype=jnp.int32)[None, :]
        valid = (slot <= held[:, None]) & active[:, None]
        seen = controller.update(control.seen, match, sureness, valid, keep)
        return controller.looked(control, seen, drafting=True), hidden, out, logits

    return _in_bucket(job.how, n_rows, run, (control, hidden, found.out, said.logits))[0]


def settle(
    job: Job,
    state: DecodeState,
    made: Drafted,
    found: Verdict,
    said: Reading,
    control: Control,
    exit: jax.Array,
) -> tuple[DecodeState, StepInfo]:
    """The end of a round: its tokens known, their rows kept, the next round planned."""
    before, active = state, ~state.done
    state, emitted = emit(state, state.cache, found.out, found.n_held + 1, said.logits)
    accepted = jnp.where(active, jnp.minimum(found.n_held, emitted), 0)
    layer = jnp.take(jnp.asarray(job.how.exits, jnp.int32), exit)
    loads = job.cfg.n_layers + (made.n_rows - 1) * layer
    proposed = _drafted(before, made)
    return _finish(job, before, state, control, emitted, proposed, accepted, loads, exit)


def _drafted(state: DecodeState, made: Drafted) -> jax.Array:
    return jnp.where(state.done, 0, jnp.sum(made.draft.valid, axis=1, dtype=jnp.int32))


def drafting_step(job: Job, state: DecodeState, limit: jax.Array) -> tuple[DecodeState, StepInfo]:
    """A round of at least one draft; limit [B] int32 as in `draft`."""
    plan = state.aux.plan
    state, made = draft(job, state, plan.exit, limit, plan.threshold)
    state, said, hidden = verify(job, state, made, plan.exit)
    found = judge(job, state, made, said)
    control = observe(job, state, made, hidden, found, said)
    return settle(job, state, made, found, said, control, plan.exit)


def plain_step(job: Job, state: DecodeState) -> tuple[DecodeState, StepInfo]:
    """A round without drafts: plain decoding, now and then with a look at the exits."""
    cfg, params, how = job.cfg, job.params, job.how
    aux: Aux = state.aux
    active, length = ~state.done, state.cache.length
    rows = length[:, None]
    x = decoder.embed(cfg, params, state.pending()[:, None], passes.positions_of(cfg, rows))
    cache, at_exits = state.cache, []
    for piece in passes.bounds(how, cfg.n_layers):
        x, cache = passes.layers(cfg, params, x, rows, cache, active, piece)
        at_exits.append(x)
    said = heads.read(cfg, params, state, x, law=False)
    if said.token is None:
        out = sample(state, said.logits[:, 0], length + 1)
    else:
        out = said.token[:, 0]
    none = jnp.zeros_like(length)
    control = controller.after_round(how, job.tuning, aux.control, none, none)
    if aux.recent is not None:
        new = jnp.stack([x[:, 0] for x in at_exits[:-1]], axis=1)[:, :, None]
        recent = jnp.concatenate([aux.recent[:, :, 1:], new], axis=2)
        n_recent = jnp.minimum(aux.n_recent + 1, how.rows)
        state = state.replace(aux=aux.replace(recent=recent, n_recent=n_recent))
        control = _look_back(job, state, control, out)
    before = state
    state, emitted = emit(state, cache, out[:, None], jnp.ones_like(length), said.logits)
    loads, exit = jnp.full((), cfg.n_layers, jnp.int32), jnp.full((), -1, jnp.int32)
    return _finish(job, before, state, control, emitted, none, none, loads, exit)


def _look_back(job: Job, state: DecodeState, control: Control, out: jax.Array) -> Control:
    """The controller after a look at the last rounds without drafts, if one is due.

    Several rows take hardly longer to read than one. With the rejection rule the exits' drafts are
    taken as if drawn with the noise of the text, which holds less often than their own would.
    """
    aux: Aux = state.aux
    W, length, recent = job.how.rows, state.cache.length, aux.recent
    assert recent is not None
    slot = jnp.arange(W, dtype=jnp.int32)[None, :] - (W - 1)
    known = jnp.maximum(length[:, None] + 1 + slot, 0)
    tokens = jnp.take_along_axis(state.tokens, known, axis=1).at[:, -1].set(out)
    draft = Draft(tokens=tokens[:, :-1], valid=jnp.ones(tokens[:, :-1].shape, bool))

    def run(control: Control) -> Control:
        hidden = jnp.swapaxes(recent, 0, 1)
        first = length - (W - 1)
        match, sureness = shadow.matches(
            job.cfg, job.params, state, first, draft, hidden, tokens, None
        )
        valid = (-slot < aux.n_recent[:, None]) & ~state.done[:, None]
        keep = job.tuning.omega ** aux.n_recent.astype(jnp.float32)
        seen = controller.update(control.seen, match, sureness, valid, keep)
        return controller.looked(control, seen, drafting=False)

    return passes.once(controller.due(job.tuning, state.aux.control, drafting=False), run, control)


def _next_plan(
    job: Job, before: DecodeState, state: DecodeState, control: Control, exit: jax.Array
) -> Plan:
    """The next round's; made anew only where something that it depends on may have changed."""

    def make(plan: Plan) -> Plan:
        return controller.plan(job.how, job.tuning, control, ~state.done)

    old = before.aux.plan
    if not job.how.looks or job.how.length_rule not in ("confidence", "planned"):
        return make(old)
    # Without drafts and without a look the estimates are those of the round before.
    changed = (exit >= 0) | (control.since == 0) | (state.done != before.done).any()
    return passes.once(changed, make, old)


def _finish(
    job: Job,
    before: DecodeState,
    state: DecodeState,
    control: Control,
    emitted: jax.Array,
    proposed: jax.Array,
    accepted: jax.Array,
    loads: jax.Array,
    exit: jax.Array,
) -> tuple[DecodeState, StepInfo]:
    """The state with the round's rows kept, its counters and the next plan."""
    aux: Aux = before.aux
    took_part = (~before.done).astype(jnp.int32)
    trace = aux.trace
    if trace is not None:
        alpha = jnp.take(controller.acceptance(aux.control.seen), aux.plan.exit, axis=1)
        trace = tracing.written(
            trace,
            jnp.where(before.done, trace.exit.shape[1], aux.rounds),
            exit=exit,
            proposed=proposed,
            accepted=accepted,
            threshold=aux.plan.threshold,
            alpha=alpha,
        )
    stats = state.stats.replace(
        steps=state.stats.steps + took_part,
        proposed=state.stats.proposed + proposed,
        accepted=state.stats.accepted + accepted,
    )
    aux = Aux(
        control=control,
        plan=_next_plan(job, before, state, control, exit),
        rounds=aux.rounds + took_part,
        drafting=aux.drafting + (proposed > 0).astype(jnp.int32),
        loads=aux.loads + took_part * loads,
        recent=aux.recent,
        n_recent=jnp.where(exit < 0, aux.n_recent, 0),
        trace=trace,
    )
    cache = passes.advance(job.cfg, state.cache, ~before.done, emitted)
    state = state.replace(cache=cache, stats=stats, aux=aux)
    info = StepInfo(emitted=emitted, proposed=proposed, accepted=accepted, flags=stats.flags)
    return state, info
