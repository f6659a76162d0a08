"""Capacity policies made from a measured profile or a given list."""

import bisect
import dataclasses

from ariel_jax._checks import positive_int
from ariel_jax.algorithms.bmc.planning import Profile, next_capacity
from ariel_jax.decode.capacity import round_up
from ariel_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Table:
    """Capacities from a list, for whoever has planned them (`planning.schedule`).

    Attributes:
        capacities: rows, rising. Beyond the last one the cache grows to what is needed.
        granularity: of the capacities beyond the list.
    """

    capacities: tuple[int, ...]
    granularity: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(granularity=self.granularity)
        positive_int(**{f"capacities[{i}]": c for i, c in enumerate(self.capacities)})
        if not self.capacities or list(self.capacities) != sorted(set(self.capacities)):
            raise ConfigError(
                f"Table({list(self.capacities)}): give at least one capacity, in rising order."
            )

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """The first of the list that holds the prompt and one step."""
        return self._at_least(prompt_len + rows)

    def next(self, capacity: int, need: int, limit: int) -> int:
        """The next one of the list that is enough."""
        return self._at_least(max(capacity + 1, need))

    def _at_least(self, need: int) -> int:
        place = bisect.bisect_left(self.capacities, need)
        if place < len(self.capacities):
            return self.capacities[place]
        return round_up(need, self.granularity)


@dataclasses.dataclass(frozen=True)
class Auto:
    """Grows by what measured times say is cheapest per row, without knowing where a text ends.

    Attributes:
        profile: of the device, model and batch in question.
        granularity: capacities are multiples of this, so that shapes are shared.

    Guarantees:
        Capacities depend on the capacity before and on the limit alone, so that requests share
        shapes. Where a spare row costs nothing, it reserves the limit at once.
    """

    profile: Profile
    granularity: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(granularity=self.granularity)

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        """The capacity after the last one that the prompt would fill."""
        return self.next(
            prompt_len // self.granularity * self.granularity, prompt_len + rows, limit
        )

    def next(self, capacity: int, need: int, limit: int) -> int:
        """The cheapest next capacity, see `planning.next_capacity`."""
        return next_capacity(
            self.profile,
            capacity=capacity,
            least=max(need, capacity + 1),
            most=limit,
            granularity=self.granularity,
        )
