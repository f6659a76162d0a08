"""What a private computation costs: prices by `dp_accounting`, noise for a target, and the tighter figure.

Charged is Rényi differential privacy on `renyi.ORDERS`, because it adds up over systems that share an
account; the epsilon of privacy loss distributions (PLD), which is smaller, is
printed beside it and never charged.
"""

import dataclasses
import logging
import math
from typing import Any

import numpy as np

from ariel_jax._checks import in_range, non_negative_int, one_of, positive, positive_int
from ariel_jax.errors import ConfigError, PrivacyBudgetError, missing_extra
from ariel_jax.privacy.renyi import FREE, ORDERS, RELATIONS, Price

SAMPLERS = ("poisson", "fixed_without_replacement", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A run of steps, each of which adds Gaussian noise to a sum over sampled records.

    Attributes:
        noise_multiplier: standard deviation of the noise over the clip norm C, the most that one record
            changes the sum by (twice that under `replace_one`; the price sees to it).
        steps: releases.
        sampler: `poisson`, every record by its own coin of `sampling_probability`;
            `fixed_without_replacement`, `batch_size` of `dataset_size` records; or `none`, all records.
        relation: between neighbouring data sets, one of `renyi.RELATIONS`.
        sampling_probability: of `poisson`.
        batch_size, dataset_size: of `fixed_without_replacement`; both are then public.
        truncation: what draws that are cut add to delta over all steps: `PoissonSource.truncation` at the
            epsilon of the *account* that is charged.
    """

    noise_multiplier: float
    steps: int
    sampler: str = "poisson"
    relation: str = "add_remove"
    sampling_probability: float | None = None
    batch_size: int | None = None
    dataset_size: int | None = None
    truncation: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers and that sampler and relation go together."""
        positive(noise_multiplier=self.noise_multiplier)
        non_negative_int(steps=self.steps)
        in_range(0, 1, ends="[)", truncation=self.truncation)
        one_of(SAMPLERS, sampler=self.sampler)
        one_of(RELATIONS, relation=self.relation)
        if self.sampler == "poisson":
            in_range(0, 1, ends="(]", sampling_probability=self.sampling_probability)
            if self.relation == "replace_one":
                raise ConfigError(
                    "a Poisson sampler is accounted for under 'add_remove' or 'zero_out', not under "
                    "'replace_one': choose one of those, or the sampler 'fixed_without_replacement'."
                )
        if self.sampler == "fixed_without_replacement":
            positive_int(batch_size=self.batch_size, dataset_size=self.dataset_size)
            assert self.batch_size is not None
            assert self.dataset_size is not None
            if self.batch_size > self.dataset_size:
                raise ConfigError(
                    f"batch_size={self.batch_size} exceeds dataset_size={self.dataset_size}."
                )
            if self.relation != "replace_one":
                raise ConfigError(
                    "batches of a fixed size are accounted for under relation='replace_one': the size "
                    "of the data set is public then."
                )

    def replace(self, **changes: Any) -> "Plan":
        """A plan with some fields changed."""
        return dataclasses.replace(self, **changes)

    def price(self) -> Price:
        """What the run costs.

        Raises:
            MissingExtraError: dp-accounting is not installed.
        """
        if self.steps == 0:
            return FREE[self.relation]
        accounting = _dp_accounting()
        accountant = accounting.rdp.RdpAccountant(ORDERS.tolist(), self._relation(accounting))
        quiet = logging.getLogger("absl")
        level = quiet.level
        try:
            quiet.setLevel(logging.ERROR)  # it warns of orders that it then leaves out itself
            accountant.compose(self._event(accounting))
        finally:
            quiet.setLevel(level)
        curve = np.where(np.isnan(accountant.rdp), math.inf, np.maximum(accountant.rdp, 0.0))
        return Price(
            rdp=tuple(curve.tolist()),
            relation=self.relation,
            delta=self.truncation,
            what=self.describe(),
            assumptions=self.assumptions(),
        )

    def epsilon(self, delta: float) -> float:
        """What is charged, at a delta."""
        return self.price().epsilon(delta)

    def tight_epsilon(self, delta: float) -> float:
        """By privacy loss distributions: printed, never charged.

        Raises:
            ConfigError: not for `fixed_without_replacement`, which has no such accountant.
            MissingExtraError: dp-accounting is not installed.
        """
        if self.steps == 0:
            return 0.0
        if self.sampler == "fixed_without_replacement":
            raise ConfigError(
                "batches of a fixed size have no accountant by privacy loss distributions: use "
                "Plan.epsilon, or the sampler 'poisson'."
            )
        if delta <= self.truncation:
            return math.inf
        accounting = _dp_accounting()
        accountant = accounting.pld.PLDAccountant(self._relation(accounting))
        return float(
            accountant.compose(self._event(accounting)).get_epsilon(delta - self.truncation)
        )

    def describe(self) -> str:
        """In words."""
        how = {
            "poisson": f"every record with probability {self.sampling_probability}",
            "fixed_without_replacement": f"{self.batch_size} of {self.dataset_size} records",
            "none": "all records",
        }[self.sampler]
        return (
            f"{self.steps} steps with Gaussian noise of {self.noise_multiplier:g} times the clip norm, "
            f"each on {how}"
        )

    def assumptions(self) -> tuple[str, ...]:
        """What must be true for the price to hold."""
        sampled = {
            "poisson": "every record enters every batch by its own, secret coin",
            "fixed_without_replacement": "batches are drawn uniformly, secretly and anew for every step",
            "none": "every record may count in every step",
        }[self.sampler]
        return (
            f"{sampled}",
            "noise comes from a key that nobody else knows and that is used once for every step",
            "nothing but the noisy sums leaves the run: losses, gradient norms and validation scores on "
            "private data are not covered",
        )

    def _relation(self, accounting: Any) -> Any:
        names = {
            "add_remove": "ADD_OR_REMOVE_ONE",
            "zero_out": "REPLACE_SPECIAL",
            "replace_one": "REPLACE_ONE",
        }
        return accounting.NeighboringRelation[names[self.relation]]

    def _event(self, accounting: Any) -> Any:
        if self.sampler == "none":
            # What replaces a record moves the sum by up to 2 C.
            moves = 2.0 if self.relation == "replace_one" else 1.0
            step = accounting.GaussianDpEvent(self.noise_multiplier / moves)
        elif self.sampler == "poisson":
            step = accounting.PoissonSampledDpEvent(
                self.sampling_probability, accounting.GaussianDpEvent(self.noise_multiplier)
            )
        else:
            step = accounting.SampledWithoutReplacementDpEvent(
                self.dataset_size,
                self.batch_size,
                accounting.GaussianDpEvent(self.noise_multiplier / 2),
            )
        return accounting.SelfComposedDpEvent(step, self.steps)


def calibrate(plan: Plan, *, epsilon: float, delta: float) -> Plan:
    """The plan with the least noise that keeps to a budget, as charged.

    Args:
        plan: its `noise_multiplier` is where the search begins.
        epsilon: most that all steps together may cost ...
        delta: ... at this delta.

    Guarantees:
        The steps of the returned plan fit into a budget of (epsilon, delta), and one step more does not.
        The noise multiplier is within a relative 1e-4 of the least one, but not below 0.01, where one
        step more may fit too.

    Raises:
        PrivacyBudgetError: no noise of up to 10,000 times the clip norm is enough.
        ConfigError: epsilon or delta out of range.
    """
    in_range(0, math.inf, ends="()", epsilon=epsilon)
    in_range(0, 1, ends="()", delta=delta)

    def fits(noise: float, more: int = 0) -> bool:
        longer = plan.replace(noise_multiplier=noise, steps=plan.steps + more)
        return longer.epsilon(delta) <= epsilon

    low = high = min(max(plan.noise_multiplier, LEAST_NOISE), MOST_NOISE)
    while not fits(high):
        low, high = high, min(high * 2, MOST_NOISE)
        if low == high:
            raise PrivacyBudgetError(
                f"epsilon={epsilon:g} at delta={delta:g} is not reachable for {plan.steps} steps with "
                f"noise of up to {MOST_NOISE:g} times the clip norm: take fewer steps, a smaller sample, "
                "or a larger epsilon or delta."
            )
    while low == high or fits(low):
        high, low = low, low / 2
        if low < LEAST_NOISE:
            return plan.replace(noise_multiplier=high)
    while high / low > 1 + 1e-4 or (fits(high, 1) and high / low > 1 + 1e-12):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return plan.replace(noise_multiplier=high)


MOST_NOISE, LEAST_NOISE = 1e4, 1e-2


def _dp_accounting() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise missing_extra("dp_accounting", "privacy", "accounting of private training") from error
    return dp_accounting
