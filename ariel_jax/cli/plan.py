"""`ariel-jax plan capacity`: which cache capacities suit a model on this machine, and why."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ariel_jax._checks import positive_int
from ariel_jax.algorithms import bmc
from ariel_jax.cli.console import profile_store, say
from ariel_jax.decode import Run, start
from ariel_jax.decode.capacity import Iterative
from ariel_jax.errors import ConfigError
from ariel_jax.models import hf


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax plan`."""

    what: Annotated[Literal["capacity"], tyro.conf.Positional]
    """What to plan."""
    model: Annotated[str, tyro.conf.arg(metavar="nano|FOLDER")] = "nano"
    """A folder in Hugging Face form, or nano."""
    prompt_len: int = 64
    """Tokens of the prompt."""
    max_new: int = 900
    """Tokens to generate."""
    batch: int = 1
    """Requests at once."""
    granularity: int = 64
    """Capacities are multiples of this."""
    measured: bool = True
    """Also decode once under each policy and say how fast that was."""
    remeasure: bool = False
    """Measure growths and steps again, though there is an earlier profile."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(args: Args) -> int:
    """Prints the plan; returns 0.

    Raises:
        ConfigError: more tokens than the model has positions, or counts below 1.
    """
    positive_int(
        prompt_len=args.prompt_len,
        max_new=args.max_new,
        batch=args.batch,
        granularity=args.granularity,
    )
    model = hf.load_pretrained(args.model)
    if args.prompt_len + args.max_new > model.cfg.max_positions or args.max_new < 2:
        raise ConfigError(
            f"--prompt-len {args.prompt_len} and --max-new {args.max_new}: together at most the "
            f"model's {model.cfg.max_positions} positions, and at least 2 new tokens."
        )
    steps = args.max_new - 1  # prefill draws the first token
    profile = bmc.profile(
        model.cfg,
        model.params,
        batch=args.batch,
        capacities=bmc.default_capacities(args.prompt_len + args.max_new),
        store=profile_store(),
        remeasure=args.remeasure,
        say=say,
    )
    plan = bmc.plan(profile, prompt=args.prompt_len, steps=steps, granularity=args.granularity)
    rows = [_row(args, model, row) for row in plan.rows]
    if args.json:
        found = {"profile": dataclasses.asdict(profile), "rows": rows}
        print(
            json.dumps(
                found | {"r": plan.best_r, "choice": plan.choice, "why": plan.why, "fit": plan.fit}
            )
        )
        return 0
    print(_table(rows))
    print(f"\n{plan.why}")
    print(plan.fit)
    return 0


def _row(args: Args, model: hf.Model, row: bmc.Row) -> dict[str, Any]:
    found = dataclasses.asdict(row) | {"measured_tokens_per_s": None}
    del found["policy"]
    if args.measured and not isinstance(row.policy, Iterative):
        say(f"decoding under {row.name}")
        _decode(args, model, row)  # compiles
        report = _decode(args, model, row).report
        found["measured_tokens_per_s"] = report.decode_steps / (report.decode_s + report.grow_s)
    return found


def _decode(args: Args, model: hf.Model, row: bmc.Row) -> Run:
    prompt = [1 + i % (model.cfg.vocab_size - 1) for i in range(args.prompt_len)]
    run = start(
        model.cfg,
        model.params,
        [prompt] * args.batch,
        max_new=args.max_new,
        capacity=row.policy,
    )
    while run.advance():
        pass
    return run


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| policy | allocations | rows copied | redundant row-steps | rows at the end "
        "| overhead, s | predicted tokens/s | measured tokens/s | measured / predicted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        measured, predicted = row["measured_tokens_per_s"], row["tokens_per_s"]
        lines.append(
            f"| {row['name']} | {row['allocations']:,} | {row['rows_copied']:,} "
            f"| {row['redundant_row_steps']:,} | {row['capacities'][-1]:,} "
            f"| {row['overhead_s']:.3f} | {row['tokens_per_s']:.1f} "
            + ("| | |" if measured is None else f"| {measured:.1f} | {measured / predicted:.2f} |")
        )
    return "\n".join(lines)
