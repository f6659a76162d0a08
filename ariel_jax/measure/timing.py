"""Timing of device work: warm up, wait for the result, report the spread."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ariel_jax import _checks


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds that one call took, over several runs."""

    median_s: float
    min_s: float
    max_s: float
    n_runs: int


def timed(fun: Callable[..., Any], *args: Any, n_runs: int = 5, n_warmup: int = 1) -> Timing:
    """Returns how long `fun(*args)` takes until its result is on the device.

    Args:
        fun: what to time; it must not donate its arguments, since they are passed again.
        *args: its arguments.
        n_runs: how many calls are timed.
        n_warmup: calls before that, which compile and touch memory; at least 1 for a program that
            is not compiled yet.

    Raises:
        ConfigError: a count is out of range.
    """
    _checks.positive_int(n_runs=n_runs)
    _checks.non_negative_int(n_warmup=n_warmup)
    for _ in range(n_warmup):
        jax.block_until_ready(fun(*args))
    times = []
    for _ in range(n_runs):
        begin = time.perf_counter()
        jax.block_until_ready(fun(*args))
        times.append(time.perf_counter() - begin)
    return Timing(
        median_s=statistics.median(times), min_s=min(times), max_s=max(times), n_runs=n_runs
    )
