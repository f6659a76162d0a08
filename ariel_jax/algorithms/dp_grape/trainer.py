"""Private training as one call: budget, draws, steps, checkpoints and the report belong together here."""

import dataclasses
import hashlib
import hmac
import math
import os
import pathlib
import secrets
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ariel_jax._checks import in_range, one_of, positive, positive_int, seed
from ariel_jax.algorithms.dp_grape import probe, run_file
from ariel_jax.algorithms.dp_grape.config import Config
from ariel_jax.algorithms.dp_grape.methods import PRIVATE, Method, build
from ariel_jax.algorithms.dp_grape.report import PrivacyReport, make_report
from ariel_jax.algorithms.dp_grape.training import Loss, PrivateSource, key_words
from ariel_jax.errors import ConfigError, PrivacyBudgetError
from ariel_jax.privacy.accounting import Plan, calibrate
from ariel_jax.privacy.batches import PoissonSource, overflow, slots
from ariel_jax.privacy.ledger import Ledger, Terms, Ticket
from ariel_jax.privacy.renyi import Price, epsilon
from ariel_jax.training.checkpoints import Checkpoints
from ariel_jax.training.loop import LoopConfig, train

Tree = Any
_MOST_EPSILON = 500.0  # beyond it nothing is protected, and its power has no float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run is beside its data, its loss and its plan.

    Attributes:
        clip_norm: C, the most that an example may change a sum by.
        expected_batch: what sums are divided by; public.
        rows: of every batch, a multiple of `microbatch`; see `plan_for`.
        learning_rate: of Adam.
        method: one of `methods.PRIVATE`.
        cfg: of the projections.
        seed: of the projections; public.
        microbatch: examples whose gradients exist at once; None for all.
    """

    clip_norm: float
    expected_batch: float
    rows: int
    learning_rate: float = 1e-3
    method: str = "dp-grape"
    cfg: Config = dataclasses.field(default_factory=Config)
    seed: int = 0
    microbatch: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive(
            clip_norm=self.clip_norm,
            expected_batch=self.expected_batch,
            learning_rate=self.learning_rate,
        )
        positive_int(rows=self.rows)
        one_of(PRIVATE, method=self.method)
        seed(seed=self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PrivateRun:
    """One private run: `prepare` makes its draws, its gradient and its noise from one set of numbers.

    Attributes:
        plan: what is paid for; its sampling probability and noise multiplier are those of the parts.
        settings: the rest; its clip norm, rows and expected batch are those of the parts.
        source: of the batches; it ends with the plan's steps.
        method: gradient, optimiser and the parameters to begin with.
    """

    plan: Plan
    settings: Settings
    source: PrivateSource
    method: Method

    def details(self, secret: str) -> dict[str, Any]:
        """What a run must have in common with its reservation, as JSON values without secrets.

        Args:
            secret: under which the records are hashed: a plain hash would let others test guesses.
        """
        records = self.source.draws.records
        own = dataclasses.asdict(self.settings)
        projections = own.pop("cfg")
        plan = {name: getattr(self.plan, name) for name in run_file.PLAN_FIELDS}
        projections = {name: _as_json(value) for name, value in projections.items()}
        is_public = self.plan.relation != "add_remove"
        return {
            **plan,
            **own,
            **projections,
            "n_records": self.source.draws.n if is_public else None,
            "records": _fingerprint(records, secret),
        }


def prepare(
    params: Tree,
    *,
    loss: Loss,
    records: Mapping[str, np.ndarray],
    plan: Plan,
    settings: Settings,
    noise_key: jax.Array | None = None,
) -> PrivateRun:
    """The parts of a run, from one plan and one set of settings, so that they cannot disagree.

    Args:
        params: the weights to begin with.
        loss: `loss(params, example, key) -> scalar` of one example; hashable.
        records: arrays [N, ...], a row is what is protected.
        plan: noise, steps and sampling probability; `plan_for` makes one.
        settings: the rest.
        noise_key: [] typed key for this run alone; None draws one from the operating system.

    Raises:
        ConfigError: the sampler is not `poisson`, the noise key may be guessed, or numbers out of range.
    """
    if plan.sampler != "poisson" or plan.sampling_probability is None:
        raise ConfigError(
            f"the plan's sampler is {plan.sampler!r} and this trainer draws 'poisson' samples: plan for "
            "those."
        )
    if noise_key is not None and not any(key_words(noise_key)[:-1]):
        raise ConfigError(
            "the noise key is that of a small seed, as jax.random.key(0) makes it: who guesses the seed "
            "takes the noise away. Pass None, or privacy.secure_key()."
        )
    draws = PoissonSource(
        records=records, probability=plan.sampling_probability, rows=settings.rows
    )
    source = PrivateSource(
        draws=draws,
        clip_norm=settings.clip_norm,
        expected_batch=settings.expected_batch,
        steps=plan.steps,
    )
    method = build(
        settings.method,
        params=params,
        loss=loss,
        source=source,
        noise_multiplier=plan.noise_multiplier,
        learning_rate=settings.learning_rate,
        cfg=settings.cfg,
        projection_key=jax.random.key(settings.seed),
        noise_key=noise_key,
        microbatch=settings.microbatch,
    )
    if not method.is_private:
        raise ConfigError(
            f"method {method.name!r} adds no noise: its epsilon is infinite and no ledger pays for it. "
            "Train without privacy by training.train."
        )
    return PrivateRun(plan=plan, settings=settings, source=source, method=method)


def plan_for(
    *,
    about: int,
    probability: float,
    steps: int,
    epsilon: float,
    delta: float,
    relation: str = "zero_out",
    microbatch: int = 1,
    account_epsilon: float | None = None,
) -> tuple[Plan, int]:
    """The plan with the least noise for a budget, and the rows that its draws fit into.

    Args:
        about: records, or a public number that they do not exceed.
        probability: of a record to be in a batch.
        steps: optimiser steps.
        epsilon: of all steps together ...
        delta: ... at this delta.
        relation: `zero_out`, under which the number of records is public, or `add_remove`.
        microbatch: the rows are a multiple of it.
        account_epsilon: limit of the account that will pay; None where it is `epsilon`.

    Returns:
        (plan, rows); the plan's truncation is what draws of more than `rows` may add to delta.

    Raises:
        PrivacyBudgetError: no noise is enough.
        ConfigError: numbers out of range.
    """
    in_range(0, _MOST_EPSILON, ends="(]", epsilon=epsilon)
    in_range(0, 1, ends="()", delta=delta)
    positive_int(steps=steps)
    limit = epsilon if account_epsilon is None else account_epsilon
    # A millionth of delta, over all steps.
    failure = 1e-6 * delta / (steps * (1 + math.exp(limit)))
    rows = slots(about, probability, multiple=microbatch, failure=failure)
    truncation = steps * (1 + math.exp(limit)) * overflow(about, probability, rows)
    plan = Plan(
        noise_multiplier=1.0,
        steps=steps,
        sampling_probability=probability,
        relation=relation,
        truncation=truncation,
    )
    return calibrate(plan, epsilon=epsilon, delta=delta), rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a run ends with.

    Attributes:
        params: the trained model, whole; it may be released.
        report: of the steps that were taken.
        step: how many.
        interrupted: a signal, or `stop_after`, ended it before its last step; `fit` goes on with it.
    """

    params: Tree
    report: PrivacyReport
    step: int
    interrupted: bool


