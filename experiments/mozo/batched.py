"""Many queries at once, for experiments: the rows of all of them in one batch of the library's decoder.

`mozo.generate` answers one query, with rows for the largest draw and stored demonstrations. A table needs
thousands of answers, so that here only the rows that were drawn are computed, for all queries together.
Draws and keys come from a fixed seed: such runs can be repeated and protect nobody.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.layers.kv_cache import KVCache, init_cache
from ariel_jax.models import decoder
from experiments.mozo import train

ROWS = 128  # rows of a batch are a multiple of it, so that few programs are compiled

Method = Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array]
"""(logits [N+1, V], mask [N], key, parameters) -> token int32 []; row 0 is the one without demonstration.
Hashable and equal to its like."""
Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Indices of the demonstrations that a query, by its number, sees until the next draw."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model, and prompts as its tokens.

    Attributes:
        model: in float32.
        demonstrations: ids of each, the break after it included.
        queries: ids of each, to where its answer begins.
    """

    model: Any
    demonstrations: tuple[np.ndarray, ...]
    queries: tuple[np.ndarray, ...]

    def text(self, tokens: Sequence[int]) -> str:
        """An answer up to its end, without the blank that it begins with."""
        kept = list(tokens)
        if self.end in kept:
            kept = kept[: kept.index(self.end)]
        return self.model.tokenizer.decode([int(t) for t in kept]).strip()

    @property
    def end(self) -> int:
        """Id of the token that ends an answer."""
        return self.model.tokenizer.eos_id


