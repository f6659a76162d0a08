"""Decoding and prefill beside transformers `generate`, on the shapes of real models.

    python -m experiments.decode.vs_transformers --scale cpu --out results

Takes about 15 minutes at scale `cpu` on two quiet cores with 16 GB of memory; seconds at `smoke`.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax import backend, bench
from experiments import runner
from experiments.runner import Case, Figure, Settings

PAIRS = 5
# Seconds per case on two cores; for the time left only.
EXPECTED_S = {"gpt2-b8": 240.0, "llama-1b": 240.0, "nano": 40.0}


def cases(settings: Settings) -> Sequence[Case]:
    """The comparison cases of a scale."""
    names = ("tiny",) if settings.is_tiny else bench.SCALES["full"]
    common = {
        "pairs": 1 if settings.is_tiny else PAIRS,
        "threads": 2,
        "against": "transformers generate, sdpa, default cache, no torch.compile",
        "dtype": "float32",
        "sampling": "greedy",
    }
    return [Case(name=name, config=common, expected_s=EXPECTED_S.get(name, 90.0)) for name in names]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Runs one comparison; yields the ratio and what it is made of."""
    (chosen,) = bench.select([case.name])
    rows = bench.compare(
        chosen,
        pairs=case.config["pairs"],
        threads=case.config["threads"],
        platform="gpu" if backend.platform() == "gpu" else "cpu",
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    for row in rows:
        expected = "" if row.target is None else f"at least {row.target:g}"
        if row.theirs is None:
            yield Figure(
                metric=row.metric,
                value=row.ratio,
                unit="%",
                kind="measured",
                expected=expected,
                verdict=row.verdict,
            )
            continue
        yield Figure(
            metric=row.metric, value=row.ours, unit="ms", kind="measured", baseline=row.theirs
        )
        yield Figure(
            metric=f"{row.metric}, times faster (median of pairs)",
            value=row.ratio,
            unit="1",
            kind="measured",
            expected=expected,
            verdict=row.verdict,
        )
        yield Figure(metric="slowest pair", value=row.low, unit="1", kind="measured")
        yield Figure(metric="fastest pair", value=row.high, unit="1", kind="measured")


def plot(rows: list[dict[str, Any]]) -> Any:
    """Bars: how many times faster, with the spread over pairs."""
    from matplotlib import pyplot

    def of(ending: str) -> dict[str, float]:
        return {r["case"]: r["value"] for r in rows if r["metric"].endswith(ending)}

    middle, low, high = of("(median of pairs)"), of("slowest pair"), of("fastest pair")
    names = list(middle)
    figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(names) + 1.4), layout="constrained")
    spread = [
        [middle[n] - low[n] for n in names],
        [high[n] - middle[n] for n in names],
    ]
    axes.barh(names, [middle[n] for n in names], xerr=spread, color="#4878a8", capsize=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("time of transformers / our time (above 1: we are faster)")
    return figure


EXPERIMENT = runner.Experiment(
    name="decode.vs_transformers",
    title="Decoding beside transformers generate",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
