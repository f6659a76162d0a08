"""What every experiment script shares: flags, cases that resume, rows, table, picture.

A script defines an `Experiment` and ends with `sys.exit(runner.main(EXPERIMENT))`. It then takes

    --scale smoke|cpu|gpu   seconds, in CI | at most half an hour on two cores | real shapes on a GPU
    --shapes smoke          the code path of the scale, with the shapes of `smoke`
    --out DIR               gets results.jsonl, <experiment>.md and, with a plot, <experiment>.png
    --case NAME             only this case, and those with further --case; several runs can share DIR
    --NAME VALUE            what the script itself asks for, as `Experiment.flags` names it

Rows of finished cases are kept: the same command goes on where an earlier run stopped. Rows that
other experiments, scales, devices or versions left in the same results.jsonl stay in it.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import io
import json
import pathlib
import platform as host
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ariel_jax import __version__, backend, durable
from ariel_jax.errors import ArielError, ConfigError, IntegrityError, missing_extra

COLUMNS = (
    "experiment", "case", "metric", "value", "unit", "paper", "baseline", "expected", "verdict",
    "kind", "config", "device", "versions", "seed",
)  # fmt: skip
KINDS = ("measured", "emulated", "simulated")
TABLE = ("case", "metric", "unit", "paper", "baseline", "value", "expected", "verdict", "kind")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the flags say.

    Attributes:
        scale: `smoke`, `cpu` or `gpu`.
        shapes: `full`, or `smoke` for tiny ones.
        seed: for all randomness of the script.
        flags: value of each further flag of the script.
    """

    scale: Literal["smoke", "cpu", "gpu"]
    shapes: Literal["full", "smoke"] = "full"
    seed: int = 0
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def is_tiny(self) -> bool:
        """Whether shapes must be tiny."""
        return self.scale == "smoke" or self.shapes == "smoke"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that a case found.

    Attributes:
        metric: what it is.
        value: the number.
        unit: its unit; `1` for a ratio.
        kind: `measured` here, `emulated` (a real computation under an imposed limit) or `simulated`.
        paper: what the paper reports, if it does.
        baseline: the same metric of what it is compared with.
        expected: what was expected beforehand, such as `at least 1.2`.
        verdict: `PASS` or `FAIL`, empty without an expectation; `MISSED` where the script explains in
            further rows why an aim was not reached.
    """

    metric: str
    value: float
    unit: str
    kind: Literal["measured", "emulated", "simulated"]
    paper: float | str | None = None
    baseline: float | str | None = None
    expected: str = ""
    verdict: Literal["PASS", "FAIL", "MISSED", ""] = ""


def judge(
    good: bool, expected: str, *, due: bool = True, otherwise: Literal["FAIL", "MISSED"] = "FAIL"
) -> dict[str, Any]:
    """The fields `expected` and `verdict` of a `Figure`; none where no verdict is due."""
    return {"expected": expected, "verdict": "PASS" if good else otherwise} if due else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One unit of work, the smallest that a resumed run repeats.

    Attributes:
        name: unique in the experiment.
        config: everything that its figures depend on, ready for JSON.
        expected_s: roughly how long it takes; for the time left.
    """

    name: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    expected_s: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A script.

    Attributes:
        name: `<system>.<name>`, as in the module's path.
        title: heading of the table.
        cases: the cases at given settings.
        measure: the figures of one case, at least one.
        plot: a matplotlib figure from all rows, or None.
        flags: further flags of the command line and their defaults.
    """

    name: str
    title: str
    cases: Callable[[Settings], Sequence[Case]]
    measure: Callable[[Case, Settings], Iterable[Figure]]
    plot: Callable[[list[dict[str, Any]]], Any] | None = None
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Runs a script's command line.

    Args:
        experiment: the script.
        argv: its arguments; None means those of the process.

    Returns:
        0, or 2 after an error of the caller. A verdict of FAIL is a result, not an error.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{experiment.name}", description=experiment.title
    )
    parser.add_argument("--scale", choices=("smoke", "cpu", "gpu"), required=True)
    parser.add_argument("--shapes", choices=("full", "smoke"), default="full")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", action="append", default=[], metavar="NAME")
    for name, default in experiment.flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, default=default)
    args = parser.parse_args(argv)
    flags = {name: str(getattr(args, name)) for name in experiment.flags}
    settings = Settings(scale=args.scale, shapes=args.shapes, seed=args.seed, flags=flags)
    try:
        run(experiment, settings, args.out, only=args.case)
    except ArielError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(
    experiment: Experiment, settings: Settings, out: pathlib.Path, *, only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Measures what is not measured yet and writes results, table and picture.

    Args:
        experiment: the script.
        settings: from the flags.
        out: folder, made if it is missing. Several processes may share it, each with its own cases.
        only: names of the cases to measure; none for all. Table and picture need all cases: as long as
            others are missing, there are rows only.

    Returns:
        The rows of all cases, those of earlier runs included.

    Raises:
        BackendError: scale `gpu` with full shapes off a GPU.
        ConfigError: there is no case of a name in `only`.
        MissingExtraError: there is a plot but no matplotlib.
        StorageError: `out` cannot be written.
        IntegrityError: `out` holds a results.jsonl that is none.
    """
    if settings.scale == "gpu" and settings.shapes == "full":
        backend.use("gpu")
    pyplot = _pyplot() if experiment.plot is not None else None
    cases = _checked(experiment.cases(settings))
    _check_names(only, cases)
    with _storage(out):
        out.mkdir(parents=True, exist_ok=True)
    frame = _frame(experiment, settings)
    keys = {case.name: _key(frame | {"config": _config(case, settings)}) for case in cases}
    rows = _known(out / "results.jsonl", keys)
    if rows:
        _say(f"{len(rows)} of {len(cases)} cases are finished already")
    todo = [case for case in cases if case.name not in rows and (not only or case.name in only)]
    clock = _TimeLeft(todo)
    for case in todo:
        figures = list(experiment.measure(case, settings))
        full = frame | {"case": case.name, "config": _config(case, settings)}
        new = [_row(full, figure) for figure in figures]
        if not figures:
            raise ConfigError(f"case {case.name!r} of {experiment.name} found no figure.")
        _merge(out / "results.jsonl", new)
        _say(clock.after(case))
    rows = _known(out / "results.jsonl", keys)  # another run may have added its cases
    if missing := [case.name for case in cases if case.name not in rows]:
        _say(f"no table yet, {len(missing)} of {len(cases)} cases are missing: {missing}")
        return [row for found in rows.values() for row in found]
    found = [row for case in cases for row in rows[case.name]]
    stem = experiment.name.replace(".", "_")
    durable.write_bytes(out / f"{stem}.md", table(experiment, settings, found).encode())
    if experiment.plot is not None:
        figure = experiment.plot(found)
        durable.write_bytes(out / f"{stem}.png", _png(figure, found))
        pyplot.close(figure)
    print(table(experiment, settings, found))
    return found


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a results.jsonl; none if there is no such file.

    Raises:
        IntegrityError: a line is not a row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and set(row) == set(COLUMNS):
                rows.append(row)
                continue
        raise IntegrityError(
            f"{path}, line {number} is not a result row (an object with the columns "
            f"{', '.join(COLUMNS)}). Move the file away, or choose another --out."
        )
    return rows


