"""`ariel-jax kernels`: the native CPU kernels: build them, see them, record where they pay."""

import itertools
import json
import pathlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ariel_jax import durable, measure
from ariel_jax.cli.console import say
from ariel_jax.errors import ConfigError, KernelUnavailableError
from ariel_jax.pallas_kernels import benchmark, native, tune


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax kernels`."""

    what: Annotated[Literal["build", "show", "bench"], tyro.conf.Positional]
    """Compile them; say what there is of them; or time them and record where they pay."""
    scale: Literal["smoke", "cpu"] = "cpu"
    """Of bench: a few tiny shapes, recorded nowhere, or those of real models (some minutes)."""
    model: str | None = None
    """Of bench: time the shapes of this model instead, nano or a folder in Hugging Face form."""
    out: str | None = None
    """Of bench: also write kernels.json and kernels.md to this folder."""
    json: bool = False
    """Print one JSON object instead of text."""


def run(args: Args) -> int:
    """Builds, shows or times; returns 0, or 1 if the kernels cannot be used.

    Raises:
        KernelUnavailableError: no compiler, it refused the code, or nothing is built to be timed.
        StorageError: the user's cache folder or --out cannot be written.
        ConfigError: --out or --model without bench, or --model beside --scale smoke.
        CheckpointError: the model's configuration cannot be read.
    """
    for flag, value in (("out", args.out), ("model", args.model)):
        if value is not None and args.what != "bench":
            raise ConfigError(f"--{flag} {value} belongs to `ariel-jax kernels bench`.")
    if args.model is not None and args.scale == "smoke":
        raise ConfigError(
            f"--model {args.model} has shapes of its own and --scale smoke tiny ones: pass one of the two."
        )
    if args.what == "build":
        native.build(say=say)
    if args.what == "bench":
        return _bench(args)
    found = native.describe()
    if args.json:
        print(json.dumps(found))
    elif found["loaded"]:
        print(f"native kernels: {found['instructions']}, {found['threads']} threads")
    else:
        print(f"native kernels: none: {found['reason']}")
    return 0 if found["loaded"] else 1


def _bench(args: Args) -> int:
    if (reason := native.why_not()) is not None:
        raise KernelUnavailableError(f"there is nothing to time: {reason}.")
    out = None if args.out is None else pathlib.Path(args.out)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise durable.storage_error(out, error) from error
    options: dict[str, Any] = {}
    tops: dict[str, Any] = {}
    heads: dict[str, Any] = {}
    if args.model is not None:
        options, tops, heads = _of_model(args.model)
    if args.scale == "smoke":
        options = tops = {"shapes": ((64, 96),), "rows": (1, 4)}
        heads = {"heads": ((2, 2, 16),), "capacities": (64,), "batches": (1,)}
    rates = [measure.ceilings(remeasure=True).read_bytes_per_s]
    rows: list[benchmark.Timed] = []
    shapes = itertools.chain(
        benchmark.products(**options),
        benchmark.top_tokens(**tops),
        benchmark.attentions(**heads),
    )
    for timed in shapes:
        say(f"{timed.op} {timed.shape}: {_times(timed.seconds)}")
        rows.append(timed)
        if args.scale == "cpu":  # kept as it comes: an interrupted run is not lost
            tune.record(timed.op, {timed.shape: timed.seconds})
    rates.append(measure.ceilings(remeasure=True).read_bytes_per_s)
    rate = max(rates)
    judged: list[benchmark.Verdict] = []
    if args.scale == "cpu" and args.model is None:  # the aims are for known shapes
        for verdict in benchmark.shares():
            say(f"{verdict.what}: {verdict.value:.2f}")
            judged.append(verdict)
        judged.append(benchmark.unused_capacity())
    text = _table(rows, rate) + _targets(judged, rates)
    document = {
        "machine": measure.fingerprint(),
        **{name: native.describe()[name] for name in tune.SAME},
        "read_bytes_per_s": rates,
        "rows": [vars(row) for row in rows],
        "targets": [vars(verdict) | {"holds": verdict.holds} for verdict in judged],
    }
    print(json.dumps(document) if args.json else text)
    if out is not None:
        durable.write_json(out / "kernels.json", document)
        durable.write_bytes(out / "kernels.md", text.encode())
    return 0 if all(verdict.holds for verdict in judged) else 1


def _of_model(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What to time of products, of the likeliest token and of attention."""
    from ariel_jax.models.hf import load_pretrained
    from ariel_jax.models.params import head
    from ariel_jax.models.paths import flatten

    model = load_pretrained(name)
    cfg, vocabulary = model.cfg, head(model.params).w.shape
    leaves = flatten(model.params).items()
    weights = {leaf.shape for path, leaf in leaves if path.endswith(".w")} | {vocabulary}
    shapes = sorted((n_in, n_out) for n_out, n_in in weights)
    kinds = ("float32", "bfloat16", "int8")
    products = {"shapes": shapes, "kinds": kinds}
    heads = (cfg.n_heads, cfg.n_kv_heads, cfg.head_dim)
    return products, {"shapes": (vocabulary[::-1],)}, {"heads": (heads,)}


def _times(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {1e3 * s:.3f} ms" for name, s in seconds.items())


def _table(rows: list[benchmark.Timed], rate: float) -> str:
    lines = [
        "| operation | shape | native, ms | reference, ms | reference / native | % of read bandwidth |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, theirs = row.seconds["native"], row.seconds["reference"]
        lines.append(
            f"| {row.op} | {row.shape} | {1e3 * ours:.3f} | {1e3 * theirs:.3f} "
            f"| {theirs / ours:.2f} | {100 * row.n_bytes / ours / rate:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _targets(found: list[benchmark.Verdict], rates: list[float]) -> str:
    measured = " and ".join(f"{rate / 1e9:.1f}" for rate in rates)
    lines = [
        "",
        f"Read bandwidth before and after: {measured} GB/s; shares are of that beside each.",
    ]
    if found:
        lines += ["", "| aim | measured | target | verdict |", "|---|---|---|---|"]
    for verdict in found:
        sign = ">=" if verdict.at_least else "<="
        lines.append(
            f"| {verdict.what} | {verdict.value:.2f} | {sign} {verdict.target:.2f} "
            f"| {'ok' if verdict.holds else 'FAIL'} |"
        )
    return "\n".join(lines) + "\n"
