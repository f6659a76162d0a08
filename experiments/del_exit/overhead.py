"""What choosing costs: DEL held to a fixed exit and length against LayerSkip at the same pair.

    python -m experiments.del_exit.overhead --scale cpu --out results

Scale `cpu`: nano, 20 held-out prompts of code, 128 new tokens each. DEL's costs are set so that its best
score is always the same pair, with a look at all exits every 1, 4 and 16 rounds; and the phases of a
round are timed from the host. About 6 minutes on two cores. Expected: at most 5 % with a look every 16
rounds.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax.algorithms import del_exit
from ariel_jax.algorithms.del_exit import phases
from experiments import runner
from experiments.del_exit import common
from experiments.runner import Case, Figure, Settings

LOOKS = (1, 4, 16)


def cases(settings: Settings) -> Sequence[Case]:
    """One."""
    config = common.config(settings) | {"n_rounds": 1 if settings.is_tiny else 5, "pair": [0, 3]}
    return [Case(name="code", config=config, expected_s=300.0)]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Seconds over those of the fixed pair, all in turn; then the phases."""
    loaded = common.model("nano", settings.is_tiny)
    texts = common.prompts(case.config, loaded, case.name, is_tiny=settings.is_tiny)
    n_new, L, (k, d) = case.config["n_new"], loaded.cfg.n_layers, case.config["pair"]
    exit = case.config["exits"][k]
    fixed = common.method("fixed", case.config, L, exit=exit, length=d)
    costs = del_exit.layer_costs(fixed[0].config, L)
    forced = costs.replace(verify=(costs.verify * 1e6).at[k, d].set(1e-3))
    ways: dict[str, tuple[Any, Any]] = {"fixed": fixed} | {
        f"a look every {n}": common.method("del-e", case.config, L, costs=forced, shadow_every=n)
        for n in LOOKS
    }
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for number in range(case.config["n_rounds"] + 1):  # the first one compiles
        found = {name: common.count(loaded, texts, n_new, *way) for name, way in ways.items()}
        for name in ways if number else ():
            ratios[name].append(found[name].seconds.sum() / found["fixed"].seconds.sum())
    for n in LOOKS:
        name = f"a look every {n}"
        same = (found[name].rounds == found["fixed"].rounds).all()
        over = statistics.median(ratios[name]) - 1
        yield Figure(
            metric=f"E{exit}-d{d}, {name} rounds: time beyond the fixed pair's", value=round(over, 4),
            unit="1", kind="measured",
            **runner.judge(over <= 0.05, "at most 0.05", due=n == 16 and not settings.is_tiny),
        )  # fmt: skip
        yield Figure(
            metric=f"E{exit}-d{d}, {name} rounds: the same rounds", value=float(same), unit="1",
            kind="measured", **runner.judge(bool(same), "1"),
        )  # fmt: skip
    strategy, extra = ways["a look every 1"]
    options = {"strategy": strategy, "extra": extra, "max_new": n_new}
    phases.by_phases(loaded.cfg, loaded.params, texts[:1], **options)  # compiles
    study = phases.by_phases(loaded.cfg, loaded.params, texts[:1], **options)
    for name, seconds in study.seconds().items():
        yield Figure(
            metric=f"phase {name}: of a round, from the host",
            value=round(1e3 * seconds / max(len(study.rounds), 1), 4), unit="ms", kind="measured",
        )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="del_exit.overhead",
    title="What choosing costs",
    cases=cases,
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
