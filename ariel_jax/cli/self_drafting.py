"""The flags of `ariel-jax generate --strategy del`: which strategy they name, and its live line."""

import sys
from typing import Any

from ariel_jax.algorithms import del_exit
from ariel_jax.cli.console import profile_store, say
from ariel_jax.decode import Run
from ariel_jax.decode.engine import bucket
from ariel_jax.errors import ConfigError
from ariel_jax.models import hf

FLAGS = ("exits", "verifier", "costs", "controller")


def check(args: Any) -> bool:
    """Whether `--strategy del` is asked for.

    Raises:
        ConfigError: one of its flags without it.
    """
    if args.strategy.partition(":")[0] == "del":
        return True
    given = [f"--{name}" for name in FLAGS if getattr(args, name) is not None]
    if given:
        raise ConfigError(
            f"{', '.join(given)} with --strategy {args.strategy}: these belong to --strategy del."
        )
    return False


def make(args: Any, model: hf.Model, prompts: list[list[int]]) -> tuple[Any, Any]:
    """The strategy and its numbers.

    Raises:
        ConfigError: exits that are none, or numbers out of range.
    """
    _, colon, number = args.strategy.partition(":")
    if colon and not number.isdecimal():
        raise ConfigError(f"--strategy {args.strategy!r} is not known: pass del[:DRAFTS].")
    drafts = int(number) if colon else 7
    exits = _exits(args.exits) if args.exits else model.early_exits
    if exits and not args.exits:
        say(f"the checkpoint notes exits after layers {exits}: drafting there")
    exits = exits or del_exit.default_exits(model.cfg.n_layers)
    rows = tuple(r for r in (2, 4, 8, 16) if r < drafts + 1)
    how = del_exit.named(
        args.controller or "del", exits=exits, max_draft=drafts, row_buckets=(*rows, drafts + 1)
    )
    how.check(model.cfg.n_layers)
    if (args.costs or "measured") == "layers":
        costs = del_exit.layer_costs(how, model.cfg.n_layers)
    else:
        longest = max(len(p) for p in prompts) + args.max_new + how.rows
        costs = del_exit.measured_costs(
            model.cfg,
            model.params,
            how,
            batch=len(prompts),
            capacity=bucket(longest, 128),
            n_runs=3,
            store=profile_store(),
            say=say,
        )
    every, idle = del_exit.look_every(costs), del_exit.idle_every(costs)
    extra = del_exit.tuning(
        how, model.cfg.n_layers, costs=costs, shadow_every=every, idle_every=idle
    )
    return del_exit.SelfSpeculative(how, args.verifier or "coupled"), extra


def _exits(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"--exits {text!r} is not allowed: pass layers, rising, as in 1,2,4,8.")
    return tuple(int(part) for part in parts)


class Live:
    """Keeps the latest numbers of a run, and writes them over one line of stderr where asked."""

    def __init__(self, strategy: del_exit.SelfSpeculative, n_layers: int, *, shown: bool) -> None:
        self._how, self._n_layers, self._shown = strategy.config, n_layers, shown
        self._width = 0
        self.latest: del_exit.Progress | None = None

    def __call__(self, run: Run) -> None:
        """Take note of where the run is."""
        self.latest = del_exit.progress(self._how, run.state)
        if self._shown:
            line = self.line()
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)
            if run.done.all():
                sys.stderr.write("\n")

    def line(self) -> str:
        """The numbers in words."""
        return "" if self.latest is None else self.latest.line(self._n_layers)

    def explain(self) -> None:
        """Says it where next to nothing was drafted."""
        if self.latest is not None and self.latest.is_plain:
            estimates = self.latest.acceptance_by_exit.items()
            shares = ", ".join(f"{exit}: {100 * share:.0f} %" for exit, share in estimates)
            say(
                "drafts of this model's own layers do not pay here, so decoding was plain; estimated "
                f"acceptance by exit: {shares}. Models trained with early exits do better."
            )
