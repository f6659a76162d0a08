"""The decode comparison: alternating pairs, ratios, verdicts, and the memory of the programs."""

import contextlib
import dataclasses
import importlib.util
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ariel_jax._checks import positive_int
from ariel_jax.bench.cases import Case, Metric, n_float32_bytes
from ariel_jax.bench.worker import Worker, WorkerError
from ariel_jax.errors import missing_extra

OURS = "ariel_jax.bench.ours_worker"
THEIRS = {"transformers": "ariel_jax.bench.transformers_worker"}
TEMP_LIMIT = 0.05  # of the cache's bytes
VERIFIED_ROWS = 8
VERIFY_LIMIT = 1.5  # times a plain step

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of the table.

    Attributes:
        case: name of the case.
        metric: what the values are, unit included.
        ours: this library's median.
        theirs: the other program's median, or None.
        ratio: median over pairs of theirs / ours (above 1: we are faster), or the value itself
            where there is no other side.
        low: least of the pairs.
        high: largest of the pairs.
        target: what `ratio` must reach (or stay below, see `at_most`), or None.
        at_most: the target is an upper limit.
        note: what else was measured.
    """

    case: str
    metric: str
    ours: float
    theirs: float | None
    ratio: float
    low: float
    high: float
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """`PASS`, `FAIL`, or an empty text without a target."""
        if self.target is None:
            return ""
        good = self.ratio <= self.target if self.at_most else self.ratio >= self.target
        return "PASS" if good else "FAIL"


def compare(
    case: Case,
    *,
    against: str | None = "transformers",
    pairs: int = 5,
    threads: int = 2,
    platform: str = "cpu",
    say: Say = lambda text: None,
) -> list[Row]:
    """Rows of one case: its time on each side, and the share of the read bandwidth we reach.

    Each side runs in its own process. Both are warmed up, then measured in turn; who goes first
    changes with each pair. Where memory does not allow both at once, each measurement gets a
    process of its own.

    Args:
        case: from `select`.
        against: the other side, or None to measure only ours.
        pairs: how many times each side is measured.
        threads: processors that each side may use.
        platform: `cpu`, `gpu` or `tpu`; the other side runs on the first two.
        say: told what is going on.

    Raises:
        MissingExtraError: the other side is not installed.
        WorkerError: a side died.
    """
    positive_int(pairs=pairs, threads=threads)
    _check_installed(against)
    modules = [OURS] if against is None else [OURS, THEIRS[against]]
    spec = dataclasses.asdict(case) | {"threads": threads, "platform": platform}
    together = len(modules) * _peak_bytes(case) < 0.7 * available_bytes()
    say(f"{case.name}: loading" + ("" if together else ", one side at a time (memory is short)"))
    pairs = min(pairs, case.repetitions or pairs)
    times: dict[str, list[dict[str, Any]]] = {module: [] for module in modules}
    beside: dict[str, dict[str, Any]] = {}
    split: dict[str, Any] | None = None
    verified: dict[str, Any] | None = None
    ceilings: list[float] = []  # one per pair
    facts: dict[str, Any] = {}
    with_ceiling = case.measures_bandwidth and case.metric == Metric.DECODE
    with _sides(modules, spec, together=together) as side:
        for pair in range(pairs):
            for module in modules if pair % 2 == 0 else modules[::-1]:
                with side(module) as worker:
                    # The rate of a shared machine drifts by a third within minutes: each share is
                    # of the better rate just before and just after its own measurement.
                    rates = []
                    if module == OURS and with_ceiling:
                        rates.append(worker.ask({"ask": "ceiling"})["read_bytes_per_s"])
                    times[module].append(worker.ask({"ask": "measure"}))
                    facts[module] = worker.facts
                    if rates:
                        rates.append(worker.ask({"ask": "ceiling"})["read_bytes_per_s"])
                        ceilings.append(max(rates))
            say(f"{case.name}: pair {pair + 1} of {pairs}")
        for cache in case.caches if len(modules) > 1 else ():
            say(f"{case.name}: their cache {cache!r}")
            with side(modules[1]) as worker:
                try:
                    beside[cache] = worker.ask({"ask": "measure", "cache": cache})
                except WorkerError as error:  # no compiler, say: the others count all the same
                    beside[cache] = {"error": str(error)}
        if case.grows:
            say(f"{case.name}: split of a step")
            with side(OURS) as worker:
                split = worker.ask({"ask": "split"})
        if case.verifies:
            with side(OURS) as worker:
                verified = worker.ask({"ask": "verification", "rows": VERIFIED_ROWS})
    rows = _rows(case, times, facts, ceilings)
    rows += _other_caches(case, times[OURS], beside)
    rows += [] if verified is None else [_verification_row(case, verified)]
    return rows + ([] if split is None else _split_rows(case, times[OURS], split))


def _check_installed(against: str | None) -> None:
    if against is None:
        return
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "test", f"a comparison with {against}")


def _peak_bytes(case: Case) -> int:
    # Weights, one copy of the largest matrix while loading, caches, the frameworks themselves.
    return int(1.5 * n_float32_bytes(case.shape)) + (1 << 30)


def available_bytes() -> int:
    """Memory that a new process could use now, in bytes."""
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


@contextlib.contextmanager
def _sides(
    modules: Sequence[str], spec: dict[str, Any], *, together: bool
) -> Iterator[Callable[[str], contextlib.AbstractContextManager[Worker]]]:
    if not together:
        yield lambda module: Worker(module, spec)  # one at a time
        return
    with contextlib.ExitStack() as stack:
        running = {module: stack.enter_context(Worker(module, spec)) for module in modules}
        for worker in running.values():  # they load at the same time
            worker.wait()
        yield lambda module: contextlib.nullcontext(running[module])


def _seconds(case: Case, measured: dict[str, Any]) -> float:
    if case.metric == Metric.PREFILL:
        return measured["first_s"]
    return measured["rest_s"] / measured["n_steps"]


def _rows(
    case: Case,
    times: dict[str, list[dict[str, Any]]],
    facts: dict[str, Any],
    ceilings: Sequence[float],
) -> list[Row]:
    ours = [_seconds(case, m) for m in times[OURS]]
    note = f"{facts[OURS]['n_params'] / 1e6:.1f} M parameters, {facts[OURS]['kernels']}"
    others = [name for name in times if name != OURS]
    rows = []
    if others:
        theirs = [_seconds(case, m) for m in times[others[0]]]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        rows.append(
            Row(
                case=case.name,
                metric=case.metric.value,
                ours=statistics.median(ours) * 1e3,
                theirs=statistics.median(theirs) * 1e3,
                ratio=statistics.median(ratios),
                low=min(ratios),
                high=max(ratios),
                target=case.target,
                note=note,
            )
        )
    else:
        ms = [s * 1e3 for s in ours]
        rows.append(_alone(case.name, case.metric.value, ms, note=note))
    if ceilings:
        n_bytes = facts[OURS]["bytes_per_step"]
        share = [100 * n_bytes / s / rate for s, rate in zip(ours, ceilings, strict=True)]
        target = None if case.bandwidth_target is None else 100 * case.bandwidth_target
        low, high = min(ceilings) / 1e9, max(ceilings) / 1e9
        note = f"of {low:.1f} to {high:.1f} GB/s read"
        rows.append(_alone(case.name, "% of read bandwidth", share, target=target, note=note))
    return rows


def _other_caches(
    case: Case, ours: list[dict[str, Any]], beside: dict[str, dict[str, Any]]
) -> list[Row]:
    """One row for each further cache of the other side: measured once, so without a target."""
    mine = statistics.median(_seconds(case, m) for m in ours)
    rows = []
    for cache, found in beside.items():
        metric = f"{case.metric.value}, their cache: {cache}"
        if "error" in found:
            note = f"theirs failed: {found['error'][:200]}"
            rows.append(_alone(case.name, metric, [mine * 1e3], note=note))
            continue
        seconds = _seconds(case, found)
        ratio = seconds / mine
        rows.append(
            Row(
                case=case.name,
                metric=metric,
                ours=mine * 1e3,
                theirs=seconds * 1e3,
                ratio=ratio,
                low=ratio,
                high=ratio,
                note="measured once",
            )
        )
    return rows


def _verification_row(case: Case, verified: dict[str, Any]) -> Row:
    """What a step over several rows costs beside one over a single row."""
    metric = f"step of {VERIFIED_ROWS} rows over one row"
    note = (
        f"{1e3 * verified['many_s']:.2f} over {1e3 * verified['one_s']:.2f} ms, drafting included"
    )
    row = _alone(case.name, metric, [verified["many_s"] / verified["one_s"]], note=note)
    target = VERIFY_LIMIT if case.dtype == "f32" else None
    return dataclasses.replace(row, target=target, at_most=True)


def _split_rows(case: Case, ours: list[dict[str, Any]], split: dict[str, Any]) -> list[Row]:
    """Where our time goes: parts timed alone at the middle length, and what is left over."""
    grow = [1e3 * m["grow_s"] / m["n_steps"] for m in ours]
    growths = ours[-1]["growths"]
    note = f"{split['length']} rows known of {split['capacity']}"
    rows = [
        _alone(case.name, f"ms/step: {part}", [1e3 * split[f"{part}_s"]], note=note)
        for part in ("whole", "linear", "attention")
    ]
    rest = split["whole_s"] - split["linear_s"] - split["attention_s"]
    rows.append(_alone(case.name, "ms/step: rest", [1e3 * rest], note="whole less these two"))
    rows.append(_alone(case.name, "ms/step: growth", grow, note=f"{growths} growths of the run"))
    return rows


def _alone(
    case: str, metric: str, values: Sequence[float], *, target: float | None = None, note: str = ""
) -> Row:
    middle = statistics.median(values)
    return Row(
        case=case,
        metric=metric,
        ours=middle,
        theirs=None,
        ratio=middle,
        low=min(values),
        high=max(values),
        target=target,
        note=note,
    )


def memory_rows(
    case: Case, *, batches: Sequence[int] = (1, 4), threads: int = 2, platform: str = "cpu"
) -> list[Row]:
    """Temporary bytes of the compiled segment program as a percentage of the cache's bytes.

    Args:
        case: whose shape, prompt length and number of new tokens to take.
        batches: for which batch sizes.
        threads: processors that the process may use.
        platform: `cpu`, `gpu` or `tpu`.
    """
    spec = dataclasses.asdict(case) | {"threads": threads, "platform": platform, "batch": 1}
    rows = []
    with Worker(OURS, spec) as worker:
        for batch in batches:
            found = worker.ask({"ask": "memory", "batch": batch})
            percent = 100 * found["temp_bytes"] / found["cache_bytes"]
            row = _alone(
                f"{case.name}, B={batch}",
                "temporary bytes, % of cache",
                [percent],
                target=100 * TEMP_LIMIT,
                note=f"{found['temp_bytes']:,} of {found['cache_bytes']:,} bytes",
            )
            rows.append(dataclasses.replace(row, at_most=True))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| case | metric | ours | theirs | theirs / ours (min..max) | target | verdict | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        theirs = "" if row.theirs is None else f"{row.theirs:.2f}"
        spread = f"{row.ratio:.2f} ({row.low:.2f}..{row.high:.2f})" if row.theirs else ""
        if row.theirs is None and row.low != row.high:
            spread = f"({row.low:.2f}..{row.high:.2f})"
        sign = "at most" if row.at_most else "at least"
        target = "" if row.target is None else f"{sign} {row.target:g}"
        lines.append(
            f"| {row.case} | {row.metric} | {row.ours:.2f} | {theirs} | {spread} | {target} "
            f"| {row.verdict} | {row.note} |"
        )
    return "\n".join(lines)
