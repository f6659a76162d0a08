"""The host side of decoding: requests in, text out, capacities and growth between segments."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import positive_int, whole_number
from ariel_jax.decode import ahead, programs, requests
from ariel_jax.decode.capacity import CapacityPolicy, Upfront, check_choice
from ariel_jax.decode.compiling import compile_seconds
from ariel_jax.decode.sampling import SamplingParams, make_rows
from ariel_jax.decode.state import (
    DecodeState,
    Flag,
    Logprobs,
    Stats,
    cache_bytes,
    check_alive,
    shard_state,
)
from ariel_jax.decode.strategy import Autoregressive, Strategy
from ariel_jax.errors import CapacityError
from ariel_jax.layers.kv_cache import init_cache
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

NO_STEP_LIMIT = np.iinfo(np.int32).max


def bucket(value: int, smallest: int = 64) -> int:
    """The smallest power of two, from `smallest` on, that is at least `value`."""
    return max(smallest, 1 << (value - 1).bit_length())


@dataclasses.dataclass
class Report:
    """What a run cost. Times are host wall-clock seconds; compilation is in `compile_s` alone."""

    compile_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    grow_s: float = 0.0
    segments: int = 0
    growths: int = 0
    rows_copied: int = 0  # at growths and shrinks; a row is a position of all requests
    compiles: int = 0
    capacity: int = 0
    cache_bytes: int = 0  # of the strategy's own arrays (a draft model's cache) too
    peak_cache_bytes: int = 0  # while it was moved, by the sizes of what existed at once
    new_tokens: int = 0
    decode_tokens: int = 0  # without the first one of each row, which prefill draws
    decode_steps: int = 0  # steps of the slowest row
    proposed: int = 0
    accepted: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all rows per second of decoding and growing, prefill excluded."""
        seconds = self.decode_s + self.grow_s
        return self.decode_tokens / seconds if seconds else 0.0

    @property
    def s_per_step(self) -> float:
        """Seconds per step of the batch, prefill and growths excluded."""
        return self.decode_s / self.decode_steps if self.decode_steps else 0.0


def _raise_flags(flags: np.ndarray) -> None:
    rows = np.flatnonzero(flags & Flag.NOT_FINITE).tolist()
    if rows:
        raise FloatingPointError(
            f"row(s) {rows} got NaN or infinite logits; check the weights, or decode in a wider "
            "precision."
        )