def subject(model: Any, demonstrations: Sequence[Any], queries: Sequence[str]) -> Subject:
    """Lays demonstrations and queries out as `train` does."""

    def ids(text: str) -> np.ndarray:
        return np.asarray(model.tokenizer.encode(text, add_special_tokens=False), np.int32)

    shown = (train.before(d.input) + " " + d.output + train.BETWEEN for d in demonstrations)
    return Subject(
        model=model,
        demonstrations=tuple(ids(text) for text in shown),
        queries=tuple(ids(train.before(query)) for query in queries),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long answers are and when demonstrations are drawn anew.

    Attributes:
        max_tokens: of an answer, its end included.
        redraw_every: tokens; None for one draw a query.
        slots: N, the largest draw that counts.
        stride: tokens between two looks at which answers have ended; `redraw_every` where that is less.
        round_to: prompts are padded to a multiple of it.
    """

    max_tokens: int
    redraw_every: int | None
    slots: int
    stride: int = 5
    round_to: int = 16

    def blocks(self) -> list[tuple[int, bool]]:
        """`(tokens, whether demonstrations are drawn)` of each part."""
        period = self.redraw_every or self.max_tokens
        found, at = [], 0
        while at < self.max_tokens:
            n = min(self.stride, period - at % period, self.max_tokens - at)
            found.append((n, at % period == 0))
            at += n
        return found


def answers(
    subject: Subject,
    method: Method,
    parameters: Any,
    *,
    schedule: Schedule,
    draw: Draw,
    seed: int,
    shots: Draw | None = None,
    bias: np.ndarray | None = None,
) -> list[list[int]]:
    """An answer to every query.

    Args:
        subject: model and prompts.
        method: draws a token from the rows of a query.
        parameters: its traced numbers.
        schedule: lengths and draws.
        draw: demonstrations that get a row each; beyond `schedule.slots` they are left out.
        seed: of draws and tokens.
        shots: demonstrations before the query in row 0, one after another, drawn once; None for none.
        bias: [queries, V] float32 on each query's row 0; public, or released before. None for none.

    Returns:
        Token ids of each answer, the end included if it came.
    """
    rng = np.random.default_rng([seed, 11])
    n = len(subject.queries)
    keys = jax.random.split(jax.random.key(seed), n)
    firsts = list(subject.queries)
    if shots is not None:
        parts = [[subject.demonstrations[i] for i in shots(rng, q)] for q in range(n)]
        firsts = [np.concatenate([*p, q]) for p, q in zip(parts, subject.queries, strict=True)]
    found: list[list[int]] = [[] for _ in range(n)]
    active, drawn = list(range(n)), {}
    for steps, is_due in schedule.blocks():
        if is_due:
            drawn = {q: draw(rng, q)[: schedule.slots] for q in active}
        batch = _batch(subject, firsts, found, active, drawn, schedule, bias)
        tokens = np.asarray(
            _block(
                subject.model.cfg, subject.model.params, batch, _padded(keys, active, batch),
                parameters, method=method, steps=steps, end=subject.end,
            )
        )  # fmt: skip
        for row, q in enumerate(active):
            found[q] += [int(t) for t in tokens[row]]
        active = [q for q in active if subject.end not in found[q]]
        if not active:
            break
    return [ids[: ids.index(subject.end) + 1] if subject.end in ids else ids for ids in found]


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Rows of a block: first one for each query, then one for each demonstration of each query."""

    tokens: Any  # [R, T] int32, zeros behind each row's prompt
    lengths: Any  # [R] int32
    owner: Any  # [R] int32, the query of a row
    slot: Any  # [Q, N] int32, the row of a query's demonstration
    mask: Any  # [Q, N] bool, whether there is one
    start: Any  # [Q] uint32, tokens of the answer so far
    bias: Any  # [Q, V] float32 on the first row of each query, or None


jax.tree_util.register_dataclass(
    _Batch,
    data_fields=["tokens", "lengths", "owner", "slot", "mask", "start", "bias"],
    meta_fields=[],
)


def _batch(
    subject: Subject,
    firsts: Sequence[np.ndarray],
    found: Sequence[Sequence[int]],
    active: Sequence[int],
    drawn: dict[int, np.ndarray],
    schedule: Schedule,
    bias: np.ndarray | None,
) -> _Batch:
    """The rows of the queries that have not ended, padded to shapes that come again."""
    so_far = [np.asarray(found[q], np.int32) for q in active]
    # Copies of the first query fill up the batch; nobody reads them.
    size = min(len(found), 1 << (len(active) - 1).bit_length())
    queries = [*active, *[active[0]] * (size - len(active))]
    so_far += [so_far[0]] * (size - len(active))
    rows = [np.concatenate([firsts[q], y]) for q, y in zip(queries, so_far, strict=True)]
    owner = list(range(size))
    shape = (size, schedule.slots)
    slot, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i, q in enumerate(active):
        for j, d in enumerate(drawn[q]):
            slot[i, j], mask[i, j] = len(rows), True
            rows.append(np.concatenate([subject.demonstrations[d], subject.queries[q], so_far[i]]))
            owner.append(i)
    rest = -(len(rows) - size) % ROWS
    owner += [0] * rest
    rows += [rows[0][:1]] * rest
    lengths = np.asarray([row.size for row in rows], np.int32)
    longest = -(-int(lengths.max()) // schedule.round_to) * schedule.round_to
    tokens = np.zeros((len(rows), longest), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : row.size] = row
    start = np.asarray([y.size for y in so_far], np.uint32)
    favoured = None if bias is None else bias[np.asarray(queries)]
    return _Batch(tokens, lengths, np.asarray(owner, np.int32), slot, mask, start, favoured)


def _padded(keys: jax.Array, active: Sequence[int], batch: _Batch) -> jax.Array:
    index = [*active, *[active[0]] * (batch.slot.shape[0] - len(active))]
    return keys[np.asarray(index)]


@functools.partial(jax.jit, static_argnames=("cfg", "method", "steps", "end"))
def _block(
    cfg: Any,
    params: Any,
    batch: _Batch,
    keys: jax.Array,
    parameters: Any,
    *,
    method: Method,
    steps: int,
    end: int,
) -> jax.Array:
    """[Q, steps] int32 tokens of every query, `end` again and again behind the first one."""
    R, T = batch.tokens.shape
    Q = batch.slot.shape[0]
    every = jnp.ones(R, bool)
    cache = init_cache(cfg.n_layers, R, cfg.n_kv_heads, T + steps, cfg.head_dim, jnp.float32)
    at = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (R, T))
    attend, carry = cache.attend(cfg.attention, at, every, fresh=True)
    logits, carry = decoder.apply(
        cfg, params, batch.tokens, at, attend, carry, logits_at=batch.lengths - 1
    )
    cache = cache.commit(carry, batch.lengths)

    def sample(logits: jax.Array, n: jax.Array, done: jax.Array) -> jax.Array:
        firsts = logits[:Q] if batch.bias is None else logits[:Q] + batch.bias
        rows = jnp.concatenate([firsts[:, None], logits[batch.slot]], axis=1)
        now = jax.vmap(jax.random.fold_in)(keys, batch.start + n)
        token = jax.vmap(method, in_axes=(0, 0, 0, None))(rows, batch.mask, now, parameters)
        return jnp.where(done, end, token)

    def step(state: tuple[KVCache, jax.Array, jax.Array], n: jax.Array) -> tuple[Any, jax.Array]:
        cache, logits, done = state
        token = sample(logits, n, done)
        attend, carry = cache.attend(cfg.attention, cache.length[:, None], every)
        logits, carry = decoder.apply(
            cfg, params, token[batch.owner][:, None], cache.length[:, None], attend, carry,
            logits_at=jnp.zeros(R, jnp.int32),
        )  # fmt: skip
        cache = cache.commit(carry, jnp.ones(R, jnp.int32))
        return (cache, logits, done | (token == end)), token

    numbers = jnp.arange(steps, dtype=jnp.uint32)
    state = (cache, logits, jnp.zeros(Q, bool))
    (_, logits, done), tokens = jax.lax.scan(step, state, numbers[:-1])
    last = sample(logits, numbers[-1], done)
    return jnp.concatenate([tokens.T, last[:, None]], axis=1)
