"""What ties a private run to the reservation that pays for it: found again, checked, begun once."""

import dataclasses
import hashlib
import hmac
import os
import pathlib
import re
import secrets
import types
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ariel_jax._checks import in_range
from ariel_jax.algorithms.dp_grape import probe, run_file
from ariel_jax.algorithms.dp_grape.training import PrivateSource
from ariel_jax.errors import ConfigError
from ariel_jax.models.paths import flatten
from ariel_jax.privacy.ledger import Ledger, Terms, Ticket
from ariel_jax.training.checkpoints import Checkpoints
from ariel_jax.training.programs import DATA

if TYPE_CHECKING:
    from ariel_jax.algorithms.dp_grape.trainer import PrivateRun

MOST_EPSILON = 500.0  # beyond it nothing is protected, and its power has no float


class Ticketed:
    """A source whose state, and so every checkpoint, names the reservation that pays for it.

    Before the first draw it notes in `run.json` that the run has begun: the checkpoint with the keys of
    noise and draws is written then, and without it nobody may begin under the same reservation.
    """

    is_private = True

    def __init__(self, inner: PrivateSource, note: run_file.RunFile, folder: pathlib.Path):
        self.inner, self.note, self.folder = inner, note, folder

    def init(self) -> dict[str, Any]:
        """The state before the first batch, as `training.BatchSource` has it."""
        return self.inner.init() | {"ticket": self.note.ticket}

    def next(self, state: dict[str, Any]) -> Any:
        """A batch and the state after it.

        Raises:
            ConfigError: the state was paid for by another reservation.
            StorageError: it could not be noted that the run has begun; nothing was drawn.
        """
        if state["ticket"] != self.note.ticket:
            raise ConfigError(
                f"the checkpoint was paid for by reservation {state['ticket']} and this run by "
                f"{self.note.ticket}: bring back the folder as this run left it."
            )
        if not self.note.begun:
            self.note = self.note.replace(begun=True)
            self.note.write(self.folder)
        return self.inner.next(state)


def check_run(
    run: "PrivateRun", terms: Terms, mesh: jax.sharding.Mesh | None, strict: bool
) -> None:
    """Checks what needs no folder: that the run is unused and fits the account and the devices.

    Raises:
        ConfigError: it does not.
    """
    if run.begun:
        raise ConfigError(
            f"this run was used in {run.begun[0]}: a second one would release the same noise, and "
            "parameters were given up to the first. Prepare it again for every call of fit."
        )
    plan, draws, settings = run.plan, run.source.draws, run.settings
    if plan.relation != terms.relation:
        raise ConfigError(
            f"the plan is for {plan.relation} and the account {terms.account!r} for {terms.relation}: "
            "plan under the account's relation."
        )
    in_range(0, MOST_EPSILON, ends="(]", account_epsilon=terms.epsilon)
    _check_rows(draws.rows, settings.microbatch or 1, mesh)
    is_public = plan.relation != "add_remove"
    needed = draws.truncation(terms.epsilon, plan.steps)
    if plan.truncation < needed:
        how_much = (
            f"{needed:.3g}" if is_public else "more"
        )  # the former tells the number of records
        raise ConfigError(
            f"draws of more than {draws.rows} rows may add {how_much} to delta, and the plan says "
            f"{plan.truncation:.3g}: make plan and rows by plan_for, or pass Plan(truncation=...)."
        )
    about = settings.about or settings.expected_batch / draws.probability
    own = draws.n - run.source.canaries
    most = own if is_public else about
    if terms.delta >= 1 / most:
        of = "N" if is_public else f"{most:g}"
        which = f"the {own} records" if is_public else "a public number of records"
        message = (
            f"delta={terms.delta:g} is not below 1 / {of} = {1 / most:.3g} for {which}: a "
            "mechanism that publishes one record in full would keep to it. Choose a smaller delta."
        )
        if strict:
            raise ConfigError(message)
        warnings.warn(message, stacklevel=3)


def _check_rows(rows: int, microbatch: int, mesh: jax.sharding.Mesh | None) -> None:
    if mesh is not None and DATA not in mesh.shape:
        raise ConfigError(
            f"the mesh has the axes {list(mesh.shape)}: rows are split over one called {DATA!r}."
        )
    n_devices = 1 if mesh is None else mesh.shape[DATA]
    if rows % (n_devices * microbatch):
        raise ConfigError(
            f"{rows} rows cannot be divided over {n_devices} devices in microbatches of {microbatch}: "
            f"choose a multiple of {n_devices * microbatch}, by plan_for(microbatch=...)."
        )


