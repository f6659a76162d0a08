"""What the controller does over a text that changes its domain.

    python -m experiments.del_exit.traces --scale cpu --out results

Scale `cpu`: one text. Nano continues a piece of code; a piece of English is appended and continued, then a
template, up to 160 new tokens each, with the controller's sums kept across the changes, for five values of
omega, the weight of the past. About 3 minutes on two cores. Expected: exit, threshold and estimated
acceptance move; all estimates lie between 0 and 1.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.decode import Run, Upfront, start
from experiments import runner
from experiments.del_exit import common, counting
from experiments.del_exit.common import DOMAINS
from experiments.runner import Case, Figure, Settings

N_TRACE = 256
MOST_ROWS = 1024
SHOWN = ("exit", "drafts", "held", "threshold", "alpha")


def cases(settings: Settings) -> Sequence[Case]:
    """One text for each value of omega, the weight of the past."""
    config = common.config(settings)
    room = min(MOST_ROWS, common.model(settings).cfg.max_positions) // len(DOMAINS)
    n_part = min(160, room - config["n_prompt"] - 8)
    config |= {"n_trace": N_TRACE, "n_part": n_part}
    config |= {"n_prompt": 12, "n_part": 6} if settings.is_tiny else {}
    omegas = (0.95,) if settings.is_tiny else (0.8, 0.9, 0.95, 0.99, 1.0)
    return [Case(name=f"omega {w}", config=config | {"omega": w}, expected_s=35.0) for w in omegas]


def _rounds(case: Case, settings: Settings) -> list[dict[str, float]]:
    """The rounds of the three parts, in order.

    At a change the text so far and the next piece are read by a prefill, and the controller's sums are
    put back; only the first round of a part follows what the prefill itself has seen.
    """
    loaded = common.model(settings)
    n_layers, omega = loaded.cfg.n_layers, case.config["omega"]
    strategy, extra = counting.method("del", case.config, n_layers, omega=omega)
    control, rows, text = None, [], []
    capacity = Upfront(min(MOST_ROWS, loaded.cfg.max_positions))
    for part, domain in enumerate(DOMAINS):
        piece = common.prompts(case.config | {"n_prompts": 1}, loaded, domain, settings)[0]
        text += piece[1:] if text else piece
        run = start(
            loaded.cfg, loaded.params, [text], max_new=case.config["n_part"], strategy=strategy,
            extra=extra, capacity=capacity,
        )  # fmt: skip
        if control is not None:
            aux = run.state.aux.replace(control=control)
            run = Run(loaded.cfg, loaded.params, run.state.replace(aux=aux), strategy=strategy,
                      extra=extra)  # fmt: skip
        while run.advance():
            pass
        text = text + run.new_tokens(0)
        aux = jax.device_get(run.state.aux)
        control = jax.tree.map(jnp.asarray, aux.control)
        exits = np.array([*strategy.config.exits, 0])  # -1, a round without drafts, is the last one
        trace = aux.trace
        for i in range(min(int(aux.rounds[0]), N_TRACE)):
            values = (exits[trace.exit[0, i]], trace.proposed[0, i], trace.accepted[0, i],
                      trace.threshold[0, i], trace.alpha[0, i])  # fmt: skip
            rows.append({"part": float(part)} | dict(zip(SHOWN, map(float, values), strict=True)))
    return rows


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Each round's numbers, and what they were in each part."""
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
    for part, domain in enumerate(DOMAINS):
        here = [row for row in rows if row["part"] == part]
        held, drafts = (sum(row[name] for row in here) for name in ("held", "drafts"))
        yield Figure(
            metric=f"{domain}: drafts that held", value=round(held / max(drafts, 1), 4), unit="1",
            kind="measured",
        )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Exit, drafts, threshold and acceptance by round, of the case of omega 0.95."""
    from matplotlib import pyplot

    rows = [row for row in rows if row["case"] == "omega 0.95"]
    found = {
        name: [row["value"] for row in rows if row["metric"].endswith(f": {name}")]
        for name in ("part", *SHOWN)
    }
    changes = np.flatnonzero(np.diff(found["part"])) + 0.5
    figure, axes = pyplot.subplots(4, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for axis, name in zip(axes, ("exit", "drafts", "threshold", "alpha"), strict=True):
        axis.plot(found[name], lw=1)
        for change in changes:
            axis.axvline(change, color="k", lw=0.8, ls=":")
        axis.set_ylabel(name)
    axes[0].set_title(", then ".join(DOMAINS))
    axes[-1].set_xlabel("round (measured)")
    return figure


EXPERIMENT = runner.Experiment(
    name="del_exit.traces",
    title="The controller over a text that changes its domain",
    cases=cases,
    measure=measure,
    plot=plot,
    flags=common.FLAGS,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
