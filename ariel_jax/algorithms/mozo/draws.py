"""Secret draws of demonstrations into a fixed number of slots. Host only."""

import dataclasses
import hashlib
import secrets

import numpy as np

from ariel_jax.algorithms.mozo.demos import Encoded
from ariel_jax.algorithms.mozo.owners import Units
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.errors import AccountingMismatchError, PrivacyUnitError
from ariel_jax.privacy.batches import PoissonSource


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
        plan: what is paid for; its sampler is what draws.
        units: which demonstrations are protected together.
        seed: secret, in hexadecimal; what is drawn depends on it and on the numbers of query and block
            alone.

    Guarantees:
        Slots are given at random: whoever else is drawn, a demonstration is equally likely to be in each,
        so that one more leaves the others where they are and takes a masked slot. A Poisson draw of more
        units than slots keeps a random choice of them, which `Plan.truncation` pays for.

    Raises:
        AccountingMismatchError: the plan is for another number of privacy units.
        PrivacyUnitError: the plan is for another privacy unit, or pays for fewer of an owner's
            demonstrations together.
    """

    plan: Plan
    units: Units
    seed: str = dataclasses.field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def __post_init__(self) -> None:
        """Check that the price is for these demonstrations."""
        planned, there = self.plan.n_demonstrations, len(self.units)
        is_bound = self.plan.relation != "replace_one"
        if there > planned or not (is_bound or there == planned):
            raise AccountingMismatchError(
                f"the plan is for n_demonstrations={planned} and there are {there} privacy units (owners, or "
                f"demonstrations): plan for {'at least' if is_bound else 'exactly'} {there}."
            )
        if self.plan.unit != self.units.unit:
            raise PrivacyUnitError(
                f"the plan protects one {self.plan.unit} and these demonstrations were put together by "
                f"{self.units.unit}: plan with unit={self.units.unit!r}, so that reports name the right one."
            )
        if self.plan.records_per_owner < self.units.records_per_owner:
            raise PrivacyUnitError(
                f"up to {self.units.records_per_owner} demonstrations of an owner are shown together and the plan "
                f"pays for records_per_owner={self.plan.records_per_owner}: plan for at least the former."
            )

    @classmethod
    def of(cls, plan: Plan, encoded: Encoded, *, seed: int | None = None) -> "Subsets":
        """Draws from encoded demonstrations; with a `seed` anybody can repeat them.

        Raises:
            AccountingMismatchError, PrivacyUnitError: the plan is not for these demonstrations.
        """
        if seed is None:
            return cls(plan=plan, units=encoded.units)
        digest = hashlib.blake2b(f"public seed {seed}".encode(), digest_size=32).hexdigest()
        return cls(plan=plan, units=encoded.units, seed=digest)

    def draw(self, query: int, block: int) -> Draw:
        """Who enters block `block` of query `query`; the same whenever it is asked."""
        N = self.plan.config.n_slots
        generator = self._generator(f"query {query} block {block}")
        units = self._units(query, block, generator)
        chosen = self.units.choose(units.tolist(), generator)
        rows = np.full(N, -1, np.int64)
        rows[generator.permutation(N)[: len(chosen)]] = chosen
        return Draw(rows=rows)

    def _units(self, query: int, block: int, generator: np.random.Generator) -> np.ndarray:
        n, N = len(self.units), self.plan.config.n_slots
        if self.plan.sampler == "poisson":
            source = PoissonSource(
                records={"unit": np.arange(n)}, probability=self.plan.probability, rows=N
            )
            state = source.init() | {"seed": self._seed(f"query {query}"), "step": block}
            return source.draw(state)
        if self.plan.sampler == "without_replacement":
            return generator.choice(n, size=N, replace=False)
        if self.plan.sampler == "partition":
            order = self._generator("partition").permutation(n)
            group = query % self.plan.n_groups
            return order[group * N : (group + 1) * N]
        return np.arange(n)

    def _seed(self, what: str) -> str:
        key = bytes.fromhex(self.seed)
        return hashlib.blake2b(what.encode(), key=key, digest_size=32).hexdigest()

    def _generator(self, what: str) -> np.random.Generator:
        words = np.frombuffer(bytes.fromhex(self._seed(what)), np.uint32)
        return np.random.default_rng(words.tolist())