def reserved(
    run: "PrivateRun",
    ledger: Ledger,
    folder: pathlib.Path,
    examples: Mapping[str, np.ndarray] | None,
) -> tuple[run_file.RunFile, Ticket | None]:
    """The run's note with its reservation; the latter is None where it is settled and all is done."""
    note = run_file.read(folder)
    if note is None:
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
        (ticket,) = found
        run_file.check_same(ticket.details, details, f"reservation {ticket.number}")
        _check_not_lost(note, ticket, folder)
    note = note.replace(
        ticket=ticket.number, account=ledger.terms.account, details=details, stopped=None
    )
    note.write(folder)
    return note, ticket


def _check_not_lost(note: run_file.RunFile, ticket: Ticket, folder: pathlib.Path) -> None:
    if note.begun and latest(folder) is None:
        raise ConfigError(
            f"the run in {folder} has begun, and its checkpoints are gone: with them the keys of its "
            "noise and draws. Steps made anew would be second releases for the price of reservation "
            f"{ticket.number}. Bring {folder / 'checkpoints'} back, or give the run up by "
            "trainer.abandon, which charges the plan for what it may have released, and begin another "
            "one in another folder."
        )


def _finished(
    run: "PrivateRun",
    note: run_file.RunFile,
    details: Mapping[str, Any],
    ledger: Ledger,
    folder: pathlib.Path,
) -> run_file.RunFile:
    paid = None if note.ticket is None else ledger.reservation(note.ticket)
    if paid is None or paid.details.get("run") != note.run:
        raise ConfigError(
            f"the run in {folder} was paid for by reservation {note.ticket} of the account "
            f"{note.account!r}, which {ledger.terms.account!r} in {ledger.path} does not have: another "
            "ledger paid for it. Name that ledger and account, or begin a new run in another folder."
        )
    run_file.check_same(note.details, details, f"{folder / run_file.NAME}")
    step = latest(folder)
    if step != run.plan.steps:
        raise ConfigError(
            f"reservation {note.ticket} of the run in {folder} is settled in {ledger.path}: the run was "
            f"given up after step {step or 0} of {run.plan.steps}, or its checkpoints are gone. Begin a "
            "new run in another folder."
        )
    return note


def latest(folder: pathlib.Path) -> int | None:
    """The newest step that a folder has a checkpoint of; None where it has none."""
    if not (folder / "checkpoints").exists():
        return None
    checkpoints = Checkpoints(folder / "checkpoints", private=True)
    step = checkpoints.latest()
    checkpoints.close()
    return step


def _own(ledger: Ledger, note: run_file.RunFile) -> list[Ticket]:
    return [ticket for ticket in ledger.open_tickets() if ticket.details.get("run") == note.run]


def open_of(ledger: Ledger, folder: pathlib.Path) -> tuple[run_file.RunFile, Ticket]:
    """The note of a folder and its open reservation.

    Raises:
        ConfigError: there is none.
    """
    note = run_file.read(folder)
    tickets = [] if note is None else _own(ledger, note)
    if note is None or not tickets:
        raise nothing_open(ledger, folder)
    return note, tickets[0]


def nothing_open(ledger: Ledger, folder: pathlib.Path) -> ConfigError:
    """The error for a folder that no open reservation belongs to."""
    return ConfigError(
        f"{os.fspath(folder)} has no open reservation in {ledger.path}: name the folder of a run that "
        "was begun and not ended, and the ledger that paid for it."
    )


def fingerprint(records: Mapping[str, np.ndarray], secret: str) -> str:
    """16 hexadecimal digits of records under a secret."""
    hashed = hmac.new(bytes.fromhex(secret), digestmod=hashlib.sha256)
    _add(hashed, sorted(records.items()))
    return hashed.hexdigest()[:16]


def digest(params: Any) -> str:
    """16 hexadecimal digits of the paths, dtypes, shapes and values of a tree, leaf by leaf."""
    hashed = hashlib.sha256()
    _add(hashed, flatten(params).items())
    return hashed.hexdigest()[:16]


def _add(hashed: Any, arrays: Iterable[tuple[str, Any]]) -> None:
    for name, leaf in arrays:
        array = np.ascontiguousarray(leaf)
        hashed.update(f"{name} {array.dtype.name} {np.shape(leaf)}".encode())
        hashed.update(array.reshape(-1).view(np.uint8))


def name_of(value: Any) -> str:
    """What a loss or an option is called where a run is compared with its reservation.

    The same in every process: no address of an object stands in it.
    """
    if isinstance(value, types.FunctionType):
        return value.__qualname__
    is_plain = dataclasses.is_dataclass(value) or isinstance(
        value, str | int | float | tuple | list
    )
    text = repr(value) if is_plain else type(value).__qualname__
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def as_json(value: Any) -> Any:
    """A value as JSON gives it back."""
    return [as_json(inner) for inner in value] if isinstance(value, tuple) else value
