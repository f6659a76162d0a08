"""Seconds until the first text: importing the package, and `ariel-jax generate` cold and warm.

    python -m experiments.decode.first_token --scale cpu --out results

Cold is a process with an empty cache folder (every program is compiled), warm the next one with the
same folder. The time runs from starting the process to the first character on its standard output.
Scale `cpu` uses nano and takes about a minute; `smoke` a toy model of the same form.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from ariel_jax import backend, testing
from ariel_jax.errors import BackendError
from experiments import runner
from experiments.runner import Case, Figure, Settings

PROMPT = "def read_lines(path):"
LIMITS_S = {"import ariel_jax": 0.3, "first text, cold": 8.0, "first text, warm": 4.0}
_IMPORT = "import time; t = time.perf_counter(); import ariel_jax; print(time.perf_counter() - t)"


def cases(settings: Settings) -> Sequence[Case]:
    """One case: import, cold and warm, a few times each."""
    n_runs = 1 if settings.is_tiny else 5
    model = "toy" if settings.is_tiny else "nano"
    return [Case(name=model, config={"n_runs": n_runs, "prompt": PROMPT}, expected_s=12.0 * n_runs)]


def first_text_s(model: str, cache: str) -> float:
    """Seconds from starting the command to its first character of text."""
    command = [sys.executable, "-m", "ariel_jax.cli.main", "--backend", backend.platform()]
    command += ["generate", PROMPT, "--model", model, "--max-new", "32"]
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        found = process.stdout.read(1)
        taken = time.perf_counter() - begin
        process.stdout.read()
        words = process.stderr.read().decode()
    if not found or process.returncode:
        raise BackendError(f"generate ended with status {process.returncode}: {words[-2000:]}")
    return taken


def import_s() -> float:
    """Seconds of `import ariel_jax` in a new process."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, check=True)
    return float(done.stdout)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Medians over the runs, with a verdict at full size."""
    times: dict[str, list[float]] = {name: [] for name in LIMITS_S}
    with tempfile.TemporaryDirectory() as folder:
        model = "nano"
        if case.name == "toy":
            model = str(pathlib.Path(folder) / "toy")
            testing.write_toy_checkpoint(model)
        for run in range(case.config["n_runs"]):
            cache = str(pathlib.Path(folder) / f"cache-{run}")
            times["import ariel_jax"].append(import_s())
            times["first text, cold"].append(first_text_s(model, cache))
            times["first text, warm"].append(first_text_s(model, cache))
    for name, limit in LIMITS_S.items():
        middle = statistics.median(times[name])
        is_judged = not settings.is_tiny
        yield Figure(
            metric=name,
            value=round(middle, 3),
            unit="s",
            kind="measured",
            **runner.judge(middle < limit, f"below {limit:g}", due=is_judged),
        )
        yield Figure(metric=f"{name}, slowest", value=max(times[name]), unit="s", kind="measured")


EXPERIMENT = runner.Experiment(
    name="decode.first_token",
    title="Seconds until the first text",
    cases=cases,
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
