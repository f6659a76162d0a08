"""Drafting must not cost: on nano's plain twin, whose layers cannot be read, and on nano itself.

    python -m experiments.del_exit.stock_model --scale cpu --out results

Scale `cpu`: nano's plain twin, trained without early exits, and nano (or `--twin FOLDER --model FOLDER`),
20 held-out prompts of each of three domains, 128 new tokens each, measured costs, medians of five with the
least and the largest. About 10 minutes on two cores. Expected: at least 0.97 times the tokens/s of plain
decoding in every domain, with either; next to no drafts by the twin, and the same texts.
"""

import sys
from collections.abc import Iterator, Sequence

from ariel_jax.algorithms import del_exit
from experiments import runner
from experiments.del_exit import common, counting
from experiments.runner import Case, Figure, Settings


def cases(settings: Settings) -> Sequence[Case]:
    """One per model and domain."""
    config = common.config(settings)
    names = ("model",) if common.twin(settings) is None else ("twin", "model")
    found = []
    for name in names[:1] if settings.is_tiny else names:
        for case in common.by_domain(settings, config, expected_s=100.0):
            case_config = config | {"which": name, "domain": case.name}
            found.append(Case(name=f"{name}, {case.name}", config=case_config, expected_s=100.0))
    return found


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Speed over plain decoding, how much was drafted, and whether the texts are the same."""
    loaded = (common.twin if case.config["which"] == "twin" else common.model)(settings)
    texts = common.prompts(case.config, loaded, case.config["domain"], settings)
    n_new, L = case.config["n_new"], loaded.cfg.n_layers
    how = counting.method("del", case.config, L)[0].config
    costs = del_exit.measured_costs(
        loaded.cfg, loaded.params, how, capacity=common.CAPACITY, n_runs=case.config["n_rounds"]
    )
    every = common.look_every(settings, costs)
    ways = {
        "plain": counting.PLAIN,
        "del": counting.method(
            "del",
            case.config,
            L,
            costs=costs,
            shadow_every=every,
            idle_every=del_exit.idle_every(costs),
        ),
    }
    ratios, found = counting.in_turn(loaded, texts, n_new, ways, case.config["n_rounds"])
    drafting = sum(int(aux.drafting[0]) for aux in found["del"].aux)
    yield Figure(
        metric="rounds with drafts", value=round(drafting / float(found["del"].rounds.sum()), 4),
        unit="1", kind="measured",
    )  # fmt: skip
    ratio, spread = counting.middle(ratios["del"])
    yield Figure(
        metric=f"tokens/s over plain {spread}", value=round(ratio, 4), unit="1", kind="measured",
        **runner.judge(ratio >= 0.97, "at least 0.97", due=not settings.is_tiny),
    )  # fmt: skip
    same = counting.agreement(loaded, texts, found["del"], found["plain"])
    yield Figure(
        metric="texts equal to plain decoding's, but for ties", value=same, unit="1", kind="measured",
        **runner.judge(same == 1, "1"),
    )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="del_exit.stock_model",
    title="Models with and without early exits",
    cases=cases,
    measure=measure,
    flags=common.WITH_TWIN,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
