"""Runs of every method of `algorithms.dp_grape.methods` on a task, tuned alike; results are kept in memory."""

import dataclasses
import functools
from typing import Any

import numpy as np

from ariel_jax.algorithms.dp_grape import methods
from ariel_jax.algorithms.dp_grape.training import PrivateSource
from experiments.dp_grape import common, tasks

RATES = (3e-5, 3e-4, 1e-3, 3e-3, 1e-2)
CLIPS = (0.5, 2.0)
# Name here -> name in the library. DP-Adam's sums are the same numbers by ghost clipping, and sooner there.
BUILT = {"dp-adam": "ghost", "dp-adam, materialised": "dp-adam"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What runs are compared at.

    Attributes:
        task: its name.
        tiny: for scale `smoke`.
        epsilon: of a run, at `common.DELTA`, under add/remove-one.
        probability: of a record to be in a batch.
        steps: of a run.
        rank: of the projections; None: a quarter of the axis of each weight.
    """

    task: str
    tiny: bool
    epsilon: float
    probability: float
    steps: int
    rank: int | None = None

    def with_(self, **changes: Any) -> "Setup":
        """The same but for some fields."""
        return dataclasses.replace(self, **changes)


def prepared(name: str, setup: Setup, clip_norm: float, seed: int) -> tuple[Any, PrivateSource]:
    """A method of learning rate 1, for `common.train`, and its source."""
    task = tasks.load(setup.task, tiny=setup.tiny)
    src = common.source(task.train, probability=setup.probability, clip_norm=clip_norm)
    sigma = None
    if name != "adam":
        sigma = common.noise_for(setup.epsilon, setup.probability, setup.steps)
    options: dict[str, Any] = {}
    if name in ("dp-lora", "dp-bitfit"):
        options["head"] = task.head
    method = methods.build(
        BUILT.get(name, name), params=task.init(seed), loss=task.loss, source=src,
        noise_multiplier=sigma, learning_rate=1.0, cfg=common.grape_config(task, setup.rank),
        **common.keys(seed), **options,
    )  # fmt: skip
    return method, src


@functools.cache
def run(
    name: str, setup: Setup, clip_norm: float, rates: tuple[float, ...], seed: int, looks: int = 1
) -> common.Curve:
    """Accuracies on the parts `validation` and `test` along a run."""
    method, src = prepared(name, setup, clip_norm, seed)
    task = tasks.load(setup.task, tiny=setup.tiny)

    def score(params: Any) -> Any:
        merged = method.merged(params)
        return {
            "validation": task.accuracy(merged, task.validation),
            "test": task.accuracy(merged, task.test),
        }

    return common.train(method, src, score, seed=seed, steps=setup.steps, rates=rates, looks=looks)


@functools.cache
def tuned(name: str, setup: Setup) -> tuple[float, float]:
    """Learning rate and clip norm with the best accuracy on the validation part, on a seed of its own.

    The grid is the same for every method; what choosing by private data costs is not counted.
    """
    rates, clips = (RATES[-2:], CLIPS[:1]) if setup.tiny else (RATES, CLIPS)
    clips = clips[:1] if name == "adam" else clips  # it does not clip
    found = {
        (rate, clip): float(score)
        for clip in clips
        for rate, score in zip(
            rates, run(name, setup, clip, rates, 100).scores["validation"][:, -1], strict=True
        )
    }
    return max(found, key=lambda pair: found[pair])


def accuracies(
    name: str, setup: Setup, choice: tuple[float, float], n_seeds: int, looks: int = 1
) -> np.ndarray:
    """[seeds, looks] on the test part."""
    rate, clip = choice
    curves = [run(name, setup, clip, (rate,), seed, looks) for seed in range(n_seeds)]
    return np.stack([curve.scores["test"][0] for curve in curves])


def step_seconds(
    names: tuple[str, ...], setup: Setup, *, steps: int, rounds: int
) -> dict[str, float]:
    """Median seconds of a step, the methods in turn; nothing compiles within."""
    timed: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            method, src = prepared(name, setup, 1.0, 0)
            curve = common.train(method, src, lambda params: {}, seed=0, steps=steps, rates=(1e-3,))
            timed[name].append(curve.step_s)
    return {name: float(np.median(times)) for name, times in timed.items()}
