"""An append-only record of events in one sqlite file, each chained to those before it."""

import hashlib
import json
import os
import pathlib
import secrets
import sqlite3
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

from ariel_jax.durable.database import Database, make_private_file
from ariel_jax.errors import ConfigError, EmptyLogError, IntegrityError


@dataclass(frozen=True, kw_only=True)
class Event:
    """One record of an `EventLog`."""

    number: int  # 1, 2, 3, ... without gaps
    time_ns: int  # Unix time
    kind: str
    body: dict[str, Any]
    digest: str  # 64 hexadecimal digits; depends on this event and on all before it


_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER, name TEXT);
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
  digest TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS events_keep BEFORE DELETE ON events
  BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE UPDATE ON events
  BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
"""
_FORMAT = 1


class EventLog(Database):
    """An append-only record of events in one sqlite file, each chained to those before it.

    Guarantees:
        When `append` or `transaction` returns, the events are on the disk. When it raises, none
        of them is. Events of several threads and processes never interleave within a transaction.
        `verify` finds every change, removal and reordering of events, except the removal of the
        latest ones; pass it a remembered `head()` to find that too.
    """

    KIND = "event log"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout_s: float = 30.0,
        read_only: bool = False,
    ):
        """Opens the log at `path`, creating it readable by this user only.

        Args:
            path: the sqlite file; its folder must exist.
            timeout_s: how long to wait for another process that is writing.
            read_only: make no file and write no event. What a killed process left half written is still
                undone, where the file may be written.

        Raises:
            StorageError: the file can be neither opened nor created.
            IntegrityError: the file is no event log, or one of a later format; `EmptyLogError` where it holds
                nothing and may only be read.
        """
        super().__init__(path)
        if read_only:
            self._open(f"file:{urllib.parse.quote(str(self.path.absolute()))}?mode="
                       + ("rw" if os.access(self.path, os.W_OK) else "ro"), timeout_s,
                       "PRAGMA query_only = ON", "BEGIN")  # fmt: skip
            return
        make_private_file(self.path)
        # EXTRA also flushes the folder after the journal is removed: a commit that was
        # acknowledged is not undone by a power cut.
        self._open(self.path, timeout_s, "PRAGMA synchronous = EXTRA", "BEGIN IMMEDIATE")

    def _open(self, name: str | pathlib.Path, timeout_s: float, pragma: str, begin: str) -> None:
        with self._translated():
            self._connection = sqlite3.connect(
                name, timeout=timeout_s, isolation_level=None, check_same_thread=False,
                uri=isinstance(name, str),
            )  # fmt: skip
            try:
                self._connection.execute(pragma)
                self._connection.execute(begin)
                self._name = self._initialise(is_new=begin != "BEGIN")
                self._connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                self._connection.close()
                raise

    def _initialise(self, *, is_new: bool) -> str:
        """Creates the tables in a new file, if there may be one; returns the log's random name."""
        tables = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master")}
        if tables and "identity" not in tables:
            raise IntegrityError(
                f"{self.path} is an sqlite file but no event log: it has {sorted(tables)}. "
                "Choose another file name."
            )
        if not tables and not is_new:
            raise EmptyLogError(f"{self.path} is empty, and so no event log: name another file.")
        if not tables:
            for statement in _SCHEMA.split(";\n"):
                self._connection.execute(statement)
            new = (1, _FORMAT, secrets.token_hex(16))
            self._connection.execute("INSERT INTO identity VALUES (?, ?, ?)", new)
        row = self._connection.execute("SELECT format, name FROM identity").fetchone()
        if row is None or row[0] != _FORMAT:
            raise IntegrityError(
                f"{self.path} has log format {row and row[0]}, this version reads {_FORMAT}: "
                "open it with the version of ariel_jax that wrote it."
            )
        return row[1]

    def append(self, kind: str, body: dict[str, Any]) -> Event:
        """Adds one event and returns it once it is on the disk.

        Args:
            kind: what happened.
            body: JSON values under text keys; no NaN or infinity.

        Raises:
            ConfigError: `body` is not JSON.
            StorageError: it could not be written; the log is unchanged.
        """
        with self.transaction() as log:
            return log._append(kind, body)

    def events(self, *, after: int = 0) -> list[Event]:
        """Returns the events numbered above `after`, in order.

        Raises:
            StorageError: the file cannot be read.
            IntegrityError: the file is damaged.
        """
        with self._held(), self._translated():
            rows = self._connection.execute(
                "SELECT number, time_ns, kind, body, digest FROM events WHERE number > ? "
                "ORDER BY number",
                (after,),
            ).fetchall()
        return [self._event(row) for row in rows]

    def head(self) -> tuple[int, str]:
        """Returns number and digest of the latest event; (0, the log's own digest) when empty."""
        with self._held(), self._translated():
            row = self._connection.execute(
                "SELECT number, digest FROM events ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return (row[0], row[1]) if row else (0, self._genesis())

    def verify(self, *, head: tuple[int, str] | None = None) -> int:
        """Returns how many events there are, after recomputing the whole chain.

        Args:
            head: a result of `head()` remembered elsewhere; it must still be part of the chain.

        Raises:
            IntegrityError: the chain does not hold; the message names the first bad event.
        """
        with self._held(), self._translated():
            damage = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            rows = self._connection.execute(
                "SELECT number, time_ns, kind, body, digest FROM events ORDER BY number"
            ).fetchall()
        if damage != "ok":
            raise IntegrityError(f"{self.path} is damaged: {damage}. Restore a copy of it.")
        previous, seen = self._genesis(), head is None or head == (0, self._genesis())
        for expected, (number, time_ns, kind, body, digest) in enumerate(rows, start=1):
            if number != expected or digest != _digest(previous, number, time_ns, kind, body):
                raise IntegrityError(
                    f"{self.path}: event {expected} was changed, removed or put in another place. "
                    "The events before it are intact; restore a copy of the file."
                )
            previous, seen = digest, seen or head == (number, digest)
        if not seen:
            raise IntegrityError(
                f"{self.path}: the remembered event {head and head[0]} is not part of the log, "
                f"which has {len(rows)} events. Later events were removed, or it is another log."
            )
        return len(rows)

    def _append(self, kind: str, body: dict[str, Any]) -> Event:
        try:
            text = json.dumps(
                body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
            )
            text.encode()  # half of a surrogate pair has no UTF-8 form
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"an event's body must be JSON without NaN or infinity: {error}. "
                "Pass numbers, text, booleans, None, lists and dictionaries with text keys."
            ) from error
        if not isinstance(kind, str):
            raise ConfigError(f"an event's kind must be text; got {kind!r}.")
        number, previous = self.head()
        number, time_ns = number + 1, time.time_ns()
        row = (number, time_ns, kind, text, _digest(previous, number, time_ns, kind, text))
        with self._translated():
            self._check_alive()
            self._connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
        return self._event(row)

    def _event(self, row: tuple[int, int, str, str, str]) -> Event:
        number, time_ns, kind, text, digest = row
        try:
            body = json.loads(text)
        except ValueError as error:
            raise IntegrityError(
                f"{self.path}: the body of event {number} is not JSON, so it was changed. "
                "Restore a copy of the file."
            ) from error
        return Event(number=number, time_ns=time_ns, kind=kind, body=body, digest=digest)

    def _genesis(self) -> str:
        return hashlib.sha256(f"ariel_jax event log {_FORMAT} {self._name}".encode()).hexdigest()


def _digest(previous: str, number: int, time_ns: int, kind: str, body: str) -> str:
    text = json.dumps([previous, number, time_ns, kind, body], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
