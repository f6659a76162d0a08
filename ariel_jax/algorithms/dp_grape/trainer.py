"""Private training as one call: budget, draws, steps, checkpoints and the report belong together here."""

import dataclasses
import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ariel_jax._checks import in_range, one_of, positive, positive_int, seed
from ariel_jax.algorithms.dp_grape import _reservation, run_file
from ariel_jax.algorithms.dp_grape.canaries import check_count
from ariel_jax.algorithms.dp_grape.config import Config
from ariel_jax.algorithms.dp_grape.methods import PRIVATE, Method, build
from ariel_jax.algorithms.dp_grape.report import PrivacyReport, make_report
from ariel_jax.algorithms.dp_grape.training import Loss, PrivateSource, key_words
from ariel_jax.errors import ConfigError, PrivacyBudgetError
from ariel_jax.privacy.accounting import Plan, calibrate
from ariel_jax.privacy.batches import PoissonSource, overflow, slots
from ariel_jax.privacy.ledger import Ledger, Terms
from ariel_jax.privacy.renyi import FREE, Price, epsilon
from ariel_jax.training.loop import LoopConfig, train

Tree = Any
MOST_EPSILON = _reservation.MOST_EPSILON


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
        about: under `add_remove` a public number that the records do not exceed, which the account's
            delta is compared with; None for the expected batch over the sampling probability.
        canaries: how many of the last records are nobody's and there for an audit, see `canaries`; None
            for none. Each takes part by a secret coin that lies in the checkpoints.
    """

    clip_norm: float
    expected_batch: float
    rows: int
    learning_rate: float = 1e-3
    method: str = "dp-grape"
    cfg: Config = dataclasses.field(default_factory=Config)
    seed: int = 0
    microbatch: int | None = None
    about: int | None = None
    canaries: int | None = None

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
        if self.about is not None:
            positive_int(about=self.about)
        if self.canaries is not None:
            check_count(self.canaries)
        if self.microbatch is not None:
            positive_int(microbatch=self.microbatch)
            if self.rows % self.microbatch:
                raise ConfigError(
                    f"rows={self.rows} is no multiple of microbatch={self.microbatch}: take both from "
                    "plan_for(microbatch=)."
                )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PrivateRun:
    """One private run: `prepare` makes its draws, its gradient and its noise from one set of numbers.

    It is good for one call of `fit`: it holds one key of the noise, and gives its parameters up.

    Attributes:
        plan: what is paid for; its sampling probability and noise multiplier are those of the parts.
        settings: the rest; its clip norm, rows and expected batch are those of the parts.
        source: of the batches; it ends with the plan's steps.
        method: gradient, optimiser and the parameters to begin with.
        loss: what is called so in the reservation.
        weights: digest of the parameters to begin with.
        options: of the method, as they stand in the reservation.
        begun: the folder that `fit` began or went on with it in; none before.
    """

    plan: Plan
    settings: Settings
    source: PrivateSource
    method: Method
    loss: str
    weights: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    begun: list[str] = dataclasses.field(default_factory=list, init=False)

    def details(self, secret: str) -> dict[str, Any]:
        """What a run must have in common with its reservation, as JSON values without secrets.

        Args:
            secret: under which the records are hashed: a plain hash would let others test guesses.
        """
        records = self.source.draws.records
        own = dataclasses.asdict(self.settings)
        projections = own.pop("cfg")
        plan = {name: getattr(self.plan, name) for name in run_file.PLAN_FIELDS}
        projections = {name: _reservation.as_json(value) for name, value in projections.items()}
        is_public = self.plan.relation != "add_remove"
        return {
            **plan,
            **own,
            **projections,
            "n_records": self.source.draws.n if is_public else None,
            "records": _reservation.fingerprint(records, secret),
            "loss": self.loss,
            "weights": self.weights,
            "options": dict(self.options),
        }


def prepare(
    params: Tree,
    *,
    loss: Loss,
    records: Mapping[str, np.ndarray],
    plan: Plan,
    settings: Settings,
    noise_key: jax.Array | None = None,
    loss_name: str | None = None,
    **options: Any,
) -> PrivateRun:
    """The parts of a run, from one plan and one set of settings, so that they cannot disagree.

    Args:
        params: the weights to begin with.
        loss: `loss(params, example, key) -> scalar` of one example; hashable.
        records: arrays [N, ...], a row is what is protected; canaries behind the real ones.
        plan: noise, steps and sampling probability; `plan_for` makes one.
        settings: the rest.
        noise_key: [] typed key for this run alone; None draws one from the operating system.
        loss_name: by which a run that goes on knows its loss again; None for the name of a function, or
            the class and fields of a dataclass.
        **options: of the method, see `methods.build`: `ids`, `inner`, `head` and the like.

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
        canaries=settings.canaries or 0,
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
        **options,
    )
    if not method.is_private:
        raise ConfigError(
            f"method {method.name!r} adds no noise: its epsilon is infinite and no ledger pays for it. "
            "Train without privacy by training.train."
        )
    return PrivateRun(
        plan=plan,
        settings=settings,
        source=source,
        method=method,
        loss=_reservation.name_of(loss) if loss_name is None else loss_name,
        weights=_reservation.digest(params),
        options={name: _reservation.name_of(value) for name, value in options.items()},
    )


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
    in_range(0, MOST_EPSILON, ends="(]", epsilon=epsilon)
    in_range(0, 1, ends="()", delta=delta)
    positive_int(steps=steps)
    limit = epsilon if account_epsilon is None else account_epsilon
    in_range(0, MOST_EPSILON, ends="(]", account_epsilon=limit)
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
        canaries: [M] bool, which of `Settings.canaries` took part; [0] without any.
    """

    params: Tree
    report: PrivacyReport
    step: int
    interrupted: bool
    canaries: np.ndarray


def check(
    run: PrivateRun, terms: Terms, *, mesh: jax.sharding.Mesh | None = None, strict: bool = False
) -> None:
    """Whether `fit` would take a run with an account of these terms, before there is one.

    Terms of an account never change: opened for a run that is refused, it would be in the way of the next.

    Args:
        run: of `prepare`.
        terms: that the account is to have.
        mesh: as for `fit`.
        strict: as for `fit`.

    Raises:
        ConfigError: it would not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `fit` says it
        _reservation.check_run(run, terms, mesh, strict)


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
        run: of `prepare`, for this call alone; its parameters are given up to the run.
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
        step. A run that is killed at any moment and called again with the same arguments, prepared
        again, finds its reservation, makes the same draws and the same noise again and ends with the same bits as one
        that was not; it spends nothing twice. No step beyond the plan is made.

    Raises:
        PrivacyBudgetError: the account does not cover the plan, and nothing was computed; or
            `stop_after` lies beyond it.
        ConfigError: the folder or the reservation is of another run, data set, loss, model or setting;
            another process trains in the folder; its checkpoints are gone; the run was used before;
            the step mixes examples (`probe.check`); the plan does not fit the account, or the rows the
            devices.
        CheckpointError, StorageError: something could not be written; calling again goes on.
    """
    plan = run.plan
    _reservation.check_run(run, ledger.terms, mesh, strict)
    last = plan.steps if stop_after is None else stop_after
    positive_int(stop_after=last)
    if last > plan.steps:
        raise PrivacyBudgetError(
            f"stop_after={last} lies beyond the {plan.steps} steps that the plan pays for: plan for more "
            "steps and reserve that price before the run begins."
        )
    config = LoopConfig(
        steps=last,
        checkpoint_every_s=checkpoint_every_s,
        keep=keep,
        log_every=log_every,
        seed=run.settings.seed,
        log_private_stats=log_private_stats,
    )
    folder = pathlib.Path(folder)
    with run_file.locked(folder):
        return _fit(run, ledger, folder, config, mesh, examples)


def _fit(
    run: PrivateRun,
    ledger: Ledger,
    folder: pathlib.Path,
    config: LoopConfig,
    mesh: jax.sharding.Mesh | None,
    examples: Mapping[str, np.ndarray] | None,
) -> Fitted:
    """`fit` of a folder that is this process's alone."""
    plan, terms = run.plan, ledger.terms
    note, ticket = _reservation.reserved(run, ledger, folder, examples)
    one = plan.replace(steps=1).price()

    def public(step: int) -> dict[str, float]:
        spent, _ = epsilon(one.curve * step, terms.delta - plan.truncation)
        return {
            "epsilon": float(f"{spent:.6g}"),
            "learning_rate": run.settings.learning_rate,
        }

    source = _reservation.Ticketed(run.source, note, folder)
    run.begun.append(os.fspath(folder))
    result = train(
        run.method.params,
        grad_fn=run.method.grad_fn,
        tx=run.method.tx,
        source=source,
        folder=folder,
        config=config,
        mesh=mesh,
        public=public,
    )
    source.note.replace(stopped=result.step).write(folder)
    if ticket is not None and result.step == plan.steps:
        ledger.settle(ticket)
    report = make_report(
        plan,
        terms,
        method=run.method.name,
        clip_norm=run.settings.clip_norm,
        steps=result.step,
        ledger=os.fspath(ledger.path),
        account_epsilon=ledger.epsilon(),
        log_private_stats=config.log_private_stats,
        canaries=run.source.canaries,
    )
    return Fitted(
        params=run.method.merged(result.params),
        report=report,
        step=result.step,
        interrupted=result.step < plan.steps,
        canaries=run.source.is_in(result.cursor),
    )


def abandon(ledger: Ledger, folder: str | os.PathLike[str]) -> Price:
    """Gives a run up that will not go on, and gives back what it did not spend, if that is known.

    Every step that was begun counts in full, whoever was drawn in it. After a run that ended in order
    (a signal, `stop_after`) their number is known, and the steps that were not made are given back. One
    that was killed may have made more steps than its checkpoints say: it is charged all of its plan. One
    that was cut off before its first draw has read nothing, and all of it is given back.

    Args:
        ledger: the account that paid.
        folder: of the run.

    Returns:
        What was charged.

    Raises:
        ConfigError: the folder holds no run, its reservation is settled, or the run is going on.
    """
    folder = pathlib.Path(folder)
    if run_file.read(folder) is None:
        raise _reservation.nothing_open(ledger, folder)
    with run_file.locked(folder):
        note, ticket = _reservation.open_of(ledger, folder)
        if not note.begun and not _reservation.latest(folder):
            used = FREE[ticket.price.relation]
        elif note.stopped is None:
            used = ticket.price
        else:
            plan = Plan(**{name: ticket.details[name] for name in run_file.PLAN_FIELDS})
            used = plan.replace(steps=note.stopped).price()
        ledger.settle(ticket, used)
        return used
