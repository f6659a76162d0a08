"""Perplexity of nano on held-out text with weights of 32, 16, 8 and 4 bits, and the error of each layer.

    python -m experiments.quantization.perplexity --scale cpu --out results

Scale `cpu`: nano, the first 2,047 tokens of every held-out document of its corpus, which is rebuilt from
the running Python's standard library (which paths are held out does not depend on its version). About
10 minutes on two cores. Expected: 8 bits within 0.5 % of float32, 4 bits in groups of 64 within 3 %.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ariel_jax import load_pretrained, testing
from ariel_jax.models.config import Precision
from ariel_jax.models.quantization import quantize, report
from ariel_jax.training import score_documents
from experiments import runner
from experiments.nano import corpus, templates
from experiments.runner import Case, Figure, Settings

FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {},
    "int8, row": {"bits": 8},
    "int8, groups of 64": {"bits": 8, "group": 64},
    "int4, groups of 64": {"bits": 4, "group": 64},
    "int4, groups of 32": {"bits": 4, "group": 32},
    "int4, embedding too": {"bits": 4, "group": 64, "vocab_bits": 4},
}
MOST = {"int8, row": 1.005, "int8, groups of 64": 1.005, "int4, groups of 64": 1.03}
LAYER = "largest relative error in layer "


def cases(settings: Settings) -> Sequence[Case]:
    """One per form of the weights."""
    left_out = ("int8, groups of 64", *list(FORMS)[-2:]) if settings.is_tiny else ()
    return [
        Case(name=name, config=form, expected_s=1.0 if settings.is_tiny else 75.0)
        for name, form in FORMS.items()
        if name not in left_out
    ]


def _model(settings: Settings, precision: Precision) -> Any:
    if not settings.is_tiny:
        return load_pretrained("nano", precision=precision)
    return testing.tiny_model(
        seed=settings.seed, precision=precision, d_model=64, head_dim=16, d_ff=64
    )


@functools.cache
def _texts(settings: Settings) -> dict[str, list[np.ndarray]]:
    """Token ids of documents by domain, each as long as the model has positions after the first."""
    model = _model(settings, Precision.f32())
    if settings.is_tiny:
        texts = {"templates": list(templates.shard(0)[:4])}
    else:
        held_out = [d for d in corpus.collect() if d.split == "heldout"]
        domains = sorted({d.domain for d in held_out})
        texts = {n: [t for d in held_out if d.domain == n for t in d.parts] for n in domains}
    most = model.cfg.max_positions - 1

    def tokens(text: str) -> np.ndarray:
        return np.array(model.tokenizer.encode(text, add_special_tokens=False)[:most], np.int32)

    return {name: [tokens(text) for text in parts] for name, parts in texts.items()}


def _nats(settings: Settings, model: Any) -> dict[str, float]:
    """Mean cost of a token by domain, and of all."""
    sums, counts = {}, {}
    for name, texts in _texts(settings).items():
        found = score_documents(model.cfg, model.params, texts, start_id=0)
        sums[name] = sum(float(score.nats.sum(dtype=np.float64)) for score in found)
        counts[name] = sum(text.size for text in texts)
    means = {name: sums[name] / counts[name] for name in sums}
    return means | {"all": sum(sums.values()) / sum(counts.values())}


@functools.cache
def _reference(settings: Settings) -> dict[str, float]:
    return _nats(settings, _model(settings, Precision.f32()))


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The perplexities of one form, its bytes, and the error of each layer."""
    is_narrow = case.name == "bfloat16"
    model = _model(settings, Precision.bf16() if is_narrow else Precision.f32())
    before = model.params
    if case.config:
        model = dataclasses.replace(model, params=quantize(before, **case.config))
    reference = _reference(settings)
    nats = reference if case.name == "float32" else _nats(settings, model)
    for name, value in nats.items():
        yield Figure(
            metric=f"perplexity, {name}", value=round(math.exp(value), 4), unit="1",
            kind="measured", baseline=round(math.exp(reference[name]), 4),
        )  # fmt: skip
    if case.name != "float32":
        ratio, most = math.exp(nats["all"] - reference["all"]), MOST.get(case.name, 0)
        yield Figure(
            metric="perplexity over that of float32", value=round(ratio, 5), unit="1",
            kind="measured",
            **runner.judge(ratio <= most, f"at most {most}", due=most > 0 and not settings.is_tiny),
        )  # fmt: skip
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    yield Figure(metric="weights", value=round(size / 1e6, 3), unit="MB", kind="measured")
    if case.config:
        yield from _layers(before, model.params)


def _layers(before: Any, after: Any) -> Iterator[Figure]:
    rows = report(before, after)
    for number in range(len(after.layers)):
        worst = max(r.relative_error for r in rows if r.path.startswith(f"layers.{number}."))
        yield Figure(metric=f"{LAYER}{number}", value=round(worst, 5), unit="1", kind="measured")
    vocabulary = max(r.relative_error for r in rows if r.path in ("embed", "unembed.w"))
    yield Figure(
        metric="largest relative error of embedding and head", value=round(vocabulary, 5), unit="1",
        kind="measured",
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """The largest relative error of a weight in each layer, by form."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name in dict.fromkeys(row["case"] for row in rows):
        errors = {
            int(row["metric"].removeprefix(LAYER)): 100 * row["value"]
            for row in rows
            if row["case"] == name and row["metric"].startswith(LAYER)
        }
        if errors:
            axis.plot(list(errors), list(errors.values()), marker="o", label=name)
    axis.set_xlabel("layer")
    axis.set_ylabel("largest relative error of a weight, % (measured)")
    axis.set_yscale("log")
    axis.legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="quantization.perplexity",
    title="Perplexity of nano with quantised weights",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
