"""Accuracy for a budget: DP-GRAPE beside DP-Adam, GaLore, LoRA, BitFit, DPZero, and Adam without privacy.

    python -m experiments.dp_grape.utility --scale cpu --out results
    python -m experiments.dp_grape.utility --scale cpu --task digits --out results-digits

Scale `cpu`, clusters: an MLP 64-256-256-10, 8,192 records, batches of 256 expected, 400 steps, delta 1e-5.
Learning rate and clip norm of every method are the best of one grid (`tuning.RATES`, `CLIPS`) on a
validation part at epsilon 4; the privacy that choosing costs is not counted. Five seeds at epsilon 4, three
methods with three seeds at 1, 2 and 8; ranks 4, 16, 64 and d/4, a quarter of each weight's shorter axis. At
equal wall time a method makes as many steps as fit, at most four times as many, with noise for that many.
Expected: at d/4 within 3.5 points of DP-Adam at equal steps and within 1.5 at equal wall time; at least 5
points above DPZero at equal wall time. DP-Adam's sums are formed by ghost clipping, which gives the same
numbers sooner; its wall time is that of materialised gradients, and ghost clipping's stands beside it.
About half an hour on two cores for each task; those other than clusters have no expectations.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.errors import ConfigError
from experiments import runner
from experiments.dp_grape import tuning
from experiments.dp_grape.tuning import Setup
from experiments.runner import Case, Figure, Settings

ALL = ("adam", "dp-adam", "dp-grape", "dp-galore", "dp-lora", "dp-bitfit", "dpzero")
THREE = ("dp-adam", "dp-grape", "dpzero")
RANKS = (4, 16, 64)
SIZES = {"clusters": (1 / 32, 400), "digits": (1 / 8, 200), "docstrings": (1 / 8, 200)}
LOOKS, MOST = 4, 4  # scores along a run; times the steps at equal wall time
TIMES = ("dp-grape", "dpzero", "dp-adam", "dp-adam, materialised")


def cases(settings: Settings) -> Sequence[Case]:
    """Methods at epsilon 4, epsilons, ranks, and equal wall time.

    Raises:
        ConfigError: no such task.
    """
    task, tiny = settings.flags.get("task", "clusters"), settings.is_tiny
    if task not in SIZES:
        raise ConfigError(f"--task {task!r} is none of {', '.join(SIZES)}.")
    probability, steps = (1 / 8, 4) if tiny else SIZES[task]
    config = {
        "task": task, "probability": probability, "steps": steps, "seeds": 1 if tiny else 5,
        "fewer_seeds": 1 if tiny else 3, "looks": 1 if tiny else LOOKS,
    }  # fmt: skip
    names = ("dp-adam", "dp-grape") if tiny else ALL
    found = [
        Case(name=f"{task}, {n}", config=config | {"method": n}, expected_s=90.0) for n in names
    ]
    if not tiny:
        for epsilon in (1.0, 2.0, 8.0):
            name = f"{task}, epsilon {epsilon:g}"
            found.append(Case(name=name, config=config | {"epsilon": epsilon}, expected_s=120.0))
    for rank in () if tiny else RANKS:
        found.append(
            Case(name=f"{task}, rank {rank}", config=config | {"rank": rank}, expected_s=40.0)
        )
    if not tiny:
        found.append(Case(name=f"{task}, equal wall time", config=config, expected_s=180.0))
    return found


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """What the case's config names."""
    c = case.config
    setup = Setup(
        task=c["task"], tiny=settings.is_tiny, epsilon=4.0, probability=c["probability"],
        steps=c["steps"],
    )  # fmt: skip
    due = c["task"] == "clusters" and not settings.is_tiny
    if "method" in c:
        yield from one_method(c, setup, due)
    elif "epsilon" in c:
        for name in THREE:
            yield accuracy(name, accuracies(name, setup, c, epsilon=c["epsilon"]))
    elif "rank" in c:
        yield from gaps(c, setup, c["rank"])
    else:
        yield from equal_time(c, setup, due)


def accuracies(name: str, setup: Setup, c: dict[str, Any], **changes: Any) -> np.ndarray:
    """[seeds] at the end of runs with what was chosen at epsilon 4."""
    choice = tuning.tuned(name, setup)
    return tuning.accuracies(name, setup.with_(**changes), choice, c["fewer_seeds"], 1)[:, -1]


def accuracy(label: str, found: np.ndarray) -> Figure:
    """A row of mean and spread."""
    sd = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    metric, value = f"{label}: test accuracy, {len(found)} seeds, sd {sd:.4f}", float(found.mean())
    return Figure(metric=metric, value=round(value, 4), unit="1", kind="measured")