def fit(
    run: PrivateRun,
    ledger: Ledger,
    folder: str | os.PathLike[str],
    *,
    strict: bool = False,
    stop_after: int | None = None,
    examples: Mapping[str, np.ndarray] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint_every_s: float = 300.0,
    keep: int = 2,
    log_every: int = 10,
    log_private_stats: bool = False,
) -> Fitted:
    """Trains under a budget: reserves, steps, settles; goes on where an earlier call was cut off.

    Args:
        run: of `prepare`; its parameters are given up to the run.
        ledger: the account that pays.
        folder: of this run alone: `run.json`, `checkpoints/`, `metrics.jsonl`. It holds the keys of noise
            and draws: it is for this user only, and stays secret.
        strict: a delta of 1 / N or more is an error instead of a warning.
        stop_after: end after this step, to go on later; None for all that are planned.
        examples: arrays [3, ...] like the records and nobody's, to try a step with before the first real
            one; None makes some up.
        mesh: see `training.train`.
        checkpoint_every_s: see `training.LoopConfig`.
        keep: see there.
        log_every: see there.
        log_private_stats: write losses and the like to `metrics.jsonl`, which no price covers.

    Guarantees:
        The price of the whole plan is reserved before the first gradient, and settled after the last
        step. A run that is killed at any moment and called again with the same arguments finds its
        reservation, makes the same draws and the same noise again and ends with the same bits as one
        that was not; it spends nothing twice. No step beyond the plan is made.

    Raises:
        PrivacyBudgetError: the account does not cover the plan, and nothing was computed; or
            `stop_after` lies beyond it.
        ConfigError: the folder or the reservation is of another run, data set or setting; the step
            mixes examples (`probe.check`); the plan does not fit the account.
        CheckpointError, StorageError: something could not be written; calling again goes on.
    """
    plan, terms = run.plan, ledger.terms
    _check_terms(run, terms, strict)
    last = plan.steps if stop_after is None else stop_after
    positive_int(stop_after=last)
    if last > plan.steps:
        raise PrivacyBudgetError(
            f"stop_after={last} lies beyond the {plan.steps} steps that the plan pays for: plan for more "
            "steps and reserve that price before the run begins."
        )
    folder = pathlib.Path(folder)
    note, ticket = _reserved(run, ledger, folder, examples)
    one = plan.replace(steps=1).price()

    def public(step: int) -> dict[str, float]:
        spent, _ = epsilon(one.curve * step, terms.delta - plan.truncation)
        return {
            "epsilon": float(f"{spent:.6g}"),
            "learning_rate": run.settings.learning_rate,
        }

    result = train(
        run.method.params,
        grad_fn=run.method.grad_fn,
        tx=run.method.tx,
        source=_Ticketed(run.source, note.ticket),
        folder=folder,
        config=LoopConfig(
            steps=last,
            checkpoint_every_s=checkpoint_every_s,
            keep=keep,
            log_every=log_every,
            seed=run.settings.seed,
            log_private_stats=log_private_stats,
        ),
        mesh=mesh,
        public=public,
    )
    note.replace(stopped=result.step).write(folder)
    if ticket is not None and result.step == plan.steps:
        ledger.settle(ticket)
    report = make_report(
        plan,
        terms,
        method=run.method.name,
        clip_norm=run.settings.clip_norm,
        steps=result.step,
        account_epsilon=ledger.epsilon(),
        log_private_stats=log_private_stats,
    )
    return Fitted(
        params=run.method.merged(result.params),
        report=report,
        step=result.step,
        interrupted=result.step < plan.steps,
    )


