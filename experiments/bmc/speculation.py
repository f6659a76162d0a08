"""Drafts on texts that repeat and on texts that do not, with nano.

    python -m experiments.bmc.speculation --scale cpu --out results

Scale `cpu`: nano, one request, 256 new tokens, on log lines, Python source and prose; greedy, and on the
log lines also at temperature 1 (coupled). Drafts of the text itself in a chain and in a tree, of nano's
first layers as a draft model, and as many as pay (`Adaptive`); then under capacity policies. About 9
minutes on two cores. Expected: drafts of the text at least 1.3 times plain on log lines and code;
`Adaptive` nowhere below 0.97.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ariel_jax import load_pretrained, testing
from ariel_jax.algorithms import bmc
from ariel_jax.decode import Autoregressive, NGram, Speculative, adaptive
from experiments import runner
from experiments.bmc import common, drafting
from experiments.bmc.drafting import Text
from experiments.runner import Case, Figure, Settings

Round = dict[str, Callable[[], Text]]


def cases(settings: Settings) -> Sequence[Case]:
    """One per text and temperature, and one over the policies."""
    tiny = settings.is_tiny
    config = {
        "n_new": 48 if tiny else 256,
        "rounds": 1 if tiny else 5,
        "drafts": [2] if tiny else [2, 4, 8],
    }
    names = ["log", "policies"] if tiny else [*drafting.texts(), "log, sampled", "policies"]
    return [Case(name=name, config=config, expected_s=90.0) for name in names]


def _model(settings: Settings) -> Any:
    if not settings.is_tiny:
        return load_pretrained("nano")
    with tempfile.TemporaryDirectory() as folder:
        testing.write_toy_checkpoint(f"{folder}/toy", max_positions=1024)
        return load_pretrained(f"{folder}/toy")


def _rounds(ways: Round, n_rounds: int, base: str) -> Iterator[tuple[str, Text, float]]:
    """Each way's last text and its median tokens/s over that of `base`, measured in turn."""
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Text] = {}
    for number in range(n_rounds + 1):  # the first one compiles
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            found[name] = ways[name]()
        if number:
            for name in ways:
                ratios[name].append(found[name].tokens_per_s / found[base].tokens_per_s)
    for name in ways:
        yield name, found[name], statistics.median(ratios[name])


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Every way to draft, or every policy, in turn."""
    model = _model(settings)
    name, _, sampled = case.name.partition(", ")
    text = drafting.texts()["log" if name == "policies" else name]
    prompt, judged = model.tokenizer.encode(text)[:700], not settings.is_tiny
    if name == "policies":
        yield from _policies(case, model, prompt)
        return
    ks = case.config["drafts"]
    known = drafting.strategies(model, ks)
    costs = {
        key: bmc.step_costs(
            model.cfg, model.params, (Autoregressive(), strategy), capacity=1024, extra=extra,
            n_runs=1 if settings.is_tiny else 5,
        )[1]
        for key, (strategy, extra) in known.items()
    }  # fmt: skip
    chains = tuple(NGram(k=k) for k in ks)
    chosen = adaptive(chains, (1.0, *(costs[f"{k} drafts"] for k in ks)))
    temperature = 1.0 if sampled else 0.0

    def way(strategy: Any, extra: Any) -> Callable[[], Text]:
        return lambda: drafting.decode(
            model, prompt, case.config["n_new"], strategy, extra, temperature=temperature
        )

    ways = {key: way(*pair) for key, pair in known.items()} | {"adaptive": way(chosen, None)}
    best, plain = 0.0, None
    for key, found, ratio in _rounds(ways, case.config["rounds"], "plain"):
        plain = plain or found.tokens
        same = found.tokens == plain
        if key in costs and key != "plain":
            yield Figure(
                metric=f"{key}: step over a plain step", value=round(costs[key], 3), unit="1",
                kind="measured",
            )  # fmt: skip
            yield Figure(
                metric=f"{key}: share of drafts that held", value=round(found.held, 3), unit="1",
                kind="measured",
            )  # fmt: skip
        if key.endswith(" drafts"):  # of the text itself
            best = max(best, ratio)
        if key == "adaptive":
            yield Figure(
                metric="adaptive: drafts at the end", value=found.drafts_at_end, unit="1",
                kind="measured",
            )  # fmt: skip
        yield Figure(
            metric=f"{key}: equal tokens", value=float(same), unit="1", kind="measured",
            expected="1", verdict="PASS" if same else "FAIL",
        )  # fmt: skip
        yield Figure(
            metric=f"{key}: tokens per step", value=round(found.tokens_per_step, 3), unit="1",
            kind="measured",
        )  # fmt: skip
        yield Figure(
            metric=f"{key}: tokens/s over plain", value=round(ratio, 3), unit="1", kind="measured",
            **runner.judge(ratio >= 0.97, "at least 0.97", due=judged and key == "adaptive"),
        )  # fmt: skip
    yield Figure(
        metric="best drafts of the text over plain, tokens/s", value=round(best, 3), unit="1",
        kind="measured", **runner.judge(best >= 1.3, "at least 1.3", due=judged and case.name in ("log", "code")),
    )  # fmt: skip


def _policies(case: Case, model: Any, prompt: list[int]) -> Iterator[Figure]:
    """Plain and drafted decoding where every row is copied, where all is reserved, and `Auto`."""
    n_new = case.config["n_new"]
    profile = common.profile(
        (model.cfg, model.params), batch=1, limit=320 if case.config["n_new"] < 100 else 1024
    )
    policies = {"upfront": None, "auto": bmc.Auto(profile)}

    def ways(strategy: Any) -> Round:
        by_step = lambda copies: drafting.step_by_step(
            model, prompt, n_new, strategy, None, copies=copies
        )
        loops = {"iterative copy": lambda: by_step(True), "step by step": lambda: by_step(False)}
        return loops | {
            name: lambda policy=policy: drafting.decode(
                model, prompt, n_new, strategy, None, capacity=policy
            )
            for name, policy in policies.items()
        }

    for label, strategy in (("plain", Autoregressive()), ("4 drafts", Speculative(NGram(k=4)))):
        for key, _, ratio in _rounds(ways(strategy), case.config["rounds"], "iterative copy"):
            if key != "iterative copy":
                yield Figure(
                    metric=f"{label}: {key} over iterative copy, tokens/s", value=round(ratio, 3),
                    unit="1", kind="emulated",
                )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Tokens per step against what a step costs: below the diagonal drafts lose."""
    from matplotlib import pyplot

    ending = ": step over a plain step"
    figure, axis = pyplot.subplots(figsize=(6.5, 4.5), layout="constrained")
    highest = 1.5
    for name in dict.fromkeys(r["case"] for r in rows if r["case"] != "policies"):
        values = {r["metric"]: r["value"] for r in rows if r["case"] == name}
        keys = [m.removesuffix(ending) for m in values if m.endswith(ending)]
        cost = [values[key + ending] for key in keys]
        yielded = [values[f"{key}: tokens per step"] for key in keys]
        highest = max(highest, *cost, *yielded)
        axis.plot(cost, yielded, "o", label=name)
        for key, x, y in zip(keys, cost, yielded, strict=True):
            axis.annotate(key, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    ends = [0.8, 1.1 * highest]
    axis.fill_between(ends, [0, 0], ends, color="#a87848", alpha=0.15, label="drafts lose")
    axis.set_xlim(ends)
    axis.set_ylim(0.8, ends[1])
    axis.set_xlabel("time of a step over a plain one (measured)")
    axis.set_ylabel("tokens per step (measured)")
    axis.legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="bmc.speculation",
    title="Drafts with nano",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