def table(experiment: Experiment, settings: Settings, rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown page."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return "" if value is None else str(value).replace("|", "\\|")

    lines = [f"# {experiment.title}", ""]
    devices = sorted({row["device"] for row in rows})
    lines += [f"Scale `{settings.scale}`, on {'; '.join(devices)}.", ""]
    titles = ["ours" if column == "value" else column for column in TABLE]
    lines += ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(cell(row[c]) for c in TABLE) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _checked(cases: Sequence[Case]) -> Sequence[Case]:
    names = [case.name for case in cases]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"an experiment needs cases with different names; got {names}.")
    return cases


def _known(path: pathlib.Path, keys: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each case, by its key."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read(path):
        if keys.get(row["case"]) == _key(row):
            rows.setdefault(row["case"], []).append(row)
    return rows


def _check_names(only: Sequence[str], cases: Sequence[Case]) -> None:
    names = [case.name for case in cases]
    if unknown := [name for name in only if name not in names]:
        raise ConfigError(f"no case is called {unknown[0]!r} at this scale; pass some of {names}.")


def _config(case: Case, settings: Settings) -> dict[str, Any]:
    given = dataclasses.asdict(settings)
    return json.loads(json.dumps(case.config | given.pop("flags") | given))


def _frame(experiment: Experiment, settings: Settings) -> dict[str, Any]:
    """The columns that all rows of a run have in common."""
    facts = backend.facts()
    device = backend.processor()["model"] if facts["platform"] == "cpu" else facts["device_kind"]
    import jax

    return {
        "experiment": experiment.name,
        "device": f"{facts['n_devices']} x {device}" if facts["n_devices"] > 1 else device,
        "versions": {
            "ariel_jax": __version__,
            "jax": jax.__version__,
            "python": host.python_version(),
            "driver": facts["driver"],
        },
        "seed": settings.seed,
    }


def _key(row: dict[str, Any]) -> str:
    names = ("experiment", "config", "device", "versions", "seed")
    return json.dumps([row[name] for name in names], sort_keys=True)


def _row(frame: dict[str, Any], figure: Figure) -> dict[str, Any]:
    if figure.kind not in KINDS:
        raise ConfigError(f"kind {figure.kind!r} of {figure.metric!r}: pass one of {KINDS}.")
    row = frame | dataclasses.asdict(figure)
    return {column: row[column] for column in COLUMNS}


def _merge(path: pathlib.Path, new: list[dict[str, Any]]) -> None:
    """Adds rows to the file; it holds the old rows or all of them, whatever happens."""
    with _storage(path), open(path.with_suffix(".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [json.dumps(row, allow_nan=False) for row in (*read(path), *new)]
        durable.write_bytes(path, ("\n".join(lines) + "\n").encode())


@contextlib.contextmanager
def _storage(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except ArielError:
        raise
    except OSError as error:
        raise durable.storage_error(path, error) from error


class _TimeLeft:
    def __init__(self, todo: Sequence[Case]) -> None:
        self._begin = time.perf_counter()
        self._todo = list(todo)
        self._total = len(todo)
        self._done_s = 0.0

    def after(self, case: Case) -> str:
        """A line for a case that has just ended."""
        self._todo.remove(case)
        self._done_s += case.expected_s
        spent = time.perf_counter() - self._begin
        left = spent / self._done_s * sum(other.expected_s for other in self._todo)
        done = self._total - len(self._todo)
        return f"[{done}/{self._total}] {case.name}: {spent:.0f} s so far, about {left:.0f} s left"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "the picture of this experiment") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(figure: Any, rows: Sequence[dict[str, Any]]) -> bytes:
    unreal = sorted({row["kind"] for row in rows} - {"measured"})
    if unreal:
        figure.text(0.99, 0.01, f"contains {' and '.join(unreal)} figures", ha="right", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
