"""What `latency` measures with: percentiles of calls, and what a disk asks for one durable write."""

import os
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments import runner
from experiments.runner import Figure


class Times:
    """Milliseconds by kind of call; the first calls of each kind are not kept."""

    def __init__(self, n_warm: int) -> None:
        self._n_warm = n_warm
        self._ms: dict[str, list[float]] = {}

    def of(self, kind: str, call: Callable[..., Any], *args: Any) -> Any:
        """Times a call; its result."""
        begin = time.perf_counter()
        found = call(*args)
        self.since(kind, begin)
        return found

    def since(self, kind: str, begin: float) -> None:
        """Keeps the time since `begin`."""
        self.add(kind, 1e3 * (time.perf_counter() - begin))

    def add(self, kind: str, ms: float) -> None:
        """Keeps what was measured otherwise."""
        self._ms.setdefault(kind, []).append(ms)

    def figures(self, kind: str, *, aim: float = 0.0, due: bool = False) -> Iterator[Figure]:
        """Median, 99th percentile, which the aim is for, and slowest of the calls that are kept."""
        for name, percent in (("p50", 50), ("p99", 99), ("slowest", 100)):
            value = float(np.percentile(self._ms[kind][self._n_warm :], percent))
            verdict = runner.judge(
                value <= aim, f"at most {aim:g}", due=due and name == "p99", otherwise="MISSED"
            )
            yield Figure(
                metric=f"{kind}: {name}", value=round(value, 4), unit="ms", kind="measured", **verdict
            )  # fmt: skip


class Disk:
    """One durable write of a page: with sqlite, as the log sets it, and without."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._sqlite = sqlite3.connect(folder / "floor.sqlite", isolation_level=None)
        self._sqlite.execute("PRAGMA journal_mode = WAL")
        self._sqlite.execute("PRAGMA synchronous = FULL")
        self._sqlite.execute("CREATE TABLE rows (text TEXT)")
        self._file = os.open(folder / "floor", os.O_CREAT | os.O_WRONLY)

    def commit(self) -> None:
        """A row of sqlite."""
        self._sqlite.execute("INSERT INTO rows VALUES ('x')")

    def sync(self) -> None:
        """4 KiB at the end of a file."""
        os.write(self._file, b"x" * 4096)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Closes both files."""
        self._sqlite.close()
        os.close(self._file)
