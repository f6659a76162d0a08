"""How long one judgement takes: in the engine, through the log on a disk, and by a language model in its place.

    python -m experiments.ariel.latency --scale cpu --out results

One user with 10,000 judgements over the packaged ontology; `engine` has them in memory, `log` in a file (`--folder`
says where; a temporary folder otherwise). The first verdict counts how reliable each judgement is and stands apart,
the calls that warm up are left out. Between the calls on the log one commit of sqlite of a single page and one
`fdatasync` of 4 KiB are timed in the same folder: no call that returns only when its row is on the disk can be
faster. `language model` is nano, which says what of 16 names a text means. Expected: 99 of 100 judgements within
1 ms in the engine, and within 5 ms where one is recorded before. About two minutes on two cores.
"""

import contextlib
import functools
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np

from ariel_jax.algorithms.ariel import proof, questions
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.lm import Chooser, LMMapper
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.prompts import NONE, map_prompt
from ariel_jax.algorithms.ariel.types import Judgement, Outcome, Policy, Request
from experiments import runner
from experiments.ariel import common
from experiments.ariel.clocks import Disk, Times
from experiments.ariel.wishes import Wishes
from experiments.runner import Case, Figure, Settings

POLICY = Policy()
SOURCE = "imported_by_user"
WORDS = ("my telephone number", "where I live", "the card I pay with", "what the doctor wrote down")


