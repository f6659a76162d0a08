"""Plans that fit a budget: as many rows as draws need, and the largest influence that it allows. Host only."""

import dataclasses
import math

from ariel_jax._checks import positive, positive_int
from ariel_jax.algorithms.mozo.config import MOST_RADIUS, Config, Numbers
from ariel_jax.algorithms.mozo.price import MOST_EPSILON, Plan
from ariel_jax.errors import ConfigError, PrivacyBudgetError, PrivacyConfigError
from ariel_jax.privacy import batches

TRUNCATION_SHARE = 0.01  # of delta, that draws beyond the slots may take
LEAST, MOST = 1e-6, 64.0  # nats, between which an influence or a radius is looked for


def plan_for(
    config: Config | None = None,
    *,
    n_demonstrations: int,
    epsilon: float,
    delta: float,
    n_queries: int = 1,
    max_tokens: int = 64,
    sampler: str = "poisson",
    neighbours: str = "zero_out",
    subset: float = 4,
    redraw_every: int | None = None,
    unit: str = "demonstration",
    records_per_owner: int = 1,
    tau0: float = 1.0,
    account_epsilon: float | None = None,
) -> Plan:
    """A plan whose demonstrations may say as much as a budget allows.

    Args:
        config: contract, pool and support; its `n_slots` is replaced. None: the defaults.
        n_demonstrations: as in `Plan`.
        epsilon: most that all queries together may cost ...
        delta: ... at this delta, below 1 / n_demonstrations.
        n_queries: that it pays for.
        max_tokens: of a query.
        sampler: one of `price.SAMPLERS`.
        neighbours: as in `Plan`.
        subset: demonstrations in a draw: on average (`poisson`), or exactly; all of them with `none`.
        redraw_every: as in `Plan`.
        unit: as in `Plan`.
        records_per_owner: as in `Plan`; with more than one n_demonstrations are owners, and all their
            demonstrations are shown.
        tau0: as in `Numbers`.
        account_epsilon: of the account that pays, where it is larger than `epsilon`.

    Returns:
        A plan with the weight 1 / subset (1 / n_slots under a Rényi ball, or where all demonstrations are
        shown), slots for every draw but those that one hundredth of delta pays for, and numbers by
        `calibrate`.

    Raises:
        PrivacyConfigError: numbers out of range, or that do not go together.
        UnprovenMechanismError: several demonstrations of an owner under a Rényi ball.
        PrivacyBudgetError: not even the smallest influence fits.
    """
    config = Config() if config is None else config
    limit = epsilon if account_epsilon is None else account_epsilon
    positive_int(
        n_demonstrations=n_demonstrations,
        n_queries=n_queries,
        max_tokens=max_tokens,
        records_per_owner=records_per_owner,
    )
    if redraw_every is not None:
        positive_int(redraw_every=redraw_every)
    for most in (epsilon, limit):
        check_budget(epsilon=most, delta=delta, n_demonstrations=n_demonstrations)
    positive(subset=subset)
    overflow = 0.0
    if sampler == "poisson":
        probability = subset / n_demonstrations
        n_blocks = n_queries * -(-max_tokens // (redraw_every or max_tokens))
        spare = TRUNCATION_SHARE * delta / ((1 + math.exp(limit)) * n_blocks)
        if probability > 1:
            raise PrivacyConfigError(
                f"subset={subset:g} exceeds n_demonstrations={n_demonstrations}: draw fewer."
            )
        slots = batches.slots(n_demonstrations, probability, failure=spare)
        expected, size = float(subset), float(subset)
        overflow = batches.overflow(n_demonstrations, probability, slots)
    else:
        size = n_demonstrations * records_per_owner if sampler == "none" else subset
        if size != int(size):
            raise PrivacyConfigError(
                f"subset={subset:g} with sampler={sampler!r} is not allowed: pass a whole number."
            )
        expected, slots = None, int(size)
    config = dataclasses.replace(config, n_slots=slots)
    plan = Plan(
        config=config,
        numbers=_first(config, size, tau0),
        n_demonstrations=n_demonstrations,
        max_tokens=max_tokens,
        sampler=sampler,
        neighbours=neighbours,
        expected=expected,
        redraw_every=redraw_every,
        unit=unit,
        records_per_owner=records_per_owner,
        truncation=(1 + math.exp(limit)) * overflow,
    )
    return calibrate(plan, epsilon=epsilon, delta=delta, n_queries=n_queries)


def _first(config: Config, size: float, tau0: float) -> Numbers:
    """Where the search begins."""
    if config.bounds_range:
        return Numbers(eta=1.0, weight=1 / size, tau0=tau0)
    assert config.alpha is not None
    radius = min(float(config.alpha), MOST_RADIUS)
    kl_cap = radius / config.alpha if config.pool == "product" else 0.0
    return Numbers(eta=0.0, weight=1 / config.n_slots, renyi_c=radius, kl_cap=kl_cap, tau0=tau0)


def check_budget(*, epsilon: float, delta: float, n_demonstrations: int) -> None:
    """Refuses budgets that protect nothing.

    Raises:
        PrivacyConfigError: epsilon is not in (0, 500], or delta not in (0, 1 / n_demonstrations).
    """
    if not (isinstance(epsilon, int | float) and 0 < epsilon <= MOST_EPSILON):
        raise PrivacyConfigError(
            f"epsilon={epsilon!r} is not allowed: pass more than 0 and at most {MOST_EPSILON:g}."
        )
    if not (isinstance(delta, int | float) and 0 < delta < 1 / n_demonstrations):
        raise PrivacyConfigError(
            f"delta={delta!r} is not allowed for {n_demonstrations} demonstrations: showing one of them in "
            f"full would keep to 1 / {n_demonstrations}. Pass more than 0 and less than "
            f"{1 / n_demonstrations:.3g}."
        )


def calibrate(plan: Plan, *, epsilon: float, delta: float, n_queries: int = 1) -> Plan:
    """The plan with the largest influence, or radius, whose queries keep to a budget.

    Args:
        plan: of its numbers `eta` is found, or under a Rényi ball `renyi_c` and `kl_cap`, in their ratio.
        epsilon: most that all queries together may cost ...
        delta: ... at this delta.
        n_queries: that it pays for.

    Guarantees:
        So many queries fit into a budget of (epsilon, delta), and one more does not (with `partition`: one
        more for every group). Where an influence of 64 nats (a radius of 12) fits, it is that, and more queries may
        fit.

    Raises:
        PrivacyBudgetError: an influence of 1e-6 costs too much, or draws beyond the slots do.
        PrivacyConfigError: epsilon or delta out of range.
    """
    check_budget(epsilon=epsilon, delta=delta, n_demonstrations=plan.n_demonstrations)
    positive_int(n_queries=n_queries)

    def fits(strength: float, more: int = 0) -> bool:
        price = _with(plan, strength).price(n_queries + more)
        return price.epsilon(delta) <= epsilon

    if not fits(LEAST):
        raise PrivacyBudgetError(
            f"epsilon={epsilon:g} at delta={delta:g} does not cover {plan.describe(n_queries)}, however "
            "little a demonstration may say: ask for fewer queries or tokens, or take a larger epsilon or "
            "delta."
        )
    most = MOST if plan.config.bounds_range else MOST_RADIUS
    if fits(most):
        return _with(plan, most)
    low, high = LEAST, most
    more = plan.n_groups
    while high / low > 1 + 1e-6 or (fits(low, more) and high / low > 1 + 1e-12):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return _with(plan, low)


def _with(plan: Plan, strength: float) -> Plan:
    """The plan with this influence h, or this radius of the ball."""
    numbers = plan.numbers
    if plan.config.bounds_range:
        eta = strength * numbers.pool_temperature / numbers.weight
        return plan.replace(numbers=dataclasses.replace(numbers, eta=eta))
    kl_cap = numbers.kl_cap * (strength / numbers.renyi_c)
    return plan.replace(numbers=dataclasses.replace(numbers, renyi_c=strength, kl_cap=kl_cap))


def largest_h(plan: Plan, *, epsilon: float, delta: float, n_queries: int = 1) -> float:
    """The influence h (`Numbers.h`) of the plan that `calibrate` finds.

    Raises:
        ConfigError: the plan's contract is a Rényi ball, which bounds no range; or as `calibrate`.
    """
    if not plan.config.bounds_range:
        raise ConfigError(
            f"contract={plan.config.contract!r} bounds no range, so there is no influence h: read renyi_c of calibrate's "
            "plan, or take a range contract."
        )
    return calibrate(plan, epsilon=epsilon, delta=delta, n_queries=n_queries).numbers.h
