"""Memory and time of one private step, beside an ordinary one and beside the other private ones.

    python -m experiments.dp_grape.memory --scale cpu --out results

Memory is what the compiled step needs at its peak: arguments, results and temporaries, less what is updated
in place; one program that makes the clipped sum, adds noise and applies the optimiser, with weights and
optimiser given up to it. No weights are made for it, so that large models fit on any machine. All methods
train the same leaves (embeddings and the head over the vocabulary are frozen) over one batch without
microbatches; every model with and without computing blocks again on the way back. Time is measured where
the model is small, and at scale `gpu` for all. About 20 minutes on two cores at scale `cpu`.

Expected, from the sizes of the arrays: ViT-B 85 % below materialised gradients and at most 1.05 of ordinary
training with blocks computed again; RoBERTa-large 78 % and 0.95 without (the paper's bars are over 63 and 70
%, against an implementation that materialises).
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from experiments import runner
from experiments.dp_grape import shapes
from experiments.dp_grape.steps import Step
from experiments.runner import Case, Figure, Settings

METHODS = ("adam", "dp-adam", "ghost", "dp-grape")
CURVE = (1, 8, 32, 128)
RANKS = (4, 16, 64)
LARGE = {"vit-b16": 32, "roberta-large": 64, "opt-1.3b": 8, "opt-2.7b": 8, "opt-6.7b": 8}
_ALL, _FIT = METHODS, ("adam", "ghost", "dp-grape")
ON_GPU = (
    ("roberta-large", False, _ALL),
    ("vit-b16", False, _ALL),
    ("opt-6.7b", True, ("dp-grape",)),
    ("opt-1.3b", True, _ALL),
    ("opt-2.7b", True, _FIT),
    ("roberta-large", True, _ALL),
    ("vit-b16", True, _ALL),
)  # the most telling first; an ordinary step of the largest model needs more than 100 GB
BELOW = {("vit-b16", True): (0.15, 1.05), ("roberta-large", False): (0.22, 0.95)}


def cases(settings: Settings) -> Sequence[Case]:
    """The curve over batch sizes, the large models, and the times of the small ones."""
    tiny = settings.is_tiny
    found = []
    for remat in (False, True)[: 1 if tiny else 2]:
        for name in ("decoder",) if settings.scale != "gpu" else ():
            sizes = {
                "batches": [1, 2] if tiny else list(CURVE),
                "ranks": [4] if tiny else list(RANKS),
                "methods": ["adam", "dp-grape"] if tiny else list(METHODS),
            }
            found.append(_case(f"curve of {name}", name, remat, 150.0, **sizes))
        for name, B in LARGE.items() if settings.scale == "cpu" else ():
            sizes = {"batches": [B], "ranks": [None], "methods": list(METHODS)}
            found.append(_case(name, name, remat, 60.0, **sizes))
    if settings.scale == "gpu":
        found += [
            _case(
                name,
                name,
                remat,
                60.0,
                batches=[2 if tiny else LARGE[name]],
                ranks=[None],
                methods=[*names],
            )
            for name, remat, names in ON_GPU
        ]
    for name in ("decoder", "vit")[1 if tiny else 0 :]:
        sizes = {"batches": [2 if tiny else 32], "ranks": [4 if tiny else 16]}
        sizes |= {"methods": list(METHODS), "n_rounds": 1 if tiny else 9, "in_turn": True}
        found.append(_case(f"time of {name}", name, False, 60.0, **sizes))
    return found


def _case(title: str, name: str, remat: bool, expected_s: float, **config: Any) -> Case:
    title += ", blocks again" if remat else ""
    return Case(name=title, config={"shape": name, "remat": remat, **config}, expected_s=expected_s)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The peak of every method, what follows from it, and the time of a step where one is run."""
    config = case.config
    runs = "n_rounds" in config or (settings.scale == "gpu" and not settings.is_tiny)
    peaks: dict[tuple[str, int], float] = {}
    steps: dict[str, Step] = {}
    for B in config["batches"]:
        for method in config["methods"]:
            for rank in config["ranks"] if method == "dp-grape" else config["ranks"][:1]:
                what = shapes.shape(
                    config["shape"], remat=config["remat"], rank=rank, tiny=settings.is_tiny
                )
                label = method if method != "dp-grape" else f"dp-grape r={what.rank}"
                try:
                    step = Step(what, method, B)
                except (
                    jax.errors.JaxRuntimeError
                ) as error:  # the compiler itself runs out of memory
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    continue
                peaks[label, B] = step.peak_bytes
                steps[label] = step
                yield _figure(f"{label}, {B} examples: peak", step.peak_bytes / 2**20, "MiB")
    yield from _shares(config, peaks, due=not settings.is_tiny)
    yield from _slopes(config, peaks, steps)
    if runs:
        yield from _times(
            steps,
            config.get("n_rounds", 5),
            in_turn="n_rounds" in config,
            due="n_rounds" in config and not settings.is_tiny,
        )


