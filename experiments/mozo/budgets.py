"""How much a demonstration may say under a budget: influence by epsilon, sampler, redraw period and queries.

    python -m experiments.mozo.budgets --scale cpu --out results

The influence h is the range that one demonstration added or removed can give to the log-ratio of a token's law.
For queries of 50 tokens, delta 1e-5 and draws of 3 in 10,000 demonstrations: the largest h of each plan, beside
figures that another program computed when the theorems were derived (none is the paper's). Then the slots that
Poisson draws need, and the largest h for 10,000 demonstrations of which 4 are drawn on average. Expected: those
figures to their last digit (without sampling by the bound min(alpha h^2 / 8, h), beside the tight one), and
more influence the more often demonstrations are drawn. Computed, nothing is timed; under a minute on one core.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax.algorithms.mozo.config import Config, Numbers
from ariel_jax.algorithms.mozo.curves import simple_bounded_range
from ariel_jax.algorithms.mozo.planning import MOST, largest_h, plan_for
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.privacy.renyi import ORDERS, epsilon
from experiments import runner
from experiments.runner import Case, Figure, Settings

N, DRAWN, TOKENS, DELTA = 10_000, 3, 50, 1e-5
EPSILONS = (1.0, 2.0, 4.0, 8.0)
AT_LEAST = "at least 12"  # where that search ended

# (sampler, redraw period, queries): largest h at each of EPSILONS, as computed beforehand.
TABLE = {
    ("none", None, 1): ("0.070", "0.132", "0.244", "0.443"),
    ("poisson", 50, 1): ("0.415", "0.543", "0.713", "0.942"),
    ("poisson", 50, 100): ("0.400", "0.511", "0.642", "0.781"),
    ("poisson", 25, 1): ("0.632", "0.800", "1.023", "1.299"),
    ("poisson", 25, 100): ("0.607", "0.750", "0.926", "1.114"),
    ("poisson", 10, 1): ("1.195", "1.431", "1.753", "2.145"),
    ("poisson", 10, 100): ("1.132", "1.323", "1.570", "1.847"),
    ("poisson", 5, 1): ("2.05", "2.37", "2.81", "3.36"),
    ("poisson", 5, 100): ("1.88", "2.13", "2.46", "2.84"),
    ("poisson", 1, 1): ("8.0", "9.0", "10.4", AT_LEAST),
    ("poisson", 1, 100): ("5.9", "7.0", "8.1", "9.3"),
    ("without_replacement", 50, 1): ("0.207", "0.270", "0.353", "0.465"),
    ("without_replacement", 50, 100): ("0.199", "0.253", "0.317", "0.384"),
    ("without_replacement", 1, 1): ("3.9", "4.4", "5.1", "5.9"),
    ("without_replacement", 1, 100): ("2.7", "3.3", "3.8", "4.4"),
}


def plan_of(sampler: str, redraw_every: int | None) -> Plan:
    """A plan of the table; Poisson draws always fit, so that delta is spent on nothing else."""
    poisson = sampler == "poisson"
    return Plan(
        config=Config(n_slots=N + 1 if poisson else DRAWN),
        numbers=Numbers(eta=1.0, weight=1 / DRAWN),
        n_demonstrations=DRAWN if sampler == "none" else N,
        max_tokens=TOKENS,
        sampler=sampler,
        expected=float(DRAWN) if poisson else None,
        redraw_every=redraw_every,
    )


def simple_h(budget: float) -> float:
    """Largest h without sampling by min(alpha h^2 / 8, h), at whole orders and 1.25, 1.5 and 1.75."""
    keep = (ORDERS % 1 == 0) | (ORDERS < 2) & (ORDERS * 4 % 1 == 0)

    def cost(h: float) -> float:
        rdp = TOKENS * simple_bounded_range(ORDERS, h)
        return epsilon([r if kept else float("inf") for r, kept in zip(rdp, keep, strict=True)], DELTA)[0]  # fmt: skip

    low, high = 0.0, MOST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low


def agrees(found: float, known: str) -> bool:
    """Whether a figure rounds to a known one, give or take a tenth of half its last digit."""
    if known == AT_LEAST:
        return found >= 12
    digits = len(known.partition(".")[2])
    return abs(found - float(known)) <= 0.55 * 10**-digits


def cases(settings: Settings) -> Sequence[Case]:
    """The table's rows, slots by size of the draw, and the plans of the text experiments."""
    rows = list(TABLE)[:2] if settings.is_tiny else list(TABLE)
    found = [
        Case(
            name=f"{sampler}, redraw {redraw or 'never'}, queries {queries}",
            config={"sampler": sampler, "redraw": redraw, "queries": queries},
        )
        for sampler, redraw, queries in rows
    ]
    sizes = (4,) if settings.is_tiny else (1, 2, 4, 8, 16)
    found += [Case(name=f"slots for {size}", config={"size": size}) for size in sizes]
    periods = (5,) if settings.is_tiny else (50, 10, 5, 1)
    return found + [
        Case(name=f"4 of 10,000, redraw {period}, queries {queries}",
             config={"period": period, "queries": queries})
        for period in periods for queries in (1, 200)
    ]  # fmt: skip


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Computed."""
    c = case.config
    if "size" in c:
        yield from _slots(c["size"])
    elif "period" in c:
        yield from _text(c["period"], c["queries"])
    else:
        yield from _row(c["sampler"], c["redraw"], c["queries"])


def _row(sampler: str, redraw: int | None, queries: int) -> Iterator[Figure]:
    plan = plan_of(sampler, redraw)
    for budget, known in zip(EPSILONS, TABLE[sampler, redraw, queries], strict=True):
        h = largest_h(plan, epsilon=budget, delta=DELTA, n_queries=queries)
        compared = simple_h(budget) if sampler == "none" else h
        name = f"largest h at epsilon {budget:g}"
        if sampler == "none":
            yield Figure(metric=f"{name}, tight", value=round(h, 4), unit="nats", kind="simulated",
                         **runner.judge(h >= compared, "not below the simple bound's"))  # fmt: skip
        yield Figure(
            metric=name, value=round(compared, 4), unit="nats", kind="simulated", baseline=known,
            **runner.judge(agrees(compared, known), f"{known}, as computed beforehand"),
        )  # fmt: skip


def _slots(size: int) -> Iterator[Figure]:
    plan = plan_for(n_demonstrations=N, epsilon=2.0, delta=DELTA, subset=size, max_tokens=TOKENS,
                    redraw_every=5, n_queries=200)  # fmt: skip
    share = plan.price(200).delta / DELTA
    yield Figure(metric="slots", value=plan.config.n_slots, unit="rows", kind="simulated")
    yield Figure(metric="share of delta that draws beyond them take", value=share, unit="1",
                 kind="simulated", **runner.judge(share <= 0.01, "at most 0.01"))  # fmt: skip


def _text(period: int, queries: int) -> Iterator[Figure]:
    for budget in EPSILONS:
        plan = plan_for(n_demonstrations=N, epsilon=budget, delta=DELTA, max_tokens=TOKENS,
                        redraw_every=period, n_queries=queries)  # fmt: skip
        whole = plan.replace(redraw_every=None)
        once = largest_h(whole, epsilon=budget, delta=DELTA, n_queries=queries)
        yield Figure(
            metric=f"largest h at epsilon {budget:g}", value=round(plan.numbers.h, 4), unit="nats",
            kind="simulated", baseline=round(once, 4),
            **runner.judge(plan.numbers.h > once, "more than with one draw a query", due=period < TOKENS),
        )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Largest influence by epsilon: one query, a line a plan of the table."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name, _, budget = row["metric"].rpartition(" ")
        plan, _, queries = row["case"].rpartition(", queries ")
        if name == "largest h at epsilon" and queries == "1" and not plan.startswith("4 of"):
            lines.setdefault(plan, []).append((float(budget), row["value"]))
    for plan, points in sorted(lines.items(), key=lambda line: -line[1][0][1]):
        style = "o-" if plan.startswith("poisson") else "s--"
        axis.plot(*zip(*points, strict=True), style, label=plan.replace("_", " "))
    axis.set(xscale="log", yscale="log", xlabel=f"epsilon of one query at delta {DELTA:g}",
             ylabel="largest influence h, nats")  # fmt: skip
    axis.set_xticks(EPSILONS, [f"{budget:g}" for budget in EPSILONS])
    axis.set_xticks([], minor=True)
    figure.legend(fontsize=7, loc="outside right upper")
    return figure


EXPERIMENT = runner.Experiment(
    name="mozo.budgets",
    title="How much a demonstration may say under a budget",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
