"""The file of ARIEL's log: opening, migrating, chaining, checking and forgetting; host only."""

import contextlib
import datetime
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ariel_jax.algorithms.ariel import schema
from ariel_jax.algorithms.ariel.log_check import Verified, check, check_structure
from ariel_jax.algorithms.ariel.records import Tombstone, check_name
from ariel_jax.durable.database import Database, make_private_file
from ariel_jax.errors import ConfigError, IntegrityError, StorageError

WAL_PAGES = 4096
"""Pages of the write-ahead log after which they are written into the file too. That takes as long as several
commits, and is done by the one that finds so many: not by each fiftieth judgement, as with sqlite's 1,000."""
_HEAD = " UNION ALL ".join(
    f"SELECT * FROM (SELECT number, hash FROM {table} WHERE user = :user ORDER BY number DESC LIMIT 1)"
    for table in schema.CHAINED
) + " ORDER BY number DESC LIMIT 1"  # fmt: skip


class LogFile(Database):
    """One sqlite file with a chain of rows for each user, and one of who the users are.

    `Store` says what the rows are and what is guaranteed.
    """

    KIND = "privacy log"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout_s: float = 30.0,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ):
        """Opens the log, making it if it is not there.

        Args:
            path: of the file; its folder must exist.
            timeout_s: how long to wait for another process that is writing.
            read_only: make no file and write nothing.
            clock: seconds of Unix time; shown to people, never decides.

        Raises:
            StorageError: it can be neither opened nor made, or belongs to another user of the machine.
            IntegrityError: it is no privacy log, or one of a later version.
        """
        super().__init__(path)
        self._clock = clock
        if read_only:
            mode = "rw" if os.access(self.path, os.W_OK) else "ro"
            name = f"file:{urllib.parse.quote(str(self.path.absolute()))}?mode={mode}"
            self._connect(name, timeout_s, read_only=True)
            return
        make_private_file(self.path)
        self._close_to_others()
        self._connect(str(self.path), timeout_s, read_only=False)

    def _close_to_others(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            path = self.path.with_name(self.path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if found.st_uid != os.getuid():
                    raise StorageError(
                        f"{path} belongs to another user of this machine, who could read what is "
                        "logged: choose another file."
                    )
                if found.st_mode & 0o077:
                    path.chmod(0o600)

    def _connect(self, name: str, timeout_s: float, *, read_only: bool) -> None:
        with self._translated():
            self._connection = sqlite3.connect(
                name, timeout=timeout_s, isolation_level=None, check_same_thread=False,
                uri=read_only,
            )  # fmt: skip
            self._connection.row_factory = sqlite3.Row
            try:
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._connection.execute("PRAGMA secure_delete = ON")
                self._connection.execute("PRAGMA synchronous = FULL")
                if read_only:
                    self._connection.execute("PRAGMA query_only = ON")
                    self._check_version(is_new=False)
                    return
                self._check_version(is_new=True)
                self._write_ahead(timeout_s)
                self._connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
                self._connection.execute("BEGIN IMMEDIATE")
                self._migrate()
                self._connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                self._connection.close()
                raise

    def _write_ahead(self, timeout_s: float) -> None:
        # Another process that opens the same new file makes sqlite refuse at once, without waiting.
        end = time.monotonic() + timeout_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def _check_version(self, *, is_new: bool) -> int:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        owner = self._connection.execute("PRAGMA application_id").fetchone()[0]
        is_empty = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if owner != schema.APPLICATION and not (is_new and is_empty):
            raise IntegrityError(
                f"{self.path} is no privacy log: name the file of one, or one that is not there yet."
            )
        if version > len(schema.MIGRATIONS):
            raise IntegrityError(
                f"{self.path} has version {version} of the log, this library reads up to "
                f"{len(schema.MIGRATIONS)}: use the version of ariel_jax that wrote it."
            )
        return version

    def _migrate(self) -> None:
        version = self._check_version(is_new=True)
        if version == len(schema.MIGRATIONS):
            return
        for script in schema.MIGRATIONS[version:]:
            for statement in schema.statements(script):
                self._connection.execute(statement)
        for name, trigger in schema.guards().items():
            self._connection.execute(f"DROP TRIGGER IF EXISTS {name}")
            self._connection.execute(trigger)
        self._connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
        self._connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")

    def _now(self) -> str:
        when = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        return when.isoformat(timespec="milliseconds")

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._held(), self._translated():
            named = len(values) == 1 and isinstance(values[0], dict)
            return self._connection.execute(query, values[0] if named else values).fetchall()

    def _append(
        self, table: str, user: str, row: Mapping[str, Any], *, after: sqlite3.Row | None = None
    ) -> sqlite3.Row:
        """Adds a row to a user's chain, within a transaction; `after`: the latest row, where it is known."""
        with self._translated():
            self._check_alive()
            number, prev = self.head(user) if after is None else (after["number"], after["hash"])
            # The first row of a user is a version of the facts; before it the user may be none.
            if not number and user not in self.users():
                raise ConfigError(f"user={user!r} has no log in {self.path}: add the user first.")
            return self._insert(table, {**row, "user": user}, number + 1, prev)

    def _insert(self, table: str, row: Mapping[str, Any], number: int, prev: str) -> sqlite3.Row:
        execute = self._connection.execute
        full = dict(row)
        if "id" in (schema.CHAINED | schema.ROSTER)[table]:
            last = execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
            full["id"] = 1 + (last[0] if last else 0)
        full |= {"number": number, "prev_hash": prev}
        full["hash"] = schema.digest(table, full, number, prev)
        columns, marks = ", ".join(full), ", ".join("?" * len(full))
        statement = f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING *"
        (made,) = execute(statement, tuple(full.values())).fetchall()
        return made

    def head(self, user: str) -> tuple[int, str]:
        """Number and hash of the latest row of a user's chain; keep it elsewhere to find later rows gone."""
        rows = self._rows(_HEAD, {"user": user})
        return (rows[0]["number"], rows[0]["hash"]) if rows else (0, schema.ROOT)

    def users(self) -> tuple[str, ...]:
        """Names of the users who have a log here, sorted."""
        return tuple(row["name"] for row in self._rows("SELECT name FROM users ORDER BY name"))

    def add_user(self, user: str) -> bool:
        """Adds a user; whether there was none of that name.

        Raises:
            ConfigError: the name is not allowed.
            StorageError: it could not be written.
        """
        check_name(user=user)
        with self.transaction(), self._translated():
            if user in self.users():
                return False
            number, prev = self._roster_head()
            self._insert("users", {"name": user, "created_at": self._now()}, number + 1, prev)
        return True

    def _roster_head(self) -> tuple[int, str]:
        rows = schema.chain(self._connection, schema.ROSTER, "1")
        return (rows[-1][1]["number"], rows[-1][1]["hash"]) if rows else (0, schema.ROOT)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read in the block is one state of the log, whatever other processes write meanwhile."""
        with self._held():
            with self._translated():
                joins = self._connection.in_transaction
                if not joins:
                    self._connection.execute("BEGIN")
            if joins:
                yield
                return
            try:
                yield
            finally:
                self._rollback()

    def verify(self, *, heads: Mapping[str, tuple[int, str]] | None = None) -> Verified:
        """Recomputes every chain of the file.

        Args:
            heads: results of `head` remembered elsewhere, by user; each must still be in its chain.

        Raises:
            IntegrityError: something was changed; the message names the first such row.
        """
        with self.snapshot(), self._translated():
            check_structure(self._connection, str(self.path))
            return check(self._connection, str(self.path), heads or {})

    def forget(self, user: str) -> Tombstone:
        """Deletes a user's rows from the file for good; a tombstone says how many there were.

        Copies elsewhere (backups, exports, snapshots of the file system) are out of its reach.

        Raises:
            ConfigError: no such user.
            StorageError: it could not be written, or another process keeps old pages in use: the message
                says which.
        """
        if user not in self.users():
            self.scrub()
            raise ConfigError(
                f"user={user!r} has no log in {self.path}: it has {list(self.users())}."
            )
        with self.transaction(), self._translated():
            execute = self._connection.execute
            counts = {
                table: execute(f"SELECT count(*) FROM {table} WHERE user = ?", (user,)).fetchone()[
                    0
                ]
                for table in schema.CHAINED
            }
            for name in schema.guards():
                execute(f"DROP TRIGGER {name}")
            for table in ("answers", "escalations", "retractions", "decisions", "judgements", "edges",
                          "nodes", "ontology_versions", "text_keys"):  # fmt: skip
                execute(f"DELETE FROM {table} WHERE user = ?", (user,))
            execute(
                "DELETE FROM ontologies WHERE hash NOT IN (SELECT ontology_hash FROM ontology_versions)"
            )
            execute("DELETE FROM users WHERE name = ?", (user,))
            stone = {
                "judgements": counts["judgements"], "decisions": counts["decisions"],
                "rows": sum(counts.values()), "created_at": self._now(),
            }  # fmt: skip
            row = self._insert("tombstones", stone, self._roster_head()[0] + 1, schema.ROOT)
            self._chain_roster()
            for trigger in schema.guards().values():
                execute(trigger)
        self.scrub()
        return Tombstone(id=row["id"], **stone)

    def _chain_roster(self) -> None:
        """Chains the roster anew, after a row of it was deleted."""
        rows, prev = schema.chain(self._connection, schema.ROSTER, "1"), schema.ROOT
        for number, (table, row) in enumerate(rows, start=1):
            hash_ = schema.digest(table, dict(row), number, prev)
            key = "name" if table == "users" else "id"
            self._connection.execute(
                f"UPDATE {table} SET number = ?, prev_hash = ?, hash = ? WHERE {key} = ?",
                (number, prev, hash_, row[key]),
            )
            prev = hash_

    def scrub(self) -> None:
        """Writes deleted rows out of the file and its write-ahead log.

        Raises:
            StorageError: another process is using the file, or the disk refused.
        """
        with self._held(), self._translated():
            self._connection.execute("VACUUM")
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StorageError(
                f"rows were deleted from {self.path}, but another process is reading it and old pages are "
                "still in its write-ahead log: close the other process and call forget again."
            )