def _figure(metric: str, value: float, unit: str, **more: Any) -> Figure:
    return Figure(metric=metric, value=value, unit=unit, kind="measured", **more)


def _shares(config: Any, peaks: dict[tuple[str, int], float], *, due: bool) -> Iterator[Figure]:
    """The peak of DP-GRAPE over that of the others, on the largest batch."""
    B = config["batches"][-1]
    limits = BELOW.get((config["shape"], config["remat"])) if due else None
    for label in sorted({name for name, _ in peaks if name.startswith("dp-grape")}):
        for i, other in enumerate(("dp-adam", "adam", "ghost")):
            if (other, B) not in peaks or (label, B) not in peaks:
                continue
            share = peaks[label, B] / peaks[other, B]
            limit = limits[i] if limits and i < 2 else None
            verdict = {} if limit is None else runner.judge(share <= limit, f"at most {limit}")
            yield _figure(f"{label} over {other}, {B} examples: peak", share, "1", **verdict)


def _slopes(
    config: Any, peaks: dict[tuple[str, int], float], steps: dict[str, Step]
) -> Iterator[Figure]:
    """What an example more takes; beside ordinary training, what its clipped gradient takes."""
    first, last = config["batches"][0], config["batches"][-1]
    if first == last:
        return
    slopes = {name: (peaks[name, last] - peaks[name, first]) / (last - first) for name in steps}
    for name, slope in slopes.items():
        gradient = 4 * steps[name].n_trained if name.startswith("dp-") else 0
        expected = f"adam's and {gradient / 2**20:.3g} of gradient" if gradient else ""
        yield _figure(f"{name}: an example more", slope / 2**20, "MiB", expected=expected)


def _times(steps: dict[str, Step], n_rounds: int, *, in_turn: bool, due: bool) -> Iterator[Figure]:
    """The time of a step, and DP-GRAPE's over the others'.

    In turn: a step of each, then the next of each, and the median of the rounds' ratios, which a machine that
    changes its speed does not change; for models that fit side by side. Else one method after the other.
    """
    clocks = {name: step.seconds(n_rounds) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    if in_turn:
        for _ in range(n_rounds):
            for name, clock in clocks.items():
                times[name].append(next(clock))
    else:
        for name, clock in clocks.items():
            try:
                times[name] = list(clock)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                del times[name]
    for name, spent in times.items():
        yield _figure(
            f"{name}, {steps[name].B} examples: a step", statistics.median(spent) * 1e3, "ms"
        )
    limits = {"adam": 1.0, "dp-adam": 0.5}
    for label in [name for name in times if name.startswith("dp-grape")]:
        for other in [name for name in times if not name.startswith("dp-grape")]:
            pairs = zip(times[label], times[other], strict=True)
            share = statistics.median(ours / theirs for ours, theirs in pairs)
            limit = limits.get(other) if due else None
            verdict = {} if limit is None else runner.judge(share <= limit, f"at most {limit}")
            yield _figure(f"{label} over {other}: time of a step", share, "1", **verdict)


def plot(rows: list[dict[str, Any]]) -> Any:
    """Peak by batch size."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True)
    for i, axis in enumerate(axes):
        points: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if row["config"]["remat"] == bool(i) and len(row["config"]["batches"]) > 1:
                name, _, rest = row["metric"].partition(", ")
                if rest.endswith("examples: peak") and " over " not in name:
                    points.setdefault(name, []).append((int(rest.split()[0]), row["value"]))
        for name, curve in points.items():
            axis.plot(*zip(*curve, strict=True), marker="o", label=name)
        axis.set(xlabel="examples", xscale="log", yscale="log")
        axis.set_title("blocks computed again" if i else "blocks kept")
    axes[0].set_ylabel("peak of a step, MiB")
    if axes[0].lines:
        axes[0].legend(fontsize=8)
    return figure


EXPERIMENT = runner.Experiment(
    name="dp_grape.memory",
    title="Memory and time of a private step",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
