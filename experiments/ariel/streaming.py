"""One user over time: how many questions a hundred requests cost, what goes wrong, and what a drift does.

    python -m experiments.ariel.streaming --scale cpu --out results

Each user starts with nothing; a request that is asked about is answered and the answer becomes a judgement, as
in use. Policies: strict and bare entailment by fitted orders, the standard profile, the logit that asks below a
confidence, and asking every time. In `drift` the user's trust in recipients changes in the middle. After each
verdict that was wrong the user either notices (`corrected`, half of the shares) and says so, or not. Expected:
questions become fewer, and fewer mistakes with the vetoes. About three minutes on two cores.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel import baselines, metrics, synthetic
from ariel_jax.algorithms.ariel.importers import APPROPRIATE
from ariel_jax.algorithms.ariel.types import Policy
from experiments import runner
from experiments.ariel import common
from experiments.runner import Case, Figure, Settings

POLICIES: dict[str, Policy | None] = {
    "bare": common.PROFILES["bare"],
    "strict": common.STRICT,
    "standard": Policy.profile("standard"),
    "cautious": Policy.profile("cautious"),
    "latest wins": Policy(reliability="off", conflict="latest"),
    "logit, confidence 1": None,
}
NOTICED = 0.5  # of wrong verdicts


def cases(settings: Settings) -> Sequence[Case]:
    """Families with and without a drift."""
    tiny = settings.is_tiny
    sizes = {
        "n_users": 2 if tiny else 20,
        "n_requests": 24 if tiny else 300,
        "window": 12 if tiny else 100,
    }
    return [Case(name=name, config=sizes, expected_s=60.0) for name in ("lattice", "drift")]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Each policy on the same users and requests."""
    c = case.config
    n, window = c["n_requests"], c["window"]
    knobs = synthetic.Knobs(
        family=case.name, n_users=2 * c["n_users"], n_history=n, n_requests=1, exceptions=0.05
    )
    made = synthetic.users(knobs, settings.seed)
    half = c["n_users"]
    user = np.repeat(np.arange(half), n)
    others = (user, made.history[:half].reshape(-1, 4), (made.said[:half] == APPROPRIATE).ravel())
    model = baselines.norm(*others, knobs.sizes)
    order = baselines.order(model)
    asked_by: dict[str, list[float]] = {}
    for name, policy in POLICIES.items():
        asks, wrong = np.zeros((half, n)), np.zeros((half, n))
        for u in range(half):
            rng = np.random.default_rng([settings.seed, u])
            a, w = _run(made.history[half + u], made.said[half + u] == APPROPRIATE, order, model, policy, knobs.sizes, rng)  # fmt: skip
            asks[u], wrong[u] = a, w
        parts = [slice(i, i + window) for i in range(0, n, window)]
        asked_by[name] = [float(100 * asks[:, p].mean()) for p in parts]
        for p, value in zip(parts, asked_by[name], strict=True):
            last = p.stop >= n
            fewer = value < asked_by[name][0]
            yield Figure(
                metric=f"{name}: questions per 100 requests, {p.start + 1} to {p.stop}", value=round(value, 2),
                unit="1", kind="measured",
                **runner.judge(fewer, "fewer than at first", due=last and case.name == "lattice" and not settings.is_tiny),
            )  # fmt: skip
            yield Figure(metric=f"{name}: false shares per 100 requests, {p.start + 1} to {p.stop}", value=round(float(100 * wrong[:, p].mean()), 3), unit="1", kind="measured")  # fmt: skip
        if case.name == "drift":
            before, after = slice(n // 2 - n // 6, n // 2), slice(n // 2, n // 2 + n // 6)
            for title, p in (
                ("the sixth before the drift", before),
                ("the sixth after it", after),
                ("the last sixth", slice(n - n // 6, n)),
            ):
                yield Figure(metric=f"{name}: false shares per 100 requests in {title}", value=round(float(100 * wrong[:, p].mean()), 3), unit="1", kind="measured")  # fmt: skip


def _run(
    requests: np.ndarray, wanted: np.ndarray, order: Any, model: baselines.Additive,
    policy: Policy | None, sizes: tuple[int, ...], rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Which requests were asked about, and which were shared against the user's will."""
    told: list[int] = []
    asks, wrong = np.zeros(len(requests), bool), np.zeros(len(requests), bool)
    score_of = model
    for t, request in enumerate(requests):
        if t and t % 10 == 0:  # the personal model is fitted anew every ten requests
            score_of = baselines.personal_logit(
                requests[told], wanted[told], sizes, population=model
            )
        score = float(score_of.score(request[None])[0])
        if policy is None:
            verdict = int(metrics.selective(np.array([score]), 1.0)[0])
        else:
            verdict = one(order, requests[told], wanted[told], request, policy, score)
        mistaken = verdict != metrics.ASK and (verdict == metrics.SHARE) != wanted[t]
        asks[t], wrong[t] = verdict == metrics.ASK, mistaken and verdict == metrics.SHARE
        if asks[t] or (mistaken and rng.random() < NOTICED):
            told.append(t)
    return asks, wrong


def one(
    order: Sequence[np.ndarray], history: np.ndarray, yes: np.ndarray, request: np.ndarray, policy: Policy, score: float
) -> int:  # fmt: skip
    """The rules for one request, in NumPy; a test ties it to the bulk program."""
    n = len(history)
    if not n:
        return metrics.ASK
    same = np.flatnonzero((history == request).all(1))
    if len(same):
        return metrics.SHARE if yes[same[-1]] else metrics.WITHHOLD
    reversed_ = history[::-1]
    _, first = np.unique(reversed_, axis=0, return_index=True)
    standing = np.sort(n - 1 - first)
    history, yes = history[standing], yes[standing]
    keep = np.ones(len(history), bool)
    if policy.reliability == "strict":
        entails = _covers(order, history, yes, history)  # [premise, judged]
        keep = ~(entails & (yes[:, None] != yes[None, :])).any(1)
    covering = _covers(order, history, yes, request[None])[:, 0] & keep
    n_yes, n_no = int((covering & yes).sum()), int((covering & ~yes).sum())
    if not n_yes and not n_no:
        return metrics.ASK
    shares = n_yes > 0
    if n_yes and n_no:
        if policy.conflict != "latest":
            return metrics.ASK
        shares = bool(yes[np.flatnonzero(covering)[-1]])
    limit = policy.veto_share if shares else policy.veto_withhold
    if limit is not None and (score <= limit if shares else score >= limit):
        return metrics.ASK
    return metrics.SHARE if shares else metrics.WITHHOLD


def _covers(
    order: Sequence[np.ndarray], history: np.ndarray, yes: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    found = np.ones((len(history), len(asked)), bool)
    for k, closure in enumerate(order):
        approving = closure[asked[:, k]][:, history[:, k]].T
        denying = closure[history[:, k]][:, asked[:, k]]
        found &= np.where(yes[:, None], approving, denying)
    return found


EXPERIMENT = runner.Experiment(
    name="ariel.streaming", title="One user over time", cases=cases, measure=measure
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
