"""What every sqlite file of ours needs: private to its user, one writer at a time, errors of ours."""

import contextlib
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any, Self

from ariel_jax.durable.files import storage_error, sync_directory
from ariel_jax.errors import IntegrityError, StorageError


def make_private_file(path: pathlib.Path) -> None:
    """Makes an empty file that only this user may read, unless there is a file of that name.

    Raises:
        StorageError: it can be neither found nor made.
    """
    try:
        # sqlite gives its journal the permissions of the file itself. A file that is there is
        # left to sqlite: closing a descriptor of it would drop this process's locks on it.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
        sync_directory(path.parent)
    except FileExistsError:
        pass
    except OSError as error:
        raise storage_error(path, error) from error


class Database:
    """One sqlite file: transactions of several threads and processes take turns, and fail whole.

    A subclass connects in its constructor and sets `KIND`, what the file is called in messages.
    """

    KIND = "database"
    _connection: sqlite3.Connection

    def __init__(self, path: str | os.PathLike[str]):
        """Remembers the path and the process; connects to nothing."""
        self.path = pathlib.Path(path)
        self._lock = threading.RLock()
        self._is_writing = False
        self._process = os.getpid()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Self]:
        """Holds the file for this thread: what is read and written in the block is one step.

        A transaction in the block joins it. An exception in a block undoes what that block and
        those within it wrote.

        Raises:
            StorageError: another process held the file too long, or the disk refused.
        """
        with self._held():
            if self._is_writing:
                with self._nested():
                    yield self
                return
            with self._translated():
                self._connection.execute("BEGIN IMMEDIATE")
            self._is_writing = True
            try:
                yield self
                with self._translated():
                    self._connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
            finally:
                self._is_writing = False

    def held_for(self, writing: bool) -> contextlib.AbstractContextManager[Any]:
        """A transaction if something will be written, else nothing."""
        return self.transaction() if writing else contextlib.nullcontext()

    @contextlib.contextmanager
    def _nested(self) -> Iterator[None]:
        with self._translated():
            self._check_alive()
            self._connection.execute("SAVEPOINT inner")
        try:
            yield
            with self._translated():
                self._check_alive()
                self._connection.execute("RELEASE inner")
        except BaseException:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK TO inner")
                    self._connection.execute("RELEASE inner")
            raise

    def _check_alive(self) -> None:
        # On a full disk sqlite undoes the whole transaction by itself; what came next would be
        # written at once, outside of any.
        if not self._connection.in_transaction:
            raise sqlite3.OperationalError("the transaction was undone after an error")

    def close(self) -> None:
        """Closes the file."""
        with self._held():
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Holds the lock of this process's threads."""
        if self._process != os.getpid():
            # sqlite forbids it: closing the parent's connection here could undo its transaction.
            raise StorageError(
                f"the {self.KIND} {self.path} was opened by another process (this one was forked from "
                "it): open it again here."
            )
        with self._lock:
            yield

    def _rollback(self) -> None:
        # sqlite undoes by itself what failed on a full disk; then there is nothing to roll back.
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise StorageError(f"the {self.KIND} {self.path} is closed: open it again.") from error
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"cannot use the {self.KIND} {self.path}: {error}. Check that the disk is writable and "
                "has room, and that no other process holds it; what it held is unchanged."
            ) from error
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                f"{self.path} is no intact {self.KIND}: {error}. Restore a copy of it."
            ) from error
