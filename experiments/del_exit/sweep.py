"""Which exits, how seldom a look, how long a memory: chosen once for all domains, on prompts of their own.

    python -m experiments.del_exit.sweep --scale cpu --out results

Scale `cpu`: nano, 8 held-out prompts of each of three domains that no other script of this folder takes,
128 new tokens each, all three together. One thing varies at a time: the exits; for each of them a look every
1, 4 or 16 rounds; for the exits of the other scripts also omega, the weight of the past. Measured costs,
medians of three. About 20 minutes on two cores. Expected: the paper's omega of 0.95 within 5 % of the best
in tokens per layer load. The exits and looks with most tokens/s are the ones to pass to `methods` as
`--exits` and `--look-every`.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax.algorithms import del_exit
from experiments import runner
from experiments.del_exit import common, counting
from experiments.del_exit.common import DOMAINS
from experiments.runner import Case, Figure, Settings

LOOKS = (1, 4, 16)
OMEGAS = (0.8, 0.9, 0.95, 0.99, 1.0)
N_PROMPTS, N_ROUNDS = 8, 3


def cases(settings: Settings) -> Sequence[Case]:
    """One per set of exits, and one for omega; a set has parts of the model's depth."""
    config = common.config(settings)
    config |= {"n_rounds": min(config["n_rounds"], N_ROUNDS)}
    config |= {"n_prompts": min(config["n_prompts"], N_PROMPTS)}
    L, usual = common.model(settings).cfg.n_layers, tuple(config["exits"])
    parts = [(1 / 12,), (1 / 12, 1 / 6), (1 / 12, 1 / 6, 1 / 3), (1 / 6, 1 / 3, 1 / 2)]
    sets = {usual: None} | {
        tuple(sorted({max(1, round(L * part)) for part in each})): None for each in parts
    }
    names = list(sets)[: 1 if settings.is_tiny else None]
    found = [
        Case(
            name=f"exits {','.join(map(str, exits))}",
            config=config | {"exits": list(exits), "looks": list(LOOKS), "omegas": [0.95]},
            expected_s=150.0,
        )
        for exits in names
    ]
    omegas = list(OMEGAS[:: 4 if settings.is_tiny else 1])
    return [
        *found,
        Case(name="omega", config=config | {"looks": [1], "omegas": omegas}, expected_s=200.0),
    ]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Tokens per layer load and per second over plain decoding's, all prompts together."""
    loaded = common.model(settings)
    L, n_new = loaded.cfg.n_layers, case.config["n_new"]
    skip = 0 if settings.is_tiny else common.N_PROMPTS
    texts = [
        prompt
        for domain in DOMAINS
        for prompt in common.prompts(case.config, loaded, domain, settings, skip=skip)
    ]
    how = counting.method("del", case.config, L)[0].config
    costs = del_exit.measured_costs(
        loaded.cfg, loaded.params, how, capacity=common.CAPACITY, n_runs=case.config["n_rounds"]
    )
    ways: dict[str, counting.Way] = {"plain": counting.PLAIN}
    for every in case.config["looks"]:
        for omega in case.config["omegas"]:
            ways[f"a look every {every}, omega {omega}"] = counting.method(
                "del", case.config, L, costs=costs, shadow_every=every, omega=omega
            )
    ratios, found = counting.in_turn(loaded, texts, n_new, ways, case.config["n_rounds"])
    gains = {name: found[name].tokens_per_load * L for name in list(ways)[1:]}
    for name, gain in gains.items():
        value, spread = counting.middle(ratios[name])
        yield Figure(
            metric=f"{name}: tokens/s over plain {spread}", value=round(value, 4), unit="1",
            kind="measured",
        )  # fmt: skip
        yield Figure(
            metric=f"{name}: tokens per layer load over plain", value=round(gain, 4), unit="1",
            kind="measured",
        )  # fmt: skip
    best = max(gains, key=lambda name: gains[name])
    if case.name == "omega" and not settings.is_tiny:
        share = gains["a look every 1, omega 0.95"] / gains[best]
        yield Figure(
            metric=f"omega 0.95 over the best ({best}) in tokens per layer load",
            value=round(share, 4), unit="1", kind="measured",
            **runner.judge(share >= 0.95, "at least 0.95"),
        )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Tokens/s over plain decoding's by exits and looks, and tokens per layer load by omega."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    names = [n for n in dict.fromkeys(row["case"] for row in rows) if n != "omega"]
    for name in names:
        shown = {r["metric"].split(",")[0].removeprefix("a look every "): r["value"] for r in rows
                 if r["case"] == name and ": tokens/s" in r["metric"]}  # fmt: skip
        axes[0].plot(list(shown), list(shown.values()), "o-", label=name)
    axes[0].set_xlabel("rounds between two looks")
    axes[0].set_ylabel("tokens/s over plain (measured)")
    axes[0].legend(fontsize=7)
    shown = {r["metric"].split("omega ")[1].split(":")[0]: r["value"] for r in rows
             if r["case"] == "omega" and r["metric"].endswith("load over plain")}  # fmt: skip
    axes[1].plot(list(shown), list(shown.values()), "o-")
    axes[1].set_xlabel("omega, weight of the past at each round")
    axes[1].set_ylabel("tokens per layer load over plain (measured)")
    return figure


EXPERIMENT = runner.Experiment(
    name="del_exit.sweep",
    title="Exits, looks and memory, one for all domains",
    cases=cases,
    measure=measure,
    plot=plot,
    flags=common.FLAGS,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
