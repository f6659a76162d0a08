"""What private few-shot answers keep of the gain that demonstrations bring, on a small trained model.

    python -m experiments.mozo.tiny_lm --scale cpu --out results

Scale `cpu`: three seeds, each with a hidden style, 10,000 private demonstrations of it and 200 queries;
Poisson draws of 4 on average, redrawn every 5 of at most 50 tokens, delta 1e-5, one budget for all 200
queries; then one setting changed at a time, at epsilon 2. Few-shot are 4 demonstrations before the query,
without privacy. Everything is sampled at temperature 1. About half an hour on two cores. Expected at
epsilon 2 with the certified default: at least 90 % of the ROUGE-L that few-shot gains over zero-shot; no
less with a larger epsilon; and more by redrawing every 5 tokens than by one draw a query.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments import runner
from experiments.mozo import answering, peers, whole_answers
from experiments.mozo.answering import Scores, Setting, Sizes
from experiments.runner import Case, Figure, Settings

EPSILONS = (1.0, 2.0, 4.0, 8.0)
SHOTS = {"zero-shot": 0, "one-shot": 1, "few-shot": 4}
KEPT = 0.9
# One token: the step is compiled once in each program, not for a loop and again behind it.
TINY = Sizes(n_demonstrations=300, n_queries=4, max_tokens=1, n_layers=1, round_to=192, seeds=(0,))
VARIED: dict[str, dict[str, Setting]] = {
    "without privacy": {
        "geometric mean of one-shots": Setting(epsilon=math.inf),
        "product of one-shots": Setting(epsilon=math.inf, weight=1.0),
    },
    "weights": {
        "w 1/2": Setting(weight=0.5),
        "w 1": Setting(weight=1.0),
        "w 2": Setting(weight=2.0),
        "w 1, epsilon 1": Setting(weight=1.0, epsilon=1.0),
    },
    "contracts": {
        "clip": Setting(contract="clip"),
        "linear": Setting(contract="linear"),
        "arithmetic pool": Setting(
            contract="renyi", pool="arithmetic", alpha=16, sampler="without_replacement"
        ),
        "arithmetic pool, probabilities mixed": Setting(
            contract="renyi_linear", pool="arithmetic", alpha=16, sampler="without_replacement"
        ),
    },
    "support": {
        "k 16": Setting(top_k=16),
        "k V": Setting(top_k=None),
        "k 16 and clip": Setting(top_k=16, contract="clip"),
    },
    "redraws": {
        "r 1": Setting(redraw_every=1),
        "r T": Setting(redraw_every=None),
        "r T, epsilon 8": Setting(redraw_every=None, epsilon=8.0),
    },
    "draws": {"N 1": Setting(subset=1), "N 8": Setting(subset=8)},
    "large draws": {"N 12": Setting(subset=12), "N 16": Setting(subset=16)},
}


def cases(settings: Settings) -> Sequence[Case]:
    """What is not private, budgets, and one setting changed at a time."""
    tiny = settings.is_tiny
    config = dataclasses.asdict(TINY if tiny else Sizes())
    config |= {"epsilons": list(EPSILONS[1:2] if tiny else EPSILONS)}
    config |= {"weights": answering.weights_sha256()}
    names = ["zero-shot and few-shot", "one budget for all queries"]
    if not tiny:
        names += [*VARIED, "others", "one query a budget"]
    return [Case(name=name, config=config, expected_s=200.0) for name in names]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """What the case's name says."""
    c = case.config
    sizes = TINY if settings.is_tiny else Sizes()
    due = not settings.is_tiny
    if case.name == "zero-shot and few-shot":
        for label, n in SHOTS.items():
            yield from _rows(label, answering.shots(n, sizes))
    elif case.name == "others":
        yield from _others(sizes)
    elif case.name in VARIED:
        for label, setting in VARIED[case.name].items():
            yield from _private(label, setting, sizes)
        if case.name == "redraws":
            yield from _against_one_draw(sizes, due)
    else:
        n_paid = 1 if case.name == "one query a budget" else sizes.n_queries
        yield from _budgets(n_paid, c["epsilons"], sizes, due)


def _budgets(n_paid: int, epsilons: Sequence[float], sizes: Sizes, due: bool) -> Iterator[Figure]:
    settings = [Setting(epsilon=epsilon, n_paid=n_paid) for epsilon in epsilons]
    is_aim = due and n_paid > 1
    for setting in settings:
        most = KEPT if is_aim and setting.epsilon == 2.0 else None
        yield from _private(f"epsilon {setting.epsilon:g}", setting, sizes, aim=most)
    rouges = [answering.private(setting, sizes).rouge for setting in settings]
    steps = [_errors(b - a) for a, b in itertools.pairwise(rouges)]
    if steps:
        yield _measured(
            "smallest gain from one budget to the next, in standard errors", min(steps),
            **runner.judge(min(steps) >= -2, "at least -2", due=due),
        )  # fmt: skip


