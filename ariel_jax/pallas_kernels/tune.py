"""The recorded table from which `auto` learns where a kernel pays on this machine.

`ariel-jax kernels bench` times implementations on shapes and row counts and records them under the
machine's fingerprint. `auto` takes a kernel where its record is faster than that of the reference,
and nowhere else: a shape that is not recorded stays with the reference. The outputs of such runs on
some kinds of processors come with the package (`records/`); where one has this processor's instructions
and number of threads, its times stand in until there are the user's own.
"""

import functools
import json
import pathlib
from typing import Any

from ariel_jax import backend, measure
from ariel_jax.errors import IntegrityError, StorageError
from ariel_jax.pallas_kernels import native
from ariel_jax.pallas_kernels.native import compiling

LEAST_GAIN = 0.97  # time over the reference's up to which a kernel is taken
ROWS = (1, 2, 4, 8, 16, 32, 512)
CAPACITIES = (256, 1024, 4096)
PACKAGED = pathlib.Path(__file__).parent / "records"  # a file for each kind of processor
# Of a processor, for the packaged times to stand in.
SAME = ("instructions", "threads", "bfloat16_products", "whole_products", "tiles")
UNKNOWN = "nothing is recorded for this shape; run: ariel-jax kernels bench"


def store() -> measure.ProfileStore:
    """Where records are kept.

    Raises:
        StorageError: the user's cache folder cannot be used.
    """
    return measure.ProfileStore(backend.cache_directory() / "kernels.json")


def key(op: str) -> dict[str, Any]:
    """What the records of an operation depend on, apart from shapes.

    Times of other kernels than these say nothing: the sources of the native ones are part of it.
    """
    here = native.describe()
    used = {name: here.get(name) for name in SAME}  # ARIEL_JAX_INSTRUCTIONS may leave some out
    sources = compiling.fingerprint("")["sources"]
    return {"what": "kernel times", "op": op, "sources": sources, **used, **measure.fingerprint()}


@functools.cache
def records(op: str) -> dict[str, dict[str, float]]:
    """Seconds by implementation of each recorded shape; read once in a process."""
    try:
        own = store().get(key(op)) or {}
    except (StorageError, IntegrityError):
        own = {}
    return _packaged(op) | own


def _packaged(op: str) -> dict[str, dict[str, float]]:
    here = native.describe()
    for path in sorted(PACKAGED.glob("*.json")):
        run = json.loads(path.read_text())
        if all(run[name] == here.get(name) for name in SAME):
            return {row["shape"]: row["seconds"] for row in run["rows"] if row["op"] == op}
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
        return UNKNOWN
    share = found[name] / found["reference"]
    if share > LEAST_GAIN:
        return f"it takes {share:.2f} times the reference's time on this shape"
    return None
