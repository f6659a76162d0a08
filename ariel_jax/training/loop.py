"""The training loop that every trainer of this package uses."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax

from ariel_jax._checks import positive_int
from ariel_jax.training import programs
from ariel_jax.training.checkpoints import Checkpoints
from ariel_jax.training.data import BatchSource
from ariel_jax.training.metrics import MetricsLog, Progress
from ariel_jax.training.step import GradFn, Info, Tree

Reduce = Callable[[Tree, int], tuple[Tree, bool]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a run is and what it leaves on disk.

    Attributes:
        steps: optimiser steps in all, those of earlier runs included.
        microbatches: parts that a batch is computed in, one after another.
        checkpoint_every_s: seconds between checkpoints; one is always written at the end.
        keep: checkpoints kept.
        log_every: steps between rows of `metrics.jsonl`.
        seed: of the keys that `grad_fn` gets.
    """

    steps: int
    microbatches: int = 1
    checkpoint_every_s: float = 300.0
    keep: int = 2
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        positive_int(
            steps=self.steps,
            microbatches=self.microbatches,
            keep=self.keep,
            log_every=self.log_every,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run ends with.

    Attributes:
        params: the trained tree.
        step: steps made in all.
        interrupted: a signal ended it before its last step; a checkpoint was written.
    """

    params: Tree
    step: int
    interrupted: bool


def identity(tree: Tree, step: int) -> tuple[Tree, bool]:
    """The reduction of a trainer that needs none: `(tree, True)`."""
    return tree, True


def train(
    params: Tree,
    *,
    grad_fn: GradFn,
    tx: optax.GradientTransformation,
    source: BatchSource,
    folder: str | os.PathLike[str],
    config: LoopConfig,
    reduce: Reduce = identity,
    resume: bool = True,
) -> TrainResult:
    """Trains until `config.steps`, from the newest checkpoint in `folder` if there is one.

    Args:
        params: the first parameters; given up to the run (donated).
        grad_fn: what a step computes of a batch.
        tx: the optimiser.
        source: batches.
        folder: gets `checkpoints/` and `metrics.jsonl`.
        config: the run.
        reduce: between gradient and optimiser, on the host: `(tree, step) -> (tree, ok)`. With
            ok False nothing is applied; the step counts all the same.
        resume: False refuses a folder that holds checkpoints.

    Returns:
        The parameters, the step and whether a signal came.

    Guarantees:
        A run that is killed at any moment and started again with the same arguments ends with the
        same bits as one that was not. SIGINT and SIGTERM end the step in progress, write a
        checkpoint and return with `interrupted`.

    Raises:
        CheckpointError: a checkpoint cannot be written or read; earlier ones are still there.
    """
    folder = pathlib.Path(folder)
    checkpoints = Checkpoints(folder / "checkpoints", keep=config.keep)
    state = {
        "params": params,
        "opt_state": programs.init_optimizer(params, tx=tx),
        "key": jax.random.key_data(jax.random.key(config.seed)),
    }
    step, cursor = 0, source.init()
    if checkpoints.latest() is not None:
        _may_resume(resume, folder)
        step, state, cursor = checkpoints.restore(state)
    params, opt_state, key_data = state["params"], state["opt_state"], state["key"]
    del state
    root = jax.random.wrap_key_data(key_data)

    def save() -> None:
        state = {"params": params, "opt_state": opt_state, "key": key_data}
        checkpoints.save(step, state, cursor)

    log = MetricsLog(folder / "metrics.jsonl", step=step)
    saved_at = logged_at = time.monotonic()
    logged_step = step
    with Progress(config.steps, step) as progress, _until_signal() as signalled:
        while step < config.steps and not signalled():
            (batch, is_padding), cursor = source.next(cursor)
            tree, info = programs.grads(
                params,
                batch,
                is_padding,
                jax.random.fold_in(root, step),
                grad_fn=grad_fn,
                microbatches=config.microbatches,
            )
            tree, ok = reduce(tree, step)
            if ok:
                params, opt_state, more = programs.apply(params, opt_state, tree, tx=tx)
                info = info | more
            step += 1
            if step % config.log_every == 0 or step == config.steps:
                row = _row(step, info, ok)
                now = time.monotonic()
                row["s_per_step"] = round((now - logged_at) / (step - logged_step), 4)
                logged_at, logged_step = now, step
                log.write(row)
                progress.update(step, f"loss {row['loss']:.4f}" if "loss" in row else None)
            if time.monotonic() - saved_at > config.checkpoint_every_s:
                save()
                saved_at = time.monotonic()
    save()
    checkpoints.close()
    return TrainResult(params=params, step=step, interrupted=step < config.steps)


def _may_resume(resume: bool, folder: pathlib.Path) -> None:
    from ariel_jax.errors import ConfigError

    if not resume:
        raise ConfigError(
            f"{folder} already holds checkpoints of a run: continue it with resume, or choose "
            "another folder."
        )


def _row(step: int, info: Info, ok: bool) -> dict[str, Any]:
    values = {name: round(float(value), 6) for name, value in info.items()}
    return {"step": step, "applied": bool(ok)} | values


@contextlib.contextmanager
def _until_signal() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGINT or SIGTERM came; a second one acts as usual."""
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        came.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals are somebody else's
        before.clear()
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
