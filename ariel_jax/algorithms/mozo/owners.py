"""Which records belong together: privacy units where one owner gave several demonstrations. Host only."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ariel_jax._checks import one_of, positive_int
from ariel_jax.errors import AccountingMismatchError, ConfigError, PrivacyUnitError

POLICIES = ("sample_owners", "price_records")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Units:
    """Records by owner.

    Attributes:
        records: per unit, the numbers of its records, in order.
        unit: what `Plan.unit` must be: `owner` where there was a policy, else `demonstration`.
        records_per_owner: most of one owner that a block shows: what `Plan.records_per_owner` pays for or
            more. A public number.
    """

    records: tuple[tuple[int, ...], ...]
    records_per_owner: int
    unit: str = "demonstration"

    def __len__(self) -> int:
        """How many units there are: `Plan.n_demonstrations`."""
        return len(self.records)

    def choose(self, units: Sequence[int], generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """The records that a block shows for the units that were drawn.

        Args:
            units: numbers of units.
            generator: secret; which record of an owner is shown is drawn anew for every block.

        Returns:
            int64: one record of each unit, or all of them where the plan pays for all.
        """
        drawn = [self.records[unit] for unit in units]
        if self.records_per_owner > 1:
            return np.array([record for records in drawn for record in records], np.int64)
        picked = [records[int(generator.integers(len(records)))] for records in drawn]
        return np.array(picked, np.int64)


def units(
    owners: Sequence[str | None],
    *,
    policy: str | None = None,
    sampler: str = "poisson",
    most_per_owner: int | None = None,
) -> Units:
    """Groups records into privacy units.

    Args:
        owners: per record, whose it is; None for nobody else's.
        policy: what to do where an owner has several. `sample_owners`: owners are drawn, and a block shows
            one record of each; prices stay. `price_records`: everything of an owner is shown and paid for
            (`Plan.records_per_owner`), with sampler `none` only. None: refuse.
        sampler: the plan's.
        most_per_owner: with `price_records`, which needs it: a public number, not the largest owner's, that no
            owner's records exceed.

    Raises:
        PrivacyUnitError: an owner has several records and there is no policy, or more than `most_per_owner`.
        AccountingMismatchError: `price_records` with a sampler.
        ConfigError: no such policy; `price_records` without `most_per_owner`, or another with it.
    """
    if policy is not None:
        one_of(POLICIES, policy=policy)
    if policy == "price_records" and sampler != "none":
        raise AccountingMismatchError(
            f"policy='price_records' with sampler={sampler!r} has no price: sampling gains for units that are "
            "drawn as one. Use policy='sample_owners', or sampler='none'."
        )
    if (policy == "price_records") != (most_per_owner is not None):
        raise ConfigError(
            f"most_per_owner={most_per_owner} with policy={policy!r}: 'price_records' pays for a public number "
            "of records that no owner exceeds, and nothing else uses one. Pass it there only; the largest "
            "owner's own number is private."
        )
    if most_per_owner is not None:
        positive_int(most_per_owner=most_per_owner)
    grouped: dict[str | int, list[int]] = {}
    for number, owner in enumerate(owners):
        # An owner's name is text, so a record without one never joins another's.
        grouped.setdefault(number if owner is None else owner, []).append(number)
    most = max(map(len, grouped.values()), default=1)
    if most > 1 and policy is None:
        several = sum(len(records) > 1 for records in grouped.values())
        raise PrivacyUnitError(
            f"{several} owners have several demonstrations, one of them {most}: protecting each record by "
            "itself would not protect them. Pass policy='sample_owners' (one record of an owner in a block, "
            "at the same price), or policy='price_records' with sampler='none' and most_per_owner; or keep one record of each."
        )
    if most_per_owner is not None and most > most_per_owner:
        raise PrivacyUnitError(
            f"an owner has more than most_per_owner={most_per_owner} demonstrations: leave some of them out, by "
            "a rule that looks at this owner's alone (the first ones, say), or plan for more of each."
        )
    records = tuple(tuple(numbers) for numbers in grouped.values())
    return Units(
        records=records,
        records_per_owner=most_per_owner or 1,
        unit="demonstration" if policy is None else "owner",
    )
