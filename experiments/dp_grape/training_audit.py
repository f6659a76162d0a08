"""What a trained model tells of who was in its data: canaries inside one run, and membership of real records.

    python -m experiments.dp_grape.training_audit --scale cpu --out results
    python -m experiments.dp_grape.training_audit --scale cpu --task digits --out results-digits

A whole run of the trainer, ledger and secret keys included, on 1,000 records and as many canaries: features of
test records, each drawn by itself, with a label by chance. Each canary takes part by a secret fair coin, and
the attacker, who has the canaries, the initial weights and the trained ones, guesses the coins by how far a
canary's loss fell. One such run bounds epsilon from below (Steinke, Nasr, Jagielski 2023, arXiv 2305.08846).
Beside that the area under the curve of a threshold on the loss that tells real records from test records.

Expected: no bound above its claim, and an area of at most 0.6 at epsilon 1 and 2. Two planted faults that claim
epsilon 1 as well, no noise and noise divided by the batch, must be refuted and have areas of at least 0.7:
otherwise the attack could see nothing. Bounds are not expected to be tight: the attacker sees the last model
alone, where the guarantee covers every step. Keys are secret, so two runs differ. About three minutes.
"""

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ariel_jax.algorithms.dp_grape import canaries, methods, trainer
from ariel_jax.errors import ConfigError
from ariel_jax.privacy import Ledger, Terms, audit
from experiments import runner
from experiments.dp_grape import common, tasks
from experiments.runner import Case, Figure, Settings

PROBABILITY, CLIP, RATE = 1 / 8, 1.0, 2e-3
# What a fault leaves of the noise, from the expected batch.
FAULTS = {"no noise": lambda batch: 1e-6, "noise divided by the batch": lambda batch: 1 / batch}


