"""Layers counted and rounds measured, with a small head and a large one: which names the faster pair.

    python -m experiments.del_exit.cost_models --scale cpu --out results

Scale `cpu`: nano's shape with vocabularies of 256, 4,096 and 8,192 tokens, random weights but for 4,096.
Rounds of every exit and length are timed; then, for acceptances of 0.5 to 0.95 at every exit, the pair that
each cost model would take is looked up (simulated), with what it promises and what it loses. About 6
minutes on two cores. Expected: a draft at the first exit takes at least a tenth of a plain round more with
8,192 tokens than with 256, which layers cannot see; a round of 7 drafts at exit 1 costs at least 1.5 times a
plain one though it loads few more layers.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms import del_exit
from ariel_jax.testing import tiny_params
from experiments import runner
from experiments.del_exit import common, counting
from experiments.runner import Case, Figure, Settings

ALPHAS = (0.5, 0.65, 0.8, 0.9, 0.95)
SMALL, LARGE = 256, 8192


def cases(settings: Settings) -> Sequence[Case]:
    """The model's own vocabulary, and both others together, which are compared."""
    config = common.config(settings)
    sizes = [SMALL, 2 * SMALL if settings.is_tiny else LARGE]
    heads = Case(name="heads", config=config | {"vocabularies": sizes}, expected_s=200.0)
    own = Case(name="own head", config=config | {"vocabularies": []}, expected_s=100.0)
    return [heads] if settings.is_tiny else [own, heads]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The row-cost table of each vocabulary and what the models make of it."""
    loaded = common.model(settings)
    how = counting.method("del", case.config, loaded.cfg.n_layers)[0].config
    shares = {}
    for size in case.config["vocabularies"] or [loaded.cfg.vocab_size]:
        cfg, params = loaded.cfg, loaded.params
        if size != cfg.vocab_size:
            cfg = cfg.replace(vocab_size=size)
            params = tiny_params(cfg, seed=settings.seed)  # no time depends on the weights
        costs = del_exit.measured_costs(
            cfg, params, how, capacity=common.CAPACITY, n_runs=1 if settings.is_tiny else 7
        )
        shares[size] = float(costs.draft[0]) / float(costs.plain)
        yield from _table(f"V={size}", how, costs, cfg.n_layers, settings)
        yield from _choices(f"V={size}", how, costs, cfg)
    if len(shares) == 2:
        (small, less), (large, more) = shares.items()
        yield Figure(
            metric=f"a draft at exit {how.exits[0]} over a plain round: V={large} less that of V={small}",
            value=round(more - less, 4), unit="1", kind="measured", baseline=0.0,
            **runner.judge(more - less >= 0.1, "at least 0.1", due=not settings.is_tiny),
        )  # fmt: skip


def _table(
    name: str, how: del_exit.Config, costs: del_exit.Costs, n_layers: int, settings: Settings
) -> Iterator[Figure]:
    real = counting.round_table(costs)
    counted = counting.round_table(del_exit.layer_costs(how, n_layers))
    for (k, d), value in np.ndenumerate(real):
        if d:
            yield Figure(
                metric=f"{name}, E{how.exits[k]}-d{d}: time of a round over a plain one",
                value=round(float(value), 4), unit="1", kind="measured",
                baseline=round(float(counted[k, d]), 4),
            )  # fmt: skip
    yield Figure(
        metric=f"{name}: a look at all exits over a plain round",
        value=round(float(costs.shadow) / float(costs.plain), 4), unit="1", kind="measured",
    )  # fmt: skip
    ratio = float(real[0, -1])
    yield Figure(
        metric=f"{name}, E{how.exits[0]}-d{how.max_draft} over a plain round", value=round(ratio, 4),
        unit="1", kind="measured",
        **runner.judge(ratio >= 1.5, "at least 1.5", due=not settings.is_tiny),
    )  # fmt: skip


def _choices(name: str, how: del_exit.Config, costs: del_exit.Costs, cfg: Any) -> Iterator[Figure]:
    """What three cost models promise at an acceptance, and the speed of the pairs that they take."""
    real = counting.round_table(costs)
    models = {
        "layers": del_exit.layer_costs(how, cfg.n_layers),
        "layers and head": del_exit.layer_costs(
            how, cfg.n_layers, head=del_exit.head_in_layers(cfg)
        ),
    }
    for alpha in ALPHAS:
        every = np.full(len(how.exits), alpha)
        speed = counting.predicted_speeds(real, every)
        best = np.unravel_index(np.argmax(speed), speed.shape)
        for model, counted in models.items():
            promised = counting.predicted_speeds(counting.round_table(counted), every)
            k, d = np.unravel_index(np.argmax(promised), promised.shape)
            yield Figure(
                metric=f"{name}, acceptance {alpha}: speed of the pair that {model} choose "
                f"(E{how.exits[k]}-d{d}, promised {promised[k, d]:.2f})",
                value=round(float(speed[k, d]), 4), unit="1", kind="simulated",
                baseline=f"{speed[best]:.3f} (E{how.exits[best[0]]}-d{best[1]}, measured costs)",
            )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="del_exit.cost_models",
    title="Layers counted and rounds measured",
    cases=cases,
    measure=measure,
    flags=common.FLAGS,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
