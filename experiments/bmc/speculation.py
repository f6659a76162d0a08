"""N-gram drafts on texts that repeat and on texts that do not, with nano.

    python -m experiments.bmc.speculation --scale cpu --out results

Scale `cpu`: nano, one request, greedy, 256 new tokens, on log lines, Python source and prose; about 5
minutes on two cores. Expected: at least 1.3 times plain decoding on log lines; `Adaptive` nowhere
below 0.97 of it. Which text repeats is up to the model as well: a greedy small model often loops.
"""

import inspect
import json.decoder
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ariel_jax import load_pretrained, testing
from ariel_jax.algorithms import bmc
from ariel_jax.decode import Autoregressive, NGram, Speculative, Strategy, adaptive, start
from experiments import runner
from experiments.runner import Case, Figure, Settings

PROSE = (
    "The function returns a new object each time it is called. If the argument is not given, the "
    "current working directory is used instead, and an error is raised when it does not exist."
)
K = (2, 4, 8)


def texts() -> dict[str, str]:
    """Prompts by name."""
    lines = (
        f"2026-01-{1 + i // 9:02d} 12:{i:02d}:07 INFO worker {i % 3} finished job {40 + i} in 0.12 s"
        for i in range(10)
    )
    return {
        "log": "\n".join(lines) + "\n",
        "code": inspect.getsource(json.decoder.JSONDecoder.raw_decode) * 2,
        "prose": PROSE,
    }


def cases(settings: Settings) -> Sequence[Case]:
    """One per text."""
    tiny = settings.is_tiny
    config = {"n_new": 48 if tiny else 256, "rounds": 1 if tiny else 5, "drafts": list(K)}
    names = ["log"] if tiny else list(texts())
    return [Case(name=name, config=config, expected_s=90.0) for name in names]


def _speed(model: Any, prompt: list[int], n_new: int, strategy: Strategy) -> tuple[float, Any]:
    run = start(model.cfg, model.params, [prompt], max_new=n_new, strategy=strategy)
    while run.advance():
        pass
    report = run.report
    return report.tokens_per_s, (run.new_tokens(0), report)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Every number of drafts and the adaptive choice, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        name = "nano"
        if settings.is_tiny:
            name = str(Path(folder) / "toy")
            testing.write_toy_checkpoint(name, max_positions=1024)
        model = load_pretrained(name)
    prompt = model.tokenizer.encode(texts()[case.name])[:700]
    n_new, n_rounds = case.config["n_new"], case.config["rounds"]
    drafting = tuple(NGram(k=k) for k in case.config["drafts"])
    fixed = (Autoregressive(), *(Speculative(p) for p in drafting))
    costs = bmc.step_costs(
        model.cfg, model.params, fixed, capacity=1024, n_runs=1 if settings.is_tiny else 5
    )
    strategies: dict[str, Strategy] = {
        "plain": fixed[0],
        **{f"{p.k} drafts": s for p, s in zip(drafting, fixed[1:], strict=True)},
        "adaptive": adaptive(drafting, costs),
    }
    ratios: dict[str, list[float]] = {name: [] for name in strategies}
    found: dict[str, Any] = {}
    for number in range(n_rounds + 1):  # the first one compiles
        order = list(strategies) if number % 2 else list(strategies)[::-1]
        speeds = {}
        for name in order:
            speeds[name], found[name] = _speed(model, prompt, n_new, strategies[name])
        if number:
            for name in strategies:
                ratios[name].append(speeds[name] / speeds["plain"])
    for p, cost in zip(drafting, costs[1:], strict=True):
        yield Figure(
            metric=f"step with {p.k} drafts over a plain step", value=round(cost, 3), unit="1",
            kind="measured",
        )  # fmt: skip
    judged = not settings.is_tiny
    for name, (tokens, report) in found.items():
        same = tokens == found["plain"][0]
        yield Figure(
            metric=f"{name}: equal tokens", value=float(same), unit="1", kind="measured",
            expected="1", verdict="PASS" if same else "FAIL",
        )  # fmt: skip
        yield Figure(
            metric=f"{name}: tokens per step",
            value=round(report.decode_tokens / report.decode_steps, 3),
            unit="1",
            kind="measured",
        )
        value = statistics.median(ratios[name])
        limit = {"adaptive": 0.97}.get(name)
        yield Figure(
            metric=f"{name}: tokens/s over plain", value=round(value, 3), unit="1",
            kind="measured",
            expected=f"at least {limit:g}" if judged and limit else "",
            verdict=("PASS" if value >= limit else "FAIL") if judged and limit else "",
        )  # fmt: skip
    if case.name == "log":
        best = max(statistics.median(v) for name, v in ratios.items() if name != "plain")
        yield Figure(
            metric="best over plain, tokens/s", value=round(best, 3), unit="1", kind="measured",
            expected="at least 1.3" if judged else "",
            verdict=("PASS" if best >= 1.3 else "FAIL") if judged else "",
        )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Tokens/s over plain decoding, by text and number of drafts."""
    from matplotlib import pyplot

    ending = ": tokens/s over plain"
    names = list(dict.fromkeys(r["case"] for r in rows))
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for name in names:
        values = {
            r["metric"].removesuffix(ending): r["value"]
            for r in rows
            if r["case"] == name and r["metric"].endswith(ending)
        }
        axes.plot(list(values), list(values.values()), "o-", label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.axhspan(0, 1, color="#a87848", alpha=0.12, label="drafts lose")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens/s over plain (measured)")
    axes.legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="bmc.speculation",
    title="N-gram drafts with nano",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
