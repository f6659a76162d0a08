"""Fixed exits and lengths: where the best pair lies in each domain.

    python -m experiments.del_exit.grid --scale cpu --out results

Scale `cpu`: nano, 20 held-out prompts of each of three domains, 128 new tokens each, every exit with 1,
2, 3, 5 and 7 drafts; one compiled program for all. About 15 minutes on two cores. Expected: the same
tokens everywhere, and not the same best pair in all domains.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from experiments import runner
from experiments.del_exit import common, counting
from experiments.runner import Case, Figure, Settings

LENGTHS = (1, 2, 3, 5, 7)


def cases(settings: Settings) -> Sequence[Case]:
    """One per domain."""
    config = common.config(settings)
    config["lengths"] = [n for n in LENGTHS if n <= config["max_draft"]]
    return common.by_domain(settings, config, expected_s=300.0)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Tokens per layer load and tokens per second of every pair, over plain decoding's."""
    loaded = common.model(settings)
    texts = common.prompts(case.config, loaded, case.name, settings)
    n_new, L = case.config["n_new"], loaded.cfg.n_layers
    counting.count(loaded, texts[:1], n_new)  # compiles
    plain = counting.count(loaded, texts, n_new)
    best: tuple[float, str] = (0.0, "none")
    for exit in case.config["exits"]:
        for length in case.config["lengths"]:
            way = counting.method("fixed", case.config, L, exit=exit, length=length)
            found = counting.count(loaded, texts, n_new, *way)
            same = counting.agreement(loaded, texts, found, plain)
            name = f"E{exit}-d{length}"
            gain = found.tokens_per_load * L
            best = max(best, (gain, name))
            yield Figure(
                metric=f"{name}: tokens per layer load over plain", value=round(gain, 4), unit="1",
                kind="measured",
            )  # fmt: skip
            yield Figure(
                metric=f"{name}: drafts that held",
                value=round(found.held, 4), unit="1", kind="measured",
            )  # fmt: skip
            yield Figure(
                metric=f"{name}: tokens/s over plain",
                value=round(found.tokens_per_s / plain.tokens_per_s, 4), unit="1", kind="measured",
            )  # fmt: skip
            yield Figure(
                metric=f"{name}: texts equal to plain decoding's, but for ties", value=same, unit="1",
                kind="measured", **runner.judge(same == 1, "1"),
            )  # fmt: skip
    yield Figure(
        metric=f"best pair ({best[1]}): tokens per layer load over plain", value=round(best[0], 4),
        unit="1", kind="measured",
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """A heat map for each domain."""
    import numpy as np
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["case"] for row in rows))
    ending = ": tokens per layer load over plain"
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3.2), squeeze=False,
                                   layout="constrained")  # fmt: skip
    for axis, name in zip(axes[0], names, strict=True):
        cells = {r["metric"].removesuffix(ending): r["value"] for r in rows
                 if r["case"] == name and r["metric"].startswith("E") and r["metric"].endswith(ending)}  # fmt: skip
        pairs = [tuple(int(p[1:]) for p in key.split("-")) for key in cells]
        exits, lengths = (sorted({p[i] for p in pairs}) for i in (0, 1))
        table = np.full((len(exits), len(lengths)), np.nan)
        for (exit, length), value in zip(pairs, cells.values(), strict=True):
            table[exits.index(exit), lengths.index(length)] = value
        axis.imshow(table, cmap="viridis", aspect="auto")
        for i, j in np.ndindex(table.shape):
            axis.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color="w", fontsize=8)
        axis.set_xticks(range(len(lengths)), lengths)
        axis.set_yticks(range(len(exits)), exits)
        axis.set_title(name)
        axis.set_xlabel("drafts a round")
    axes[0][0].set_ylabel("exit after layer")
    return figure


EXPERIMENT = runner.Experiment(
    name="del_exit.grid",
    title="Fixed exits and lengths",
    cases=cases,
    measure=measure,
    plot=plot,
    flags=common.FLAGS,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
