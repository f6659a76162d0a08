"""Of users who said whether they want to be asked each time: how often that is respected."""

import itertools
from collections.abc import Iterator

import numpy as np

from ariel_jax.algorithms.ariel import baselines, importers, metrics
from experiments.ariel import common
from experiments.ariel.people import Folds
from experiments.runner import Figure, Settings


def figures(folds: Folds, settings: Settings) -> Iterator[Figure]:
    """Who wants to be asked, and how often that is respected."""
    t = folds.table
    said = {
        name: np.full(len(t.user), metrics.ASK)
        for name in (
            "bare",
            "strict",
            "standard (strict, veto 0)",
            "cautious (strict, veto 1 both ways)",
        )
    }
    wish = np.zeros(len(t.user))
    for fold in range(folds.n):
        model = folds.model(fold)
        people, rows = folds.people(fold, model)
        own = common.logits(people, folds.sizes, model)
        crowd = common.Crowd(people)
        for name in said:
            said[name][rows] = crowd.judge(common.PROFILES[name], own)
        others = (folds.fold[t.user] != fold) & ~t.is_test
        asks = t.label == importers.ASKS
        general = baselines.norm(t.user[others], folds.nodes[others], asks[others], folds.sizes)
        wish[rows] = np.concatenate([
            baselines.personal_logit(p.history, p.said == importers.ASKS, folds.sizes, population=general).score(p.asked)
            for p in people
        ])  # fmt: skip
    asked = np.flatnonzero(t.is_test)
    wants, leans = t.label[asked] == importers.ASKS, t.leans[asked] == importers.APPROPRIATE
    yield Figure(
        metric="users who want to be asked, share of answers",
        value=round(float(wants.mean()), 4),
        unit="1",
        kind="measured",
    )
    for name, verdicts in itertools.chain(said.items(), [("logit of wanting to be asked", None)]):
        chosen = (
            np.where(wish[asked] > 0, metrics.ASK, np.where(leans, 1, 0))
            if verdicts is None
            else verdicts[asked]
        )
        precision, recall = metrics.ask_quality(chosen, wants)
        yield Figure(
            metric=f"{name}: precision of asking {precision}",
            value=round(precision.value, 4),
            unit="1",
            kind="measured",
        )
        yield Figure(
            metric=f"{name}: recall of asking {recall}",
            value=round(recall.value, 4),
            unit="1",
            kind="measured",
        )
        if verdicts is not None:
            report = metrics.evaluate(chosen, leans)
            yield Figure(
                metric=f"{name}: shared against the user's leaning {report.false_share}",
                value=round(report.false_share.value, 4),
                unit="1",
                kind="measured",
            )
            yield Figure(
                metric=f"{name}: ask rate",
                value=round(report.ask_rate, 4),
                unit="1",
                kind="measured",
            )
