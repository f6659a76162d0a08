"""Settings of dps-mozo: which contract and which pool, and the numbers that a user tunes. Host only."""

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

from ariel_jax._checks import one_of, positive, positive_int, whole_number
from ariel_jax.errors import PrivacyConfigError, UnprovenMechanismError

CONTRACTS = ("scale", "linear", "clip", "renyi", "renyi_linear")
"""How a demonstration's log-ratio to the zero-shot row is bounded; all but `BALLS` bound its range."""
BALLS = ("renyi", "renyi_linear")
"""Contracts that keep a row inside a Renyi ball around the anchor."""
POOLS = ("product", "arithmetic")
"""How bounded rows are mixed: a weighted product of ratios, or a weighted mean of probabilities."""

FLOOR = -50.0
"""Log-probability in the anchor below which a token cannot be drawn; decided by public data alone."""

MOST_RADIUS = 12.0
"""Largest radius of a Renyi ball: the arithmetic of the pool holds rows inside such a ball."""

COUNTEREXAMPLE = (
    "A ball of a finite order around the zero-shot row says nothing about tokens that this row finds "
    "rare but the other demonstrations make likely: with two tokens, p_0 = (1 - 1e-6, 1e-6), order 2, "
    "c = 0.01, weight 1 and four demonstrations that push the rare token as far as allowed, the "
    "divergence is 325 times c"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What a compiled step is made for: shapes and code paths.

    Attributes:
        n_slots: N, rows for private demonstrations; rows without one are masked, so that shapes do not
            depend on how many were drawn.
        top_k: k, tokens of the zero-shot row that can be drawn; None: the whole vocabulary.
        contract: one of `CONTRACTS`. `scale`: the log-ratio times lambda <= 1. `linear`: probabilities
            mixed with the zero-shot row's. `clip`: differences from the log-ratio's median, clipped.
            `renyi`: the log-ratio times the largest lambda inside a ball of order `alpha`.
            `renyi_linear`: probabilities mixed with the anchor's, by the largest lambda inside it.
        pool: one of `POOLS`.
        alpha: whole order of the ball, above 1; None with the range contracts.
        solver_steps: halvings of lambda's interval for a ball; always all of them.

    The range contracts are proven with `product` at any weight (Theorem A of the docs), balls with
    either pool where weight times n_slots is at most 1 (Theorems B and C). Nothing else is allowed.

    Raises:
        UnprovenMechanismError: a range contract with `arithmetic`.
        PrivacyConfigError: alpha is not above 1, or missing, or given to a range contract.
        ConfigError: anything else out of range.

    References:
        Flemings, Gan, Li, Razaviyayn, Annavaram, 2025, arXiv 2501.19287. Weights, contracts and
        theorems are reconstructed: the paper's own were not at hand.
    """

    n_slots: int = 4
    top_k: int | None = 100
    contract: str = "scale"
    pool: str = "product"
    alpha: int | None = None
    solver_steps: int = 24

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(n_slots=self.n_slots)
        if self.top_k is not None:
            positive_int(top_k=self.top_k)
        one_of(CONTRACTS, contract=self.contract)
        one_of(POOLS, pool=self.pool)
        whole_number(1, 64, solver_steps=self.solver_steps)
        if self.contract in BALLS:
            if not (isinstance(self.alpha, Integral) and self.alpha > 1):
                raise PrivacyConfigError(
                    f"alpha={self.alpha!r} is not allowed: the contract {self.contract!r} needs a whole order "
                    "above 1, such as 8. Its price holds at that order and below."
                )
        elif self.alpha is not None:
            raise PrivacyConfigError(
                f"alpha={self.alpha!r} is not allowed with the contract {self.contract!r}, which holds "
                "at every order: pass None, or choose contract='renyi'."
            )
        if self.bounds_range and self.pool == "arithmetic":
            raise UnprovenMechanismError(
                f"contract={self.contract!r} with pool='arithmetic' has no theorem here, and so no "
                "price: use pool='product', or contract='renyi' with weight times n_slots at most 1."
            )

    @property
    def bounds_range(self) -> bool:
        """Whether the contract caps max - min of a log-ratio (and not a divergence)."""
        return self.contract not in BALLS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers:
    """What a user tunes; traced in compiled programs, so that a new value compiles nothing.

    Attributes:
        eta: cap on the range of one demonstration's log-ratio, in nats; 0 leaves the zero-shot row,
            infinity bounds nothing. 0 with a Renyi ball.
        weight: w, of one demonstration in the pool. A public constant: 1 / (demonstrations expected),
            never 1 / (demonstrations drawn), which would let one of them move the others' weights.
        renyi_c: c, the ball's radius; 0 with the range contracts.
        kl_cap: G, cap on KL(p_0 || mixed row), which a ball with `product` needs; 0 otherwise.
        tau0: temperature of the zero-shot row. It is public and costs nothing.
        pool_temperature: of the pooled row. It multiplies what a demonstration can say by its inverse
            and is priced so.

    Raises:
        PrivacyConfigError: a number out of its range.
    """

    eta: float
    weight: float
    renyi_c: float = 0.0
    kl_cap: float = 0.0
    tau0: float = 1.0
    pool_temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("eta", "renyi_c", "kl_cap"):
            value = getattr(self, name)
            is_endless = name == "eta" and value == math.inf
            if not is_endless and not (_is_finite(value) and value >= 0):
                raise PrivacyConfigError(f"{name}={value!r} is not allowed: pass at least 0.")
        if not (_is_finite(self.weight) and self.weight > 0):
            raise PrivacyConfigError(
                f"weight={self.weight!r} is not allowed: pass a number above 0, such as 1 / "
                "(demonstrations expected in a draw)."
            )
        positive(tau0=self.tau0, pool_temperature=self.pool_temperature)

    @property
    def h(self) -> float:
        """What one demonstration added or removed can change: the range of its log-ratio in the pool."""
        return self.weight * self.eta / self.pool_temperature


def check(config: Config, numbers: Numbers) -> None:
    """Refuses numbers that no theorem covers together with these settings.

    Args:
        config: the settings.
        numbers: of the user.

    Raises:
        UnprovenMechanismError: a ball and `product` with weight * n_slots above 1; the message tells
            how much more than its radius a demonstration could then say. Or a pool temperature there.
        PrivacyConfigError: `arithmetic` with weight * n_slots above 1; a number that the contract does
            not use, or lacks.
    """
    if config.bounds_range:
        for name in ("renyi_c", "kl_cap"):
            if getattr(numbers, name) != 0:
                raise PrivacyConfigError(
                    f"{name}={getattr(numbers, name)} is not used by the contract "
                    f"{config.contract!r}: pass 0, or choose contract='renyi'."
                )
        return
    share = numbers.weight * config.n_slots
    if share > 1 and config.pool == "product":
        raise UnprovenMechanismError(
            f"contract={config.contract!r} with pool='product' is proven for weight * n_slots <= 1 only, and "
            f"{numbers.weight:g} * {config.n_slots} = {share:g}. {COUNTEREXAMPLE}. Pass "
            f"weight=1/{config.n_slots}, or choose a range contract ('scale', 'clip', 'linear'), which "
            "holds at any weight."
        )
    if share > 1:
        raise PrivacyConfigError(
            f"weight * n_slots = {numbers.weight:g} * {config.n_slots} = {share:g} is not allowed: a "
            f"mean of probabilities needs at most 1. Pass weight=1/{config.n_slots}."
        )
    if numbers.pool_temperature != 1:
        raise UnprovenMechanismError(
            f"pool_temperature={numbers.pool_temperature:g} with contract={config.contract!r} is not proven: the "
            "ball is around the row before that temperature. Use tau0, which is free, or a range "
            "contract."
        )
    if numbers.eta != 0:
        raise PrivacyConfigError(
            f"eta={numbers.eta:g} is not used by contract={config.contract!r}: pass eta=0 and set renyi_c."
        )
    if not 0 < numbers.renyi_c <= MOST_RADIUS:
        raise PrivacyConfigError(
            f"renyi_c={numbers.renyi_c:g} is not allowed: pass more than 0, which leaves nothing of a "
            f"demonstration, up to {MOST_RADIUS:g}, beyond which float32 does not keep to the ball."
        )
    if (config.pool == "product") != (numbers.kl_cap > 0):
        raise PrivacyConfigError(
            f"kl_cap={numbers.kl_cap:g} with pool={config.pool!r} is not allowed: 'product' needs a cap "
            "above 0 (renyi_c = beta * alpha with kl_cap = beta is a natural split), and 'arithmetic' "
            "uses none: pass 0 there."
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
