"""What the controller does over a text that changes its domain.

    python -m experiments.del_exit.traces --scale cpu --out results

Scale `cpu`: nano continues code, then English, then templates, 160 tokens each, with the controller's
state kept across the changes. About 1 minute on two cores. Expected: the exit, its threshold and its
estimated acceptance move; the acceptance of all exits lies between 0 and 1.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ariel_jax.decode import Run, Upfront, start
from experiments import runner
from experiments.del_exit import common
from experiments.runner import Case, Figure, Settings

N_TRACE = 512


def cases(settings: Settings) -> Sequence[Case]:
    """One text for each value of omega, the weight of the past."""
    config = common.config(settings) | {
        "n_trace": N_TRACE,
        "n_part": 16 if settings.is_tiny else 160,
    }
    omegas = (0.95,) if settings.is_tiny else (0.8, 0.9, 0.95, 0.99, 1.0)
    return [Case(name=f"omega {w}", config=config | {"omega": w}, expected_s=20.0) for w in omegas]


def _rounds(case: Case, settings: Settings) -> list[dict[str, float]]:
    """The rounds of the three parts: the next part is read by a prefill, the sums are kept."""
    loaded = common.model("nano", settings.is_tiny)
    strategy, extra = common.method(
        "del", case.config, loaded.cfg.n_layers, omega=case.config["omega"]
    )
    control, rows = None, []
    for domain in common.DOMAINS:
        prompt = common.prompts(case.config, loaded, domain, is_tiny=settings.is_tiny)[0]
        run = start(
            loaded.cfg, loaded.params, [prompt], max_new=case.config["n_part"], strategy=strategy,
            extra=extra, capacity=Upfront(512),
        )  # fmt: skip
        if control is not None:  # as one text would have it: nothing is forgotten between the parts
            aux = run.state.aux.replace(control=control)
            run = Run(loaded.cfg, loaded.params, run.state.replace(aux=aux), strategy=strategy,
                      extra=extra)  # fmt: skip
        while run.advance():
            pass
        aux = jax.device_get(run.state.aux)
        control = jax.tree.map(jax.numpy.asarray, aux.control)
        exits = np.array([*strategy.config.exits, 0])
        for i in range(min(int(aux.rounds[0]), N_TRACE)):
            trace = jax.tree.map(lambda leaf, i=i: leaf[0, i], aux.trace)
            rows.append(
                {
                    "exit": float(exits[trace.exit]),
                    "drafts": float(trace.proposed),
                    "held": float(trace.accepted),
                    "threshold": float(trace.threshold),
                    "alpha": float(trace.alpha),
                }
            )
    return rows


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Each round's numbers, and what they were on the whole."""
    rows = _rounds(case, settings)
    for name in rows[0]:
        for number, row in enumerate(rows):
            yield Figure(
                metric=f"round {number}: {name}", value=round(row[name], 4), unit="1", kind="measured"
            )  # fmt: skip
    alphas = [row["alpha"] for row in rows]
    yield Figure(
        metric="largest estimated acceptance", value=round(max(alphas), 4), unit="1", kind="measured",
        **runner.judge(0 <= min(alphas) and max(alphas) <= 1, "all between 0 and 1"),
    )  # fmt: skip
    held, drafts = (sum(row[name] for row in rows) for name in ("held", "drafts"))
    yield Figure(
        metric="drafts that held", value=round(held / max(drafts, 1), 4), unit="1", kind="measured"
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Exit, drafts, threshold and acceptance by round, of the case of omega 0.95."""
    from matplotlib import pyplot

    rows = [row for row in rows if row["case"] == "omega 0.95"]
    figure, axes = pyplot.subplots(4, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for axis, name in zip(axes, ("exit", "drafts", "threshold", "alpha"), strict=True):
        values = [row["value"] for row in rows if row["metric"].endswith(f": {name}")]
        axis.plot(values, lw=1)
        axis.set_ylabel(name)
    axes[-1].set_xlabel("round (measured)")
    return figure


EXPERIMENT = runner.Experiment(
    name="del_exit.traces",
    title="The controller over a text that changes its domain",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
