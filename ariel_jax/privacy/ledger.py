"""Accounts of privacy budgets in one durable file: reserve before a release, settle after it.

Host only, no JAX. A ledger file is an append-only, hash-chained event log, and what an account has spent
is a fold over its events: there is no second number that could disagree.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ariel_jax import durable
from ariel_jax._checks import in_range, one_of
from ariel_jax.durable import Event, EventLog
from ariel_jax.errors import (
    ConfigError,
    EmptyLogError,
    IntegrityError,
    LedgerRollbackError,
    PrivacyBudgetError,
)
from ariel_jax.privacy.renyi import FREE, ORDERS, RELATIONS, Price, epsilon

GRID = hashlib.sha256(ORDERS.tobytes()).hexdigest()[:16]
OPENED, RESERVED, SETTLED, VOIDED = "opened", "reserved", "settled", "voided"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What an account protects, and how much of it may be spent.

    Attributes:
        account: name of the data set and the privacy unit, such as `"visits by patient"`.
        relation: neighbouring data sets, one of `renyi.RELATIONS`; every price must be for it.
        epsilon: all releases together may cost at most so much ...
        delta: ... at this delta.
    """

    account: str
    relation: str
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.account or not self.account.isprintable():
            raise ConfigError(
                f"account={self.account!r} is not allowed: name the data set and the privacy unit."
            )
        one_of(RELATIONS, relation=self.relation)
        in_range(0, math.inf, ends="()", epsilon=self.epsilon)
        in_range(0, 1, ends="()", delta=self.delta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ticket:
    """A reservation.

    Attributes:
        number: of the event that made it; names the reservation in its file.
        price: the most that the release may cost.
        details: what the caller wanted to remember, such as a run's settings; JSON values.
    """

    number: int
    price: Price
    details: Mapping[str, Any]


class _Totals:
    """What the events of an account add up to; it goes on from the events that it has seen."""

    def __init__(self, account: str):
        self.account = account
        self.last = 0  # number of the latest event seen
        self.spent: npt.NDArray[np.float64] = np.zeros(len(ORDERS))
        self.spent_delta = 0.0
        self.open: dict[int, Ticket] = {}
        self.void: list[str] = []

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            self.last = event.number
            if event.body.get("account") == self.account:
                self._add(event)

    def _add(self, event: Event) -> None:
        body = event.body
        if event.kind == RESERVED:
            price = Price.from_json(body["price"])
            self.open[event.number] = Ticket(
                number=event.number, price=price, details=body["details"]
            )
        elif event.kind == SETTLED:
            del self.open[body["ticket"]]
            used = Price.from_json(body["used"])
            self.spent = self.spent + used.curve
            self.spent_delta += used.delta
        elif event.kind == VOIDED:
            self.void.append(body["reason"])

    def reserved(self) -> tuple[npt.NDArray[np.float64], float]:
        tickets = [ticket.price for ticket in self.open.values()]
        curve = sum((price.curve for price in tickets), np.zeros(len(ORDERS)))
        return curve, sum(price.delta for price in tickets)


class Ledger:
    """One account of a ledger file.

    Guarantees:
        What is spent and reserved together never stands for more than the account's epsilon at its
        delta: `reserve` refuses first and then nothing is written. A reservation counts in full until
        it is settled, so a process that dies between the two has spent all of it. Several threads and
        processes may use one file. `verify` finds changed events; with `witness`, also a file that was
        put back to an earlier state.

    The budget is charged in Rényi differential privacy on one grid of orders. For releases whose prices were
    fixed beforehand the least epsilon over the orders is a theorem. For prices that are chosen by what
    earlier releases showed it is one for each order by itself (a Rényi filter: Feldman and Zrnic, 2021,
    arXiv 2008.11193); that the best order may be picked at the end is then usual practice, not proved here.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        terms: Terms | None = None,
        *,
        witness: str | os.PathLike[str] | None = None,
        new_witness: bool = False,
        timeout_s: float = 30.0,
        read_only: bool = False,
    ):
        """Opens an account, and makes it if the file has none of its name.

        Args:
            path: the file; made, for this user only, if it is not there.
            terms: of the account; None for the file's only one.
            witness: a file that remembers the latest event seen, best on another disk; made beside the
                first account.
            new_witness: make the witness of a ledger that has been used already.
            timeout_s: how long to wait for another process that is writing.
            read_only: look at an account that is there: nothing is written, the witness included.

        Raises:
            ConfigError: the account has other terms, or `terms` is None and there is not exactly one.
            LedgerRollbackError: the file lacks events that the witness has seen.
            IntegrityError: the file was changed, or is no ledger, or its witness is gone.
            StorageError: it cannot be read or written.
        """
        if terms is None and not pathlib.Path(path).exists():
            raise ConfigError(f"there is no ledger {path}: pass terms= to make one.")
        self._log = EventLog(path, timeout_s=timeout_s, read_only=read_only)
        self._is_read_only = read_only
        self._witness = None if witness is None else pathlib.Path(witness)
        try:
            self._log.verify()
            self._check_witness(new_witness)
            self.terms = self._known(terms) if read_only else self._open(terms)
            self._lock = threading.RLock()  # taken before the log's own
            self._seen = _Totals(self.terms.account)
            self._remember()
        except BaseException:
            self._log.close()
            raise

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return self._log.path

    def _open(self, terms: Terms | None) -> Terms:
        with self._log.transaction():
            accounts = _accounts(self._log)
            found = self._find(accounts, terms)
            if found.account not in accounts:
                self._log.append(OPENED, dataclasses.asdict(found) | {"orders": GRID})
        return found

    def _known(self, terms: Terms | None) -> Terms:
        accounts = _accounts(self._log)
        found = self._find(accounts, terms)
        if found.account not in accounts:
            raise ConfigError(
                f"{self.path} has no account {found.account!r} to read: it has {sorted(accounts)}."
            )
        return found

    def _find(self, accounts: Mapping[str, Terms], wanted: Terms | None) -> Terms:
        if wanted is None:
            if len(accounts) != 1:
                raise ConfigError(
                    f"{self.path} has the accounts {sorted(accounts)}: name one by its terms."
                )
            return next(iter(accounts.values()))
        found = accounts.get(wanted.account, wanted)
        if found != wanted:
            raise ConfigError(
                f"the account {wanted.account!r} in {self.path} was opened with relation="
                f"{found.relation}, epsilon={found.epsilon:g}, delta={found.delta:g}; asked for are "
                f"{wanted.relation}, {wanted.epsilon:g} and {wanted.delta:g}. Terms never change: use "
                "those, or open another account and say that the two budgets add up."
            )
        return found

    def reserve(self, price: Price, *, details: Mapping[str, Any] | None = None) -> Ticket:
        """Sets a price aside before anything is computed from the data.

        Args:
            price: the most that the release may cost.
            details: JSON values to keep with it; no secrets.

        Raises:
            PrivacyBudgetError: it would go beyond the budget; nothing was written.
            ConfigError: the price is for another neighbouring relation, or details are no JSON.
            StorageError: it could not be written.
        """
        if price.relation != self.terms.relation:
            raise ConfigError(
                f"the price is for {price.relation} and the account {self.terms.account!r} for "
                f"{self.terms.relation}: price the release under the account's relation."
            )
        with self._lock, self._log.transaction():
            totals = self._totals()
            after = self._epsilon_of(totals, price)
            if after > self.terms.epsilon:
                now = self._epsilon_of(totals, FREE[price.relation])
                raise PrivacyBudgetError(
                    f"{price.what or 'the release'} would bring the account {self.terms.account!r} to "
                    f"epsilon {after:.6g} at delta {self.terms.delta:g}; it may spend "
                    f"{self.terms.epsilon:g} and stands at {now:.6g}, reservations included. Ask for "
                    "less, or settle what is reserved and was not used."
                )
            body = {
                "account": self.terms.account,
                "price": price.to_json(),
                "details": dict(details or {}),
            }
            event = self._log.append(RESERVED, body)
        self._remember()
        return Ticket(number=event.number, price=price, details=event.body["details"])

    def settle(self, ticket: Ticket, used: Price | None = None) -> None:
        """Charges a reservation and gives back what it did not use.

        Args:
            ticket: of `reserve` or `open_tickets`.
            used: what was released; None for all that was reserved. What of a release that was begun
                may be given back is the mechanism's matter: amplified steps count in full.

        Raises:
            ConfigError: it was settled before, is of another account, or `used` exceeds it.
            StorageError: it could not be written; the reservation stands.
        """
        with self._lock, self._log.transaction():
            open_tickets = self._totals().open
            if ticket.number not in open_tickets:
                raise ConfigError(
                    f"reservation {ticket.number} of the account {self.terms.account!r} is settled or "
                    "was never made here: a ticket is settled once."
                )
            reserved = open_tickets[ticket.number].price
            used = reserved if used is None else used
            if not reserved.covers(used):
                raise ConfigError(
                    f"what was used ({used.what}) costs more than reservation {ticket.number} "
                    f"({reserved.what}) at some order: reserve before the release, not after."
                )
            body = {
                "account": self.terms.account,
                "ticket": ticket.number,
                "used": used.to_json(),
            }
            self._log.append(SETTLED, body)
        self._remember()

    def refund(self, ticket: Ticket) -> None:
        """Gives a reservation back whole: nothing was computed from the data.

        Raises:
            ConfigError: as for `settle`.
            StorageError: it could not be written; the reservation stands.
        """
        self.settle(ticket, FREE[self.terms.relation])

    def void(self, reason: str) -> None:
        """Notes that the guarantee does not hold, for good, and why: `report` says so from now on.

        Raises:
            StorageError: it could not be written.
        """
        self._log.append(VOIDED, {"account": self.terms.account, "reason": reason})
        self._remember()

    def open_tickets(self) -> list[Ticket]:
        """Reservations that are not settled, oldest first: a run that was cut off finds its own here."""
        with self._lock:
            return list(self._totals().open.values())

    def reservation(self, number: int) -> Ticket | None:
        """The reservation of a number, settled or not; None where this account has none."""
        for event in self._log.events(after=number - 1)[:1]:
            mine = event.body.get("account") == self.terms.account
            if event.number == number and event.kind == RESERVED and mine:
                price = Price.from_json(event.body["price"])
                return Ticket(number=number, price=price, details=event.body["details"])
        return None

    def epsilon(self) -> float:
        """Of what is spent and reserved, at the account's delta."""
        with self._lock:
            return self._epsilon_of(self._totals(), FREE[self.terms.relation])

    def after(self, price: Price) -> float:
        """Epsilon that the account would stand at with a price more, at its delta; nothing is reserved."""
        with self._lock:
            return self._epsilon_of(self._totals(), price)

    def fits(self, price: Price) -> bool:
        """Whether `reserve` would take the price now."""
        return price.relation == self.terms.relation and self.after(price) <= self.terms.epsilon

    def most(self, price: Price, *, at_most: int) -> int:
        """How many releases of a price the budget still covers, up to a number; nothing is reserved."""
        low, high = 0, at_most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(price.times(middle)) else (low, middle - 1)
        return low

    def report(self) -> dict[str, Any]:
        """Terms, what is spent and reserved as epsilon, open reservations and why it is void, as JSON."""
        with self._lock:
            totals = self._totals()
            left = self.terms.delta - totals.spent_delta
            return dataclasses.asdict(self.terms) | {
                "epsilon_spent": epsilon(totals.spent, left)[0] if left > 0 else math.inf,
                "epsilon_with_reservations": self._epsilon_of(totals, FREE[self.terms.relation]),
                "open": [t.number for t in totals.open.values()],
                "void": list(totals.void),
                "orders": GRID,
            }

    def history(self) -> list[Event]:
        """The events of this account, oldest first."""
        mine = self.terms.account
        return [event for event in self._log.events() if event.body.get("account") == mine]

    def head(self) -> tuple[int, str]:
        """Number and digest of the latest event: remember it to notice a file put back."""
        return self._log.head()

    def verify(self, *, head: tuple[int, str] | None = None) -> int:
        """Returns how many events there are, after recomputing the whole chain.

        Raises:
            LedgerRollbackError: a remembered head is not part of it.
            IntegrityError: an event was changed.
        """
        events = self._log.verify()
        if head is not None:
            self._check_head(head)
        return events

    def close(self) -> None:
        """Closes the file."""
        self._log.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _epsilon_of(self, totals: _Totals, price: Price) -> float:
        reserved, delta = totals.reserved()
        left = self.terms.delta - totals.spent_delta - delta - price.delta
        if left <= 0:
            return math.inf
        return epsilon(totals.spent + reserved + price.curve, left)[0]

    def _totals(self) -> _Totals:
        with self._lock:
            seen = self._seen
            seen.add(self._log.events(after=seen.last))
            return seen

    def _check_witness(self, new_witness: bool) -> None:
        if self._witness is None:
            return
        if not self._witness.exists():
            used = [event for event in self._log.events() if event.kind != OPENED]
            if used and not new_witness:
                raise IntegrityError(
                    f"the witness {self._witness} of the ledger {self.path} is not there, and the ledger "
                    f"has {len(used)} events that it should have seen: without it nobody knows whether "
                    "the ledger was put back. Bring it back, or, if this is the first one or you know "
                    "that the ledger is the latest, pass new_witness=True."
                )
            return
        try:
            seen = json.loads(self._witness.read_text())
            head = (int(seen["number"]), str(seen["digest"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"the witness {self._witness} of the ledger {self.path} cannot be read ({error}). "
                "Without it nobody knows whether the ledger was put back: find out, then delete it."
            ) from error
        self._check_head(head)

    def _check_head(self, head: tuple[int, str]) -> None:
        try:
            self._log.verify(head=head)
        except IntegrityError as error:
            raise LedgerRollbackError(
                f"the ledger {self.path} lacks event {head[0]}, which was seen before: an older copy "
                "was put in its place, or it is another ledger. What was spent since would be spent "
                "twice: bring the latest copy back."
            ) from error

    def _remember(self) -> None:
        if self._witness is not None and not self._is_read_only:
            with self._log.transaction():  # of two processes the later one writes the later event
                number, digest = self.head()
                durable.write_json(self._witness, {"number": number, "digest": digest})


def _terms(event: Event) -> Terms:
    body = dict(event.body)
    if (grid := body.pop("orders", None)) != GRID:
        raise IntegrityError(
            f"event {event.number} opens an account on the Rényi orders {grid} and this version has {GRID}: "
            "open it with the version of ariel_jax that wrote it."
        )
    try:
        return Terms(**body)
    except (TypeError, ConfigError) as error:
        raise IntegrityError(f"event {event.number} opens no account: {error}.") from error


def accounts(path: str | os.PathLike[str]) -> dict[str, Terms]:
    """The terms of every account of a ledger file, by name; none where there is no file, or nothing in it.

    Raises:
        IntegrityError: the file is no ledger, or one of another version.
        StorageError: it cannot be read.
    """
    if not pathlib.Path(path).exists():
        return {}
    try:
        log = EventLog(path, read_only=True)
    except EmptyLogError:
        return {}  # whoever made it was killed before the first event; `Ledger` takes it as new
    with log:
        return _accounts(log)


def _accounts(log: EventLog) -> dict[str, Terms]:
    opened = [_terms(event) for event in log.events() if event.kind == OPENED]
    return {terms.account: terms for terms in opened}