def abandon(ledger: Ledger, folder: str | os.PathLike[str]) -> Price:
    """Gives a run up that will not go on, and gives back what it did not spend, if that is known.

    Every step that was begun counts in full, whoever was drawn in it. After a run that ended in order
    (a signal, `stop_after`) their number is known, and the steps that were not made are given back. One
    that was killed may have made more steps than its checkpoints say: it is charged all of its plan.

    Args:
        ledger: the account that paid.
        folder: of the run.

    Returns:
        What was charged.

    Raises:
        ConfigError: the folder holds no run, or its reservation is settled.
    """
    note = run_file.read(pathlib.Path(folder))
    tickets = {} if note is None else _own(ledger, note)
    if note is None or not tickets:
        raise ConfigError(
            f"{os.fspath(folder)} has no open reservation in {ledger.path}: name the folder of a run that "
            "was begun and not ended, and the ledger that paid for it."
        )
    (ticket,) = tickets.values()
    plan = Plan(**{name: ticket.details[name] for name in run_file.PLAN_FIELDS})
    used = ticket.price if note.stopped is None else plan.replace(steps=note.stopped).price()
    ledger.settle(ticket, used)
    return used


@dataclasses.dataclass(frozen=True)
class _Ticketed:
    """A source whose state, and so every checkpoint, names the reservation that pays for it."""

    inner: PrivateSource
    ticket: int | None
    is_private: bool = True

    def init(self) -> dict[str, Any]:
        return self.inner.init() | {"ticket": self.ticket}

    def next(self, state: dict[str, Any]) -> Any:
        if state["ticket"] != self.ticket:
            raise ConfigError(
                f"the checkpoint was paid for by reservation {state['ticket']} and this run by "
                f"{self.ticket}: bring back the folder as this run left it."
            )
        return self.inner.next(state)


