"""Measures what growing a cache and carrying spare rows take here, and remembers it."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ariel_jax import measure
from ariel_jax._checks import positive_int
from ariel_jax.algorithms.bmc.planning import Profile, Times
from ariel_jax.decode import programs
from ariel_jax.decode.capacity import Upfront
from ariel_jax.decode.compiling import compile_seconds
from ariel_jax.decode.engine import start
from ariel_jax.decode.strategy import Autoregressive, Strategy
from ariel_jax.decode.workload import workload_key
from ariel_jax.errors import ConfigError
from ariel_jax.layers.kv_cache import init_cache
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

PROMPT = 16  # tokens; the same short text at every capacity, so that only the capacity varies
SPARE = 16  # rows that a measured growth adds
N_STEPS = 16  # per timing

Say = Callable[[str], None]


def default_capacities(limit: int) -> tuple[int, ...]:
    """Five capacities from 192 rows to `limit`, evenly spaced by factor."""
    positive_int(limit=limit)
    low, high = 192, max(limit, 320)
    return tuple(sorted({round(low * (high / low) ** (i / 4) / 64) * 64 for i in range(5)}))


def profile(
    cfg: DecoderConfig,
    params: DecoderParams,
    *,
    batch: int = 1,
    capacities: Sequence[int],
    strategy: Strategy | None = None,
    extra: Any = None,
    n_runs: int = 5,
    store: measure.ProfileStore | None = None,
    remeasure: bool = False,
    say: Say = lambda text: None,
) -> Profile:
    """Times of growths and steps at several capacities, for one model and batch on this device.

    Args:
        cfg: the decoder.
        params: its weights.
        batch: requests decoded at once.
        capacities: rows at which to measure, rising, at least two.
        strategy: what a step does; default plain decoding. How many tokens its steps yield is not
            measured: replace `tokens_per_step` of the result by what you expect.
        extra: the strategy's read-only arrays.
        n_runs: timings of each, in turn; the fastest counts of steps, which nothing but other work on
            the machine slows down, and the mean of growths, of which some take memory from the system.
        store: where results are kept and looked up; None keeps nothing.
        remeasure: measure again even if there is an earlier result.
        say: told what is going on.

    Returns:
        The measured times. Compilation is in none of them; `compile_s` is what the slowest of the
        measured programs took (little where a compile cache had it) and counts for nothing until
        you replace `reuse`, the number of requests that share a program.

    Cost:
        For each capacity two compilations and `n_runs` x 16 steps.

    Raises:
        ConfigError: capacities that do not rise, or more than the model's positions allow.
    """
    positive_int(batch=batch, n_runs=n_runs)
    strategy = strategy or Autoregressive()
    rows = list(capacities)
    n_new = _n_new(n_runs, strategy)
    least = PROMPT + n_new + strategy.rows
    if len(rows) < 2 or rows != sorted(set(rows)) or rows[0] < least:
        raise ConfigError(
            f"capacities={rows} is not allowed: pass at least two, rising, each of at least "
            f"{least} rows."
        )
    if cfg.max_positions < PROMPT + n_new:
        raise ConfigError(
            f"n_runs={n_runs} needs {PROMPT + n_new} positions and the model has "
            f"{cfg.max_positions}: pass fewer runs."
        )
    where = workload_key(cfg, params, batch=batch, capacity=rows[0], rows=strategy.rows)
    key = {"what": "bmc profile", "capacities": rows, "strategy": repr(strategy), **where}
    found = store.get(key) if store is not None and not remeasure else None
    if found is not None and (known := _from_json(found)) is not None:
        return known
    steppers = []
    for capacity in rows:
        say(f"measuring at {capacity} rows")
        steppers.append(_Stepper(cfg, params, batch, capacity, n_runs, strategy, extra))
    for _ in range(n_runs):  # in turn: what disturbs the machine for a while hits each alike
        for stepper in steppers:
            stepper.measure()
    growth = [_growth_s(cfg, params, batch, capacity, n_runs) for capacity in rows]
    result = Profile(
        growth=Times(tuple(rows), tuple(growth)),
        step=Times(tuple(rows), tuple(stepper.step_s for stepper in steppers)),
        compile_s=max(stepper.compile_s for stepper in steppers),
    )
    if store is not None:
        store.keep(key, dataclasses.asdict(result), "the profile is")
    return result


def step_costs(
    cfg: DecoderConfig,
    params: DecoderParams,
    strategies: Sequence[Strategy],
    *,
    batch: int = 1,
    capacity: int,
    extra: Any = None,
    n_runs: int = 5,
) -> tuple[float, ...]:
    """Time of a step of each strategy over that of the first, for `decode.Adaptive`.

    Args:
        cfg: the decoder.
        params: its weights.
        strategies: to compare; how many drafts hold does not change what a step takes.
        batch: requests decoded at once.
        capacity: rows of the cache.
        extra: the strategies' read-only arrays.
        n_runs: timings of each, in turn; the fastest counts.

    Raises:
        ConfigError: too few rows or positions for the timings.
    """
    longest = max(_n_new(n_runs, strategy) + strategy.rows for strategy in strategies) + PROMPT
    if capacity < longest or cfg.max_positions < longest:
        raise ConfigError(
            f"capacity={capacity} and the model's {cfg.max_positions} positions must be at least "
            f"{longest}: pass a larger capacity, fewer runs or fewer drafts."
        )
    steppers = [_Stepper(cfg, params, batch, capacity, n_runs, s, extra) for s in strategies]
    for _ in range(n_runs):
        for stepper in steppers:
            stepper.measure()
    return tuple(stepper.step_s / steppers[0].step_s for stepper in steppers)


def _n_new(n_runs: int, strategy: Strategy) -> int:
    """Tokens that the timed steps may yield at most, and the first one."""
    return (n_runs + 1) * N_STEPS * strategy.rows + 1


def _growth_s(
    cfg: DecoderConfig, params: DecoderParams, batch: int, capacity: int, n_runs: int
) -> float:
    """Mean of growths one after the other, as a text has them, without compiling."""
    dtype = params.precision.dtype("cache")
    cache: Any = init_cache(cfg.n_layers, batch, cfg.n_kv_heads, capacity, cfg.head_dim, dtype)
    jax.block_until_ready(cache)
    times = []
    for _ in range(n_runs + 1):
        begin, compiling = time.perf_counter(), compile_seconds()
        cache = jax.block_until_ready(programs.grow(cache, cache.capacity + SPARE))
        times.append(time.perf_counter() - begin - (compile_seconds() - compiling))
    return sum(times[1:]) / n_runs


class _Stepper:
    """Decodes at one capacity, 16 steps for each `measure`."""

    def __init__(
        self,
        cfg: DecoderConfig,
        params: DecoderParams,
        batch: int,
        capacity: int,
        n_runs: int,
        strategy: Strategy,
        extra: Any,
    ) -> None:
        prompt = [i % cfg.vocab_size for i in range(PROMPT)]
        self._run = start(
            cfg,
            params,
            [prompt] * batch,
            max_new=_n_new(n_runs, strategy),
            strategy=strategy,
            extra=extra,
            capacity=Upfront(capacity),
        )
        before = self._run.report.compile_s
        self._run.advance(N_STEPS)
        self.compile_s = self._run.report.compile_s - before
        self.step_s = math.inf

    def measure(self) -> None:
        """Time 16 steps more and keep the fastest."""
        report = self._run.report
        steps, spent = report.decode_steps, report.decode_s
        self._run.advance(N_STEPS)
        taken = report.decode_steps - steps
        if taken:
            self.step_s = min(self.step_s, (report.decode_s - spent) / taken)


def _from_json(found: dict[str, Any]) -> Profile | None:
    """The stored profile; None if it has another form."""
    try:
        times = {
            name: Times(tuple(found[name]["capacities"]), tuple(found[name]["seconds"]))
            for name in ("growth", "step")
        }
        rest = {name: found[name] for name in ("compile_s", "reuse", "tokens_per_step")}
        return Profile(**times, **rest)
    except (KeyError, TypeError, ConfigError):
        return None