def cases(settings: Settings) -> Sequence[Case]:
    """In memory, on the disk, by a model."""
    tiny = settings.is_tiny
    sizes = {"n_judgements": 80 if tiny else 10_000, "calls": 12 if tiny else 1_000}
    return [
        Case(name="engine", config=sizes, expected_s=20.0),
        Case(name="log", config=sizes | {"checked": True}, expected_s=90.0),
        Case(name="language model", config={"calls": 4 if tiny else 100}, expected_s=30.0),
    ]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Median, 99th percentile and slowest of each kind of call."""
    calls = case.config["calls"]
    if case.name == "language model":
        return _model(calls, settings)
    user = User(case.config["n_judgements"], settings)
    return _engine(user, calls) if case.name == "engine" else _log(user, calls)


class User:
    """Someone who judged a lot, and what is asked next."""

    def __init__(self, n_judgements: int, settings: Settings) -> None:
        self.core, self.settings = Ontology.core(), settings
        self._wishes = Wishes(self.core, np.random.default_rng(settings.seed), n_nodes=40)
        self.said = self._wishes.judgements(n_judgements)

    def more(self, n: int) -> list[tuple[Request, str]]:
        """Requests, and what the user says about each."""
        asked, wanted = self._wishes.requests(n)
        return [
            (r, "appropriate" if w else "inappropriate") for r, w in zip(asked, wanted, strict=True)
        ]


def _once(metric: str, begin: float) -> Figure:
    value = 1e3 * (time.perf_counter() - begin)
    return Figure(metric=metric, value=round(value, 3), unit="ms", kind="measured")


def _asked(verdicts: list[str]) -> Figure:
    value = round(verdicts.count("ask") / len(verdicts), 4)
    return Figure(metric="share of requests that are asked", value=value, unit="1", kind="measured")


def _proven(outcome: Outcome, request: Request, history: History) -> bytes:
    return proof.canonical(proof.build(outcome, request, history, POLICY))


def _engine(user: User, calls: int) -> Iterator[Figure]:
    closures = Closures(user.core)
    begin = time.perf_counter()
    history = History(closures, user.said)
    yield _once("packing the history", begin)
    begin = time.perf_counter()
    history.tally(("curated", "confirmed"))
    yield _once("counting how reliable each judgement is", begin)
    warm = max(calls // 10, 2)
    times, verdicts = Times(warm), []
    decide = functools.partial(judge, history=history, closures=closures, policy=POLICY)

    def prove(request: Request) -> bytes:
        return _proven(decide(request), request, history)

    def learn(more: Judgement, request: Request) -> Outcome:
        history.add(more)
        return decide(request)

    for request, _ in user.more(calls + warm):
        verdicts.append(times.of("judge", decide, request).verdict)
        times.of("judge and prove", prove, request)
    following = user.more(calls + warm)
    for number, (request, value) in enumerate(user.more(calls + warm), len(user.said) + 1):
        more = Judgement(id=number, request=request, value=value)  # pyright: ignore[reportArgumentType]
        times.of("record, then judge", learn, more, following.pop()[0])
    due = not user.settings.is_tiny
    for kind, aim in (("judge", 1), ("judge and prove", 0), ("record, then judge", 5)):
        yield from times.figures(kind, aim=aim, due=due and aim > 0)
    yield _asked(verdicts)


def _log(user: User, calls: int) -> Iterator[Figure]:
    warm = max(calls // 10, 2)
    times, verdicts = Times(warm), []
    with contextlib.ExitStack() as stack:
        where = user.settings.flags["folder"] or None
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=where)))
        with Ariel.open(folder / "log", user="ann") as ariel, ariel.store.transaction():
            for judgement in user.said:
                ariel.record(judgement.request, judgement.value, SOURCE)
        begin = time.perf_counter()
        ariel = stack.enter_context(Ariel.open(folder / "log", user="ann"))
        ariel.judge(user.more(1)[0][0])
        yield _once("opening the log, checking it, and the first judgement", begin)
        disk = stack.enter_context(contextlib.closing(Disk(folder)))
        beside = History(Closures(user.core), user.said)  # the same again, to time the parts
        for _ in range(calls + warm):
            (first, value), (then, _), (other, next_value), (last, _) = user.more(4)
            begin = time.perf_counter()
            said = times.of("record", ariel.record, first, value, SOURCE)
            found = times.of("judge", ariel.judge, then)
            times.since("record, then judge", begin)
            times.add("judge, until it is written", found.latency_us / 1e3)
            verdicts.append(found.verdict)
            beside.add(said)
            _parts(times, beside, then)
            said, _ = times.of(
                "record and judge in one step",
                ariel.record_and_judge,
                other,
                next_value,
                SOURCE,
                last,
            )
            beside.add(said)
            times.of("disk, one commit of one page", disk.commit)
            times.of("disk, fdatasync of 4 KiB", disk.sync)
        begin = time.perf_counter()
        n_proofs = ariel.verify()
        spent = 1e3 * (time.perf_counter() - begin) / n_proofs
        yield Figure(
            metric=f"checking the log and {n_proofs:,} proofs, for each of them",
            value=round(spent, 3), unit="ms", kind="measured",
        )  # fmt: skip
    due = not user.settings.is_tiny
    for kind in ("record, then judge", "record and judge in one step"):
        yield from times.figures(kind, aim=5, due=due)
    for kind in ("record", "judge", "judge, until it is written", "rules", "proof", "question",
                 "disk, one commit of one page", "disk, fdatasync of 4 KiB"):  # fmt: skip
        yield from times.figures(kind)
    yield _asked(verdicts)


def _parts(times: Times, history: History, request: Request) -> None:
    outcome = times.of("rules", judge, request, history, history.closures, POLICY)
    times.of("proof", _proven, outcome, request, history)
    ask = functools.partial(questions.question, disclosed={})
    times.of("question", ask, request, outcome, history)


def _model(calls: int, settings: Settings) -> Iterator[Figure]:
    model = common.local_model(settings)
    n_names, nodes, times = 4 if settings.is_tiny else 16, Ontology.core().nodes, Times(2)
    mapper, chooser = LMMapper(model, nodes, tau=0.5, n_names=n_names), Chooser(model)
    names = [node.label for node in nodes["data"][:n_names]]
    for i in range(calls + 2):
        text = WORDS[i % len(WORDS)]
        prompt = map_prompt("data", names, text)
        times.of("scoring the names", chooser.logprobs, prompt, [*names, NONE])
        times.of("mapping a text, which scores them twice", mapper.map, "data", text)
    for kind in ("scoring the names", "mapping a text, which scores them twice"):
        yield from times.figures(kind)


EXPERIMENT = runner.Experiment(
    name="ariel.latency", title="How long one judgement takes", cases=cases, measure=measure,
    flags={"folder": ""},
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
