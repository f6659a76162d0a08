"""What private text costs: plans, their prices, and the largest influence that a budget allows. Host only."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ariel_jax._checks import in_range, non_negative_int, one_of, positive_int
from ariel_jax.algorithms.mozo import curves, words
from ariel_jax.algorithms.mozo.config import Config, Numbers, check
from ariel_jax.algorithms.mozo.curves import MOMENTS, Curve
from ariel_jax.errors import (
    AccountingMismatchError,
    ConfigError,
    PrivacyConfigError,
    UnprovenMechanismError,
)
from ariel_jax.privacy import batches
from ariel_jax.privacy.renyi import FREE, ORDERS, Price

SAMPLERS = ("poisson", "without_replacement", "partition", "none")
"""How the demonstrations of a block are chosen; see `Plan`."""
SAMPLED = ("poisson", "without_replacement")
NEIGHBOURS = ("zero_out", "add_remove")
"""Neighbouring data sets of `poisson` and `none`; the other samplers have `replace_one`."""
PROTECTED = ("demonstration", "owner")
"""Privacy units, in the words of a report."""
MOST_EPSILON = 500.0  # beyond it nothing is protected, and its power has no float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How demonstrations are drawn and how many tokens are made: all that a price depends on.

    Attributes:
        config: shapes and code paths; `n_slots` is the size of the subset, except for `poisson` (at least
            that of every draw) and `none` (at least `n_demonstrations`).
        numbers: what bounds a demonstration.
        n_demonstrations: n, privacy units to draw from, a *public* number: probabilities, slots, weights and
            so all bounds rest on it. For `poisson` and `none` one that they do not exceed.
        max_tokens: T, most tokens of one query.
        sampler: `poisson`: each by its own secret coin of `expected` / n. `without_replacement`: a uniform
            subset of `n_slots`, neighbours by replacing one. `partition`: disjoint groups of `n_slots`, fixed
            without looking at the records; query k is answered by group k modulo their number, neighbours by
            replacing one. `none`: all of them every time.
        neighbours: of `poisson` and `none`, at one price. `zero_out`: one that counts as nothing; how many
            there are is public, and n may be their number. `add_remove`: one more or less; then n must be a
            bound that was not taken from the data.
        expected: size of a `poisson` draw on average; None with the others.
        redraw_every: r, tokens that one draw serves; None: a draw serves a query. None with `partition` and
            `none`, where nothing is drawn.
        truncation: what draws of more than `n_slots` add to delta in each block of `poisson`
            (`needed_truncation` at the epsilon of the account that pays).
        records_per_owner: most records of one owner, where all of them are shown and protected together;
            with `none` and the unit `owner` only.
        unit: what is drawn and protected as one, `demonstration` or `owner` (see `owners.units`).

    Raises:
        AccountingMismatchError: another sampler, as one that looks at the query (kNN, BM25): it has no price.
        PrivacyConfigError: numbers that do not go together.
        UnprovenMechanismError: no theorem covers the settings.
    """

    config: Config
    numbers: Numbers
    n_demonstrations: int
    max_tokens: int
    sampler: str = "poisson"
    neighbours: str = "zero_out"
    expected: float | None = None
    redraw_every: int | None = None
    truncation: float = 0.0
    records_per_owner: int = 1
    unit: str = "demonstration"

    def __post_init__(self) -> None:
        """Check the numbers and that they go together."""
        if self.sampler not in SAMPLERS:
            raise AccountingMismatchError(
                f"sampler={self.sampler!r} has no price: allowed are {', '.join(map(repr, SAMPLERS))}. "
                "Demonstrations that are chosen by looking at the query (kNN, BM25) are drawn by no coin, so "
                "nothing is gained by sampling: take 'none' with all of them."
            )
        positive_int(
            n_demonstrations=self.n_demonstrations,
            max_tokens=self.max_tokens,
            records_per_owner=self.records_per_owner,
        )
        one_of(NEIGHBOURS, neighbours=self.neighbours)
        one_of(PROTECTED, unit=self.unit)
        if self.neighbours == "add_remove" and self.relation != "add_remove":
            raise PrivacyConfigError(
                f"neighbours='add_remove' with sampler={self.sampler!r} has no price: it draws from a fixed "
                "number, and one is replaced there. Leave it out, or take 'poisson' or 'none'."
            )
        check(self.config, self.numbers)
        if self.redraw_every is not None:
            positive_int(redraw_every=self.redraw_every)
            if self.sampler not in SAMPLED:
                raise PrivacyConfigError(
                    f"redraw_every={self.redraw_every} with sampler={self.sampler!r}: nothing is drawn "
                    "there. Pass None, or choose 'poisson' or 'without_replacement'."
                )
        if self.records_per_owner > 1 and self.sampler != "none":
            raise PrivacyConfigError(
                f"records_per_owner={self.records_per_owner} with sampler={self.sampler!r} has no price: "
                "sample owners and take one record of each (records_per_owner=1), or use sampler='none'."
            )
        if self.records_per_owner > 1 and not self.config.bounds_range:
            raise UnprovenMechanismError(
                f"records_per_owner={self.records_per_owner} with contract={self.config.contract!r} is not proven: its theorems "
                "are for one row that comes or goes. Take a range contract, or one record of each owner."
            )
        if self.records_per_owner > 1 and self.unit != "owner":
            raise PrivacyConfigError(
                f"records_per_owner={self.records_per_owner} with unit={self.unit!r}: what is protected "
                "together are all demonstrations of an owner. Pass unit='owner'."
            )
        in_range(0, 1, ends="[)", truncation=self.truncation)
        self._check_sizes()

    def _check_sizes(self) -> None:
        n, slots = self.n_demonstrations, self.config.n_slots
        if self.sampler == "poisson":
            if self.expected is None or not 0 < self.expected <= n:
                raise PrivacyConfigError(
                    f"expected={self.expected} is not allowed for a Poisson draw from {n} demonstrations: "
                    f"pass more than 0 and at most {n}; the probability of each is expected / {n}."
                )
            if self.truncation < 2 * self.overflow:
                raise PrivacyConfigError(
                    f"a draw of more than n_slots={slots} has a probability of up to {self.overflow:.3g}, "
                    f"and truncation={self.truncation:.3g}: make the plan by plan_for, or take more slots "
                    "and pass truncation=needed_truncation(epsilon of the account)."
                )
            return
        if self.expected is not None or self.truncation:
            raise PrivacyConfigError(
                f"expected={self.expected} and truncation={self.truncation:g} belong to sampler='poisson': "
                f"with {self.sampler!r} pass None and 0."
            )
        if self.sampler == "none" and n * self.records_per_owner > slots:
            raise PrivacyConfigError(
                f"{n * self.records_per_owner} records do not fit into n_slots={slots}, and sampler='none' "
                "shows all of them every time: take as many slots, or a sampler."
            )
        if self.sampler != "none" and n < slots:
            raise PrivacyConfigError(
                f"n_slots={slots} demonstrations cannot be drawn from {n}: take fewer slots."
            )

    def replace(self, **changes: Any) -> "Plan":
        """A plan with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def relation(self) -> str:
        """Between neighbouring data sets, one of `renyi.RELATIONS`."""
        return self.neighbours if self.sampler in ("poisson", "none") else "replace_one"

    @property
    def probability(self) -> float:
        """Of a demonstration to be in a block; 1 where nothing is drawn in secret."""
        n = self.n_demonstrations
        if self.sampler == "poisson":
            assert self.expected is not None
            return self.expected / n
        return self.config.n_slots / n if self.sampler == "without_replacement" else 1.0

    @property
    def n_groups(self) -> int:
        """Of a partition; 1 with the other samplers."""
        return self.n_demonstrations // self.config.n_slots if self.sampler == "partition" else 1

    @property
    def influence(self) -> float:
        """Largest range of the log-ratio between the laws of one token on neighbouring data sets.

        h for a record zeroed out, added or removed, h times `records_per_owner` for all of an owner's, 2 h for one
        replaced; infinity under a Rényi ball, which does not bound it.
        """
        if not self.config.bounds_range:
            return math.inf
        twice = 2 if self.relation == "replace_one" else 1
        return self.numbers.h * twice * self.records_per_owner

    @property
    def overflow(self) -> float:
        """Bound on the probability that a Poisson draw exceeds the slots, with one record more, too."""
        if self.sampler != "poisson":
            return 0.0
        return batches.overflow(self.n_demonstrations, self.probability, self.config.n_slots)

    def needed_truncation(self, epsilon: float) -> float:
        """The least `truncation` where an account of so large an epsilon pays: (1 + e^epsilon) overflow."""
        in_range(0, MOST_EPSILON, ends="(]", epsilon=epsilon)
        return (1 + math.exp(epsilon)) * self.overflow

    def blocks(self, tokens: int | None = None) -> tuple[int, ...]:
        """Lengths of the blocks of a query of so many tokens (None: `max_tokens`)."""
        left = self.max_tokens if tokens is None else tokens
        non_negative_int(tokens=left)
        length = self.redraw_every or self.max_tokens
        return tuple(min(length, left - begin) for begin in range(0, left, length))

    def token_curve(self, orders: Any = ORDERS) -> Curve:
        """Bound of one token on neighbouring fixed subsets, at some orders."""
        config, numbers = self.config, self.numbers
        if config.bounds_range:
            if math.isinf(self.influence):
                return np.full(np.shape(orders), math.inf)
            return curves.bounded_range(orders, self.influence)
        assert config.alpha is not None
        replaced = self.relation == "replace_one"
        ball = {"alpha": config.alpha, "radius": numbers.renyi_c, "weight": numbers.weight}
        if config.pool == "product":
            return curves.geometric(orders, **ball, kl_cap=numbers.kl_cap, replaced=replaced)
        return curves.arithmetic(orders, **ball, replaced=replaced)

    def block_curve(self, tokens: int) -> Curve:
        """Price of a block of so many tokens at `ORDERS`, its secret draw included."""
        if self.sampler not in SAMPLED:
            return tokens * self.token_curve()
        block = tokens * self.token_curve(MOMENTS)
        if self.sampler == "poisson":
            return curves.poisson(block, self.probability)
        return curves.without_replacement(block, tokens * self.influence, self.probability)

    def block_price(self, tokens: int) -> Price:
        """Of one block of so many tokens.

        Raises:
            ConfigError: below 1, or more than a block of this plan has.
        """
        positive_int(tokens=tokens)
        if tokens > self.blocks()[0]:
            raise ConfigError(
                f"tokens={tokens} exceeds the {self.blocks()[0]} tokens of this plan's blocks."
            )
        lengths = {1: tokens} if self.sampler not in SAMPLED else {tokens: 1}
        return self._of(lengths, 1, f"a block of {tokens} tokens")

    def price(self, n_queries: int = 1) -> Price:
        """Of so many queries, each at its full length.

        Raises:
            ConfigError: a negative number of queries.
        """
        non_negative_int(n_queries=n_queries)
        lengths: dict[int, int] = {}
        # Disjoint groups: a demonstration is in one, and pays for the queries of that one.
        times = -(-n_queries // self.n_groups)
        for length in self.blocks():
            self._count(lengths, length, times)
        return self._of(lengths, times * len(self.blocks()), self.describe(n_queries))

    def settled(self, blocks_started: Sequence[int], tokens: Sequence[int]) -> Price:
        """Of what was made of a reservation.

        Where demonstrations are drawn in secret, a block that was started costs all its tokens: sampling
        protects the whole block, not the part of it that was shown. Where nothing is drawn, tokens cost alike
        and those that were not made cost nothing.

        Args:
            blocks_started: per query, blocks in which a forward pass saw a demonstration.
            tokens: per query, tokens that were drawn, the one that ended the text included.

        Raises:
            ConfigError: lengths that differ, more than the plan has, or tokens without a block.
        """
        if len(blocks_started) != len(tokens):
            raise ConfigError(
                f"{len(blocks_started)} counts of blocks and {len(tokens)} counts of tokens: pass one of each "
                "for every query."
            )
        lengths: dict[int, int] = {}
        by_group = [0] * self.n_groups
        for query, (started, made) in enumerate(zip(blocks_started, tokens, strict=True)):
            non_negative_int(blocks_started=started, tokens=made)
            opened = self.blocks()[:started]
            if started > len(self.blocks()) or made > sum(opened):
                raise ConfigError(
                    f"query {query}: {made} tokens in {started} blocks, where the plan has blocks of "
                    f"{list(self.blocks())} tokens: pass what was made of this plan."
                )
            if self.sampler in SAMPLED:
                for length in opened:
                    self._count(lengths, length, 1)
            else:
                by_group[query % self.n_groups] += made
        if self.sampler not in SAMPLED:
            lengths = {1: max(by_group)}
        started = sum(blocks_started)
        what = (
            f"{sum(tokens)} tokens in {started} blocks of {len(tokens)} queries: {words.how(self)}"
        )
        return self._of(lengths, started, what)

    def _count(self, lengths: dict[int, int], length: int, times: int) -> None:
        """Adds a block to the counts by length; without a draw, its tokens as blocks of one."""
        key, n = (length, times) if self.sampler in SAMPLED else (1, length * times)
        lengths[key] = lengths.get(key, 0) + n

    def _of(self, lengths: Mapping[int, int], n_blocks: int, what: str) -> Price:
        if not any(lengths.values()):
            return FREE[self.relation]
        total = np.zeros(len(ORDERS))
        for length in sorted(lengths):  # always in one order: fewer blocks never cost more
            if lengths[length]:
                total = total + lengths[length] * self.block_curve(length)
        return Price(
            rdp=tuple(total.tolist()),
            relation=self.relation,
            delta=self.truncation * n_blocks,
            what=what,
            assumptions=self.assumptions(),
        )

    def describe(self, n_queries: int = 1) -> str:
        """In words."""
        queries = "a query" if n_queries == 1 else f"{n_queries} queries"
        return f"{queries} of up to {self.max_tokens} tokens, {words.how(self)}"

    def assumptions(self) -> tuple[str, ...]:
        """What must be true for the price to hold."""
        return words.assumptions(self)

    def cautions(self) -> tuple[str, ...]:
        """What the user should be warned of."""
        return words.cautions(self)

    def fingerprint(self) -> str:
        """16 hexadecimal digits of all fields."""
        body = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]
