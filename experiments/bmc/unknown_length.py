"""Ragged requests whose lengths nobody knows beforehand: speed and memory of the policies.

    python -m experiments.bmc.unknown_length --scale cpu --out results

Scale `cpu`: 4 layers of width 512, vocabulary 4,096, 8 requests with prompts of 64 that end after 100
to 1,000 tokens and may, as far as the policy knows, go on to 4,096; float32, random weights; about 10
minutes on two cores. Expected: `Auto` at least 2.5 times the tokens/s of `Upfront(4096)` with at most
33 % of its cache bytes, and at least 0.97 times the best policy.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms import bmc
from ariel_jax.decode import Arithmetic, CapacityPolicy, Geometric, Sqrt, Upfront
from experiments import runner
from experiments.bmc import common
from experiments.runner import Case, Figure, Settings


def cases(settings: Settings) -> Sequence[Case]:
    """One batch."""
    tiny = settings.is_tiny
    config = {
        "batch": 3 if tiny else 8,
        "prompt": 16 if tiny else 64,
        "longest": 256 if tiny else 4096,
        "lengths": [30, 90] if tiny else [100, 1000],
        "rounds": 1 if tiny else 3,
    }
    return [Case(name="ragged", config=config, expected_s=600.0)]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """All policies in turn on the same requests."""
    config = case.config
    model = common.random_model(settings)
    low, high = config["lengths"]
    rng = np.random.default_rng(settings.seed)
    new = rng.integers(low, high + 1, config["batch"]).tolist()
    longest, prompt = config["longest"], config["prompt"]
    profile = common.profile(model, batch=config["batch"], limit=min(longest, 2048))
    policies: dict[str, CapacityPolicy] = {
        "upfront": Upfront(longest),
        "doubling": Geometric(2.0),
        "arithmetic:64": Arithmetic(64),
        "arithmetic:256": Arithmetic(256),
        "sqrt": Sqrt(),
        "auto": bmc.Auto(profile),
    }
    found = common.rounds(
        model,
        policies,
        n_rounds=config["rounds"],
        prompt=prompt,
        new=new,
        told=longest - prompt,
    )
    for name, (speed, report) in found.items():
        yield Figure(metric=f"{name}: tokens/s", value=round(speed, 2), unit="1/s", kind="measured")
        yield Figure(
            metric=f"{name}: cache at its largest, growths included",
            value=round(report.peak_cache_bytes / 1e6, 3),
            unit="MB",
            kind="measured",
        )
        yield Figure(metric=f"{name}: growths", value=report.growths, unit="1", kind="measured")
    best = max(speed for speed, _ in found.values())
    auto, upfront = found["auto"], found["upfront"]
    for metric, value, limit, is_least in (
        ("auto over upfront, tokens/s", auto[0] / upfront[0], 2.5, True),
        (
            "auto over upfront, cache",
            auto[1].peak_cache_bytes / upfront[1].peak_cache_bytes,
            0.33,
            False,
        ),
        ("auto over the best policy, tokens/s", auto[0] / best, 0.97, True),
    ):
        good = value >= limit if is_least else value <= limit
        judged = not settings.is_tiny
        yield Figure(
            metric=metric,
            value=round(value, 4),
            unit="1",
            kind="measured",
            **runner.judge(good, f"at {'least' if is_least else 'most'} {limit:g}", due=judged),
        )


def plot(rows: list[dict[str, Any]]) -> Any:
    """Speed and memory of each policy, side by side."""
    from matplotlib import pyplot

    values = {row["metric"]: row["value"] for row in rows}
    names = [m.removesuffix(": growths") for m in values if m.endswith(": growths")]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.barh(names, [values[f"{n}: tokens/s"] for n in names], color="#4878a8")
    left.set_xlabel("tokens/s, all requests (measured)")
    right.barh(
        names,
        [values[f"{n}: cache at its largest, growths included"] for n in names],
        color="#a87848",
    )
    right.set_xlabel("cache at its largest, MB")
    right.set_yticklabels([])
    left.invert_yaxis()
    right.invert_yaxis()
    return figure


EXPERIMENT = runner.Experiment(
    name="bmc.unknown_length",
    title="Ragged requests of unknown length",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
