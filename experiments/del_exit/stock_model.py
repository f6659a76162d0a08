"""A model whose intermediate layers cannot be read: DEL must leave it to plain decoding.

    python -m experiments.del_exit.stock_model --scale cpu --out results

Scale `cpu`: nano's plain twin, trained without early exits, 20 held-out prompts of each of three domains,
128 new tokens each, measured costs. About 5 minutes on two cores. Expected: at least 0.97 times the
tokens/s of plain decoding in every domain.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence

from ariel_jax.algorithms import del_exit
from experiments import runner
from experiments.del_exit import common
from experiments.runner import Case, Figure, Settings


def cases(settings: Settings) -> Sequence[Case]:
    """One per domain."""
    config = common.config(settings) | {"n_rounds": 1 if settings.is_tiny else 5}
    return common.by_domain(settings, config, expected_s=90.0)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Speed over plain decoding, and how much was drafted."""
    loaded = common.model("twin", settings.is_tiny)
    texts = common.prompts(case.config, loaded, case.name, is_tiny=settings.is_tiny)
    n_new, L = case.config["n_new"], loaded.cfg.n_layers
    strategy, _ = common.method("del", case.config, L)
    costs = del_exit.measured_costs(
        loaded.cfg, loaded.params, strategy.config, capacity=common.CAPACITY,
        n_runs=1 if settings.is_tiny else 5,
    )  # fmt: skip
    way = common.method("del", case.config, L, costs=costs, shadow_every=del_exit.look_every(costs))
    ratios, found = [], None
    for number in range(case.config["n_rounds"] + 1):  # the first one compiles
        plain = common.count(loaded, texts, n_new)
        found = common.count(loaded, texts, n_new, *way)
        if number:
            ratios.append(found.tokens_per_s / plain.tokens_per_s)
    assert found is not None
    drafting = sum(int(aux.drafting[0]) for aux in found.aux)
    ratio = statistics.median(ratios)
    yield Figure(
        metric="rounds with drafts", value=round(drafting / float(found.rounds.sum()), 4), unit="1",
        kind="measured",
    )  # fmt: skip
    yield Figure(
        metric="tokens/s over plain", value=round(ratio, 4), unit="1", kind="measured",
        **runner.judge(ratio >= 0.97, "at least 0.97", due=not settings.is_tiny),
    )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="del_exit.stock_model",
    title="A model without early exits",
    cases=cases,
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
