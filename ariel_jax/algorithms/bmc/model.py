"""What a capacity policy costs: an exact count of its work, and the closed form of the optimum.

Host only. The count is what the decoding engine does, row by row; the closed form is an
approximation of it that shows what the optimum depends on.

References:
    Ramachandran et al. 2025, "Striking the Right Balance between Compute and Copy" (BMC), arXiv
    2511.12031: growing every r tokens, and that the best number of allocations grows as the square
    root of the length. The formulas below were derived here; the paper's constants are not known
    to us.
"""

import dataclasses
import math

from ariel_jax._checks import non_negative, positive, positive_int
from ariel_jax.decode.capacity import CapacityPolicy, check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds that growing and spare rows take; any unit does, as long as all three share it.

    Attributes:
        copy_s: to copy one row (all layers and requests) at a growth.
        redundant_s: that one spare row adds to one step.
        growth_s: fixed, per growth: allocation, dispatch, and a share of compiling the new shape.
    """

    copy_s: float
    redundant_s: float
    growth_s: float = 0.0

    def __post_init__(self) -> None:
        non_negative(copy_s=self.copy_s, redundant_s=self.redundant_s, growth_s=self.growth_s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What decoding a text under a policy does beside the useful part.

    Attributes:
        growths: how often the cache was allocated anew.
        rows_copied: rows moved at these growths; a row is a position of all requests.
        redundant_row_steps: spare rows, summed over the steps.
        steps: how many steps were taken.
        capacities: the capacities in turn, the first one included.
    """

    growths: int
    rows_copied: int
    redundant_row_steps: int
    steps: int
    capacities: tuple[int, ...]

    def overhead_s(self, costs: Costs) -> float:
        """Seconds of copying, growing and computing on spare rows."""
        return (
            costs.growth_s * self.growths
            + costs.copy_s * self.rows_copied
            + costs.redundant_s * self.redundant_row_steps
        )


def simulate(
    policy: CapacityPolicy,
    *,
    prompt: int,
    steps: int,
    rows: int = 1,
    first: int | None = None,
    limit: int | None = None,
) -> Work:
    """Counts the work of a batch of equally long requests, one token a step.

    Args:
        policy: which capacities.
        prompt: rows that the prompt fills, at least 1.
        steps: decoding steps; each fills one row more.
        rows: rows one step may write, the pending token's included.
        first: capacity to start from; None asks the policy.
        limit: rows that the policy is told may be needed; None tells it the truth, more is what it
            hears of a request that ends earlier than it may.

    Returns:
        The exact counts. A step that finds fewer than `rows` free rows grows first.

    Raises:
        CapacityError: the policy chose too little.
    """
    positive_int(prompt=prompt, steps=steps, rows=rows)
    limit = max(limit or 0, prompt + steps - 1 + rows)
    if first is None:
        first = policy.initial(prompt, rows, limit)
    capacity = check_choice(first, need=prompt, policy=policy)
    capacities, copied, redundant = [capacity], 0, 0
    for length in range(prompt, prompt + steps):
        if length + rows > capacity:
            copied += capacity
            need = length + rows
            capacity = check_choice(policy.next(capacity, need, limit), need=need, policy=policy)
            capacities.append(capacity)
        redundant += capacity - (length + 1)
    return Work(
        growths=len(capacities) - 1,
        rows_copied=copied,
        redundant_row_steps=redundant,
        steps=steps,
        capacities=tuple(capacities),
    )


def best_rows(costs: Costs, *, prompt: int, steps: int, tokens_per_step: float = 1.0) -> float:
    """The r of the best constant growth, by the closed form.

    Args:
        costs: per row and growth; `redundant_s` must not be 0 (then one growth is best).
        prompt: rows that the prompt fills.
        steps: rows filled by decoding, G.
        tokens_per_step: rows that one step fills on average (speculative decoding).

    Returns:
        `sqrt(tau (c (G + 2P) + 2a) / x)`, at most G. It minimises `overhead_s` below; a factor of
        2 beside it costs 25 % of the overhead, so it may be rounded freely.
    """
    positive_int(prompt=prompt, steps=steps)
    positive(tokens_per_step=tokens_per_step)
    if costs.redundant_s == 0:
        return float(steps)
    per_growth = costs.copy_s * (steps + 2 * prompt) + 2 * costs.growth_s
    return min(float(steps), math.sqrt(tokens_per_step * per_growth / costs.redundant_s))


def overhead_s(
    costs: Costs, *, prompt: int, steps: int, n_allocations: float, tokens_per_step: float = 1.0
) -> float:
    """The closed form of the overhead of T equal allocations, the first one at prefill.

    Args:
        costs: per row and growth.
        prompt: rows that the prompt fills, P.
        steps: rows filled by decoding, G.
        n_allocations: T; need not be whole.
        tokens_per_step: tau.

    Returns:
        `a T + c (T - 1) (G + 2P) / 2 + (x / tau) (G^2 / 2T - G / 2)` in seconds.
    """
    positive_int(prompt=prompt, steps=steps)
    positive(n_allocations=n_allocations, tokens_per_step=tokens_per_step)
    copied = (n_allocations - 1) * (steps + 2 * prompt) / 2
    redundant = steps**2 / (2 * n_allocations) - steps / 2
    return (
        costs.growth_s * n_allocations
        + costs.copy_s * copied
        + costs.redundant_s * redundant / tokens_per_step
    )
