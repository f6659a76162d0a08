"""Bits per byte of nano on held-out files, beside xz, a 5-gram and the plain twin; its model card.

    python -m experiments.nano.evaluate --corpus CORPUS --model MODEL --twin TWIN --out DIR

writes `results.jsonl`, `nano_evaluate.md` and `README.md`, the model card, into DIR. Finished cases
are kept. Convention: the model sees `<|endoftext|>`, then the document; documents longer than 2,048
tokens are scored in windows that begin 1,024 tokens apart, each token once, so that a token beyond
the first window has at least 1,024 tokens before it. Bits of tokens that stand for bytes are summed
and divided by these bytes; the end of a document is not charged, for xz and the 5-gram neither.
"""

import argparse
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ariel_jax import durable
from ariel_jax.errors import ArielError
from experiments import runner
from experiments.nano import compress, ngram
from experiments.nano.tokenizer import DOMAINS, byte_lengths, tokens
from experiments.runner import Case, Figure, Settings

MARGIN = 0.15  # bits per byte below concatenated xz
RANGES = ((1, 64), (65, 256), (257, 512), (513, 1024), (1025, 2048))
BEFORE = " tokens before"
SAMPLES = (
    ("text", "def read_lines(path):\n"),
    ("text", "The function returns"),
    ("chat", "What is 12 + 7?"),
)


def documents(corpus: Path, domain: str) -> list[np.ndarray]:
    """Held-out documents of a domain, int32 token ids without the separators."""
    flat = np.asarray(tokens(corpus, "heldout", domain)).astype(np.int32)
    parts = np.split(flat, np.flatnonzero(flat == 0))
    return [part[1:] for part in parts if part.size > 1]


@functools.lru_cache(maxsize=4)
def scores(corpus: Path, folder: Path, domain: str) -> dict[str, Any]:
    """`{"bits": [exits], "bytes": n, "ranges": {(first, last): ([exits] bits, bytes)}}`."""
    from ariel_jax.models.config import Precision
    from ariel_jax.models.hf import load_pretrained
    from ariel_jax.training.scoring import score_documents

    model = load_pretrained(folder, precision=Precision.f32())
    exits = tuple(range(1, model.cfg.n_layers + 1))
    lengths = byte_lengths(corpus)
    texts = documents(corpus, domain)
    found = score_documents(model.cfg, model.params, texts, start_id=0, exits=exits)
    size = np.concatenate([lengths[text] for text in texts])
    nats = np.concatenate([score.nats for score in found], axis=1).astype(np.float64)
    bits = np.where(size > 0, nats, 0) / math.log(2)
    context = np.concatenate([score.context for score in found])
    ranges = {}
    for first, last in RANGES:
        here = (context >= first) & (context <= last)
        ranges[first, last] = (bits[:, here].sum(axis=1), int(size[here].sum()))
    return {"bits": bits.sum(axis=1), "bytes": int(size.sum()), "ranges": ranges}


def _total(corpus: Path, folder: Path, domain: str) -> dict[str, Any]:
    if domain != "all":
        return scores(corpus, folder, domain)
    parts = [scores(corpus, folder, name) for name in DOMAINS]
    return {
        "bits": np.sum([part["bits"] for part in parts], axis=0),
        "bytes": sum(part["bytes"] for part in parts),
        "ranges": {
            span: tuple(sum(part["ranges"][span][i] for part in parts) for i in (0, 1))
            for span in RANGES
        },
    }


def _range_metric(name: str, first: int, last: int) -> str:
    return f"{name}, {first} to {last}{BEFORE}"


def _figure(metric: str, value: float, **more: Any) -> Figure:
    return Figure(metric=metric, value=round(value, 4), unit="bits/byte", kind="measured", **more)


