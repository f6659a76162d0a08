"""What choosing costs: DEL held to a fixed exit and length against LayerSkip at the same pair.

    python -m experiments.del_exit.overhead --scale cpu --out results

Scale `cpu`: nano, 20 held-out prompts of code, 128 new tokens each. DEL's costs are set so that its best
score is always the same pair, with a look at all exits every 1, 4 and 16 rounds; medians of five. The phases
of a round are timed from the host, and the compiled program says what memory it takes beside the cache.
About 8 minutes on two cores. Expected: at most 5 % with a look every 16 rounds; temporaries below a quarter
of the cache, and all of the cache updated in place.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms import del_exit
from ariel_jax.algorithms.del_exit import phases
from ariel_jax.decode import Upfront, programs, start
from experiments import runner
from experiments.del_exit import common, counting
from experiments.runner import Case, Figure, Settings

LOOKS = (1, 4, 16)


def cases(settings: Settings) -> Sequence[Case]:
    """One."""
    config = common.config(settings)
    config["pair"] = [0, min(3, config["max_draft"])]
    return [Case(name="code", config=config, expected_s=400.0)]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Seconds over those of the fixed pair, all in turn; then the phases and the memory."""
    loaded = common.model(settings)
    texts = common.prompts(case.config, loaded, case.name, settings)
    n_new, L, (k, d) = case.config["n_new"], loaded.cfg.n_layers, case.config["pair"]
    exit = case.config["exits"][k]
    fixed = counting.method("fixed", case.config, L, exit=exit, length=d)
    costs = del_exit.layer_costs(fixed[0].config, L)
    forced = costs.replace(verify=(costs.verify * 1e6).at[k, d].set(1e-3))
    ways: dict[str, counting.Way] = {"fixed": fixed}
    for n in LOOKS:
        numbers: dict[str, Any] = {"costs": forced, "shadow_every": n}
        ways[f"a look every {n}"] = counting.method("del-e", case.config, L, **numbers)
    ratios, found = counting.in_turn(loaded, texts, n_new, ways, case.config["n_rounds"])
    for n in LOOKS:
        name = f"a look every {n}"
        same = (found[name].rounds == found["fixed"].rounds).all()
        over, spread = counting.middle([1 / ratio - 1 for ratio in ratios[name]])
        yield Figure(
            metric=f"E{exit}-d{d}, {name} rounds: time beyond the fixed pair's {spread}",
            value=round(over, 4), unit="1", kind="measured",
            **runner.judge(over <= 0.05, "at most 0.05", due=n == 16 and not settings.is_tiny),
        )  # fmt: skip
        yield Figure(
            metric=f"E{exit}-d{d}, {name} rounds: the same rounds", value=float(same), unit="1",
            kind="measured", **runner.judge(bool(same), "1"),
        )  # fmt: skip
    way = ways["a look every 1"]
    yield from _phases(loaded, texts[:1], n_new, way)
    yield from _memory(loaded, way, settings.is_tiny)


def _phases(loaded: Any, texts: Any, n_new: int, way: counting.Way) -> Iterator[Figure]:
    """Milliseconds of each phase of a round."""
    strategy, extra = way
    assert isinstance(strategy, del_exit.SelfSpeculative)
    options: dict[str, Any] = {"strategy": strategy, "extra": extra, "max_new": n_new}
    phases.by_phases(loaded.cfg, loaded.params, texts, **options)  # compiles
    study = phases.by_phases(loaded.cfg, loaded.params, texts, **options)
    for name, seconds in study.seconds().items():
        yield Figure(
            metric=f"phase {name}: of a round, from the host",
            value=round(1e3 * seconds / max(len(study.rounds), 1), 4), unit="ms", kind="measured",
        )  # fmt: skip


def _memory(loaded: Any, way: counting.Way, is_tiny: bool) -> Iterator[Figure]:
    """What the compiled program of all rounds takes, as its compiler says."""
    strategy, extra = way
    capacity = 256 if is_tiny else min(1024, loaded.cfg.max_positions)
    run = start(
        loaded.cfg, loaded.params, [[1, 2]], max_new=8, strategy=strategy, extra=extra,
        capacity=Upfront(capacity),
    )  # fmt: skip
    segment: Any = programs.segment()
    options = {"strategy": strategy, "max_steps": np.int32(9)}
    program = segment.lower(loaded.cfg, loaded.params, extra, run.state, **options)
    memory, cache = program.compile().memory_analysis(), run.state.cache.nbytes
    temporary, in_place = (
        memory.temp_size_in_bytes / cache,
        memory.alias_size_in_bytes / cache,
    )
    yield Figure(
        metric=f"temporaries over the bytes of a cache of {capacity} rows",
        value=round(temporary, 4), unit="1", kind="measured",
        **runner.judge(temporary < 0.25, "below 0.25", due=not is_tiny),
    )  # fmt: skip
    yield Figure(
        metric=f"bytes updated in place over those of a cache of {capacity} rows",
        value=round(in_place, 4), unit="1", kind="measured",
        **runner.judge(in_place >= 1, "at least 1"),
    )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="del_exit.overhead",
    title="What choosing costs",
    cases=cases,
    measure=measure,
    flags=common.FLAGS,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
