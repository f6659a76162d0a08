"""Rényi differential privacy on one published grid of orders: prices, and what they mean as epsilon.

Host only, NumPy in float64. Everything that a ledger charges is a `Price` on `ORDERS`, so that systems of
different mechanisms compose by adding numbers.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ariel_jax._checks import known_keys, non_negative_int, one_of
from ariel_jax.errors import ConfigError

# Those of dp-accounting, and some that mechanisms without sampling are best at.
_GRID = {1 + tenths / 10 for tenths in range(1, 100)} | {*range(11, 65), 128, 256, 512, 1024}
ORDERS: npt.NDArray[np.float64] = np.array(sorted(_GRID | {1.25, 1.75, 80, 96}), np.float64)
ORDERS.setflags(write=False)

RELATIONS = ("add_remove", "zero_out", "replace_one")
"""Neighbouring data sets: one record more or less; one that counts as nothing; one that is another one."""


def epsilon(rdp: npt.ArrayLike, delta: float) -> tuple[float, float]:
    """The epsilon that a Rényi curve on `ORDERS` stands for at a delta.

    Args:
        rdp: [len(ORDERS)] float64, at least 0; infinity where an order gives no bound.
        delta: 0 included.

    Returns:
        (epsilon, the order that gave it); infinity and 0 where no order gives a bound.

    References:
        Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", 2020,
        arXiv 2004.00010, Proposition 12.
    """
    curve = np.asarray(rdp, np.float64)
    if delta <= 0:
        return (0.0, 0.0) if not curve.any() else (math.inf, 0.0)
    # By the Kullback-Leibler divergence: delta <= sqrt(1 - exp(-rdp)) already at epsilon 0.
    enough = delta**2 + np.expm1(-curve) > 0
    found = curve + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    found = np.where(enough, 0.0, np.maximum(found, 0.0))
    best = int(np.argmin(found))
    if not np.isfinite(found[best]):
        return math.inf, 0.0
    return float(found[best]), float(ORDERS[best])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price:
    """What a release costs.

    Attributes:
        rdp: Rényi divergence bound at each of `ORDERS`, at least 0.
        relation: between the data sets that it holds for, one of `RELATIONS`.
        delta: added to the account's delta by this release alone, as by a truncated draw.
        what: the mechanism, for people.
        assumptions: what must be true of the caller's data and sampler for the price to hold.
    """

    rdp: tuple[float, ...]
    relation: str
    delta: float = 0.0
    what: str = ""
    assumptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers."""
        one_of(RELATIONS, relation=self.relation)
        curve = np.asarray(self.rdp, np.float64)
        if curve.shape != ORDERS.shape or np.isnan(curve).any() or (curve < 0).any():
            raise ConfigError(
                f"a price needs {len(ORDERS)} numbers of at least 0, one for each of renyi.ORDERS; got "
                f"{list(curve.shape)}."
            )
        if not 0 <= self.delta < 1:
            raise ConfigError(f"delta={self.delta} of a price is not allowed: pass 0 to below 1.")

    @property
    def curve(self) -> npt.NDArray[np.float64]:
        """`rdp` as an array."""
        return np.asarray(self.rdp, np.float64)

    def times(self, n: int) -> "Price":
        """The price of n such releases one after the other, each of which may depend on those before.

        Raises:
            ConfigError: n is negative or no whole number.
        """
        non_negative_int(n=n)
        # 0 times infinity is 0 here: nothing was released.
        total = self.curve * n if n else np.zeros(len(ORDERS))
        return dataclasses.replace(
            self, rdp=tuple(total.tolist()), delta=self.delta * n, what=f"{n} x ({self.what})"
        )

    def epsilon(self, delta: float) -> float:
        """Of this price alone, at a total delta that its own is part of."""
        left = delta - self.delta
        return epsilon(self.curve, left)[0] if left > 0 else math.inf

    def covers(self, other: "Price") -> bool:
        """Whether `other` costs no more at any order."""
        return (
            self.relation == other.relation
            and bool((other.curve <= self.curve).all())
            and other.delta <= self.delta
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values; infinity is None."""
        rdp = [value if math.isfinite(value) else None for value in self.rdp]
        return dataclasses.asdict(self) | {"rdp": rdp, "assumptions": list(self.assumptions)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Price":
        """The inverse of `to_json`.

        Raises:
            ConfigError: unknown keys, or numbers that no price has.
        """
        known_keys("a price", {field.name for field in dataclasses.fields(cls)}, body)
        rdp = tuple(math.inf if value is None else float(value) for value in body["rdp"])
        return cls(**{**body, "rdp": rdp, "assumptions": tuple(body["assumptions"])})


def gaussian(*, noise_multiplier: float, relation: str) -> Price:
    """One Gaussian mechanism without sampling: noise of `noise_multiplier` times the sensitivity.

    References:
        Mironov, "Rényi Differential Privacy", 2017, arXiv 1702.07476, Corollary 3.
    """
    if not noise_multiplier > 0:
        raise ConfigError(f"noise_multiplier={noise_multiplier} is not allowed: pass more than 0.")
    curve = ORDERS / (2 * noise_multiplier**2)
    return Price(
        rdp=tuple(curve.tolist()),
        relation=relation,
        what=f"Gaussian noise of {noise_multiplier:g} times the sensitivity",
    )


FREE = {relation: Price(rdp=(0.0,) * len(ORDERS), relation=relation) for relation in RELATIONS}
"""Nothing released, by relation."""
