"""Judgements a second: plain Python, NumPy, XLA and the native kernel, with verdict, counts and witnesses.

    python -m experiments.ariel.throughput --scale cpu --out results

Random premises and requests over 256 nodes in 4 slots. A judgement is a request judged against all premises.
`numpy` holds the same bits in words of 64 and goes through requests in blocks of 4,096; `packed` is one program,
with the native kernel or the reference; `matmul` is a product of one-hot requests. Expected: with 1,000 premises at least 80 million a second and at
least ten times numpy. About two minutes on two cores.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms.ariel import bulk, metrics
from ariel_jax.algorithms.ariel.types import Policy
from ariel_jax.measure.timing import timed
from ariel_jax.pallas_kernels import dispatch, native
from experiments import runner
from experiments.runner import Case, Figure, Settings

V, K = 256, 4
FORMS = ("numpy", "packed", "reference", "matmul", "repeats")
BLOCK = 4096


def cases(settings: Settings) -> Sequence[Case]:
    """By premises and requests."""
    tiny = settings.is_tiny
    shapes = (
        [(100, 256)]
        if tiny
        else [(32, 1 << 20), (1000, 1 << 10), (1000, 1 << 20), (16_000, 1 << 16)]
    )
    made = [
        Case(
            name=f"{n:,} premises, {b:,} requests",
            config={"N": n, "B": b, "n_runs": 2 if tiny else 9},
            expected_s=20.0,
        )
        for n, b in shapes
    ]
    return [
        *made,
        Case(name="plain Python", config={"N": 100 if tiny else 1000, "B": 20}, expected_s=5.0),
    ]


def problem(
    N: int, B: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Orders, premises, their values, requests."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((K, V))
    order = [w[:, None] >= w[None, :] for w in weights]
    nodes = rng.integers(0, V, (N, K), np.int32)
    return order, nodes, rng.integers(0, 2, N).astype(np.int8), rng.integers(0, V, (B, K), np.int32)


class Words:
    """The same judge in NumPy, on words of 64 bits."""

    def __init__(self, history: bulk.CompiledHistory) -> None:
        def wide(a: Any) -> np.ndarray:
            bits = np.asarray(a)
            if bits.shape[-1] % 2:
                bits = np.concatenate([bits, np.zeros((*bits.shape[:-1], 1), np.uint32)], -1)
            return np.ascontiguousarray(bits).view(np.uint64)

        self.table, self.yes, self.no = (
            wide(a) for a in (history.table, history.approving, history.denying)
        )

    def judge(self, asked: np.ndarray) -> tuple[np.ndarray, ...]:
        """Verdicts, counts and first premises; conflicts are asked."""
        parts = [self._some(asked[i : i + BLOCK]) for i in range(0, len(asked), BLOCK)]
        return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))

    def _some(self, asked: np.ndarray) -> tuple[np.ndarray, ...]:
        covering = self.table[0][asked[:, 0]]
        for k in range(1, K):
            covering &= self.table[k][asked[:, k]]
        counts, firsts = [], []
        for side in (self.yes, self.no):
            mask = covering & side
            counts.append(np.bitwise_count(mask).sum(1, dtype=np.int32))
            word = (mask != 0).argmax(1)
            bits = mask[np.arange(len(mask)), word]
            low = np.bitwise_count((bits & (~bits + np.uint64(1))) - np.uint64(1)).astype(np.int32)
            firsts.append(np.where(bits == 0, -1, word.astype(np.int32) * 64 + low))
        yes, no = counts[0] > 0, counts[1] > 0
        verdict = np.where(yes == no, metrics.ASK, np.where(yes, metrics.SHARE, metrics.WITHHOLD))
        return (verdict.astype(np.int8), *counts, *firsts)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Rates of one shape."""
    N, B = case.config["N"], case.config["B"]
    order, nodes, value, asked = problem(N, B, settings.seed)
    deny = [a.T for a in order]
    if case.name == "plain Python":
        yield from _plain(order, nodes, value, asked)
        return
    begin = time.perf_counter()
    history = bulk.compile_history(order, deny, nodes, value)
    yield Figure(
        metric="packing the history",
        value=round(1e3 * (time.perf_counter() - begin), 3),
        unit="ms",
        kind="measured",
    )
    words, held, requests = Words(history), jax.tree.map(jnp.asarray, history), jnp.asarray(asked)
    policy, rates, answers = Policy(), {}, {}
    for form in FORMS:
        if form == "matmul" and N > 1000:
            continue  # its bools would take gigabytes here
        n = B if form != "matmul" else min(B, 1 << 14)
        run = _runner(form, words, held, asked[:n], requests[:n], policy)
        begin = time.perf_counter()
        found = jax.block_until_ready(run())
        first_s = time.perf_counter() - begin
        spent = timed(run, n_runs=case.config["n_runs"])
        rates[form] = n / spent.median_s / 1e6
        answers[form] = [np.asarray(a)[: min(n, 1000)] for a in found]
        if form != "numpy":
            yield Figure(
                metric=f"{form}: first call", value=round(first_s, 3), unit="s", kind="measured"
            )
    for form, rate in rates.items():
        same = all(
            np.array_equal(a[: len(b)], b[: len(a)])
            for a, b in zip(answers["numpy"], answers[form], strict=True)
        )
        assert same or form == "repeats", f"{form} disagrees with numpy"
        main = form == "packed" and N == 1000 and B > BLOCK and not settings.is_tiny
        yield Figure(
            metric=f"{form}: judgements", value=round(rate, 3), unit="million/s", kind="measured",
            **runner.judge(rate >= 80, "at least 80", due=main, otherwise="MISSED"),
        )  # fmt: skip
        if form == "packed":
            times = rate / rates["numpy"]
            yield Figure(
                metric="packed over numpy", value=round(times, 2), unit="1", kind="measured",
                **runner.judge(times >= 10, "at least 10", due=main, otherwise="MISSED"),
            )  # fmt: skip
    loaded = float(native.why_not() is None)
    yield Figure(metric="native kernel loaded", value=loaded, unit="1", kind="measured")


def _runner(
    form: str, words: Words, held: Any, asked: np.ndarray, requests: jax.Array, policy: Policy
) -> Callable[[], Any]:
    if form == "numpy":
        return lambda: words.judge(asked)

    def run() -> Any:
        with dispatch.override(bitset_judge="reference" if form == "reference" else "auto"):
            found = bulk.judge_batch(
                held,
                requests,
                policy,
                form="matmul" if form == "matmul" else "packed",
                repeats=form == "repeats",
            )
        return found.verdict, found.n_app, found.n_den, found.wit_app, found.wit_den

    if form in ("reference", "repeats", "packed"):
        jax.clear_caches()  # which kernel a program takes is settled when it is traced
    return run


def _plain(
    order: list[np.ndarray], nodes: np.ndarray, value: np.ndarray, asked: np.ndarray
) -> Iterator[Figure]:
    lists = [a.tolist() for a in order]
    premises, values, requests = nodes.tolist(), value.tolist(), asked.tolist()
    begin = time.perf_counter()
    for r in requests:
        counts = [0, 0]
        for p, v in zip(premises, values, strict=True):
            if all(lists[k][r[k]][p[k]] if v else lists[k][p[k]][r[k]] for k in range(K)):
                counts[v] += 1
    rate = len(requests) / (time.perf_counter() - begin) / 1e6
    yield Figure(
        metric="plain Python: judgements", value=round(rate, 6), unit="million/s", kind="measured"
    )


EXPERIMENT = runner.Experiment(
    name="ariel.throughput", title="Judgements a second", cases=cases, measure=measure
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