def _experiment(corpus: Path, model: Path, twin: Path | None) -> runner.Experiment:
    @functools.cache
    def rivals() -> dict[str, dict[str, float]]:
        xz, grams = compress.measure(corpus), ngram.measure(corpus)
        return {name: xz[name] | {"5-gram": grams[name]["bits_per_byte"]} for name in xz}

    def cases(settings: Settings) -> list[Case]:
        config = {"model": model.name, "twin": None if twin is None else twin.name}
        return [Case(name=name, config=config, expected_s=180) for name in (*DOMAINS, "all")]

    def measure(case: Case, settings: Settings) -> Iterator[Figure]:
        ours, other = _total(corpus, model, case.name), rivals()[case.name]
        per_exit = ours["bits"] / ours["bytes"]
        limit = min(other["concatenated"] - MARGIN, other["5-gram"])
        is_judged = case.name == "all"
        yield _figure(
            "last layer",
            per_exit[-1],
            **runner.judge(per_exit[-1] < limit, f"below {limit:.3f}", due=is_judged),
        )
        for layers, value in enumerate(per_exit[:-1], start=1):
            yield _figure(f"exit after {layers} layers", value)
        for (first, last), (bits, size) in ours["ranges"].items():
            if size:
                yield _figure(_range_metric("last layer", first, last), bits[-1] / size)
        for (first, last), (bits, size) in ours["ranges"].items():
            for layers, value in enumerate(bits[:-1], start=1):
                if size:
                    name = f"exit after {layers} layers"
                    yield _figure(_range_metric(name, first, last), value / size)
        yield _figure("xz -9e, files concatenated", other["concatenated"])
        yield _figure("xz -9e, per file", other["per_file"])
        yield _figure("xz -9e, primed with the training text", other["primed"])
        yield _figure("byte-level Kneser-Ney 5-gram", other["5-gram"])
        if twin is not None:
            plain = _total(corpus, twin, case.name)
            per_exit = plain["bits"] / plain["bytes"]
            yield _figure("plain twin, last layer", per_exit[-1])
            for layers, value in enumerate(per_exit[:-1], start=1):
                yield _figure(f"plain twin, exit after {layers} layers", value)

    return runner.Experiment(
        name="nano.evaluate",
        title="nano: bits per byte on held-out files",
        cases=cases,
        measure=measure,
        plot=plot,
    )


def samples(folder: Path) -> list[tuple[str, str]]:
    """Prompts and what the model makes of them, at temperature 0.7 and seed 0, unedited."""
    from ariel_jax import SamplingParams, generate, load_pretrained

    model = load_pretrained(folder)
    result = []
    for kind, prompt in SAMPLES:
        if kind == "chat":
            message = [{"role": "user", "content": prompt}]
            ids = model.tokenizer.encode_chat(message, add_generation_prompt=True)
        else:
            ids = [0, *model.tokenizer.encode(prompt, add_special_tokens=False)]
        sampling = SamplingParams(temperature=0.7, seed=0)
        done = generate(model, [ids], max_new=120, sampling=sampling)
        result.append((prompt, done.completions[0].text))
    return result


def card(rows: list[dict[str, Any]], shown: list[tuple[str, str]], n_parameters: int) -> str:
    """The model card.

    Args:
        rows: Rows of `results.jsonl`.
        shown: Prompts and texts of `samples`.
        n_parameters: Of the model.
    """
    named = {(row["case"], row["metric"]): row["value"] for row in rows}
    metrics = [m for case, m in named if case == "all" and not m.endswith(BEFORE)]
    head = "| bits per byte | " + " | ".join((*DOMAINS, "all")) + " |\n|---|" + "---|" * 4
    lines = [
        f"| {metric} | "
        + " | ".join(
            f"{named[name, metric]:.3f}" if (name, metric) in named else "-"
            for name in (*DOMAINS, "all")
        )
        + " |"
        for metric in metrics
    ]
    spans = [(a, b) for a, b in RANGES if ("all", _range_metric("last layer", a, b)) in named]
    by_range = ["| layers run | " + " | ".join(f"{a} to {b}" for a, b in spans) + " |"]
    by_range.append("|---|" + "---|" * len(spans))
    for exit_name in [m for m in metrics if m.startswith("exit after")] + ["last layer"]:
        values = [named["all", _range_metric(exit_name, *span)] for span in spans]
        by_range.append(f"| {exit_name} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    texts = "\n\n".join(
        f"Prompt:\n\n```\n{prompt}\n```\n\nAnswer:\n\n```\n{text}\n```" for prompt, text in shown
    )
    return CARD.format(
        millions=f"{n_parameters / 1e6:.1f}",
        table="\n".join([head, *lines]),
        by_range="\n".join(by_range),
        twin=TWIN if any(m.startswith("plain twin") for m in metrics) else "",
        samples=texts,
    )


