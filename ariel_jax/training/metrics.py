"""Training metrics: one JSON line per report, and a progress bar where someone can see it."""

import errno
import json
import os
import pathlib
import sys
from typing import Any

from ariel_jax.durable import storage_error, write_bytes


class MetricsLog:
    """A file of JSON lines, each with a `step`; a torn last line is dropped, never fatal.

    Opening it for a run that continues at step n drops the rows beyond n, which the run will write
    again. With `private` only this user may read it.
    """

    def __init__(self, path: str | os.PathLike[str], *, step: int, private: bool = False):
        self.path = pathlib.Path(path)
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_bytes(self.path, lines.encode(), private=private)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row; it is one write, so a reader sees all of it or a torn last line.

        Raises:
            StorageError: the file could not be written.
        """
        line = (json.dumps(row) + "\n").encode()
        try:
            with open(self.path, "ab", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if file.write(line) != len(line):  # a disk that is nearly full takes a part
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise storage_error(self.path, error) from error


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The complete rows of a metrics file, in order; empty if there is no file."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class Progress:
    """A rich progress bar on a terminal; nothing at all elsewhere."""

    def __init__(self, total: int, start: int, *, shown: bool | None = None):
        self._bar: Any = None
        if sys.stderr.isatty() if shown is None else shown:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=total, completed=start, note="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, note: str | None = None) -> None:
        """Moves the bar to `step`; `note` replaces the text beside it."""
        if self._bar is not None:
            fields = {} if note is None else {"note": note}
            self._bar.update(self._task, completed=step, **fields)
