"""Tokens/s against the rows r that a growth adds, beside what the cost model predicts.

    python -m experiments.bmc.sweep_r --scale cpu --out results

Scale `cpu`: 4 layers of width 512, 8 requests, prompts of 64, texts of 2,048 tokens, float32, random
weights; about 20 minutes on two cores. Expected: `Auto` within 5 % of the best constant r; the best r
within a factor of 2 of the closed form; growths and spare rows within 25 % of the model, and so the
whole overhead where it is at least 15 % of the useful time.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax.algorithms import bmc
from ariel_jax.decode import Arithmetic, CapacityPolicy, Geometric, Upfront
from experiments import runner
from experiments.bmc import common
from experiments.runner import Case, Figure, Settings


def cases(settings: Settings) -> Sequence[Case]:
    """Multi-head and grouped attention."""
    tiny = settings.is_tiny
    config = {
        "batch": 2 if tiny else 8,
        "prompt": 16 if tiny else 64,
        "length": 256 if tiny else 2048,
        "rounds": 1 if tiny else 3,
        "granularity": 32 if tiny else 16,
    }
    heads = (2,) if tiny else (8, 2)
    return [
        Case(name=f"{n} KV heads", config=config | {"n_kv_heads": n}, expected_s=300.0)
        for n in heads
    ]


def _rows(config: dict[str, Any]) -> list[int]:
    every = (32, 64) if config["length"] < 2048 else (16, 32, 64, 128, 256, 512)
    return [r for r in every if r < config["length"] - config["prompt"]]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Every r, doubling, upfront and `Auto`, in turn."""
    config = case.config
    model = common.random_model(settings, n_kv_heads=config["n_kv_heads"])
    profile = common.profile(model, batch=config["batch"], limit=config["length"])
    g, prompt = config["granularity"], config["prompt"]
    new = [config["length"] - prompt] * config["batch"]
    policies: dict[str, CapacityPolicy] = {
        **{f"r={r}": Arithmetic(r, g) for r in _rows(config)},
        "doubling": Geometric(2.0, g),
        "upfront": Upfront(granularity=g),
        "auto": bmc.Auto(profile, 64),
    }
    found = common.rounds(model, policies, n_rounds=config["rounds"], prompt=prompt, new=new)
    steps = new[0] - 1
    for name, policy in policies.items():
        speed, report = found[name]
        work = bmc.simulate(policy, prompt=prompt, steps=steps)
        seconds = bmc.predicted_s(profile, work.capacities, prompt=prompt, steps=steps)
        yield Figure(metric=f"{name}: tokens/s", value=round(speed, 2), unit="1/s", kind="measured")
        yield Figure(
            metric=f"{name}: tokens/s by the cost model",
            value=round(config["batch"] * steps / seconds, 2),
            unit="1/s",
            kind="simulated",
            baseline=round(speed, 2),
        )
        counted = (report.growths, report.rows_copied)
        yield Figure(
            metric=f"{name}: growths counted by the engine",
            value=report.growths,
            unit="1",
            kind="measured",
            baseline=work.growths,
            expected="as simulated, rows copied too",
            verdict="PASS" if counted == (work.growths, work.rows_copied) else "FAIL",
        )
    constant = {r: found[f"r={r}"][0] for r in _rows(config)}
    best = max(constant, key=constant.__getitem__)
    wanted = bmc.best_rows(profile.costs(), prompt=prompt, steps=steps)
    judged = not settings.is_tiny
    yield Figure(metric="best r of the sweep", value=best, unit="rows", kind="measured")
    yield Figure(
        metric="r of the closed form",
        value=round(wanted, 1),
        unit="rows",
        kind="simulated",
        baseline=best,
        **runner.judge(best / 2 <= wanted <= best * 2, "within a factor of 2", due=judged),
    )
    share = found["auto"][0] / constant[best]
    yield Figure(
        metric="auto over the best constant r",
        value=round(share, 4),
        unit="1",
        kind="measured",
        **runner.judge(share >= 0.95, "at least 0.95", due=judged),
    )
    times = {name: config["batch"] * steps / speed for name, (speed, _) in found.items()}
    for metric, value, is_judged in (
        *_parts(model, profile, config, found),
        *_whole(profile, config, policies, times),
    ):
        judge = judged and is_judged
        yield Figure(
            metric=f"{metric}, measured over the model",
            value=round(value, 3),
            unit="1",
            kind="measured",
            **runner.judge(0.75 <= value <= 1.25, "0.75 to 1.25", due=judge),
        )


Share = tuple[str, float, bool]  # what, measured over predicted, whether a verdict is due


def _parts(model: Any, profile: bmc.Profile, config: Any, found: Any) -> Iterator[Share]:
    """Growths as the sweep's own runs took them, and spare rows at capacities of their own."""
    for r in _rows(config):
        report = found[f"r={r}"][1]
        policy = Arithmetic(r, config["granularity"])
        steps = config["length"] - config["prompt"] - 1
        work = bmc.simulate(policy, prompt=config["prompt"], steps=steps)
        predicted = sum(profile.growth_s(c) for c in work.capacities[:-1])
        if predicted and r in (16, 64):
            yield f"r={r}: seconds of all growths", report.grow_s / predicted, True
    low, high = (192, 256) if config["length"] < 2048 else (768, 1536)
    rows = bmc.profile(*model, batch=config["batch"], capacities=(low, high)).step
    direct = rows.seconds[1] - rows.seconds[0]
    predicted = profile.step.at(high) - profile.step.at(low)
    if predicted > 0:
        yield f"seconds per spare row, {low} to {high} rows", direct / predicted, True


def _whole(profile: bmc.Profile, config: Any, policies: Any, times: Any) -> Iterator[Share]:
    """What growing and spare rows take of a whole text; judged where that is 15 % of it."""
    prompt, length = config["prompt"], config["length"]
    steps = length - prompt - 1
    ideal = sum(profile.step.at(row) for row in range(prompt + 1, prompt + 1 + steps))
    for name in ("r=16", "upfront"):
        if name in policies:
            work = bmc.simulate(policies[name], prompt=prompt, steps=steps)
            seconds = bmc.predicted_s(profile, work.capacities, prompt=prompt, steps=steps)
            overhead = seconds - ideal
            what = f"{name}: overhead ({100 * overhead / ideal:.0f} % of the useful time)"
            yield what, (times[name] - ideal) / overhead, overhead >= 0.15 * ideal


def plot(rows: list[dict[str, Any]]) -> Any:
    """Tokens/s against r, measured and by the model."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(5 * len(names), 4), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        values = {row["metric"]: row["value"] for row in rows if row["case"] == name}
        for ending, style in (("tokens/s", "o-"), ("tokens/s by the cost model", "x--")):
            points = [
                (int(metric.split(":")[0][2:]), value)
                for metric, value in values.items()
                if metric.startswith("r=") and metric.endswith(f": {ending}")
            ]
            label = "measured" if style == "o-" else "cost model (simulated)"
            axis.plot(*zip(*points, strict=True), style, label=label)
        for other, style in (("upfront", ":"), ("doubling", "-."), ("auto", "--")):
            axis.axhline(values[f"{other}: tokens/s"], color="black", linestyle=style, label=other)
        axis.set_xscale("log", base=2)
        axis.set_title(name)
        axis.set_xlabel("rows added by a growth")
        axis.set_ylabel("tokens/s, all requests")
        axis.legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="bmc.sweep_r",
    title="Tokens/s against the rows that a growth adds",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
