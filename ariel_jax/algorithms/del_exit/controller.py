"""The controller of DEL: which exit drafts next, and when it stops; pure functions on a pytree.

It sees, after each round, which exits would have guessed the verified tokens, and how sure they
were. It can be run alone on logged rounds (`replay`).

References:
    Entezari Zarch et al. 2025, "DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative
    Decoding", arXiv 2504.05598, and the behaviour of the authors' code as described to us: decayed
    counts of matches and mismatches, acceptance and threshold from them, and the score tokens per
    layer. The zero-draft fallback, measured costs and the choice for several requests are ours.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ariel_jax.algorithms.del_exit.config import Config


class State(struct.PyTreeNode):
    """Decayed sums over rounds; K exits, B requests."""

    counts: jax.Array  # [B, K, 2] f32 matches and mismatches
    sureness: jax.Array  # [B, K, 2] f32 probabilities of the shadow tokens, summed over each
    round: jax.Array  # [] int32


class Choice(struct.PyTreeNode):
    """What the next round does."""

    exit: jax.Array  # [] int32 index into the exits
    length: jax.Array  # [] int32 drafts for which the score was best
    threshold: jax.Array  # [B] f32 drafting stops after a token that is less likely
    score: jax.Array  # [] f32 of the choice, summed over requests


class Costs(struct.PyTreeNode):
    """Time of the parts of a round, in any unit.

    A round of d drafts at exit k takes `d draft[k] + verify[k, d] + shadow`; one without drafts takes
    `plain`.
    """

    draft: jax.Array  # [K] of one drafted token
    verify: jax.Array  # [K, D + 1] of the last draft's row and the other layers, by drafts
    shadow: jax.Array  # [] of reading all exits
    plain: jax.Array  # [] of a round without drafts


def layer_costs(cfg: Config, n_layers: int) -> Costs:
    """The paper's cost: layers loaded. A round of d drafts at exit E loads L + d E of them."""
    draft = np.asarray(cfg.exits, np.float32)
    return Costs(
        draft=jnp.asarray(draft),
        verify=jnp.full((len(cfg.exits), cfg.rows), n_layers, jnp.float32),
        shadow=jnp.zeros((), jnp.float32),
        plain=jnp.asarray(n_layers, jnp.float32),
    )


def init(cfg: Config, batch: int) -> State:
    """Nothing seen yet."""
    zeros = jnp.zeros((batch, len(cfg.exits), 2), jnp.float32)
    return State(counts=zeros, sureness=zeros, round=jnp.zeros((), jnp.int32))


def update(
    cfg: Config, state: State, match: jax.Array, sureness: jax.Array, valid: jax.Array
) -> State:
    """The state after a round, or after the last positions of a prompt.

    Args:
        cfg: the settings.
        state: before it.
        match: [B, K, W] bool, the exit's shadow token is the verified token at that row.
        sureness: [B, K, W] f32 probability of the shadow token under the exit.
        valid: [B, W] bool rows whose inputs were all accepted: the first n + 1 of a round that
            accepted n. A request without any (it is done) keeps its sums.

    Returns:
        The new state; the past weighs `omega ** shadow_every` less.
    """
    seen = valid[:, None, :].astype(jnp.float32)
    hits = jnp.stack([match, ~match], axis=-1).astype(jnp.float32) * seen[..., None]
    keep = jnp.where(valid.any(axis=1), cfg.omega**cfg.shadow_every, 1.0)[:, None, None]
    keep = keep.astype(jnp.float32)
    weighed = hits * sureness.astype(jnp.float32)[..., None]
    return State(
        counts=keep * state.counts + jnp.sum(hits, axis=2),
        sureness=keep * state.sureness + jnp.sum(weighed, axis=2),
        round=state.round + 1,
    )


def acceptance(state: State) -> jax.Array:
    """[B, K] f32 in [0, 1]: estimated chance that a draft of each exit holds; 0 before any round."""
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


def scores(cfg: Config, costs: Costs, alpha: jax.Array) -> jax.Array:
    """[K, D + 1] f32: expected tokens of all requests over the time of a round, for alpha [B, K].

    All requests share an exit, as they share the reading of the weights.
    """
    drafts = jnp.arange(cfg.rows, dtype=jnp.float32)[None, :]
    seconds = drafts * costs.draft[:, None] + costs.verify + costs.shadow
    if cfg.allow_zero_draft:
        seconds = seconds.at[:, 0].set(costs.plain)
    return jnp.sum(expected_tokens(alpha, cfg.max_draft), axis=0) / seconds


def select(cfg: Config, state: State, costs: Costs) -> Choice:
    """The exit and the number of drafts of best score; of equal ones the first exit, then the fewest."""
    table = scores(cfg, costs, acceptance(state))
    if not cfg.allow_zero_draft:
        table = table.at[:, 0].set(-jnp.inf)
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
    cfg: Config, costs: Costs, match: jax.Array, sureness: jax.Array, valid: jax.Array
) -> tuple[State, Any]:
    """Runs the controller over logged rounds.

    Args:
        cfg: the settings.
        costs: of the parts of a round.
        match: [R, B, K, W] bool, as for `update`.
        sureness: [R, B, K, W] f32.
        valid: [R, B, W] bool.

    Returns:
        (the state at the end, the choices [R] made after each round).
    """

    def step(state: State, seen: Any) -> tuple[State, Choice]:
        state = update(cfg, state, *seen)
        return state, select(cfg, state, costs)

    return jax.lax.scan(step, init(cfg, match.shape[1]), (match, sureness, valid))