def cases(settings: Settings) -> Sequence[Case]:
    """The right code at three budgets, and two faults that claim the smallest.

    Raises:
        ConfigError: no such task.
    """
    task, tiny = settings.flags.get("task", "clusters"), settings.is_tiny
    if task not in tasks.TASKS:
        raise ConfigError(f"--task {task!r} is none of {', '.join(tasks.TASKS)}.")
    config = {
        "task": task, "steps": 3 if tiny else 400, "records": 64 if tiny else 1000,
        "canaries": 64 if tiny else 1000,
    }  # fmt: skip
    ways = [(f"epsilon {epsilon:g}", {"epsilon": epsilon}) for epsilon in (1.0, 2.0, 8.0)]
    ways += [(name, {"epsilon": 1.0, "fault": name}) for name in FAULTS]
    kept = ways[3:4] if tiny else ways
    return [
        Case(name=f"{task}, {name}", config=config | more, expected_s=30.0) for name, more in kept
    ]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Bound and areas beside the claim."""
    c, task = case.config, tasks.load(case.config["task"], tiny=settings.is_tiny)
    is_right, due = "fault" not in c, not settings.is_tiny
    found, area, accuracy, sigma = attacked(c, task, settings.seed)
    yield Figure(metric="epsilon claimed", value=c["epsilon"], unit="1", kind="simulated")
    yield Figure(metric="noise multiplier", value=round(sigma, 4), unit="1", kind="simulated")
    yield Figure(
        metric="lower bound on epsilon, 95 %, of one run", value=round(found.lower_bound, 4), unit="1",
        kind="measured",
        **runner.judge(
            found.refutes != is_right, "at most the claim" if is_right else "above the claim",
            due=is_right or due,
        ),
    )  # fmt: skip
    yield Figure(
        metric="bound that so many canaries can show", value=round(found.most or 0.0, 4), unit="1",
        kind="simulated",
    )  # fmt: skip
    yield Figure(
        metric="canaries, in or out: area", value=round(found.auroc, 4), unit="1", kind="measured"
    )
    is_strict = c["epsilon"] <= 2
    yield Figure(
        metric="records, trained on or not: area", value=round(area, 4), unit="1", kind="measured",
        **runner.judge(
            area <= 0.6 if is_right else area >= 0.7, "at most 0.6" if is_right else "at least 0.7",
            due=due and is_strict,
        ),
    )  # fmt: skip
    yield Figure(metric="test accuracy", value=round(accuracy, 4), unit="1", kind="measured")


def made(task: tasks.Task, n: int, seed: int) -> dict[str, np.ndarray]:
    """Canaries `{"x", "y"}` [n, ...]: every feature that of some test record, and any label."""
    rng = np.random.default_rng([seed, 17])
    x, y = task.test["x"], task.test["y"]
    flat = x.reshape(len(x), -1)
    picked = rng.integers(0, len(flat), (n, flat.shape[1]))
    mixed = flat[picked, np.arange(flat.shape[1])].reshape(n, *x.shape[1:])
    return {"x": mixed, "y": rng.integers(0, y.max() + 1, n).astype(y.dtype)}


def attacked(
    c: dict[str, Any], task: tasks.Task, seed: int
) -> tuple[audit.Audit, float, float, float]:
    """(audit, area for real records, test accuracy, noise multiplier) of one run."""
    records = {name: array[: c["records"]] for name, array in task.train.items()}
    planted = made(task, c["canaries"], seed)
    n = len(records["y"]) + c["canaries"]
    plan, rows = trainer.plan_for(
        about=n, probability=PROBABILITY, steps=c["steps"], epsilon=c["epsilon"], delta=common.DELTA
    )
    settings = trainer.Settings(
        clip_norm=CLIP, expected_batch=PROBABILITY * n, rows=rows, learning_rate=RATE,
        cfg=common.grape_config(task, None), canaries=c["canaries"],
    )  # fmt: skip
    before = canaries.losses(task.loss, task.init(seed), planted, at_once=64)
    run = trainer.prepare(
        task.init(seed), loss=task.loss, records=canaries.appended(records, planted), plan=plan,
        settings=settings,
    )  # fmt: skip
    if "fault" in c:
        left = plan.noise_multiplier * FAULTS[c["fault"]](settings.expected_batch)
        faulty = methods.build(
            "dp-grape", params=run.method.params, loss=task.loss, source=run.source,
            noise_multiplier=left, learning_rate=RATE, cfg=settings.cfg,
            projection_key=jax.random.key(settings.seed),
        )  # fmt: skip
        run = dataclasses.replace(run, method=faulty)
    terms = Terms(
        account="records", relation=plan.relation, epsilon=c["epsilon"], delta=common.DELTA
    )
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder)
        with Ledger(top / "ledger.sqlite", terms) as ledger:
            fitted = trainer.fit(run, ledger, top / "run", log_every=c["steps"])
    after = canaries.losses(task.loss, fitted.params, planted, at_once=64)
    claim = {"epsilon": fitted.report.epsilon, "delta": common.DELTA}
    found = canaries.audit(canaries.falls(before, after), fitted.canaries, **claim)
    real, others = (
        -canaries.losses(task.loss, fitted.params, part, at_once=64)
        for part in (records, {name: array[: c["records"]] for name, array in task.test.items()})
    )
    area = audit.of_one_run(real, others, **claim).auroc
    accuracy = float(task.accuracy(fitted.params, task.test))
    return found, area, accuracy, plan.noise_multiplier


def plot(rows: list[dict[str, Any]]) -> Any:
    """Bounds beside claims, and the areas."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["case"] for row in rows))

    def of(metric: str) -> list[float]:
        by_case = {row["case"]: row["value"] for row in rows if row["metric"] == metric}
        return [by_case[name] for name in names]

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    axes[0].plot(names, of("epsilon claimed"), "_", color="gray", markersize=24, label="claimed")
    axes[0].plot(
        names, of("lower bound on epsilon, 95 %, of one run"), "o", label="lower bound (measured)"
    )
    axes[0].set_ylabel("epsilon")
    for metric in ("canaries, in or out: area", "records, trained on or not: area"):
        axes[1].plot(names, of(metric), "o", label=f"{metric} (measured)")
    axes[1].axhline(0.5, color="gray", linewidth=0.8)
    axes[1].set_ylabel("area under the curve")
    for axis in axes:
        axis.tick_params(axis="x", labelrotation=20)
        axis.legend(fontsize=7)
    return figure


EXPERIMENT = runner.Experiment(
    name="dp_grape.training_audit", title="A training run, attacked through its model", cases=cases,
    measure=measure, plot=plot, flags={"task": "clusters"},
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
