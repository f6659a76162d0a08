"""Capacities from measured times: the cheapest schedule for a known length, by dynamic programming.

Host only. Times are tables, not a formula, so that steps in them (a cache level that no longer
fits, pages that are touched for the first time) are taken into account.
"""

import bisect
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ariel_jax._checks import non_negative, positive, positive_int
from ariel_jax.algorithms.bmc.model import Costs
from ariel_jax.decode.capacity import round_up
from ariel_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds at several capacities; between them a straight line, beyond them the last slope.

    Attributes:
        capacities: rows, rising, at least two.
        seconds: one per capacity.
    """

    capacities: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.capacities, self.capacities[1:], strict=False))
        if len(self.capacities) < 2 or len(self.capacities) != len(self.seconds) or not rising:
            raise ConfigError(
                f"times at capacities {list(self.capacities)}: give at least two, rising, and as "
                f"many seconds; got {len(self.seconds)}."
            )
        positive_int(**{f"capacities[{i}]": c for i, c in enumerate(self.capacities)})
        non_negative(**{f"seconds[{i}]": s for i, s in enumerate(self.seconds)})

    def at(self, capacity: float) -> float:
        """Seconds at a capacity, never below zero."""
        i = min(max(bisect.bisect_right(self.capacities, capacity), 1), len(self.capacities) - 1)
        (c0, c1), (s0, s1) = self.capacities[i - 1 : i + 1], self.seconds[i - 1 : i + 1]
        return max(0.0, s0 + (s1 - s0) * (capacity - c0) / (c1 - c0))

    def line(self) -> tuple[float, float, float]:
        """(seconds at capacity 0, seconds per row, largest residual) of the least-squares line.

        The fixed part is not below 0.
        """
        x, y = np.asarray(self.capacities, float), np.asarray(self.seconds)
        slope, fixed = np.polyfit(x, y, 1)
        if fixed < 0:
            fixed, slope = 0.0, float((x @ y) / (x @ x))
        residual = float(np.abs(fixed + slope * x - y).max())
        return float(fixed), float(max(slope, 0.0)), residual

    def fit(self) -> tuple[float, float]:
        """(R squared of that line, its largest residual over the mean time)."""
        fixed, slope, residual = self.line()
        x, y = np.asarray(self.capacities, float), np.asarray(self.seconds)
        spread = float(np.sum((y - y.mean()) ** 2))
        error = float(np.sum((fixed + slope * x - y) ** 2))
        return 1 - error / spread if spread else 1.0, residual / max(float(y.mean()), 1e-30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """What growing and stepping take on one device for one model and batch.

    Attributes:
        growth: seconds to move a cache of a capacity into one that is larger.
        step: seconds of a step at a capacity, whatever part of it is filled.
        compile_s: seconds to compile the program of a capacity that is met for the first time.
        reuse: how many requests will share such a program; its compilation is divided by it.
        tokens_per_step: rows that a step fills on average.
    """

    growth: Times
    step: Times
    compile_s: float = 0.0
    reuse: float = float(10**9)
    tokens_per_step: float = 1.0

    def __post_init__(self) -> None:
        non_negative(compile_s=self.compile_s)
        positive(reuse=self.reuse, tokens_per_step=self.tokens_per_step)

    def growth_s(self, capacity: int) -> float:
        """Seconds to leave a capacity: the copy, and the new program's share of compiling."""
        return self.growth.at(capacity) + self.compile_s / self.reuse

    def costs(self) -> Costs:
        """The straight-line model of `model.best_rows`."""
        fixed, per_row, _ = self.growth.line()
        _, redundant, _ = self.step.line()
        return Costs(
            copy_s=per_row,
            redundant_s=redundant,
            growth_s=fixed + self.compile_s / self.reuse,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A plan for one request length.

    Attributes:
        capacities: in turn, the one of prefill first.
        seconds: predicted time of all steps and growths.
    """

    capacities: tuple[int, ...]
    seconds: float


def predicted_s(
    profile: Profile, capacities: Sequence[int], *, prompt: int, steps: int, rows: int = 1
) -> float:
    """Seconds of `steps` tokens under given capacities: growths and steps, as `simulate` takes them.

    Raises:
        ConfigError: the capacities end before the text does.
    """
    if capacities[-1] < prompt + steps - 1 + rows:
        raise ConfigError(
            f"capacities {list(capacities)} hold {capacities[-1]} rows, and {steps} steps after a "
            f"prompt of {prompt} need {prompt + steps - 1 + rows}."
        )
    total, length = 0.0, prompt
    for here, following in zip(capacities, [*capacities[1:], None], strict=True):
        taken = min(max(here - rows + 1, length), prompt + steps) - length
        total += taken * profile.step.at(here) / profile.tokens_per_step
        length += taken
        if following is not None and length < prompt + steps:
            total += profile.growth_s(here)
    return total


@functools.lru_cache(maxsize=256)
def schedule(
    profile: Profile, *, prompt: int, steps: int, rows: int = 1, granularity: int = 64
) -> Schedule:
    """The capacities of least predicted time for a text whose length is known.

    Args:
        profile: measured times.
        prompt: rows that the prompt fills.
        steps: tokens to decode, each filling one row.
        rows: rows one step may write.
        granularity: capacities are multiples of this.

    Returns:
        The shortest path from the prompt to the end over all multiples of the granularity.

    Cost:
        The square of (prompt + steps) / granularity.
    """
    positive_int(prompt=prompt, steps=steps, rows=rows, granularity=granularity)
    first = round_up(prompt + rows, granularity)
    last = round_up(prompt + steps - 1 + rows, granularity)
    grid = list(range(first, last + 1, granularity))
    end = prompt + steps
    per_token = [profile.step.at(c) / profile.tokens_per_step for c in grid]
    reach = [min(c - rows + 1, end) for c in grid]  # length at which a step no longer fits
    best = [per_token[j] * (reach[j] - prompt) for j in range(len(grid))]
    before: list[int | None] = [None] * len(grid)
    for j in range(len(grid)):
        for i in range(j):
            seconds = best[i] + profile.growth_s(grid[i]) + per_token[j] * (reach[j] - reach[i])
            if seconds < best[j]:
                best[j], before[j] = seconds, i
    path, at = [], len(grid) - 1
    while at is not None:
        path.append(grid[at])
        at = before[at]
    return Schedule(capacities=tuple(reversed(path)), seconds=best[-1])


@functools.lru_cache(maxsize=4096)
def next_capacity(
    profile: Profile, *, capacity: int, least: int, most: int, granularity: int
) -> int:
    """The next capacity for a text that may end at any time: cheapest per row until it is full.

    Args:
        profile: measured times.
        capacity: rows now.
        least: rows needed at once.
        most: rows that may ever be needed.
        granularity: the result is a multiple of this.

    Returns:
        The capacity v in [least, most] of least (growth + extra step time) / (v - capacity), where
        the extra is that of a step at v over one at the row it fills; the larger one of equals.
    """
    low, high = round_up(least, granularity), round_up(max(least, most), granularity)
    growth = profile.growth_s(capacity)
    rate, chosen = float("inf"), low
    floor = (
        np.cumsum([profile.step.at(row) for row in range(capacity + 1, high + 1)])
        / profile.tokens_per_step
    )
    for v in range(low, high + 1, granularity):
        extra = (v - capacity) * profile.step.at(v) / profile.tokens_per_step
        extra -= float(floor[v - capacity - 1])
        per_row = (growth + max(extra, 0.0)) / (v - capacity)
        if per_row <= rate * (1 + 1e-12):
            rate, chosen = per_row, v
    return chosen
