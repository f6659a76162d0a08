"""Secret draws of demonstrations into a fixed number of slots. Host only."""

import dataclasses
import hashlib
import secrets

import numpy as np

from ariel_jax._checks import in_range, one_of, positive_int
from ariel_jax.errors import AccountingMismatchError, PrivacyConfigError
from ariel_jax.privacy.batches import PoissonSource

SAMPLERS = ("poisson", "without_replacement", "partition", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """A subset of the demonstrations in slots. Secret.

    Attributes:
        rows: [N] int64, the demonstration in each slot; -1 where there is none.
    """

    rows: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """[N] bool, which slots hold a demonstration."""
        return self.rows >= 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subsets:
    """Who is drawn for which block of which query.

    Attributes:
        sampler: `poisson`, every unit by a coin of its own; `without_replacement`, `n_slots` units;
            `partition`, disjoint groups of `n_slots` units in a random order, one for a query, in turn;
            `none`, all units in every block.
        units: the demonstrations of each privacy unit; of a drawn unit one enters, chosen anew.
        n_slots: N.
        probability: of a unit, for `poisson`.
        seed: secret, in hexadecimal; what is drawn depends on it and on the numbers of query and block
            alone.

    Guarantees:
        Slots are given at random: whoever else is drawn, a unit is equally likely to be in each, so that
        adding one leaves the others where they are but for its own slot. A Poisson draw of more than N
        units keeps a random choice of N; the price must say so (`Plan.truncation`).
    """

    sampler: str
    units: tuple[tuple[int, ...], ...]
    n_slots: int
    probability: float | None = None
    seed: str = dataclasses.field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def __post_init__(self) -> None:
        """Check that sampler and sizes go together."""
        one_of(SAMPLERS, sampler=self.sampler)
        positive_int(n_slots=self.n_slots)
        n = len(self.units)
        if self.sampler == "poisson":
            in_range(0, 1, ends="(]", probability=self.probability)
        elif self.sampler == "none" and n > self.n_slots:
            raise PrivacyConfigError(
                f"sampler='none' puts all {n} demonstrations into {self.n_slots} slots: allow "
                f"n_slots={n}, or draw some of them (poisson, without_replacement, partition)."
            )
        elif self.sampler in ("without_replacement", "partition") and n < self.n_slots:
            raise PrivacyConfigError(
                f"sampler={self.sampler!r} fills {self.n_slots} slots and there are {n} units of "
                "demonstrations: take fewer slots, or bring more."
            )

    @property
    def n_groups(self) -> int:
        """Of `partition`: queries that are answered before a group answers a second one."""
        return len(self.units) // self.n_slots

    def draw(self, query: int, block: int) -> Draw:
        """Who enters block `block` of query `query`; the same whenever it is asked."""
        generator = self._generator(f"query {query} block {block}")
        units = self._units(query, block, generator)
        rows = np.full(self.n_slots, -1, np.int64)
        slots = generator.permutation(self.n_slots)[: len(units)]
        for slot, unit in zip(slots.tolist(), units.tolist(), strict=True):
            records = self.units[unit]
            rows[slot] = records[int(generator.integers(len(records)))]
        return Draw(rows=rows)

    def _units(self, query: int, block: int, generator: np.random.Generator) -> np.ndarray:
        n, N = len(self.units), self.n_slots
        if self.sampler == "poisson":
            assert self.probability is not None
            numbers = {"unit": np.arange(n)}
            source = PoissonSource(records=numbers, probability=self.probability, rows=N)
            state = source.init() | {"seed": self._seed(f"query {query}"), "step": block}
            return source.draw(state)
        if self.sampler == "without_replacement":
            return generator.choice(n, size=N, replace=False)
        if self.sampler == "partition":
            order = self._generator("partition").permutation(n)
            group = query % self.n_groups
            return order[group * N : (group + 1) * N]
        return np.arange(n)

    def _seed(self, what: str) -> str:
        return hashlib.blake2b(
            what.encode(), key=bytes.fromhex(self.seed), digest_size=32
        ).hexdigest()

    def _generator(self, what: str) -> np.random.Generator:
        words = np.frombuffer(bytes.fromhex(self._seed(what)), np.uint32)
        return np.random.default_rng(words.tolist())


def check_count(sampler: str, planned: int, there: int) -> None:
    """Refuses a price that was computed for another number of privacy units.

    Raises:
        AccountingMismatchError: under `poisson` there are more than planned; else not as many.
    """
    if there > planned or (sampler != "poisson" and there != planned):
        raise AccountingMismatchError(
            f"the plan is for n_demonstrations={planned} and there are {there} privacy units (owners, or "
            f"demonstrations): plan for {'at least' if sampler == 'poisson' else 'exactly'} {there}."
        )
