"""What must survive a full disk, a read-only one and a killed process; host only, no JAX.

`write_bytes`, `write_json`, `replacing` and `replacing_directory` write beside the target, flush to
the disk and rename: a reader sees the old content or the new, never a part. `EventLog` is an
append-only, hash-chained record in one sqlite file, safe for several threads and processes.
Whatever fails raises `StorageError` and leaves what was there before.
"""

from ariel_jax.durable.event_log import Event, EventLog
from ariel_jax.durable.files import (
    replacing,
    replacing_directory,
    storage_error,
    write_bytes,
    write_json,
)

__all__ = [
    "Event",
    "EventLog",
    "replacing",
    "replacing_directory",
    "storage_error",
    "write_bytes",
    "write_json",
]
