"""One request in a new process that has nothing compiled: seconds with all compilations.

    python -m experiments.bmc.cold_start --scale cpu --out results

Each policy decodes one request of 512 tokens in a process of its own without a compile cache: 4 layers
of width 512, float32, random weights; about 5 minutes on two cores. Expected: few large steps win
(`upfront`, `doubling`); `Auto`, told that each program serves one request, chooses as they do and is
within 10 % of the best; compiling the next capacity beside the decoding shortens `arithmetic`.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax.algorithms import bmc
from ariel_jax.decode import Arithmetic, CapacityPolicy, Geometric, Sqrt, Upfront, start
from ariel_jax.errors import BackendError
from experiments import runner
from experiments.bmc import common
from experiments.runner import Case, Figure, Settings

POLICIES: dict[str, CapacityPolicy] = {
    "upfront": Upfront(),
    "doubling": Geometric(2.0),
    "arithmetic:64": Arithmetic(64),
    "arithmetic:64, ahead": Arithmetic(64),
    "sqrt": Sqrt(),
}


def cases(settings: Settings) -> Sequence[Case]:
    """One case: every policy a few times, in turn."""
    tiny = settings.is_tiny
    names = ["arithmetic:64", "arithmetic:64, ahead"] if tiny else list(POLICIES)
    config: dict[str, Any] = {
        "prompt": 16,
        "length": 128 if tiny else 512,
        "rounds": 1 if tiny else 5,
    }
    config |= {"policies": names}
    return [Case(name="one request", config=config, expected_s=300.0)]


def _child(name: str, text: str) -> None:
    """One request under a policy; prints what it took as JSON."""
    given = json.loads(text)
    settings = Settings(scale=given["scale"], shapes=given["shapes"], seed=given["seed"])
    cfg, params = common.random_model(settings)
    policy = POLICIES.get(name) or bmc.Table(tuple(given["capacities"]))
    prompt = [1 + i for i in range(given["prompt"])]
    begin = time.perf_counter()
    run = start(
        cfg,
        params,
        [prompt],
        max_new=given["length"] - given["prompt"],
        capacity=policy,
        compile_ahead=name.endswith("ahead"),
    )
    first = time.perf_counter()
    while run.advance():
        pass
    end = time.perf_counter()
    found = {"first_s": first - begin, "all_s": end - begin, "compiles": run.report.compiles}
    print(json.dumps(found | {"growths": run.report.growths}))


def _in_new_process(name: str, given: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.bmc.cold_start", "--child", name]
    done = subprocess.run(
        [*command, json.dumps(given)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BackendError(f"decoding under {name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _auto(settings: Settings, config: dict[str, Any]) -> tuple[tuple[int, ...], float]:
    """The capacities that `Auto` takes if each program serves one request, and a compilation's seconds."""
    model = common.random_model(settings)
    profile = common.profile(model, batch=1, limit=config["length"], reuse=1.0)
    steps = config["length"] - config["prompt"] - 1
    work = bmc.simulate(bmc.Auto(profile), prompt=config["prompt"], steps=steps)
    return work.capacities, profile.compile_s


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Wall time of each policy, compilations included."""
    config = case.config
    capacities, compile_s = _auto(settings, config)
    yield Figure(
        metric="compiling one program", value=round(compile_s, 3), unit="s", kind="measured"
    )
    given = {**config, "scale": settings.scale, "shapes": settings.shapes, "seed": settings.seed}
    given["capacities"] = list(capacities)
    names = [*config["policies"], "auto, each program used once"]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(config["rounds"]):
        for name in names if number % 2 == 0 else names[::-1]:
            found[name].append(_in_new_process(name, given))
    seconds = {name: statistics.median(f["all_s"] for f in runs) for name, runs in found.items()}
    for name, runs in found.items():
        yield Figure(
            metric=f"{name}: first token", unit="s", kind="measured",
            value=round(statistics.median(f["first_s"] for f in runs), 3),
        )  # fmt: skip
        yield Figure(
            metric=f"{name}: all tokens", value=round(seconds[name], 3), unit="s", kind="measured"
        )
        for what in ("compiles", "growths"):
            yield Figure(metric=f"{name}: {what}", value=runs[0][what], unit="1", kind="measured")
    judged = not settings.is_tiny
    best = min(seconds.values())
    auto = seconds[names[-1]] / best
    ahead = seconds["arithmetic:64, ahead"] / seconds["arithmetic:64"]
    for metric, value, limit in (
        ("auto over the best", auto, 1.1),
        ("compiled ahead over compiled when needed, arithmetic:64", ahead, 1.0),
    ):
        yield Figure(
            metric=metric,
            value=round(value, 3),
            unit="1",
            kind="measured",
            **runner.judge(value <= limit, f"at most {limit:g}", due=judged),
        )


def plot(rows: list[dict[str, Any]]) -> Any:
    """Seconds of each policy, those until the first token apart."""
    from matplotlib import pyplot

    values = {row["metric"]: row["value"] for row in rows}
    names = [m.removesuffix(": all tokens") for m in values if m.endswith(": all tokens")]
    first = [values[f"{n}: first token"] for n in names]
    rest = [values[f"{n}: all tokens"] - f for n, f in zip(names, first, strict=True)]
    figure, axis = pyplot.subplots(figsize=(7.5, 3), layout="constrained")
    axis.barh(names, first, color="#a87848", label="until the first token")
    axis.barh(names, rest, left=first, color="#4878a8", label="after it")
    axis.set_xlabel("seconds of one cold request, compilations included (measured)")
    axis.invert_yaxis()
    axis.legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="bmc.cold_start",
    title="One request with nothing compiled",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(runner.main(EXPERIMENT))
