"""Every way to choose exit and length, in three domains and on texts that change the domain.

    python -m experiments.del_exit.methods --scale cpu --out results

Scale `cpu`: nano, 20 held-out prompts of each domain and 20 that begin in one domain and go on in
another, 128 new tokens each, greedy. Plain decoding, LayerSkip with the pair that is best in the domain
and with the one that is best over all, FS, DV, DEL, DEL-E, DEL-E-lim (DEL-E with the exits from layer 4
on, as the paper's ablation is understood here), DEL-gamma, and drafts from the text. Costs in layers for
tokens per layer load; DEL with measured costs for the clock. Intervals are 95 % bootstrap over prompts,
by the clock the least and the largest of five. About 25 minutes on two cores. Expected: DEL at least 1.6
times plain in tokens per layer load in two domains, at least the best single pair over the pooled text, at
least 0.95 of each domain's best; by the clock at least 1.4 times plain in two domains, or the reasons in
numbers: costs of rounds, what they predict, and the acceptance that would do, in a run at that acceptance.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax.decode import NGram, Speculative
from experiments import runner
from experiments.del_exit import clock, common, counting
from experiments.del_exit.common import DOMAINS
from experiments.del_exit.counting import Counted
from experiments.runner import Case, Figure, Settings

LENGTHS = (2, 3, 5, 7)
FIRST_LIMITED = 4  # the first exit of DEL-E-lim
OWN, ONE = "best pair of the domain", "one pair for all"


def cases(settings: Settings) -> Sequence[Case]:
    """All domains together: the pooled figures need each of them."""
    config = common.config(settings)
    return [
        Case(name="tokens per layer load", config=config, expected_s=900.0),
        Case(name="clock", config=config, expected_s=600.0),
    ]


def _texts(case: Case, loaded: Any, settings: Settings) -> dict[str, list[list[int]]]:
    """Prompts by domain, and prompts whose second half is of the next domain."""
    found = {
        domain: common.prompts(case.config, loaded, domain, settings)
        for domain in DOMAINS[: 1 if settings.is_tiny else 3]
    }
    half, others = case.config["n_prompt"] // 2, list(found.values())
    found["switching"] = [
        [*others[i % len(others)][i][:half], *others[(i + 1) % len(others)][i][1 : half + 1]]
        for i in range(case.config["n_prompts"])
    ]
    return found


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Ratios to plain decoding, by domain and pooled."""
    loaded = common.model(settings)
    texts = _texts(case, loaded, settings)
    part = clock.measure if case.name == "clock" else _loads
    yield from part(case, loaded, texts, settings)


def _ways(case: Case, n_layers: int, pair: tuple[int, int]) -> dict[str, counting.Way]:
    """All ways but fixed pairs; those with a fixed exit get that of the best pair."""
    ways: dict[str, counting.Way] = {
        name: counting.method(name, case.config, n_layers, exit=pair[0], length=pair[1])
        for name in ("del", "del-e", "del-gamma", "finite-state", "draft-verify")
    }
    exits = case.config["exits"]
    late = [e for e in exits if e >= FIRST_LIMITED] or exits[-1:]
    ways["del-e-lim"] = counting.method("del-e", case.config | {"exits": late}, n_layers)
    return ways | {"n-gram, 4 drafts": (Speculative(NGram(k=4)), None)}


def _loads(case: Case, loaded: Any, texts: dict[str, Any], settings: Settings) -> Iterator[Figure]:
    """Tokens per layer load of every way."""
    n_new, L = case.config["n_new"], loaded.cfg.n_layers

    def run(way: counting.Way) -> dict[str, Counted]:
        return {name: counting.count(loaded, t, n_new, *way) for name, t in texts.items()}

    plain = run(counting.PLAIN)
    pairs = {
        (exit, length): run(counting.method("fixed", case.config, L, exit=exit, length=length))
        for exit in case.config["exits"]
        for length in LENGTHS
        if length <= case.config["max_draft"]
    }
    domains = [name for name in texts if name in DOMAINS]
    own = {n: max(pairs, key=lambda p, n=n: pairs[p][n].tokens_per_load) for n in texts}
    pooled = {p: counting.pooled([found[d] for d in domains]) for p, found in pairs.items()}
    one = max(pooled, key=lambda p: pooled[p].tokens_per_load)
    ways = _ways(case, L, one)
    names = ("del",) if settings.is_tiny else tuple(ways)  # each compiles
    found = {name: run(ways[name]) for name in names}
    found |= {OWN: {n: pairs[own[n]][n] for n in texts}, ONE: pairs[one]}
    good, judged = 0, not settings.is_tiny
    for domain in texts:
        for name, counted in found.items():
            gain = counted[domain].tokens_per_load * L
            spread = counting.interval(counted[domain], plain[domain], settings.seed)
            same = counting.agreement(loaded, texts[domain], counted[domain], plain[domain])
            yield Figure(
                metric=f"{domain}, {name}: tokens per layer load over plain {spread}",
                value=round(gain, 4), unit="1", kind="measured",
            )  # fmt: skip
            yield Figure(
                metric=f"{domain}, {name}: texts equal to plain decoding's, but for ties", value=same,
                unit="1", kind="measured", **runner.judge(same == 1, "1"),
            )  # fmt: skip
        ours, best = found["del"][domain], found[OWN][domain]
        share = ours.tokens_per_load / best.tokens_per_load
        spread = counting.interval(ours, best, settings.seed)
        good += domain in domains and ours.tokens_per_load * L >= 1.6
        yield Figure(
            metric=f"{domain}: del over the domain's best pair (E{own[domain][0]}-d{own[domain][1]}) {spread}",
            value=round(share, 4), unit="1", kind="measured",
            **runner.judge(share >= 0.95, "at least 0.95", due=judged and domain in domains),
        )  # fmt: skip
    yield Figure(
        metric="domains in which del has at least 1.6 times plain's tokens per layer load",
        value=float(good), unit="1", kind="measured", **runner.judge(good >= 2, "at least 2", due=judged),
    )  # fmt: skip
    ours, best = counting.pooled([found["del"][d] for d in domains]), pooled[one]
    share, spread = (
        ours.tokens_per_load / best.tokens_per_load,
        counting.interval(ours, best, settings.seed),
    )
    yield Figure(
        metric=f"pooled: del over the one pair for all (E{one[0]}-d{one[1]}) {spread}",
        value=round(share, 4), unit="1", kind="measured",
        **runner.judge(share >= 1, "at least 1", due=judged),
    )  # fmt: skip
    yield Figure(
        metric="different best pairs among the domains", value=float(len({own[d] for d in domains})),
        unit="1", kind="measured",
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
    flags=common.FLAGS,
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
