"""One setting of DP-GRAPE changed at a time: refresh period, moments, side, scale of the projections.

    python -m experiments.dp_grape.ablations --scale cpu --out results

Clusters (`tasks.clusters`), rank 16, noise multiplier 1, clip norm 1, batches of 256 expected, 400 steps,
Adam, three seeds, learning rates 0.001 and 0.004. Expected, at 0.001: a refresh period of 50 beats both 1
and never; with 50, moments that are reset or transferred end within 0.02 of kept ones; projecting the
larger side is worse; the authors' scale ends within 0.02 of the unbiased one once the learning rate is
multiplied and the clip norm divided by sqrt(rank), and is worse at the same learning rate. About 12 minutes
on two cores. Sides are compared on an MLP 64-256-64-10.
"""

import functools
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optax

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape.training import (
    PrivateGrad,
    PrivateSource,
    key_words,
    private_optimizer,
)
from experiments import runner
from experiments.dp_grape import common, tasks
from experiments.runner import Case, Figure, Settings

RATES = (1e-3, 4e-3)
ROOT = 4.0  # of the rank
CHANGES: dict[str, dict[str, Any]] = {
    "refresh 1": {"refresh_every": 1},
    "refresh 10": {"refresh_every": 10},
    "refresh 50": {},
    "refresh 200": {"refresh_every": 200},
    "refresh never": {"refresh_every": 0},
    "refresh 1, reset": {"refresh_every": 1, "moments": "reset"},
    "refresh 1, transfer": {"refresh_every": 1, "moments": "transfer"},
    "refresh 50, reset": {"moments": "reset"},
    "refresh 50, transfer": {"moments": "transfer"},
    "side smaller": {"side": "smaller", "narrow": True},
    "side in": {"side": "in", "narrow": True},
    "side larger": {"side": "larger", "narrow": True},
    "scale authors, rate x sqrt(rank)": {"scale": "authors", "rate": ROOT, "clip_norm": 1 / ROOT},
    "scale authors, same rate": {"scale": "authors", "clip_norm": 1 / ROOT},
}


def cases(settings: Settings) -> Sequence[Case]:
    """One per change; the smallest scale takes two."""
    tiny = settings.is_tiny
    small = ("refresh 1, transfer", "side larger")
    config = {
        "steps": 4 if tiny else 400, "seeds": 1 if tiny else 3, "rank": 3 if tiny else 16,
        "rates": list(RATES[: 1 if tiny else None]),
    }  # fmt: skip
    return [
        Case(name=name, config=config | {"change": change}, expected_s=45.0)
        for name, change in CHANGES.items()
        if not tiny or name in small
    ]


def method(task: tasks.Task, cfg: dp_grape.Config, source: PrivateSource, seed: int) -> Any:
    """DP-GRAPE with Adam of learning rate 1, see `common.train`."""
    params, keys = task.init(seed), common.keys(seed)
    specs = dp_grape.make_specs(params, cfg)
    words = key_words(keys["projection_key"])
    return types.SimpleNamespace(
        params=params,
        grad_fn=PrivateGrad(loss=task.loss, specs=specs, cfg=cfg, key_data=words),
        tx=private_optimizer(
            optax.adam(1.0), cfg, specs, noise_multiplier=1.0, source=source, **keys
        ),
    )


@functools.cache
def accuracies(name: str, n_seeds: int, steps: int, rank: int, rates: tuple[float, ...]) -> Any:
    """[seeds, rates] on the test part; kept, as others are compared with the plain ones."""
    given = dict(CHANGES[name])
    tiny = rank < 16
    task = tasks.clusters(tiny=tiny, narrow=given.pop("narrow", False))
    clip_norm, by = given.pop("clip_norm", 1.0), given.pop("rate", 1.0)
    source = common.source(task.train, probability=1 / 32, clip_norm=clip_norm)
    cfg = common.grape_config(task, rank, **given)
    found = [
        common.train(
            method(task, cfg, source, seed), source,
            lambda params: {"test": task.accuracy(params, task.test)},
            seed=seed, steps=steps, rates=[by * rate for rate in rates],
        )
        for seed in range(n_seeds)
    ]  # fmt: skip
    return np.stack([curve.scores["test"][:, -1] for curve in found])


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Test accuracy by learning rate, and at the first one against what it is compared with."""
    c = case.config
    how = (c["seeds"], c["steps"], c["rank"], tuple(c["rates"]))
    found = accuracies(case.name, *how)
    for i, rate in enumerate(c["rates"]):
        verdict = judged(case.name, how) if i == 0 and not settings.is_tiny else {}
        sd = float(np.std(found[:, i], ddof=1)) if len(found) > 1 else 0.0
        yield Figure(
            metric=f"test accuracy, rate {rate}", value=round(float(found[:, i].mean()), 4), unit="1",
            kind="measured", **({"baseline": f"sd {sd:.4f}"} | verdict),
        )  # fmt: skip


def judged(name: str, how: Any) -> dict[str, Any]:
    """The verdict on a change's accuracy at the first learning rate, where something was expected of it."""

    def mean(other: str) -> float:
        return float(accuracies(other, *how)[:, 0].mean())

    own = mean(name)
    if name == "refresh 50":
        ends = max(mean("refresh 1"), mean("refresh never"))
        return runner.judge(own > ends, f"above refresh 1 and never ({ends:.4f})")
    if name in ("refresh 50, reset", "refresh 50, transfer", "scale authors, rate x sqrt(rank)"):
        base = mean("refresh 50")
        return runner.judge(abs(own - base) <= 0.02, f"refresh 50 ({base:.4f}) to 0.02")
    below = {"side larger": "side smaller", "scale authors, same rate": "refresh 50"}
    if name in below:
        base = mean(below[name])
        return runner.judge(own < base, f"below {below[name]} ({base:.4f})")
    return {}


def plot(rows: list[dict[str, Any]]) -> Any:
    """Accuracy by change and learning rate."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for metric in dict.fromkeys(row["metric"] for row in rows):
        shown = [row for row in rows if row["metric"] == metric]
        axis.plot(
            [row["case"] for row in shown], [row["value"] for row in shown], "o", label=metric
        )
    axis.tick_params(axis="x", labelrotation=60)
    axis.set_ylabel("test accuracy (measured)")
    axis.legend(fontsize=7)
    return figure


EXPERIMENT = runner.Experiment(
    name="dp_grape.ablations",
    title="DP-GRAPE, one setting at a time",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
