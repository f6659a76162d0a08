"""Judgements a second: plain Python, clingo, NumPy, XLA and the native kernel, with verdict, counts and witnesses.

    python -m experiments.ariel.throughput --scale cpu --out results

Random premises and requests over 256 nodes in 4 slots. A judgement is a request judged against all premises.
`numpy` holds the same bits in words of 64 and goes through requests in blocks of 4,096; `packed` is one program,
with the native kernel or the reference; `matmul` is a product of one-hot requests. What is slow takes fewer
requests, and says how many. Compiling is the first call less a later one. `plain Python` and `clingo` (the
answer-set program that the library exports) judge twenty requests at once. Expected: with 1,000 premises
at least 80 million a second and at least ten times numpy. About a minute on two cores. Scale `gpu` judges ten
million requests in blocks of a million.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms.ariel import bulk
from ariel_jax.algorithms.ariel.types import Policy
from ariel_jax.measure.timing import timed
from ariel_jax.pallas_kernels import dispatch, native
from experiments import runner
from experiments.ariel import slow_engines
from experiments.ariel.slow_engines import Words
from experiments.runner import Case, Figure, Settings

V, K = 256, 4
FORMS = ("numpy", "packed", "reference", "matmul", "repeats")
AT_ONCE = 1 << 20  # requests of one program
SLOW = ("numpy", "reference", "repeats")
MOST_WORK = 1 << 30  # premises times requests of a slow form
SPENT_S = 4.0  # for the runs of one form, about


def cases(settings: Settings) -> Sequence[Case]:
    """By premises and requests."""
    tiny = settings.is_tiny
    shapes = [(n, b) for n in (32, 1000, 16_000) for b in (1, 1 << 10, 1 << 20)]
    if settings.scale == "gpu":
        shapes = [(n, 10 << 20) for n in (32, 1000, 16_000)]
    if tiny:
        shapes = [(100, 256)]
    at_once = 64 if tiny and settings.scale == "gpu" else AT_ONCE
    made = [
        Case(
            name=f"{n:,} premises, {b:,} requests",
            config={"N": n, "B": b, "n_runs": 2 if tiny else 9, "at_once": at_once},
            expected_s=5.0 if b <= 1 << 10 else 30.0,
        )
        for n, b in shapes
    ]
    slow = [(name, n) for name in slow_engines.ENGINES for n in ((20,) if tiny else (32, 1000))]
    return [
        *made,
        *(
            Case(name=f"{name}, {n:,} premises", config={"N": n, "B": 4 if tiny else 20, "engine": name}, expected_s=8.0)
            for name, n in slow
        ),
    ]  # fmt: skip


def problem(
    N: int, B: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Orders, premises, their values, requests."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((K, V))
    order = [w[:, None] >= w[None, :] for w in weights]
    nodes = rng.integers(0, V, (N, K), np.int32)
    return order, nodes, rng.integers(0, 2, N).astype(np.int8), rng.integers(0, V, (B, K), np.int32)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Rates of one shape."""
    N, B = case.config["N"], case.config["B"]
    order, nodes, value, asked = problem(N, B, settings.seed)
    deny = [a.T for a in order]
    begin = time.perf_counter()
    history = bulk.compile_history(order, deny, nodes, value)
    packing = 1e3 * (time.perf_counter() - begin)
    if "engine" in case.config:
        wanted = bulk.judge_batch(history, asked, Policy()).verdict
        yield from _slow(case.config["engine"], order, nodes, value, asked, np.asarray(wanted))
        return
    yield Figure(metric="packing the history", value=round(packing, 3), unit="ms", kind="measured")
    words, held = Words(history), jax.tree.map(jnp.asarray, history)
    rates, answers = {}, {}
    for form in FORMS:
        if form == "matmul" and N > 1000 and settings.scale != "gpu":
            continue  # its bools would take gigabytes here
        n = min(B, 1 << 14) if form == "matmul" else B
        if form in SLOW:
            n = min(n, 1 << max(MOST_WORK // N, 1).bit_length() - 1)
        run = _runner(form, words, held, asked[:n], Policy(), case.config["at_once"])
        begin = time.perf_counter()
        found = jax.block_until_ready(run())
        first_s = time.perf_counter() - begin
        begin = time.perf_counter()
        jax.block_until_ready(run())
        again_s = time.perf_counter() - begin
        n_runs = max(2, min(case.config["n_runs"], int(SPENT_S / again_s)))
        rates[form] = n, n / timed(run, n_runs=n_runs, n_warmup=0).median_s / 1e6
        answers[form] = [np.asarray(a)[: min(n, 1000)] for a in found]
        if form != "numpy":
            for name, spent in (
                ("first call", first_s),
                ("compiling", max(first_s - again_s, 0.0)),
            ):
                yield Figure(
                    metric=f"{form}: {name}", value=round(spent, 3), unit="s", kind="measured"
                )
    for form, (n, rate) in rates.items():
        same = all(
            np.array_equal(a[: len(b)], b[: len(a)])
            for a, b in zip(answers["numpy"], answers[form], strict=True)
        )
        assert same or form == "repeats", f"{form} disagrees with numpy"
        main = form == "packed" and N == 1000 and B == AT_ONCE and not settings.is_tiny
        few = "" if n == B else f" of {n:,} requests"
        yield Figure(
            metric=f"{form}: judgements{few}", value=round(rate, 6), unit="million/s", kind="measured",
            **runner.judge(rate >= 80, "at least 80", due=main, otherwise="MISSED"),
        )  # fmt: skip
        if form == "packed":
            times = rate / rates["numpy"][1]
            yield Figure(
                metric="packed over numpy", value=round(times, 2), unit="1", kind="measured",
                **runner.judge(times >= 10, "at least 10", due=main, otherwise="MISSED"),
            )  # fmt: skip
    loaded = float(native.why_not() is None)
    yield Figure(metric="native kernel loaded", value=loaded, unit="1", kind="measured")


def _runner(
    form: str, words: Words, held: Any, asked: np.ndarray, policy: Policy, at_once: int
) -> Callable[[], Any]:
    if form == "numpy":
        return lambda: words.judge(asked)
    parts = [jnp.asarray(asked[i : i + at_once]) for i in range(0, len(asked), at_once)]

    def run() -> Any:
        with dispatch.override(bitset_judge="reference" if form == "reference" else "auto"):
            found = [
                bulk.judge_batch(
                    held,
                    part,
                    policy,
                    form="matmul" if form == "matmul" else "packed",
                    repeats=form == "repeats",
                )
                for part in parts
            ]
        names = ("verdict", "n_app", "n_den", "wit_app", "wit_den")
        columns = ([getattr(one, name) for one in found] for name in names)
        return [c[0] if len(c) == 1 else jnp.concatenate(c) for c in columns]

    jax.clear_caches()  # which kernel a program takes is settled when it is traced
    return run


def _slow(
    name: str, order: list[np.ndarray], nodes: np.ndarray, value: np.ndarray, asked: np.ndarray, wanted: np.ndarray
) -> Iterator[Figure]:  # fmt: skip
    engine = slow_engines.ENGINES[name](order, nodes, value)
    begin = time.perf_counter()
    found = engine(asked)
    rate = len(asked) / (time.perf_counter() - begin)
    assert found == wanted.tolist(), f"{name} disagrees with the bulk program"
    yield Figure(metric=f"{name}: judgements", value=round(rate, 3), unit="1/s", kind="measured")


EXPERIMENT = runner.Experiment(
    name="ariel.throughput", title="Judgements a second", cases=cases, measure=measure
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