def plot(rows: list[dict[str, Any]]) -> Any:
    """Bits per byte after each number of layers, of nano and its twin, with the yardsticks."""
    from matplotlib import pyplot

    named = {row["metric"]: row["value"] for row in rows if row["case"] == "all"}
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for label, prefix in (("nano (LayerSkip)", ""), ("plain twin", "plain twin, ")):
        values = []
        while (metric := f"{prefix}exit after {len(values) + 1} layers") in named:
            values.append(named[metric])
        if f"{prefix}last layer" in named:
            values.append(named[f"{prefix}last layer"])
            axes.plot(range(1, len(values) + 1), values, marker="o", label=label)
    for metric, style in (
        ("xz -9e, files concatenated", "--"),
        ("byte-level Kneser-Ney 5-gram", ":"),
    ):
        axes.axhline(named[metric], color="black", linestyle=style, linewidth=0.9, label=metric)
    axes.set_xlabel("layers run before the head")
    axes.set_ylabel("bits per byte, held-out files (measured)")
    axes.set_ylim(bottom=0, top=min(axes.get_ylim()[1], 4.0))
    axes.legend()
    return figure


TWIN = (
    "The plain twin had the same data and steps without LayerSkip; it is not in the package (the "
    "repository keeps it in `experiments/nano/twin`).\n"
)

CARD = """\
# nano

A decoder language model of {millions} million parameters in 12 layers, in Hugging Face Llama form,
bfloat16. It ships with `ariel-jax` so that decoding can be tried and tested without a download.

## What it is

- Trained from scratch by `experiments/nano/train.py` with the LayerSkip recipe (layer dropout and a
  rotating early-exit loss), so that its intermediate layers can be read by the head.
- Text: sources of Python's standard library, English from its documentation strings, `pydoc` and
  licence texts, and generated templates (arithmetic, copying, JSON, dialogue).
  `experiments/nano/manifest.json` lists every document with its hash, and which were held out.
- 2,048 positions, byte-level BPE of 4,096 entries, two chat roles (user and assistant).

## What it is not

- It knows next to nothing and does not reason. Its answers look like its training text and are
  mostly wrong. Do not use it for anything but trying and testing software.
- It is no benchmark of model quality, and was neither aligned nor filtered for safety.

## Measured

Bits per byte on held-out files, smaller is better. The model sees the start token, then the
document; documents longer than 2,048 tokens are scored in windows that begin 1,024 tokens apart.
{twin}
{table}

By how many tokens the model saw before, all domains (short documents are mostly templates, which
are easier):

{by_range}

## Three samples

Temperature 0.7, seed 0, the first answer in each case, unedited.

{samples}

## Licence

The weights are under the licence of this package, Apache-2.0. The training text comes from Python's
standard library (PSF licence) and the documents named in the manifest.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 after an error of the caller."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.nano.evaluate", description=__doc__
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of nano.corpus")
    parser.add_argument("--model", type=Path, required=True, help="folder that train --export made")
    parser.add_argument("--twin", type=Path, help="the same of the plain recipe")
    parser.add_argument("--out", type=Path, required=True, help="gets results, table and card")
    options = parser.parse_args(arguments)
    try:
        experiment = _experiment(options.corpus, options.model, options.twin)
        rows = runner.run(experiment, Settings(scale="cpu"), options.out)
        text = card(rows, samples(options.model), _count(options.model))
        durable.write_bytes(options.out / "README.md", text.encode())
    except ArielError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _count(folder: Path) -> int:
    from ariel_jax.models.hf import load_pretrained
    from ariel_jax.models.params import n_params

    return n_params(load_pretrained(folder).params)


if __name__ == "__main__":
    sys.exit(main())
