"""One side of a comparison as a process of its own, asked for one measurement at a time.

A worker reads JSON lines on stdin and answers each with one JSON line on stdout. Everything else
that it prints goes to stderr, which is kept for the error message.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ariel_jax.errors import ArielError


class WorkerError(ArielError, RuntimeError):
    """A benchmark process died or did not answer."""


class Worker:
    """A running side. Use as a context manager; leaving it ends the process.

    Args:
        module: `ariel_jax.bench....`, run with `python -m`.
        spec: what it shall load, sent as the first line. Loading goes on in the background until
            `wait`, `facts` or `ask` is called.
    """

    def __init__(self, module: str, spec: dict[str, Any]) -> None:
        self.module = module
        self._stderr = tempfile.TemporaryFile()
        threads = str(spec["threads"])
        # The thread counts of OpenMP and MKL are read once, when their libraries are loaded.
        env = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=env,
            text=True,
        )
        self._facts: dict[str, Any] | None = None
        self._write(spec)

    def wait(self) -> None:
        """Return when it is loaded and warmed up.

        Raises:
            WorkerError: it died; the message holds the end of what it wrote to stderr.
        """
        if self._facts is None:
            self._facts = self._read()

    @property
    def facts(self) -> dict[str, Any]:
        """What it said about itself when it was ready."""
        self.wait()
        assert self._facts is not None
        return self._facts

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer to one request.

        Raises:
            WorkerError: it died; the message holds the end of what it wrote to stderr.
        """
        self.wait()
        self._write(request)
        return self._read()

    def _write(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: reading its answer will say why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise WorkerError(
                f"the benchmark process {self.module} ended with status {status}. If that is -9 the "
                "system ran out of memory: choose smaller --cases. Its last words:\n"
                + self._last_words()
            )
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"the benchmark process {self.module} failed: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 2000))
        return self._stderr.read().decode(errors="replace").strip() or "(nothing)"

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # unread requests
                    pipe.close()
        self._stderr.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def limit_threads(n: int) -> None:
    """Keep this process on n of the processors that it may use, before any library counts them.

    Where the system has no affinity call, the libraries' own settings are all there is.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])


def serve(load: Callable[[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Answer requests until stdin ends.

    Args:
        load: called with the first line; does all the loading and returns the function that
            answers the other lines. Its `facts` attribute, if any, is the first answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    answer: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if answer is None:
            limit_threads(request["threads"])
            answer = load(request)
            result = getattr(answer, "facts", {})
        else:
            try:
                result = answer(request)
            except Exception as error:  # the next request may well be answered
                result = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(result) + "\n")
        answers.flush()