class Run:
    """A batch being decoded: owns the state, grows its cache, counts what it did.

    `start` makes one from prompts; calling it continues any state, forked or rolled back.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        params: DecoderParams,
        state: DecodeState,
        *,
        strategy: Strategy | None = None,
        policy: CapacityPolicy | None = None,
        extra: Any = None,
        report: Report | None = None,
        mem_limit: int | None = None,
        compile_ahead: bool = False,
    ) -> None:
        """A run that continues `state`, which the first `advance` donates.

        Args:
            cfg: the decoder.
            params: its weights.
            state: after prefill.
            strategy: the one that made the state; default plain decoding.
            policy: how the cache grows; default to the batch's limit at once.
            extra: the strategy's read-only arrays.
            report: counters to go on with; default new ones.
            mem_limit: bytes that the cache may take, a growth's copies included; None for no limit.
            compile_ahead: compile the program of the next capacity while this one's runs, in a
                thread of its own. It hides that time where a processor is to spare.

        Raises:
            ConfigError: the state was donated to another run, which has overwritten it.
        """
        check_alive(state)
        strategy, policy, report = (
            strategy or Autoregressive(),
            policy or Upfront(),
            report or Report(capacity=state.cache.capacity),
        )
        self.cfg, self.params, self.extra = cfg, params, extra
        self.state = state
        self.strategy, self.policy = strategy, policy
        self.report, self.mem_limit = report, mem_limit
        self._compiles_ahead = compile_ahead
        self._program: tuple[Any, ahead.Segment] | None = None
        self.length = np.zeros(0, np.int32)
        self.done = np.zeros(0, bool)
        self.tokens = np.zeros((0, 0), np.int32)
        self._steps = np.zeros(0, np.int32)
        self._limit = np.asarray(state.limit)
        self._read()
        self._count_bytes(0)

    def _read(self, info: Any = None) -> Any:
        """`info` from the device, and what is kept of the state: one transfer for each segment."""
        state = self.state
        small = (state.cache.length, state.done, state.tokens, state.stats.steps, info)
        self.length, self.done, self.tokens, self._steps, info = jax.device_get(small)
        return info

    def new_tokens(self, row: int) -> list[int]:
        """The tokens generated so far for one row, an end-of-sequence token included."""
        start = int(self.state.prompt_length[row])
        return self.tokens[row, start : int(self.length[row]) + 1].tolist()

    def advance(self, max_steps: int = NO_STEP_LIMIT) -> bool:
        """Decode up to `max_steps` steps, growing the cache as needed; True while rows go on.

        Raises:
            ConfigError: max_steps below 1.
            CapacityError: the policy chose too little, or the device has no room for a growth.
            MemoryLimitError: a growth would take more than `mem_limit`.
            FloatingPointError: the model produced NaN or infinite logits.
        """
        positive_int(max_steps=max_steps)
        left = max_steps
        compiled = programs.TRACES["segment"] + programs.TRACES["grow"]
        while left > 0 and not self.done.all():
            self._make_room()
            steps_before = self._steps
            review = self.strategy.review_steps
            before = self.length.copy()
            begin, compiling = time.perf_counter(), compile_seconds()
            segment, waited = self._segment()
            self.state, info = segment(
                self.params,
                self.extra,
                self.state,
                max_steps=np.int32(left if review is None else min(left, review)),
            )
            info = self._read(info)
            spent = compile_seconds() - compiling + waited
            self.report.compile_s += spent
            self.report.decode_s += time.perf_counter() - begin - spent
            steps = self._steps - steps_before
            taken = int(steps.max())
            self._count(before, taken, info)
            _raise_flags(info.flags)
            left -= max(taken, 1)
            self.strategy = self.strategy.choose(
                {
                    "tokens": self.tokens,
                    "length": self.length,
                    "done": self.done,
                    "emitted": info.emitted,
                    "steps": steps,
                    "proposed": info.proposed,
                    "accepted": info.accepted,
                }
            )
        self.report.compiles += programs.TRACES["segment"] + programs.TRACES["grow"] - compiled
        return not self.done.all()

    def _segment(self) -> tuple[ahead.Segment, float]:
        """The program for the state as it is now, and seconds of waiting for it.

        Starts on the next capacity's if that is wanted.
        """
        strategy, capacity, waited = self.strategy.now, self.state.cache.capacity, 0.0
        if self._program is None or self._program[0] != (strategy, capacity):
            arguments = (self.cfg, self.params, self.extra, self.state, strategy)
            found, waited = ahead.program(*arguments)
            self._program = (strategy, capacity), found
            limit = self._most_rows()
            if self._compiles_ahead and capacity < limit:
                ahead.submit(*arguments, self.policy.next(capacity, capacity + 1, limit))
        return self._program[1], waited

    def prepare(self, capacities: Sequence[int]) -> None:
        """Compiles the programs of capacities ahead of time, and waits for them.

        Raises:
            ConfigError: a capacity that is no whole number above 0.
        """
        positive_int(**{f"capacities[{i}]": c for i, c in enumerate(capacities)})
        arguments = (self.cfg, self.params, self.extra)
        begin, strategy = time.perf_counter(), self.strategy.now
        for capacity in capacities:
            self.report.compiles += ahead.submit(*arguments, self.state, strategy, capacity)
        for capacity in capacities:
            ahead.program(*arguments, ahead.at_capacity(strategy, self.state, capacity), strategy)
        self.report.compile_s += time.perf_counter() - begin

    def _most_rows(self) -> int:
        """Cache rows that the longest row that still goes on can need."""
        return int(self._limit[~self.done].max()) - 2 + self.strategy.max_rows

    def _count(self, before: np.ndarray, taken: int, info: Any) -> None:
        emitted = int((self.length - before).sum())
        self.report.segments += 1
        self.report.new_tokens += emitted
        self.report.decode_tokens += emitted
        self.report.decode_steps += taken
        self.report.proposed += int(info.proposed.sum())
        self.report.accepted += int(info.accepted.sum())

    def _make_room(self) -> None:
        active = ~self.done
        need = int(self.length[active].max()) + self.strategy.rows
        capacity = self.state.cache.capacity
        if need <= capacity:
            return
        limit = self._most_rows()
        new = check_choice(self.policy.next(capacity, need, limit), need=need, policy=self.policy)
        self._resize(new)
        self.report.growths += 1

    def shrink(self) -> bool:
        """Give spare rows back if the longest row fills less than half; True if it was done.

        Nothing that is known is lost, of rows that are done neither. It copies the cache and may
        compile a program for the new capacity, so it belongs into a quiet moment, such as after a
        rollback.
        """
        length, rows = int(self.length.max()), self.strategy.max_rows
        need = int((self.length + np.where(self.done, 0, self.strategy.rows)).max())
        capacity = self.state.cache.capacity
        if 2 * need > capacity:
            return False
        limit = int(self._limit.max()) - 2 + rows
        chosen = self.policy.initial(length, rows, max(limit, length))
        new = check_choice(chosen, need=need, policy=self.policy)
        if new >= capacity:
            return False
        self._resize(new)
        return True

    def _count_bytes(self, transient: int) -> None:
        held = cache_bytes(self.state)
        self.report.cache_bytes = held
        self.report.peak_cache_bytes = max(self.report.peak_cache_bytes, held + transient)

    def _resize(self, new: int) -> None:
        capacity, held = self.state.cache.capacity, cache_bytes(self.state)
        requests.check_memory(self.cfg, held, capacity, new, self.mem_limit)
        begin, compiling = time.perf_counter(), compile_seconds()
        self.report.rows_copied += min(capacity, new)
        try:
            cache = programs.grow(self.state.cache, new)
            aux = self.strategy.grow(self.state.aux, new)
        except jax.errors.JaxRuntimeError as error:
            raise CapacityError(
                f"the device could not move the cache from {capacity} to {new} rows ({error}). What "
                "was decoded is in `tokens`, the cache is lost: start again with a smaller batch, "
                "fewer tokens or a mem_limit."
            ) from error
        self.state = self.state.replace(cache=cache, aux=aux)
        spent = compile_seconds() - compiling
        self.report.compile_s += spent
        self.report.grow_s += time.perf_counter() - begin - spent
        self.report.capacity = new
        # A leaf exists twice while it is moved.
        self._count_bytes(min(held, cache_bytes(self.state)) // (2 * self.cfg.n_layers))

    def stop_row(self, row: int, n_known: int) -> None:
        """End one row now, keeping its first `n_known` tokens (prompt included).

        Raises:
            ConfigError: no such row, or fewer tokens than its prompt.
        """
        whole_number(0, self.state.batch - 1, row=row)
        whole_number(max(1, int(self.state.prompt_length[row])), NO_STEP_LIMIT, n_known=n_known)
        keep = np.asarray(self.state.n_known()).copy()
        dropped = max(int(keep[row]) - n_known, 0)
        keep[row] -= dropped
        self.report.new_tokens -= dropped
        self.report.decode_tokens -= min(dropped, self.report.decode_tokens)
        done = self.done.copy()
        done[row] = True
        # Placed as before: a state that lies elsewhere would compile the program once more.
        self.state = self.state.replace(
            cache=self.state.cache.rollback(_placed_as(keep - 1, self.state.limit)),
            done=_placed_as(done, self.state.done),
        )
        self._read()


def _placed_as(value: np.ndarray, old: jax.Array) -> jax.Array:
    return jax.device_put(value, old.sharding) if old.committed else jnp.asarray(value)


def start(
    cfg: DecoderConfig,
    params: DecoderParams,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int | Sequence[int],
    strategy: Strategy | None = None,
    capacity: CapacityPolicy | None = None,
    sampling: SamplingParams | Sequence[SamplingParams] | None = None,
    eos: Sequence[int] = (),
    top_logprobs: int | None = None,
    key: jax.Array | None = None,
    extra: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    mem_limit: int | None = None,
    compile_ahead: bool = False,
) -> Run:
    """A Run whose prompts have been read and whose first tokens are drawn.

    Args:
        cfg: the decoder.
        params: its weights.
        prompts: token ids of each request, each at least one, lengths may differ.
        max_new: tokens to generate at most, for all or one per request.
        strategy: how tokens are found; default plain decoding.
        capacity: how much cache to reserve; default all of it at once.
        sampling: settings for all or one per request; default greedy.
        eos: ids that end a request.
        top_logprobs: keep each token's log-probability and this many of the largest.
        key: typed key from which requests without a seed get theirs; default `jax.random.key(0)`.
        extra: the strategy's read-only arrays.
        mesh: with axes `data` and `tensor`: the cache is laid out like the weights.
        mem_limit: bytes that the cache may take, a growth's copies included; None for no limit.
        compile_ahead: as for `Run`.

    Raises:
        ConfigError: an empty prompt, a token outside the vocabulary, more tokens than the model has
            positions, or a setting out of range.
        CapacityError: a policy that reserves less than a step writes, or more than the device has.
        MemoryLimitError: the cache would take more than `mem_limit`.
        FloatingPointError: a prompt leads to NaN or infinite logits.
    """
    strategy = strategy or Autoregressive()
    policy = capacity or Upfront()
    n_new = requests.check_prompts(cfg, prompts, max_new)
    sampling = requests.one_each(sampling, len(prompts))
    requests.check_eos(cfg, eos)
    key = requests.check_key(key)
    lengths = np.array([len(p) for p in prompts], np.int32)
    limit = lengths + np.array(n_new, np.int32)
    if top_logprobs is not None:
        whole_number(0, cfg.vocab_size, top_logprobs=top_logprobs)
    longest, room = int(lengths.max()), strategy.max_rows
    chosen = policy.initial(longest, room, int(limit.max()) - 2 + room)
    rows = check_choice(chosen, need=longest, policy=policy)
    row_bytes = 2 * len(prompts) * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim
    row_bytes *= params.precision.dtype("cache").itemsize
    requests.check_memory(cfg, 0, 0, rows, mem_limit, row_bytes=row_bytes)
    tokens = np.zeros((len(prompts), bucket(max(int(limit.max()), longest + room))), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    state = _empty_state(
        cfg, params, tokens, lengths, limit, rows, sampling, eos, top_logprobs, key
    )
    if mesh is not None:
        state = shard_state(state, mesh)
    state = state.replace(aux=strategy.init(cfg, params, extra, state))
    requests.check_memory(cfg, 0, 0, rows, mem_limit, row_bytes=cache_bytes(state) // rows)
    state, report = _read_prompts(cfg, params, extra, state, tokens, lengths, strategy)
    return Run(
        cfg,
        params,
        state,
        strategy=strategy,
        policy=policy,
        extra=extra,
        report=report,
        mem_limit=mem_limit,
        compile_ahead=compile_ahead,
    )


def _read_prompts(
    cfg: DecoderConfig,
    params: DecoderParams,
    extra: Any,
    state: DecodeState,
    tokens: np.ndarray,
    lengths: np.ndarray,
    strategy: Strategy,
) -> tuple[DecodeState, Report]:
    """The state after prefill, and what that took."""
    # No further than the model has positions: a learned table has no row beyond them.
    n_read = min(bucket(int(lengths.max())), tokens.shape[1], cfg.max_positions)
    compiled = programs.TRACES["prefill"]
    begin, compiling = time.perf_counter(), compile_seconds()
    state = programs.prefill()(
        cfg,
        params,
        extra,
        state,
        jnp.asarray(tokens[:, :n_read]),
        jnp.asarray(lengths),
        strategy=strategy,
    )
    _raise_flags(np.asarray(state.stats.flags))  # and waits for the program
    compile_s = compile_seconds() - compiling
    return state, Report(
        compile_s=compile_s,
        prefill_s=time.perf_counter() - begin - compile_s,
        compiles=programs.TRACES["prefill"] - compiled,
        capacity=state.cache.capacity,
        new_tokens=state.batch,
    )


def _empty_state(
    cfg: DecoderConfig,
    params: DecoderParams,
    tokens: np.ndarray,
    lengths: np.ndarray,
    limit: np.ndarray,
    capacity: int,
    sampling: Sequence[SamplingParams],
    eos: Sequence[int],
    top_logprobs: int | None,
    key: jax.Array,
) -> DecodeState:
    B, n_max = tokens.shape
    settings = make_rows(sampling, eos, top_logprobs=top_logprobs)  # checks them, seeds included
    # Copied first: the state is donated, and donation would delete the caller's key.
    key = jnp.copy(key)
    keys = [
        jax.random.fold_in(key, row) if p.seed is None else jax.random.key(p.seed)
        for row, p in enumerate(sampling)
    ]
    zero = jnp.zeros(B, jnp.int32)
    logprobs = None
    if top_logprobs is not None:
        logprobs = Logprobs(
            token=jnp.zeros((B, n_max), jnp.float32),
            top=jnp.zeros((B, n_max, top_logprobs), jnp.float32),
            top_ids=jnp.zeros((B, n_max, top_logprobs), jnp.int32),
        )
    cache_dtype = params.precision.dtype("cache")
    try:
        cache = init_cache(cfg.n_layers, B, cfg.n_kv_heads, capacity, cfg.head_dim, cache_dtype)
    except jax.errors.JaxRuntimeError as error:  # the device's allocator says how much is left
        row_bytes = 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * cache_dtype.itemsize
        raise CapacityError(
            f"a cache of {capacity} rows for {B} requests takes {B * capacity * row_bytes:,} bytes, "
            f"which this device does not have ({error}). Reserve less with a policy that grows, ask "
            "for fewer new tokens, or decode fewer requests at once."
        ) from error
    return DecodeState(
        cache=cache,
        tokens=jnp.asarray(tokens),
        prompt_length=jnp.asarray(lengths),
        limit=jnp.asarray(limit),
        done=jnp.zeros(B, bool),
        keys=jnp.stack(keys),
        sampling=settings,
        stats=Stats(
            steps=zero,
            proposed=jnp.zeros_like(zero),
            accepted=jnp.zeros_like(zero),
            flags=jnp.zeros(B, jnp.uint32),
        ),
        logprobs=logprobs,
    )
