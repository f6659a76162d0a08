"""Every way to choose exit and length, in three domains and on texts that change the domain.

    python -m experiments.del_exit.methods --scale cpu --out results

Scale `cpu`: nano, 20 held-out prompts of each domain and 20 that begin in one domain and go on in
another, 128 new tokens each, greedy. Plain decoding, LayerSkip with the pair that is best in the domain
and with the one that is best over all, FS, DV, DEL, DEL-E, DEL-gamma, and drafts from the text. Costs in
layers for tokens per layer load; DEL also with measured costs, for the clock. About 25 minutes on two
cores. Expected: DEL at least 1.6 times plain in tokens per layer load in two domains, at least the best
single pair over the pooled text, at least 0.95 of each domain's best; by the clock at least 1.4 times
plain in two domains.
"""

import functools
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms import del_exit
from ariel_jax.decode import NGram, Speculative
from experiments import runner
from experiments.del_exit import common
from experiments.del_exit.common import Counted
from experiments.runner import Case, Figure, Settings

LENGTHS = (2, 3, 5, 7)
SHADOW_EVERY = 4


def cases(settings: Settings) -> Sequence[Case]:
    """All domains together: the pooled figures need each of them."""
    config = common.config(settings) | {"n_rounds": 1 if settings.is_tiny else 5}
    return [
        Case(name="tokens per layer load", config=config, expected_s=900.0),
        Case(name="clock", config=config, expected_s=600.0),
    ]


def _texts(case: Case, loaded: Any, settings: Settings) -> dict[str, list[list[int]]]:
    """Prompts by domain, and prompts whose second half is of the next domain."""
    found = {
        domain: common.prompts(case.config, loaded, domain, is_tiny=settings.is_tiny)
        for domain in common.DOMAINS
    }
    half = case.config["n_prompt"] // 2
    others = list(found.values())
    found["switching"] = [
        [*others[i % 3][i][:half], *others[(i + 1) % 3][i][1 : half + 1]]
        for i in range(case.config["n_prompts"])
    ]
    return found