def points(label: str, value: float, **more: Any) -> Figure:
    """A row of a difference of accuracies, in points of a hundred."""
    return Figure(metric=label, value=round(100 * value, 2), unit="points", kind="measured", **more)


def one_method(c: dict[str, Any], setup: Setup, due: bool) -> Iterator[Figure]:
    """Chosen learning rate and clip norm, accuracies along the run, and what DP-GRAPE loses on DP-Adam."""
    name = c["method"]
    choice = tuning.tuned(name, setup)
    for label, value in zip(("learning rate", "clip norm"), choice, strict=True):
        if (name, label) != ("adam", "clip norm"):
            yield Figure(metric=f"chosen {label}", value=value, unit="1", kind="measured")
    found = tuning.accuracies(name, setup, choice, c["seeds"], c["looks"])[:, -1]
    yield accuracy(name, found)
    if name == "dp-grape":
        best = tuning.accuracies(
            "dp-adam", setup, tuning.tuned("dp-adam", setup), c["seeds"], c["looks"]
        )
        gap = float(best[:, -1].mean() - found.mean())
        yield points(
            "DP-Adam over DP-GRAPE at rank d/4, equal steps", gap,
            **runner.judge(gap <= 0.035, "at most 3.5", due=due),
        )  # fmt: skip
        yield from gaps(c, setup, None)


def gaps(c: dict[str, Any], setup: Setup, rank: int | None) -> Iterator[Figure]:
    """How far DP-GRAPE of a rank lies below DP-Adam along the same run; C and rate as chosen at d/4."""
    choices = [tuning.tuned(name, setup) for name in ("dp-adam", "dp-grape")]
    n, looks = c["fewer_seeds"], c["looks"]
    adam = tuning.accuracies("dp-adam", setup, choices[0], n, looks).mean(0)
    grape = tuning.accuracies("dp-grape", setup.with_(rank=rank), choices[1], n, looks).mean(0)
    for i, gap in enumerate(adam - grape, 1):
        label = (
            f"rank {rank or 'd/4'}: DP-Adam over DP-GRAPE after {i * setup.steps // looks} steps"
        )
        yield points(label, float(gap))


def equal_time(c: dict[str, Any], setup: Setup, due: bool) -> Iterator[Figure]:
    """DP-GRAPE in the time of DP-Adam's run, DPZero in that of DP-GRAPE's."""
    seconds = tuning.step_seconds(TIMES, setup, steps=20, rounds=3)
    for name, value in seconds.items():
        yield Figure(metric=f"{name}: seconds a step", value=value, unit="s", kind="measured")

    def fitting(name: str, other: str) -> int:
        return int(setup.steps * min(MOST, seconds[other] / seconds[name]))

    adam, plain = (accuracies(name, setup, c) for name in ("dp-adam", "dp-grape"))
    for other in ("dp-adam, materialised", "dp-adam"):
        n = fitting("dp-grape", other)
        found = accuracies("dp-grape", setup, c, steps=n)
        ghost = " by ghost clipping" if other == "dp-adam" else ""
        yield accuracy(f"dp-grape, {n} steps", found)
        gap = float(adam.mean() - found.mean())
        yield points(
            f"DP-Adam{ghost} over DP-GRAPE, equal wall time", gap,
            **runner.judge(gap <= 0.015, "at most 1.5", due=due and not ghost),
        )  # fmt: skip
    n = fitting("dpzero", "dp-grape")
    found = accuracies("dpzero", setup, c, steps=n)
    yield accuracy(f"dpzero, {n} steps", found)
    gap = float(plain.mean() - found.mean())
    yield points(
        "DP-GRAPE over DPZero, equal wall time", gap,
        **runner.judge(gap >= 0.05, "at least 5", due=due),
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Gaps to DP-Adam by steps and rank, and accuracy by method at epsilon 4."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if " after " in row["metric"]:
            rank, _, rest = row["metric"].partition(":")
            lines.setdefault(rank, []).append(
                (int(rest.split(" after ")[1].split()[0]), row["value"])
            )
    for rank, found in lines.items():
        axes[0].plot(*zip(*found, strict=True), "o-", label=rank)
    axes[0].set(xlabel="steps", ylabel="points below DP-Adam (measured)")
    axes[0].legend(fontsize=7)
    shown = {r["metric"].split(":")[0]: r["value"] for r in rows
             if ": test accuracy" in r["metric"] and "method" in r["config"]}  # fmt: skip
    axes[1].plot(list(shown), list(shown.values()), "o")
    axes[1].set_ylabel("test accuracy at epsilon 4 (measured)")
    axes[1].tick_params(axis="x", labelrotation=30)
    return figure


EXPERIMENT = runner.Experiment(
    name="dp_grape.utility", title="Accuracy for a privacy budget", cases=cases, measure=measure,
    plot=plot, flags={"task": "clusters"},
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
