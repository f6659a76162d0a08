"""Capacity policies: how many cache rows to reserve now, and how many when they run out.

Host-only; whole numbers in, whole numbers out. The engine takes care of copying.
"""

import dataclasses
import math
from typing import Protocol

from ariel_jax._checks import in_range, non_negative, positive, positive_int
from ariel_jax.errors import CapacityError


class CapacityPolicy(Protocol):
    """Decides capacities; every method is pure, so that capacities are shared between requests."""

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """Rows to allocate at prefill: at least prompt_len + rows, or `limit` if that is less.

        Args:
            prompt_len: longest prompt of the batch.
            rows: cache rows one step of the strategy may write.
            limit: rows that the longest request can ever need.
        """
        ...

    def next(self, capacity: int, need: int, limit: int) -> int:
        """Rows after a growth: above `capacity`, at least `need`, best no more than `limit`."""
        ...


def check_choice(chosen: int, *, need: int, policy: CapacityPolicy) -> int:
    """`chosen`, if a policy may choose it.

    Raises:
        CapacityError: fewer rows than one step writes.
    """
    if chosen < need:
        raise CapacityError(
            f"{policy} chose a capacity of {chosen} rows, but the next step needs {need}. "
            "A policy must return at least what it is asked for."
        )
    return chosen


def round_up(value: int, granularity: int) -> int:
    """The smallest multiple of `granularity` that is at least `value`."""
    return -(-value // granularity) * granularity


@dataclasses.dataclass(frozen=True)
class Upfront:
    """Reserve once, for the longest the batch can become: no growth, most memory.

    Attributes:
        rows: fixed capacity; None takes the batch's own limit, rounded up.
        granularity: capacities are multiples of this, so that shapes are shared.
    """

    rows: int | None = None
    granularity: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(granularity=self.granularity)
        if self.rows is not None:
            positive_int(rows=self.rows)

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """`rows`, or the limit rounded up to the granularity.

        Raises:
            CapacityError: a fixed capacity below the limit.
        """
        if self.rows is None:
            return round_up(limit, self.granularity)
        if self.rows < limit:
            raise CapacityError(
                f"Upfront({self.rows}) is below the {limit} rows that this batch can need; "
                "reserve more, ask for fewer new tokens, or use Arithmetic, which grows."
            )
        return self.rows

    def next(self, capacity: int, need: int, limit: int) -> int:
        """Never asked for while `initial` holds; grows to the limit if it is."""
        return round_up(max(need, limit), self.granularity)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Buckets of r spare rows: grow by r whenever they are used up.

    Attributes:
        r: rows added at each growth.
        granularity: capacities are multiples of this, so that shapes are shared.
    """

    r: int = 256
    granularity: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(r=self.r, granularity=self.granularity)

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """The prompt and r spare rows, no more than the limit, rounded up."""
        wanted = prompt_len + max(self.r, rows)
        return round_up(max(min(wanted, limit), prompt_len + rows), self.granularity)

    def next(self, capacity: int, need: int, limit: int) -> int:
        """R more rows, no more than the limit, at least what is needed, rounded up."""
        return round_up(max(min(capacity + self.r, limit), need), self.granularity)


@dataclasses.dataclass(frozen=True)
class Iterative:
    """One row more for every step: what eager frameworks do. A yardstick, never a choice.

    Under XLA each capacity is a shape and each shape a program, so it compiles for every token.
    """

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """The prompt and what the first step writes."""
        return prompt_len + rows

    def next(self, capacity: int, need: int, limit: int) -> int:
        """What is needed."""
        return need


@dataclasses.dataclass(frozen=True)
class Geometric:
    """Grow by a factor: few shapes, so right when every new shape has to be compiled.

    Attributes:
        gamma: factor of the capacity at each growth.
        granularity: capacities are multiples of this, so that shapes are shared.
    """

    gamma: float = 2.0
    granularity: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        in_range(1, math.inf, ends="()", gamma=self.gamma)
        positive_int(granularity=self.granularity)

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """Gamma times the prompt, no more than the limit, rounded up."""
        wanted = min(math.ceil(self.gamma * prompt_len), limit)
        return round_up(max(wanted, prompt_len + rows), self.granularity)

    def next(self, capacity: int, need: int, limit: int) -> int:
        """Gamma times the capacity, no more than the limit, at least what is needed, rounded up."""
        return round_up(max(min(math.ceil(self.gamma * capacity), limit), need), self.granularity)


@dataclasses.dataclass(frozen=True)
class Sqrt:
    """Grow by sqrt(2 (ratio C + fixed)) rows: the cheapest growth at each capacity C.

    It needs no guess of the length, and costs 6 % less than the best constant growth when the
    prompt is short.

    Attributes:
        ratio: time to copy a row over time that a spare row adds to a step, times the tokens that
            a step yields. 2 where both are bound by the same bandwidth (a copy reads and writes).
        fixed: fixed time of a growth over time that a spare row adds to a step.
        granularity: capacities are multiples of this, so that shapes are shared.
    """

    ratio: float = 2.0
    fixed: float = 0.0
    granularity: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        positive(ratio=self.ratio)
        non_negative(fixed=self.fixed)
        positive_int(granularity=self.granularity)

    def _spare(self, capacity: int) -> int:
        return max(1, round(math.sqrt(2 * (self.ratio * capacity + self.fixed))))

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """The prompt and its spare rows, no more than the limit, rounded up."""
        wanted = min(prompt_len + max(self._spare(prompt_len), rows), limit)
        return round_up(max(wanted, prompt_len + rows), self.granularity)

    def next(self, capacity: int, need: int, limit: int) -> int:
        """The spare rows more, no more than the limit, at least what is needed, rounded up."""
        wanted = min(capacity + self._spare(capacity), limit)
        return round_up(max(wanted, need), self.granularity)