def _pooled(parts: Sequence[Counted]) -> Counted:
    arrays = ("tokens", "loads", "rounds", "proposed", "accepted", "seconds")
    joined = [np.concatenate([getattr(p, name) for p in parts]) for name in arrays]
    texts, aux = ([x for p in parts for x in getattr(p, name)] for name in ("texts", "aux"))
    return Counted(texts, *joined, aux)  # pyright: ignore[reportCallIssue] six arrays


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Ratios to plain decoding, by domain and pooled."""
    loaded = common.model("nano", settings.is_tiny)
    texts = _texts(case, loaded, settings)
    run = functools.partial(common.count, loaded)
    n_new, L = case.config["n_new"], loaded.cfg.n_layers
    if case.name == "clock":
        yield from _clock(case, loaded, texts, settings)
        return
    plain = {name: run(t, n_new) for name, t in texts.items()}
    pairs = {}
    for exit in case.config["exits"]:
        for length in (n for n in LENGTHS if n <= case.config["max_draft"]):
            way = common.method("fixed", case.config, L, exit=exit, length=length)
            pairs[exit, length] = {name: run(t, n_new, *way) for name, t in texts.items()}
    own = {n: max(pairs, key=lambda p, n=n: pairs[p][n].tokens_per_load) for n in texts}
    pooled = {p: _pooled([v[d] for d in common.DOMAINS]).tokens_per_load for p, v in pairs.items()}
    one = max(pooled, key=lambda p: pooled[p])
    ways = {
        name: common.method(name, case.config, L, exit=one[0], length=one[1])
        for name in ("del", "del-e", "del-gamma", "finite-state", "draft-verify")
    }
    found = {name: {n: run(t, n_new, *way) for n, t in texts.items()} for name, way in ways.items()}
    found["best pair of the domain"] = {n: pairs[own[n]][n] for n in texts}
    found["one pair for all"] = pairs[one]
    good, judged = 0, not settings.is_tiny
    for domain in texts:
        for name, counted in found.items():
            gain = counted[domain].tokens_per_load * L
            low, high = common.interval(counted[domain], plain[domain], settings.seed)
            same = common.agreement(loaded, texts[domain], counted[domain], plain[domain])
            yield Figure(
                metric=f"{domain}, {name}: tokens per layer load over plain [{low:.2f}, {high:.2f}]",
                value=round(gain, 4), unit="1", kind="measured",
            )  # fmt: skip
            yield Figure(
                metric=f"{domain}, {name}: texts equal to plain decoding's, but for ties", value=same,
                unit="1", kind="measured", **runner.judge(same == 1, "1"),
            )  # fmt: skip
        ours, best = found["del"][domain], found["best pair of the domain"][domain]
        share = ours.tokens_per_load / best.tokens_per_load
        good += domain in common.DOMAINS and ours.tokens_per_load * L >= 1.6
        yield Figure(
            metric=f"{domain}: del over the domain's best pair (E{own[domain][0]}-d{own[domain][1]})",
            value=round(share, 4), unit="1", kind="measured",
            **runner.judge(share >= 0.95, "at least 0.95", due=judged and domain in common.DOMAINS),
        )  # fmt: skip
    yield Figure(
        metric="domains in which del has at least 1.6 times plain's tokens per layer load",
        value=float(good), unit="1", kind="measured", **runner.judge(good >= 2, "at least 2", due=judged),
    )  # fmt: skip
    all_del = _pooled([found["del"][d] for d in common.DOMAINS]).tokens_per_load
    yield Figure(
        metric=f"pooled: del over the one pair for all (E{one[0]}-d{one[1]})",
        value=round(all_del / pooled[one], 4), unit="1", kind="measured",
        **runner.judge(all_del >= pooled[one], "at least 1", due=judged),
    )  # fmt: skip


def _clock(case: Case, loaded: Any, texts: dict[str, Any], settings: Settings) -> Iterator[Figure]:
    """Medians of tokens/s over plain's, all ways in turn."""
    L, n_new = loaded.cfg.n_layers, case.config["n_new"]
    strategy, _ = common.method("del", case.config, L)
    costs = del_exit.measured_costs(
        loaded.cfg, loaded.params, strategy.config, capacity=common.CAPACITY,
        n_runs=1 if settings.is_tiny else 5,
    )  # fmt: skip
    ways: dict[str, tuple[Any, Any]] = {
        "plain": (None, None),
        "del, measured costs": common.method("del", case.config, L, costs=costs, shadow_every=SHADOW_EVERY),
        "del-e, measured costs": common.method("del-e", case.config, L, costs=costs, shadow_every=SHADOW_EVERY),
        "n-gram, 4 drafts": (Speculative(NGram(k=4)), None),
    }  # fmt: skip
    good = 0
    for domain in common.DOMAINS:
        ratios: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(case.config["n_rounds"] + 1):  # the first one compiles
            speeds = {
                name: common.count(loaded, texts[domain], n_new, *way).tokens_per_s
                for name, way in ways.items()
            }
            for name in ways if number else ():
                ratios[name].append(speeds[name] / speeds["plain"])
        for name in list(ways)[1:]:
            value = statistics.median(ratios[name])
            good += name == "del, measured costs" and value >= 1.4
            yield Figure(
                metric=f"{domain}, {name}: tokens/s over plain", value=round(value, 4), unit="1",
                kind="measured",
            )  # fmt: skip
    yield Figure(
        metric="domains in which del has at least 1.4 times plain's tokens/s", value=float(good),
        unit="1", kind="measured", **runner.judge(good >= 2, "at least 2", due=not settings.is_tiny),
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Tokens per layer load over plain decoding's, by domain and method, with their intervals."""
    from matplotlib import pyplot

    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        head, bracket, ends = row["metric"].partition(": tokens per layer load over plain [")
        if bracket:
            domain, _, name = head.partition(", ")
            low, high = (float(end) for end in ends.rstrip("]").split(", "))
            found.setdefault(name, {})[domain] = (row["value"], low, high)
    figure, axis = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for i, (name, values) in enumerate(found.items()):
        places = [d + 0.1 * i for d in range(len(values))]
        middle, low, high = zip(*values.values(), strict=True)
        errors = [[max(m - a, 0) for m, a in zip(middle, low, strict=True)],
                  [max(b - m, 0) for m, b in zip(middle, high, strict=True)]]  # fmt: skip
        axis.bar(places, middle, 0.1, yerr=errors, label=name)
        axis.set_xticks(range(len(values)), list(values))
    axis.axhline(1.0, color="k", lw=0.8)
    axis.set_ylabel("tokens per layer load over plain (measured)")
    axis.legend(fontsize=7)
    return figure


EXPERIMENT = runner.Experiment(
    name="del_exit.methods",
    title="Ways to choose exit and length",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
