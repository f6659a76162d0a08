"""Layers counted and rounds measured: which of the two names the faster pair.

    python -m experiments.del_exit.cost_models --scale cpu --out results

Scale `cpu`: nano with its vocabulary of 4,096 and the published LayerSkip cells (simulated). Rounds of
every exit and length are timed; then the pair that each cost model would take for acceptances of 0.5 to
0.95 is looked up, and the time lost by trusting layers. About 2 minutes on two cores. Expected: a round
of 7 drafts costs at least 1.5 times a plain one though it loads few more layers, so layers mislead.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from ariel_jax.algorithms import del_exit
from experiments import runner
from experiments.del_exit import common
from experiments.runner import Case, Figure, Settings

ALPHAS = (0.5, 0.65, 0.8, 0.9, 0.95)


def cases(settings: Settings) -> Sequence[Case]:
    """One."""
    return [Case(name="nano", config=common.config(settings), expected_s=100.0)]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The row-cost table and what the two models make of it."""
    loaded = common.model("nano", settings.is_tiny)
    L = loaded.cfg.n_layers
    strategy, _ = common.method("del", case.config, L)
    how = strategy.config
    real = del_exit.measured_costs(
        loaded.cfg, loaded.params, how, capacity=common.CAPACITY,
        n_runs=1 if settings.is_tiny else 7,
    )  # fmt: skip
    layers = del_exit.layer_costs(how, L)
    drafts = np.arange(how.rows)

    def rounds(costs: del_exit.Costs) -> np.ndarray:
        whole = drafts[None] * np.asarray(costs.draft)[:, None] + np.asarray(costs.verify)
        return whole / float(costs.plain)

    table, counted = rounds(real), rounds(layers)
    for k, exit in enumerate(how.exits):
        for d in drafts[1:]:
            yield Figure(
                metric=f"E{exit}-d{d}: time of a round over a plain one", value=round(float(table[k, d]), 4),
                unit="1", kind="measured", baseline=round(float(counted[k, d]), 4),
            )  # fmt: skip
    yield Figure(
        metric="a look at all exits over a plain round",
        value=round(float(real.shadow) / float(real.plain), 4), unit="1", kind="measured",
    )  # fmt: skip
    ratio = float(table[0, -1])
    yield Figure(
        metric=f"E{how.exits[0]}-d{how.max_draft} over a plain round", value=round(ratio, 4), unit="1",
        kind="measured", **runner.judge(ratio >= 1.5, "at least 1.5", due=not settings.is_tiny),
    )  # fmt: skip
    for alpha in ALPHAS:
        tokens = np.cumsum(alpha**drafts)[None]
        speed = tokens / np.where(drafts[None] == 0, 1.0, table)
        k, d = np.unravel_index(np.argmax(tokens / counted), table.shape)
        best = np.unravel_index(np.argmax(speed), table.shape)
        yield Figure(
            metric=f"acceptance {alpha} at every exit: speed of the pair that layers choose (E{how.exits[k]}-d{d})",
            value=round(float(speed[k, d]), 4), unit="1", kind="simulated",
            baseline=f"{speed[best]:.3f} (E{how.exits[best[0]]}-d{best[1]}, measured costs)",
        )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="del_exit.cost_models",
    title="Layers counted and rounds measured",
    cases=cases,
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
