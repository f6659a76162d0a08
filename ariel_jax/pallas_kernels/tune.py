"""The recorded table from which `auto` learns where a kernel pays on this machine.

`ariel-jax kernels bench` times implementations on shapes and row counts and records them under the
machine's fingerprint. `auto` takes a kernel where its record is at least as fast as that of the
reference, and nowhere else: a shape that is not recorded stays with the reference.
"""

import functools
from typing import Any

from ariel_jax import backend, measure
from ariel_jax.errors import IntegrityError, StorageError

LEAST_GAIN = 0.97  # time over the reference's up to which a kernel is taken
ROWS = (1, 2, 4, 8, 16, 32)


def store() -> measure.ProfileStore:
    """Where records are kept.

    Raises:
        StorageError: the user's cache folder cannot be used.
    """
    return measure.ProfileStore(backend.cache_directory() / "kernels.json")


def key(op: str) -> dict[str, Any]:
    """What the records of an operation depend on, apart from shapes."""
    return {"what": "kernel times", "op": op, **measure.fingerprint()}


@functools.cache
def records(op: str) -> dict[str, dict[str, float]]:
    """Seconds by implementation of each recorded shape; read once in a process."""
    try:
        return store().get(key(op)) or {}
    except (StorageError, IntegrityError):
        return {}


def record(op: str, times: dict[str, dict[str, float]]) -> None:
    """Adds seconds by shape and implementation to what is recorded.

    Raises:
        StorageError: it cannot be written.
        IntegrityError: the file is no store of records.
    """
    kept = store().get(key(op)) or {}
    store().put(key(op), kept | times)
    records.cache_clear()


def bucket(rows: int) -> int:
    """The recorded number of rows that stands for `rows`: the next one above."""
    return next((n for n in ROWS if n >= rows), ROWS[-1])


def why_not(op: str, name: str, shape: str) -> str | None:
    """Why `auto` does not take implementation `name` for a shape, or None."""
    found = records(op).get(shape)
    if found is None or not {name, "reference"} <= found.keys():
        return "nothing is recorded for this shape; run: ariel-jax kernels bench"
    share = found[name] / found["reference"]
    if share > LEAST_GAIN:
        return f"it takes {share:.2f} times the reference's time on this shape"
    return None