def _check_terms(run: PrivateRun, terms: Terms, strict: bool) -> None:
    plan, draws = run.plan, run.source.draws
    if plan.relation != terms.relation:
        raise ConfigError(
            f"the plan is for {plan.relation} and the account {terms.account!r} for {terms.relation}: "
            "plan under the account's relation."
        )
    needed = draws.truncation(terms.epsilon, plan.steps)
    if plan.truncation < needed:
        raise ConfigError(
            f"draws of more than {draws.rows} rows may add {needed:.3g} to delta, and the plan says "
            f"{plan.truncation:.3g}: make plan and rows by plan_for, or pass Plan(truncation=...)."
        )
    if terms.delta >= 1 / draws.n:
        message = (
            f"delta={terms.delta:g} is not below 1 / N = {1 / draws.n:.3g} for the {draws.n} records: a "
            "mechanism that publishes one record in full would keep to it. Choose a smaller delta."
        )
        if strict:
            raise ConfigError(message)
        warnings.warn(message, stacklevel=3)


def _reserved(
    run: PrivateRun,
    ledger: Ledger,
    folder: pathlib.Path,
    examples: Mapping[str, np.ndarray] | None,
) -> tuple[run_file.RunFile, Ticket | None]:
    """The run's note with its reservation; the latter is None where it is settled and all is done."""
    note = run_file.read(folder)
    if note is None:
        run_file.check_unused(folder)
        note = run_file.RunFile(run=secrets.token_hex(8), secret=secrets.token_hex(32))
    details = run.details(note.secret)
    found = _own(ledger, note)
    if not found and note.ticket is not None:
        return _finished(run, note, details, ledger, folder), None
    if not found:
        specs = getattr(run.method.grad_fn, "specs", None)
        names = () if specs is None else tuple(spec.path for spec in specs.projected)
        probe.check(
            run.method.grad_fn,
            run.method.params,
            run.source,
            examples=examples,
            projected=names,
        )
        price = run.plan.price()
        if ledger.fits(price):  # else the folder stays as it was
            note.write(folder)
        ticket = ledger.reserve(price, details={"run": note.run} | details)
    else:
        (ticket,) = found.values()
        run_file.check_same(ticket.details, details, f"reservation {ticket.number}")
    note = note.replace(ticket=ticket.number, details=details, stopped=None)
    note.write(folder)
    return note, ticket


def _finished(
    run: PrivateRun,
    note: run_file.RunFile,
    details: Mapping[str, Any],
    ledger: Ledger,
    folder: pathlib.Path,
) -> run_file.RunFile:
    run_file.check_same(note.details, details, f"{folder / run_file.NAME}")
    checkpoints = Checkpoints(folder / "checkpoints", private=True)
    step = checkpoints.latest()
    checkpoints.close()
    if step != run.plan.steps:
        raise ConfigError(
            f"reservation {note.ticket} of the run in {folder} is not open in {ledger.path}: the run was "
            f"given up after step {step} of {run.plan.steps}, or another ledger paid for it. Begin a new "
            "run in another folder, or name that ledger."
        )
    return note


def _own(ledger: Ledger, note: run_file.RunFile) -> dict[int, Ticket]:
    return {t.number: t for t in ledger.open_tickets() if t.details.get("run") == note.run}


def _fingerprint(records: Mapping[str, np.ndarray], secret: str) -> str:
    hashed = hmac.new(bytes.fromhex(secret), digestmod=hashlib.sha256)
    for name in sorted(records):
        array = np.ascontiguousarray(records[name])
        hashed.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]


def _as_json(value: Any) -> Any:
    return [_as_json(inner) for inner in value] if isinstance(value, tuple) else value
