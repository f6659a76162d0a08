"""Measurements kept between runs: a JSON file of (key dictionary, value dictionary) pairs."""

import contextlib
import fcntl
import json
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

from ariel_jax import durable
from ariel_jax.errors import IntegrityError, StorageError

_FORMAT = 1


class ProfileStore:
    """A JSON file of measurements, each under a dictionary that says what it depends on.

    Two keys are the same when they are equal as JSON. `put` is safe against a full disk and
    against other processes that put at the same time.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Names the file; it is created by the first `put`, in a folder that exists."""
        self.path = pathlib.Path(path)

    def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the value stored under `key`, or None.

        Raises:
            IntegrityError: the file is no profile store.
        """
        wanted = _canonical(key)
        for entry in self._entries():
            if _canonical(entry["key"]) == wanted:
                return entry["value"]
        return None

    def put(self, key: dict[str, Any], value: dict[str, Any]) -> None:
        """Stores `value` under `key`, in place of an earlier one.

        Raises:
            StorageError: it could not be written; earlier entries are still there.
            IntegrityError: the file is no profile store.
        """
        wanted = _canonical(key)
        with self._locked():
            entries = [e for e in self._entries() if _canonical(e["key"]) != wanted]
            entries.append({"key": key, "value": value})
            durable.write_json(self.path, {"format": _FORMAT, "entries": entries})

    def keep(self, key: dict[str, Any], value: dict[str, Any], what: str) -> None:
        """Stores like `put`, but where that fails warns that `what` is not kept, and goes on."""
        try:
            self.put(key, value)
        except (StorageError, IntegrityError) as error:
            warnings.warn(f"{what} not kept: {error}", stacklevel=3)

    def _entries(self) -> list[dict[str, Any]]:
        try:
            content = json.loads(self.path.read_text())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise self._refused(str(error)) from error
        entries = content.get("entries") if isinstance(content, dict) else None
        if not isinstance(entries, list) or content.get("format") != _FORMAT:
            raise self._refused(f"it needs format {_FORMAT} and a list of entries")
        if not all(isinstance(e, dict) and {"key", "value"} <= e.keys() for e in entries):
            raise self._refused("every entry needs a key and a value")
        return entries

    def _refused(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"{self.path} is no profile store: {why}. Delete the file; it is measured again."
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = open(self.path.with_suffix(".lock"), "a")
        except OSError as error:
            raise durable.storage_error(self.path, error) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _canonical(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True, allow_nan=False)
