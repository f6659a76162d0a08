"""The controller of DEL: which exit drafts next, and when it stops; pure functions on a pytree.

It sees, after rounds, which exits would have guessed the verified tokens, and how sure they were. It
can be run alone on logged rounds (`replay`).

References:
    Entezari Zarch et al. 2025, "DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative
    Decoding", arXiv 2504.05598, and the behaviour of the authors' code as described to us: decayed
    counts of matches and mismatches, acceptance and threshold from them, and the score tokens per
    layer. The zero-draft fallback, measured costs and the choice for several requests are ours.
    The baselines: Elhoushi et al. 2024, "LayerSkip", arXiv 2404.16710 (fixed exit and length); Zhang
    et al. 2024, "Draft & Verify", arXiv 2309.08168 (a threshold that follows the acceptance).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ariel_jax.algorithms.del_exit.config import Config, Tuning

FIRST_IDLE_LOOK = 8  # rounds without drafts before the first look at the exits


class State(struct.PyTreeNode):
    """Decayed sums over looks; K exits, B requests."""

    counts: jax.Array  # [B, K, 2] f32 matches and mismatches
    sureness: jax.Array  # [B, K, 2] f32 the exits' largest probabilities, summed over each
    round: jax.Array  # [] int32 looks


class Choice(struct.PyTreeNode):
    """What the next round does."""

    exit: jax.Array  # [] int32 index into the exits
    length: jax.Array  # [] int32 drafts for which the score was best
    threshold: jax.Array  # [B] f32 drafting stops after a token of an exit that is less sure
    score: jax.Array  # [] f32 of the choice, summed over requests


def init(cfg: Config, batch: int) -> State:
    """Nothing seen yet."""
    zeros = jnp.zeros((batch, len(cfg.exits), 2), jnp.float32)
    return State(counts=zeros, sureness=jnp.zeros_like(zeros), round=jnp.zeros((), jnp.int32))


def update(
    state: State, match: jax.Array, sureness: jax.Array, valid: jax.Array, keep: jax.Array
) -> State:
    """The state after a look at a round, or at the last positions of a prompt.

    Args:
        state: before it.
        match: [B, K, W] bool, what the exit would have drafted is the verified token at that row;
            or f32, the chance of it.
        sureness: [B, K, W] f32 largest probability under the exit.
        valid: [B, W] bool rows whose inputs were all accepted: the first n + 1 of a round that
            accepted n. A request without any (it is done) keeps its sums.
        keep: [] or [B] f32 weight of the past: omega for each round that is looked at or skipped.

    Returns:
        The new state.
    """
    seen = valid[:, None, :].astype(jnp.float32)
    match = match.astype(jnp.float32)
    hits = jnp.stack([match, 1 - match], axis=-1) * seen[..., None]
    keep = jnp.where(valid.any(axis=1), keep.astype(jnp.float32), 1.0)[:, None, None]
    weighed = hits * sureness.astype(jnp.float32)[..., None]
    return State(
        counts=keep * state.counts + jnp.sum(hits, axis=2),
        sureness=keep * state.sureness + jnp.sum(weighed, axis=2),
        round=state.round + 1,
    )


def acceptance(state: State) -> jax.Array:
    """[B, K] f32 in [0, 1]: estimated chance that a draft of each exit holds; 0 before any look."""
    total = jnp.sum(state.counts, axis=-1)
    return jnp.where(total > 0, state.counts[..., 0] / jnp.where(total > 0, total, 1), 0)


def threshold(state: State) -> jax.Array:
    """[B, K] f32: halfway between the mean sureness of matches and that of mismatches.

    0 where an exit had no match or no mismatch yet: then nothing stops a draft early.
    """
    known = state.counts > 0
    mean = state.sureness / jnp.where(known, state.counts, 1)
    return jnp.where(known.all(axis=-1), jnp.mean(mean, axis=-1), 0)


def expected_tokens(alpha: jax.Array, max_draft: int) -> jax.Array:
    """[..., D + 1]: tokens that a round of d drafts is expected to emit, 1 + a + ... + a^d.

    By G_0 = 1, G_d = 1 + a G_(d-1), which has no 0 / 0 at a = 1.
    """
    values = [jnp.ones_like(alpha)]
    for _ in range(max_draft):
        values.append(1 + alpha * values[-1])
    return jnp.stack(values, axis=-1)


def scores(cfg: Config, tuning: Tuning, alpha: jax.Array, active: jax.Array) -> jax.Array:
    """[K, D + 1] f32: expected tokens of the active requests [B] over the time of a round.

    Args:
        cfg: the settings.
        tuning: with the costs.
        alpha: [B, K] acceptance.
        active: [B] bool. All requests share an exit, as they share the reading of the weights.
    """
    costs = tuning.costs
    drafts = jnp.arange(cfg.rows, dtype=jnp.float32)[None, :]
    look = costs.shadow / tuning.shadow_every.astype(jnp.float32)
    time = drafts * costs.draft[:, None] + costs.verify + look
    if cfg.allow_zero_draft:
        time = time.at[:, 0].set(costs.plain)
    tokens = expected_tokens(alpha, cfg.max_draft) * active.astype(jnp.float32)[:, None, None]
    return jnp.sum(tokens, axis=0) / time


def select(cfg: Config, tuning: Tuning, state: State, active: jax.Array) -> Choice:
    """The exit and the number of drafts of best score; of equal ones the first exit, then the fewest.

    Under the exit rule `given` the exit is that of `tuning`.
    """
    table = scores(cfg, tuning, acceptance(state), active)
    if not cfg.allow_zero_draft:
        table = table.at[:, 0].set(-jnp.inf)
    if cfg.exit_rule == "given":
        is_other = jnp.arange(len(cfg.exits), dtype=jnp.int32)[:, None] != tuning.exit
        table = jnp.where(is_other, -jnp.inf, table)
    best = jnp.argmax(table.reshape(-1)).astype(jnp.int32)
    exit = best // jnp.int32(cfg.rows)
    return Choice(
        exit=exit,
        length=best % jnp.int32(cfg.rows),
        threshold=jnp.take(threshold(state), exit, axis=1),
        score=table.reshape(-1)[best],
    )


def draft_limit(cfg: Config, choice: Choice) -> jax.Array:
    """[] int32: the most drafts that the next round may make."""
    if cfg.length_rule == "planned":
        return choice.length
    most = jnp.int32(cfg.max_draft)
    return jnp.where(choice.length == 0, 0, most) if cfg.allow_zero_draft else most


def replay(
    cfg: Config, tuning: Tuning, match: jax.Array, sureness: jax.Array, valid: jax.Array
) -> tuple[State, Any]:
    """Runs the controller over logged rounds.

    Args:
        cfg: the settings.
        tuning: the numbers.
        match: [R, B, K, W] bool, as for `update`.
        sureness: [R, B, K, W] f32.
        valid: [R, B, W] bool.

    Returns:
        (the state at the end, the choices [R] made after each round).
    """
    keep = tuning.omega ** tuning.shadow_every.astype(jnp.float32)
    active = jnp.ones(match.shape[1], bool)

    def step(state: State, seen: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[State, Choice]:
        state = update(state, seen[0], seen[1], seen[2], keep)
        return state, select(cfg, tuning, state, active)

    return jax.lax.scan(step, init(cfg, match.shape[1]), (match, sureness, valid))


class Control(struct.PyTreeNode):
    """All that any rule remembers."""

    seen: State
    length: jax.Array  # [B] int32 of `finite_state`
    threshold: jax.Array  # [B] f32 of `draft_verify`
    rate: jax.Array  # [B] f32 smoothed share of drafts that held; below 0 before the first draft
    proposed: jax.Array  # [B] int32 since the prompt
    accepted: jax.Array  # [B] int32 since the prompt
    since: jax.Array  # [] int32 rounds since the last look
    idle: jax.Array  # [] int32 looks since the last round with drafts


class Plan(struct.PyTreeNode):
    """What the next round does, whatever the rules."""

    exit: jax.Array  # [] int32 index into the exits
    limit: jax.Array  # [B] int32 most drafts
    threshold: jax.Array  # [B] f32


def init_control(cfg: Config, tuning: Tuning, batch: int) -> Control:
    """Before anything was seen."""
    return Control(
        seen=init(cfg, batch),
        length=jnp.full((batch,), tuning.length, jnp.int32),
        threshold=jnp.full((batch,), tuning.threshold, jnp.float32),
        rate=jnp.full((batch,), -1, jnp.float32),
        proposed=jnp.zeros((batch,), jnp.int32),
        accepted=jnp.zeros((batch,), jnp.int32),
        since=jnp.zeros((), jnp.int32),
        idle=jnp.zeros((), jnp.int32),
    )


def due(tuning: Tuning, control: Control, drafting: bool) -> jax.Array:
    """[] bool: whether the round that begins ends with a look.

    Without drafts the first look comes soon, since a prompt says little about the text that follows;
    each one that changes nothing doubles the way to the next, up to `idle_every`.
    """
    wait = jnp.left_shift(jnp.int32(FIRST_IDLE_LOOK), jnp.minimum(control.idle, 16))
    every = tuning.shadow_every if drafting else jnp.minimum(tuning.idle_every, wait)
    return control.since + 1 >= every


def looked(control: Control, seen: State, *, drafting: bool) -> Control:
    """The controller after a look that found `seen`."""
    idle = jnp.zeros_like(control.idle) if drafting else control.idle + 1
    return control.replace(seen=seen, since=jnp.zeros_like(control.since), idle=idle)


def after_round(
    cfg: Config, tuning: Tuning, control: Control, proposed: jax.Array, accepted: jax.Array
) -> Control:
    """What the rules without looks make of a round.

    Args:
        cfg: the settings.
        tuning: the numbers.
        control: before.
        proposed: [B] int32 drafts; 0 for a request that is done.
        accepted: [B] int32 of them that held.
    """
    total, held = control.proposed + proposed, control.accepted + accepted
    drafted = proposed > 0
    more = jnp.where(accepted == proposed, 1, -1)
    length = jnp.clip(control.length + more, 0, cfg.max_draft).astype(jnp.int32)
    overall = held.astype(jnp.float32) / jnp.maximum(total, 1).astype(jnp.float32)
    rate = jnp.where(control.rate < 0, overall, 0.5 * control.rate + 0.5 * overall)
    step = jnp.where(rate < tuning.target, 0.01, -0.01).astype(jnp.float32)
    wanted = 0.9 * control.threshold + 0.1 * (control.threshold + step)
    return control.replace(
        length=length,
        threshold=jnp.where(drafted, wanted, control.threshold),
        rate=jnp.where(drafted, rate, control.rate),
        proposed=total,
        accepted=held,
        since=control.since + 1,
        idle=jnp.where(drafted.any(), 0, control.idle).astype(jnp.int32),
    )


def plan(cfg: Config, tuning: Tuning, control: Control, active: jax.Array) -> Plan:
    """The next round of a batch of which the requests `active` [B] go on."""
    shape = control.length.shape
    if cfg.looks:
        choice = select(cfg, tuning, control.seen, active)
        exit, given = choice.exit, draft_limit(cfg, choice)
    else:
        choice, exit, given = None, tuning.exit, tuning.length
    limit = jnp.broadcast_to(given, shape).astype(jnp.int32)
    stop = jnp.zeros(shape, jnp.float32)
    if cfg.length_rule == "given":
        limit = jnp.broadcast_to(tuning.length, shape)
    elif cfg.length_rule == "finite_state":
        limit = control.length
    elif cfg.length_rule == "draft_verify":
        limit, stop = jnp.full(shape, cfg.max_draft, jnp.int32), control.threshold
    elif cfg.length_rule == "confidence" and choice is not None:
        stop = choice.threshold
    return Plan(exit=exit, limit=limit, threshold=stop)
