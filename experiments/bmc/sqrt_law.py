"""The best number of allocations against the length of the text.

    python -m experiments.bmc.sqrt_law --scale cpu --out results

Scale `cpu`: 4 layers of width 512, 2 requests, prompts of 32, texts of 256 to 4,096 tokens, float32,
random weights; about 16 minutes on two cores, most of them compiling. The paper (arXiv 2511.12031) reports that the best number
of allocations T grows as the square root of the length N. Expected here: a slope of log T over log N
of 0.35 to 0.65, measured and by dynamic programming over the measured times; above a half, towards 1,
where the fixed cost of a growth outweighs its copies, as it does for short texts.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms import bmc
from ariel_jax.decode import Arithmetic, CapacityPolicy
from experiments import runner
from experiments.bmc import common
from experiments.runner import Case, Figure, Settings

GRANULARITY = 16
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def cases(settings: Settings) -> Sequence[Case]:
    """One case over all lengths: the slope needs all of them."""
    tiny = settings.is_tiny
    config = {
        "batch": 2,
        "prompt": 16 if tiny else 32,
        "lengths": [64, 96] if tiny else [256, 512, 1024, 2048, 4096],
        "rounds": 1 if tiny else 3,
    }
    return [Case(name="all lengths", config=config, expected_s=960.0)]


def _policies(profile: bmc.Profile, prompt: int, steps: int) -> dict[str, CapacityPolicy]:
    r = bmc.best_rows(profile.costs(), prompt=prompt, steps=steps)
    wanted = {max(GRANULARITY, round(r * f / GRANULARITY) * GRANULARITY) for f in FACTORS}
    rows = sorted(n for n in wanted if n < steps)[: 2 if steps < 200 else None]
    return {str(n): Arithmetic(n, GRANULARITY) for n in rows or [GRANULARITY]}


def _bottom(points: Sequence[tuple[float, float]]) -> float:
    """The number of allocations at the bottom of a parabola through (log T, seconds)."""
    x = np.log([t for t, _ in points])
    y = np.array([s for _, s in points])
    if len(points) < 3:
        return float(np.exp(x[np.argmin(y)]))
    a, b, _ = np.polyfit(x, y / y.min(), 2)
    # A flat or bent curve has no bottom of its own: then the best point measured.
    at = -b / (2 * a) if a > 0 else x[np.argmin(y)]
    return float(np.exp(min(max(at, x.min()), x.max())))


def _slope(lengths: Sequence[int], counts: Sequence[float]) -> float:
    return float(np.polyfit(np.log(lengths), np.log(counts), 1)[0])


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The best T of each length, measured and planned, and the slopes."""
    config = case.config
    model = common.random_model(settings)
    prompt, batch, lengths = config["prompt"], config["batch"], config["lengths"]
    profile = common.profile(model, batch=batch, limit=max(lengths))
    found: dict[str, list[float]] = {"measured": [], "planned": [], "closed form": []}
    for length in lengths:
        steps = length - prompt - 1
        policies = _policies(profile, prompt, steps)
        n_rounds = config["rounds"] if length <= 2048 else 1
        new = [length - prompt] * batch
        speeds = common.rounds(model, policies, n_rounds=n_rounds, prompt=prompt, new=new)
        points = []
        for name, (speed, report) in speeds.items():
            seconds = batch * steps / speed
            points.append((float(1 + report.growths), seconds))
            yield Figure(
                metric=f"N={length}, r={name}: seconds", value=round(seconds, 4), unit="s",
                kind="measured",
            )  # fmt: skip
        planned = bmc.schedule(profile, prompt=prompt, steps=steps, granularity=GRANULARITY)
        r = bmc.best_rows(profile.costs(), prompt=prompt, steps=steps)
        found["measured"].append(_bottom(points))
        found["planned"].append(float(len(planned.capacities)))
        found["closed form"].append(steps / r)
        for name, values in found.items():
            yield Figure(
                metric=f"N={length}: best T, {name}", value=round(values[-1], 2), unit="1",
                kind="measured" if name == "measured" else "simulated",
            )  # fmt: skip
    judged = not settings.is_tiny
    for name, values in found.items():
        slope = _slope(lengths, values)
        good = 0.35 <= slope <= 0.65
        yield Figure(
            metric=f"slope of log T over log N, {name}",
            value=round(slope, 3),
            unit="1",
            paper="T grows as sqrt(N)",
            kind="measured" if name == "measured" else "simulated",
            **runner.judge(good, "0.35 to 0.65", due=judged),
        )


def plot(rows: list[dict[str, Any]]) -> Any:
    """Best T against N, both logarithmic, beside a line of slope one half."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 4), layout="constrained")
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        length, _, name = row["metric"].partition(": best T, ")
        if name:
            points.setdefault(name, []).append((int(length[2:]), row["value"]))
    for (name, values), style in zip(points.items(), ("o-", "s--", "x:"), strict=True):
        axis.plot([n for n, _ in values], [t for _, t in values], style, label=name)
    n, t = points["closed form"][0]
    ends = np.array([n, points["closed form"][-1][0]])
    axis.plot(ends, t * np.sqrt(ends / n), color="black", linewidth=0.8, label="slope 1/2")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xlabel("length of the text N, tokens")
    axis.set_ylabel("best number of allocations T")
    axis.set_title(f"{math.floor(math.log2(ends[1] / n))} doublings of the length")
    axis.legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="bmc.sqrt_law",
    title="The best number of allocations against the length",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
