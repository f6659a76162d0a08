"""What a profile means for one request: a table of policies, and the choice in words."""

import dataclasses

from ariel_jax.algorithms.bmc.model import best_rows, simulate
from ariel_jax.algorithms.bmc.planning import Profile, predicted_s, schedule
from ariel_jax.algorithms.bmc.policy import Auto, Table
from ariel_jax.decode.capacity import (
    Arithmetic,
    CapacityPolicy,
    Geometric,
    Iterative,
    Upfront,
    round_up,
)

NEAR = 0.02  # times that differ by less than this share are called equal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One policy.

    Attributes:
        name: as in the table.
        policy: it.
        allocations: how often cache memory is taken, prefill included.
        rows_copied: at all growths.
        redundant_row_steps: spare rows, summed over the steps.
        capacities: rows in turn, those of prefill first.
        predicted_s: growths and steps, from the profile.
        overhead_s: the part of it that growths and spare rows take.
        tokens_per_s: predicted, of one request.
    """

    name: str
    policy: CapacityPolicy
    allocations: int
    rows_copied: int
    redundant_row_steps: int
    capacities: tuple[int, ...]
    predicted_s: float
    overhead_s: float
    tokens_per_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The table of a request and what to take.

    Attributes:
        rows: policies, the yardsticks included.
        best_r: of the closed form, in rows.
        choice: name of the row to take.
        why: the reason, with the numbers that decided.
        fit: how well straight lines describe the measured times, on which the closed form rests;
            says so where its r costs a quarter more overhead than the planned capacities.
    """

    rows: tuple[Row, ...]
    best_r: float
    choice: str
    why: str
    fit: str


def plan(
    profile: Profile, *, prompt: int, steps: int, rows: int = 1, granularity: int = 64
) -> Plan:
    """Compares policies for one request and chooses.

    Args:
        profile: measured times.
        prompt: tokens of the prompt.
        steps: tokens to decode after the first.
        rows: rows one step may write.
        granularity: capacities are multiples of this.

    Returns:
        The table, and the policy of least predicted time; of those within 2 % of it the one with
        the fewest allocations, then the simplest.
    """
    r = best_rows(
        profile.costs(), prompt=prompt, steps=steps, tokens_per_step=profile.tokens_per_step
    )
    near_r = sorted({round_up(max(1, round(r * f)), granularity) for f in (0.25, 0.5, 1, 2, 4)})
    found = schedule(profile, prompt=prompt, steps=steps, rows=rows, granularity=granularity)
    policies: dict[str, CapacityPolicy] = {
        "iterative (predicted only)": Iterative(),
        "upfront": Upfront(granularity=granularity),
        "doubling": Geometric(2.0, granularity),
        **{f"arithmetic:{n}": Arithmetic(n, granularity) for n in near_r if n < steps},
        "planned": Table(found.capacities, granularity),
        "auto (length unknown)": Auto(profile, granularity),
    }
    table = tuple(
        _row(name, policy, profile, prompt=prompt, steps=steps, rows=rows)
        for name, policy in policies.items()
    )
    takeable = [row for row in table if not isinstance(row.policy, Iterative)]
    least = min(row.predicted_s for row in takeable)
    near = [row for row in takeable if row.predicted_s <= least * (1 + NEAR)]
    chosen = min(near, key=lambda row: row.allocations)
    upfront = next(row for row in table if row.name == "upfront")
    return Plan(
        rows=table,
        best_r=r,
        choice=chosen.name,
        why=_why(profile, chosen, upfront, r),
        fit=_fit(profile, table, r),
    )


def useful_s(profile: Profile, *, prompt: int, steps: int) -> float:
    """Seconds of the steps if each had exactly the rows that it fills."""
    rows = range(prompt + 1, prompt + 1 + steps)
    return sum(profile.step.at(row) for row in rows) / profile.tokens_per_step


def _fit(profile: Profile, table: tuple[Row, ...], r: float) -> str:
    parts = []
    for what, times in (("growths", profile.growth), ("steps", profile.step)):
        quality, worst = times.fit()
        parts.append(f"{what} R2 {quality:.2f}, worst residual {100 * worst:.0f} %")
    text = f"straight lines through the measured times: {'; '.join(parts)}."
    planned = next(row for row in table if row.name == "planned")
    near = [row for row in table if row.name.startswith("arithmetic")]
    if not near:
        return text
    closest = min(near, key=lambda row: abs(int(row.name.split(":")[1]) - r))
    if closest.overhead_s <= 1.25 * max(planned.overhead_s, 1e-12):
        return text
    worse = min((profile.growth, "growths"), (profile.step, "steps"), key=lambda x: x[0].fit()[0])
    return (
        f"{text} The closed form's r costs {closest.overhead_s / planned.overhead_s:.1f} times the "
        f"overhead of the planned capacities: {worse[1]} do not lie on a line here."
    )


def _row(
    name: str, policy: CapacityPolicy, profile: Profile, *, prompt: int, steps: int, rows: int
) -> Row:
    work = simulate(policy, prompt=prompt, steps=steps, rows=rows)
    seconds = predicted_s(profile, work.capacities, prompt=prompt, steps=steps, rows=rows)
    return Row(
        name=name,
        policy=policy,
        allocations=1 + work.growths,
        rows_copied=work.rows_copied,
        redundant_row_steps=work.redundant_row_steps,
        capacities=work.capacities,
        predicted_s=seconds,
        overhead_s=seconds - useful_s(profile, prompt=prompt, steps=steps),
        tokens_per_s=steps / seconds if seconds else float("inf"),
    )


def _why(profile: Profile, chosen: Row, upfront: Row, r: float) -> str:
    costs = profile.costs()
    fixed, _, _ = profile.step.line()
    share = (
        costs.redundant_s
        * upfront.capacities[-1]
        / max(profile.step.at(upfront.capacities[-1]), 1e-30)
    )
    facts = (
        f"a spare row adds {costs.redundant_s * 1e6:.3g} us to a step of {fixed * 1e3:.3g} ms, "
        f"copying one takes {costs.copy_s * 1e6:.3g} us, a growth {costs.growth_s * 1e3:.3g} ms "
        f"beside that; the closed form wants r = {r:.0f}"
    )
    gain = upfront.predicted_s / chosen.predicted_s - 1
    if chosen.name == "upfront":
        return (
            f"upfront: all {upfront.capacities[-1]} rows together are {100 * share:.1f} % of a step, so "
            f"growing saves less than {100 * NEAR:.0f} % ({facts})."
        )
    return (
        f"{chosen.name}: {100 * gain:.1f} % faster than upfront, which computes on "
        f"{upfront.redundant_row_steps:,} spare row-steps instead of "
        f"{chosen.redundant_row_steps:,} ({facts})."
        + (
            f" Take it with --capacity table:{','.join(map(str, chosen.capacities))}"
            if chosen.name.startswith(("planned", "auto"))
            else ""
        )
    )
