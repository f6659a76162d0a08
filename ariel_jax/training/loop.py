"""The training loop that every trainer of this package uses."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

from ariel_jax import durable
from ariel_jax._checks import non_negative, positive_int, seed
from ariel_jax.errors import ConfigError
from ariel_jax.models.quantization import check_not_quantized
from ariel_jax.training import programs
from ariel_jax.training.checkpoints import Checkpoints
from ariel_jax.training.data import BatchSource
from ariel_jax.training.metrics import MetricsLog, Progress
from ariel_jax.training.placement import any_process, place_batch, place_key, place_params
from ariel_jax.training.step import GradFn, Info, Tree

Reduce = Callable[[Tree, int], tuple[Tree, bool]]
Public = Callable[[int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a run is and what it leaves on disk.

    Attributes:
        steps: optimiser steps in all, those of earlier runs included.
        microbatches: parts that a batch is computed in, one after another.
        checkpoint_every_s: seconds between checkpoints, 0 for one after every step; one is always
            written at the end.
        keep: checkpoints kept.
        log_every: steps between rows of `metrics.jsonl`.
        seed: of the keys that `grad_fn` gets; a private run draws theirs in secret instead.
        log_private_stats: write what a private run knows of its data (losses, norms) to
            `metrics.jsonl`. No guarantee covers those numbers.
    """

    steps: int
    microbatches: int = 1
    checkpoint_every_s: float = 300.0
    keep: int = 2
    log_every: int = 10
    seed: int = 0
    log_private_stats: bool = False

    def __post_init__(self) -> None:
        positive_int(
            steps=self.steps,
            microbatches=self.microbatches,
            keep=self.keep,
            log_every=self.log_every,
        )
        non_negative(checkpoint_every_s=self.checkpoint_every_s)
        seed(seed=self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run ends with.

    Attributes:
        params: the trained tree.
        step: steps made in all.
        interrupted: a signal ended it before its last step; a checkpoint was written.
        cursor: the source's state after the last batch, as the last checkpoint holds it.
    """

    params: Tree
    step: int
    interrupted: bool
    cursor: Mapping[str, Any]


def identity(tree: Tree, step: int) -> tuple[Tree, bool]:
    """The reduction of a trainer that needs none: `(tree, True)`."""
    return tree, True


def is_private(grad_fn: Any, source: Any) -> bool:
    """Whether what a run sees of its data may not be shown: either of the two says so."""
    return any(getattr(part, "is_private", False) for part in (grad_fn, source))


def no_numbers(step: int) -> Mapping[str, float]:
    """The public numbers of a run that has none beside its metrics."""
    return {}


def train(
    params: Tree,
    *,
    grad_fn: GradFn,
    tx: optax.GradientTransformation,
    source: BatchSource,
    folder: str | os.PathLike[str],
    config: LoopConfig,
    reduce: Reduce = identity,
    mesh: jax.sharding.Mesh | None = None,
    resume: bool = True,
    public: Public = no_numbers,
) -> TrainResult:
    """Trains until `config.steps`, from the newest checkpoint in `folder` if there is one.

    Args:
        params: the first parameters; given up to the run (donated).
        grad_fn: what a step computes of a batch. If it has a method `check(batch, is_padding)`, every whole
            batch goes through that first, on the host, to be refused by an error.
        tx: the optimiser.
        source: batches; with several processes each makes the same ones and keeps its rows.
        folder: gets `checkpoints/` and `metrics.jsonl`; all processes see the same one.
        config: the run.
        reduce: between gradient and optimiser, on the host: `(tree, step) -> (tree, ok)`. With
            ok False nothing is applied; the step counts all the same.
        mesh: with an axis `data`, over which the rows of a batch are split, and perhaps others over
            which `params` already lie; None trains on one device.
        resume: False refuses a folder that holds checkpoints.
        public: further numbers for the row of a step, which may be shown to anyone.

    Returns:
        The parameters, the step and whether a signal came.

    A run is private if `grad_fn` or `source` has a true attribute `is_private`. What its gradients
    say of the data is then not written, unless `config.log_private_stats`; `reduce` is refused,
    because it would see the sum before the noise; the optimiser's first state is made outside of any
    program, so that the key of the noise stands in none; `checkpoints/` and `metrics.jsonl` are for
    this user only, and so is a folder that the run makes or finds empty (one that holds other things
    keeps its permissions); the keys of `grad_fn` come from the operating system, because a bound on
    what a record changes holds for nobody who knows them; and a checkpoint is written before the
    first step, so that a run that is killed makes the same draws and the same noise again.

    Guarantees:
        A run that is killed at any moment and started again with the same arguments ends with the
        same bits as one that was not. SIGINT and SIGTERM end the step in progress (with several
        processes, that of the next report), write a checkpoint and return with `interrupted`.

    Raises:
        CheckpointError: a checkpoint cannot be written or read; earlier ones are still there.
        StorageError: the metrics cannot be written, or the folder of a private run not be made.
        ConfigError: the folder holds checkpoints and `resume` is False, the rows of a batch
            cannot be divided over devices and microbatches, `params` are quantised, or a private
            run has a `reduce` or several processes.
    """
    check_not_quantized(params, "training")
    private = is_private(grad_fn, source)
    if private:
        _check_private(reduce)
    what: dict[str, Any] = {"tx": tx, "source": source, "mesh": mesh, "private": private}
    run = _Run(params, folder=pathlib.Path(folder), config=config, **what)
    run.restore(resume)
    with Progress(config.steps, run.step) as progress, _until_signal() as signalled:
        stop = False
        while run.step < config.steps and not stop:
            info, ok = run.advance(grad_fn, reduce)
            reports = run.step % config.log_every == 0 or run.step == config.steps
            if reports:
                row = run.report(info, ok, public(run.step))
                shown = [f"{name} {row[name]:.4f}" for name in ("loss", "epsilon") if name in row]
                progress.update(run.step, ", ".join(shown) or None)
            if reports or jax.process_count() == 1:
                stop, is_due = any_process(signalled(), run.checkpoint_is_due())
                if is_due:
                    run.save()
    run.save()
    run.checkpoints.close()
    return TrainResult(
        params=run.params, step=run.step, interrupted=run.step < config.steps, cursor=run.cursor
    )


def _check_private(reduce: Reduce) -> None:
    """Raises ConfigError for what would break the guarantee of a private run."""
    if reduce is not identity:
        raise ConfigError(
            "reduce= would see the sum of private gradients before noise is added to it: leave it out, "
            "or make it a part of the optimiser, behind the noise."
        )
    if jax.process_count() > 1:
        raise ConfigError(
            f"a private run has one process, on all its devices; here are {jax.process_count()}: each would "
            "draw secret keys of its own."
        )


class _Run:
    """What a run holds between steps, and what it writes."""

    def __init__(
        self,
        params: Tree,
        *,
        tx: optax.GradientTransformation,
        source: BatchSource,
        folder: pathlib.Path,
        config: LoopConfig,
        mesh: jax.sharding.Mesh | None,
        private: bool,
    ):
        self.tx, self.source, self.folder, self.config, self.mesh = tx, source, folder, config, mesh
        self.private = private
        if private:
            _make_private(folder)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=config.keep, private=private)
        self.params = place_params(params, mesh)
        # A program would keep the key of the noise as a constant.
        init = tx.init if private else functools.partial(programs.init_optimizer, tx=tx)
        self.opt_state = place_params(init(self.params), mesh)
        self.key_data = place_key(_key_data(None if private else config.seed), mesh)
        self.step, self.cursor = 0, source.init()

    def restore(self, resume: bool) -> None:
        if self.checkpoints.latest() is not None:
            if not resume:
                raise ConfigError(
                    f"{self.folder} already holds checkpoints of a run: continue it with resume, "
                    "or choose another folder."
                )
            self.step, state, self.cursor = self.checkpoints.restore(self._state())
            self.params, self.opt_state = state["params"], state["opt_state"]
            self.key_data = state["key"]
        elif self.private:
            self.checkpoints.save(0, self._state(), self.cursor)
        self.log = None
        if jax.process_index() == 0:
            self.log = MetricsLog(
                self.folder / "metrics.jsonl", step=self.step, private=self.private
            )
        self.saved_at = self.reported_at = time.monotonic()
        self.reported_step = self.step

    def _state(self) -> dict[str, Any]:
        return {"params": self.params, "opt_state": self.opt_state, "key": self.key_data}

    def advance(self, grad_fn: GradFn, reduce: Reduce) -> tuple[Info, bool]:
        config = self.config
        (batch, is_padding), self.cursor = self.source.next(self.cursor)
        if (check := getattr(grad_fn, "check", None)) is not None:
            check(batch, is_padding)
        batch, is_padding = place_batch(batch, is_padding, self.mesh, config.microbatches)
        key = jax.random.fold_in(jax.random.wrap_key_data(self.key_data), self.step)
        tree, info = programs.grads(
            self.params,
            batch,
            is_padding,
            key,
            grad_fn=grad_fn,
            microbatches=config.microbatches,
            mesh=self.mesh,
        )
        tree, ok = reduce(tree, self.step)
        if ok:
            self.params, self.opt_state, more = programs.apply(
                self.params, self.opt_state, tree, tx=self.tx
            )
            info = info | more
        self.step += 1
        return info, bool(ok)

    def report(self, info: Info, ok: bool, public: Mapping[str, float]) -> dict[str, Any]:
        if self.private and not self.config.log_private_stats:
            row: dict[str, Any] = {"step": self.step}
        else:
            row = _row(self.step, info, ok)
        row |= public
        now = time.monotonic()
        row["s_per_step"] = round((now - self.reported_at) / (self.step - self.reported_step), 4)
        self.reported_at, self.reported_step = now, self.step
        if self.log is not None:
            self.log.write(row)
        return row

    def checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.saved_at > self.config.checkpoint_every_s

    def save(self) -> None:
        self.checkpoints.save(self.step, self._state(), self.cursor)
        self.saved_at = time.monotonic()


def _make_private(folder: pathlib.Path) -> None:
    """Makes a folder for this user only; one that holds something is left as it is."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            folder.chmod(0o700)
    except OSError as error:
        raise durable.storage_error(folder, error) from error


def _key_data(of_seed: int | None) -> Any:
    """Words of the key of a seed, or without one of a key that nobody can guess."""
    words = jax.random.key_data(jax.random.key(of_seed or 0))
    if of_seed is not None:
        return words
    return np.frombuffer(secrets.token_bytes(4 * words.size), np.uint32).reshape(words.shape)


def _row(step: int, info: Info, ok: bool) -> dict[str, Any]:
    values = {name: float(f"{float(value):.7g}") for name, value in info.items()}
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
