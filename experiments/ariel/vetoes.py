"""Vetoes by a statistical score, chosen on training users alone."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from ariel_jax.algorithms.ariel import importers, metrics
from ariel_jax.algorithms.ariel.types import Policy
from experiments.ariel import common
from experiments.ariel.people import Folds

LIMITS = (None, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
FINE = (None, *np.arange(0, 6.25, 0.25).tolist())
RIGHT, DECIDED = 0.944, 0.3
BARE = Policy(reliability="off", conflict="majority")
STRICT = (common.STRICT, dataclasses.replace(common.STRICT, min_support=2))
MORE = tuple(dataclasses.replace(common.STRICT, min_support=n) for n in range(1, 7))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What entailment without vetoes says of the users who are not tested, and what they say.

    Attributes:
        said: policy -> [n] verdicts.
        score: [n] log-odds of a logit whose prior comes from neither the user's fold nor the tested one.
        wanted: [n] bool.
    """

    said: dict[Policy, np.ndarray]
    score: np.ndarray
    wanted: np.ndarray


def training(folds: Folds, test: int, policies: Sequence[Policy]) -> Training:
    """The users outside fold `test`, each scored by a population without the own fold."""
    said: dict[Policy, list[np.ndarray]] = {policy: [] for policy in policies}
    scores, wanted = [], []
    for fold in range(folds.n):
        if fold == test:
            continue
        model = folds.model(fold, test)
        people, rows = folds.people(fold, model)
        crowd = common.Crowd(people)
        for policy, parts in said.items():
            parts.append(crowd.judge(policy))
        scores += common.logits(people, folds.sizes, model)
        wanted.append(folds.table.label[rows] == importers.APPROPRIATE)
    whole = {policy: np.concatenate(parts) for policy, parts in said.items()}
    return Training(said=whole, score=np.concatenate(scores), wanted=np.concatenate(wanted))


def vetoed(said: np.ndarray, score: np.ndarray, policy: Policy) -> np.ndarray:
    """Verdicts without vetoes, with those of the policy."""
    share, withhold = policy.veto_share, policy.veto_withhold
    stopped = np.zeros(len(said), bool)
    if share is not None:
        stopped |= (said == metrics.SHARE) & (score <= share)
    if withhold is not None:
        stopped |= (said == metrics.WITHHOLD) & (score >= withhold)
    return np.where(stopped, metrics.ASK, said)


def mirrored(policy: Policy) -> list[Policy]:
    """The same veto for shares and, mirrored, for what is withheld; the smallest first."""
    limits = [limit for limit in LIMITS if limit is not None]
    return [dataclasses.replace(policy, veto_share=m, veto_withhold=-m) for m in limits]


def pairs(policy: Policy, limits: Sequence[float | None] = LIMITS) -> list[Policy]:
    """A veto for shares and one for what is withheld, each of them or none."""
    return [
        dataclasses.replace(
            policy, veto_share=share, veto_withhold=None if withhold is None else -withhold
        )
        for share, withhold in itertools.product(limits, repeat=2)
    ]


def _reports(
    found: Training, candidates: Callable[[Policy], list[Policy]]
) -> list[tuple[Policy, metrics.Report]]:
    return [
        (policy, metrics.evaluate(vetoed(said, found.score, policy), found.wanted))
        for base, said in found.said.items()
        for policy in candidates(base)
    ]


def smallest(found: Training) -> Policy:
    """The smallest mirrored veto that decides 95 % rightly; if none does, the largest."""
    reports = _reports(found, mirrored)
    return next((policy for policy, r in reports if r.accuracy >= 0.95), reports[-1][0])


def surely_right(found: Training) -> Policy:
    """What decides most of what it then decides rightly with `RIGHT`, at the lower end of its interval.

    If nothing does, what comes nearest.
    """

    def low(report: metrics.Report) -> float:
        n = round(report.n * report.coverage)
        return metrics.share_of(round(n * report.accuracy), n).low if n else 0.0

    reports = _reports(found, pairs)
    return max(reports, key=lambda pair: (min(low(pair[1]), RIGHT), pair[1].coverage))[0]


def fewest_false_shares(found: Training, limits: Sequence[float | None] = LIMITS) -> Policy:
    """The fewest false shares among what decides at least `DECIDED`; of those, what decides most.

    If nothing decides so much, what decides most.
    """

    def rank(pair: tuple[Policy, metrics.Report]) -> tuple[float, int, float]:
        _, report = pair
        enough = report.coverage >= DECIDED
        return (
            min(report.coverage, DECIDED),
            -report.false_share.k if enough else 0,
            report.coverage,
        )

    candidates = functools.partial(pairs, limits=limits)
    return max(_reports(found, candidates), key=rank)[0]
