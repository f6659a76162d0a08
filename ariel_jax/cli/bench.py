"""`ariel-jax bench decode`: how fast decoding is here, beside transformers."""

import dataclasses
import pathlib
import platform as host
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ariel_jax import backend, bench, durable
from ariel_jax._checks import positive_int
from ariel_jax.cli.console import say
from ariel_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax bench`."""

    what: Annotated[Literal["decode"], tyro.conf.Positional]
    """What to measure."""
    against: Literal["transformers", "none"] = "none"
    """The other side: transformers `generate` in a process of its own, or nobody."""
    cases: tuple[str, ...] = ("full",)
    """Names of cases, or the lists `full`, `growing` and `smoke`."""
    growing: bool = False
    """Measure the cases in which the cache grows to 2,048 rows; the same as --cases growing."""
    dtypes: str = "f32"
    """What our weights are stored in, separated by commas: f32, bf16, int8."""
    pairs: int = 5
    """How many times each side is measured, in turn."""
    threads: int = 2
    """Processors that each side may use."""
    memory: bool = True
    """Also report the temporary bytes of the compiled programs."""
    json: str | None = None
    """Also write the rows to this file."""


def run(args: Args) -> int:
    """Prints the table; returns 0 if every target was reached, else 1."""
    positive_int(pairs=args.pairs, threads=args.threads)
    if args.growing and args.cases != ("full",):
        raise ConfigError(
            f"--growing stands for --cases growing; it was given beside --cases "
            f"{' '.join(args.cases)}. Pass one of the two."
        )
    cases = bench.select(("growing",) if args.growing else args.cases)
    if args.dtypes != "f32":
        cases = bench.in_dtypes(cases, args.dtypes.split(","))
    if args.json is not None and not pathlib.Path(args.json).absolute().parent.is_dir():
        # Said now, not after half an hour of measuring.
        raise ConfigError(
            f"--json {args.json}: its folder does not exist. Make it, or choose another."
        )
    against = None if args.against == "none" else args.against
    platform = backend.platform()
    rows: list[bench.Row] = []
    try:
        for case in cases:
            rows += bench.compare(
                case,
                against=against,
                pairs=args.pairs,
                threads=args.threads,
                platform=platform,
                say=say,
            )
        if args.memory and not cases[0].grows:
            say("memory of the compiled programs")
            rows += bench.memory_rows(cases[0], threads=args.threads, platform=platform)
    finally:  # what was measured before something failed is not lost
        if rows:
            print(bench.markdown(rows), flush=True)
        if rows and args.json is not None:
            durable.write_json(args.json, document(rows, args))
    failed = [row for row in rows if row.verdict == "FAIL"]
    if failed:
        say(f"{len(failed)} of {len(rows)} rows missed their target")
    return 1 if failed else 0


def document(rows: list[bench.Row], args: Args) -> dict[str, Any]:
    """The rows with what they depend on, ready for JSON."""
    return {
        "command": "bench decode",
        "arguments": dataclasses.asdict(args),
        "python": host.python_version(),
        "machine": host.machine(),
        "rows": [dataclasses.asdict(row) | {"verdict": row.verdict} for row in rows],
    }