def _against_one_draw(sizes: Sizes, due: bool) -> Iterator[Figure]:
    for epsilon in (2.0, 8.0):
        often, once = (
            answering.private(Setting(epsilon=epsilon, redraw_every=r), sizes) for r in (5, None)
        )
        gain = float((often.rouge - once.rouge).mean())
        yield _measured(
            f"ROUGE-L of r 5 over r T, epsilon {epsilon:g}", gain,
            **runner.judge(gain > 0, "above 0", due=due),
        )  # fmt: skip


def _private(
    label: str, setting: Setting, sizes: Sizes, *, aim: float | None = None
) -> Iterator[Figure]:
    """Influence that the budget allows, scores, and the share of the gain that is kept."""
    if setting.epsilon < math.inf:
        h = answering.plan(setting, sizes).numbers.h
        yield Figure(metric=f"{label}: influence h", value=h, unit="nats", kind="simulated")
    yield from _kept(label, answering.private(setting, sizes), sizes, aim=aim)


def _others(sizes: Sizes) -> Iterator[Figure]:
    """Peers at epsilon 2, each with demonstrations as it draws them itself."""
    for n_slots in (4, sizes.n_demonstrations // sizes.n_queries):
        label = f"InvisibleInk, {n_slots} of its own for every query"
        yield from _kept(label, peers.invisible_ink(n_slots, 2.0, sizes), sizes)
    label = "noisy average, 4 drawn for every token"
    yield from _kept(label, peers.noisy_average(4, 2.0, sizes), sizes)
    label = "PMixED at its claimed loss, 4 drawn for every token"
    yield from _kept(label, peers.pmixed(4, 8, 2.0, sizes), sizes)
    label = "DP-ICL, 12 keywords of 16 answers"
    yield from _kept(label, whole_answers.keywords(16, 12, 2.0, sizes), sizes)
    label = "DP-ICL, of 8 answers the nearest to the noisy sum of 16"
    yield from _kept(label, whole_answers.embeddings(16, 8, 2.0, sizes), sizes)


def _kept(
    label: str, scores: Scores, sizes: Sizes, *, aim: float | None = None
) -> Iterator[Figure]:
    yield from _rows(label, scores)
    zero, few = (answering.shots(SHOTS[n], sizes).rouge for n in ("zero-shot", "few-shot"))
    if not (few > zero).all():  # as with the tiny shapes: nothing is gained that could be kept
        return
    kept = (scores.rouge - zero) / (few - zero)
    verdict: dict[str, Any] = {}
    if aim is not None:
        verdict = runner.judge(kept.mean() >= aim, f"at least {aim:g}", otherwise="MISSED")
    yield _measured(f"{label}: share of the gain kept, {_spread(kept)}", kept.mean(), **verdict)


def _rows(label: str, scores: Scores) -> Iterator[Figure]:
    for name, values in (
        ("ROUGE-L", scores.rouge),
        ("exact match", scores.exact),
        ("answers with a private name", scores.private),
    ):
        yield _measured(f"{label}: {name}, {_spread(values)}", values.mean())


def _spread(values: np.ndarray) -> str:
    sd = values.std(ddof=1) if values.size > 1 else 0.0
    return f"seeds: {values.size}, sd {sd:.3f}"


def _errors(values: np.ndarray) -> float:
    """A mean in its standard errors."""
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    return float(values.mean()) / error if error > 0 else math.copysign(1e3, values.mean())


def _measured(metric: str, value: float, **more: Any) -> Figure:
    return Figure(metric=metric, value=round(float(value), 4), unit="1", kind="measured", **more)


def plot(rows: list[dict[str, Any]]) -> Any:
    """ROUGE-L by budget, between zero-shot and few-shot."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    shown = [row for row in rows if ": ROUGE-L" in row["metric"]]
    for case in ("one budget for all queries", "one query a budget"):
        found = [row for row in shown if row["case"] == case]
        epsilons = [float(row["metric"].split(":")[0].split()[1]) for row in found]
        if found:
            axis.plot(epsilons, [row["value"] for row in found], "o-", label=case)
    for label, style in (("zero-shot", ":"), ("few-shot", "--")):
        value = next(row["value"] for row in shown if row["metric"].startswith(label))
        axis.axhline(value, linestyle=style, color="gray", label=label)
    axis.set(xlabel="epsilon", ylabel="ROUGE-L (measured)", xscale="log")
    axis.legend(fontsize=7)
    return figure


EXPERIMENT = runner.Experiment(
    name="mozo.tiny_lm", title="Private answers of a small model", cases=cases, measure=measure,
    plot=plot,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
