"""Real users: entailment, its profiles and a hybrid beside norm, majority, neighbours and logits.

    python -m experiments.ariel.users --scale cpu --data FOLDER --out results

FOLDER is your copy of the agent-permission data (Wu et al. 2026, arXiv 2511.17959) or of the Education data.
Cases: `decisions`, the binary answers: five folds over users; the population's weights and orders come from
the other folds, a user's history are the training tasks (Education: a random half). Vetoes are chosen on the
training users alone, whose scores come from a population without their own fold, in four ways: the smallest
that decides 95 % of theirs rightly; what decides most with 94.4 % right at the lower end of its interval; the
fewest false shares among what decides at least 30 %, with up to two premises, and with a
finer grid and up to six, which was tried last and has no verdict. `asking` (agent permissions): the four-way answers; who
wants to be asked? Expected: the logit with prior above the published 0.851, the hybrid's share of right
decisions above the published 0.944, at most 5 of the 510 inappropriate requests shared where at least a
quarter is decided. Without --data: made-up users, for the code path. About five minutes on two cores.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel import baselines, importers, metrics
from ariel_jax.algorithms.ariel.types import Policy
from experiments import runner
from experiments.ariel import asking, common, vetoes
from experiments.ariel.people import Folds, table_of
from experiments.runner import Case, Figure, Settings

PUBLISHED, PUBLISHED_CONFIDENT = 0.851, 0.944
SMALLEST, SURELY, FEWEST = "smallest veto", "vetoes that are surely right", "fewest false shares"
FEWER = "fewest false shares, finer vetoes and up to six premises"
MOST_FALSE, LEAST_DECIDED = 5, 0.25
CHOSEN = {
    SMALLEST: ((vetoes.BARE,), vetoes.smallest),
    SURELY: (vetoes.STRICT, vetoes.surely_right),
    FEWEST: (vetoes.STRICT, vetoes.fewest_false_shares),
    FEWER: (vetoes.MORE, functools.partial(vetoes.fewest_false_shares, limits=vetoes.FINE)),
}


def cases(settings: Settings) -> Sequence[Case]:
    """Both questions where the data answer them."""
    folder = settings.flags["data"]
    permissions = folder and importers.known(folder) is importers.agent_permissions
    names = ("decisions", "asking") if permissions else ("decisions",)
    return [
        Case(
            name=name,
            config={
                "folds": 3 if settings.is_tiny else 5,
                "limits": list(vetoes.LIMITS),
                "fine": list(vetoes.FINE),
                "most_premises": len(vetoes.MORE),
                "decided": vetoes.DECIDED,
                "resamples": common.RESAMPLES,
            },
            expected_s=90.0,
        )
        for name in names
    ]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The figures of one case."""
    table = table_of(
        settings.flags["data"],
        seed=settings.seed,
        tiny=settings.is_tiny,
        four_way=case.name == "asking",
    )
    folds = Folds(table, case.config["folds"], settings.seed)
    yield from (asking.figures if case.name == "asking" else _decisions)(folds, settings)


def _decisions(folds: Folds, settings: Settings) -> Iterator[Figure]:
    t, n = folds.table, len(folds.table.user)
    names = ("norm", "majority", "five nearest", "own logit", "logit with prior")
    scores = {name: np.full(n, np.nan) for name in names}
    said = {name: np.full(n, metrics.ASK) for name in [*common.PROFILES, *CHOSEN]}
    chosen: dict[str, list[str]] = {name: [] for name in CHOSEN}
    for fold in range(folds.n):
        model = folds.model(fold)
        people, rows = folds.people(fold, model)
        own = common.logits(people, folds.sizes, model)
        scores["norm"][rows] = model.score(folds.nodes[rows])
        scores["logit with prior"][rows] = np.concatenate(own)
        scores["own logit"][rows] = np.concatenate(common.logits(people, folds.sizes, None))
        yes = [p.said == importers.APPROPRIATE for p in people]
        scores["majority"][rows] = np.concatenate(
            [baselines.majority(y, len(p.asked)) for y, p in zip(yes, people, strict=True)]
        )
        scores["five nearest"][rows] = np.concatenate(
            [baselines.knn(p.asked, p.history, y) for y, p in zip(yes, people, strict=True)]
        )
        crowd = common.Crowd(people)
        for name, policy in common.PROFILES.items():
            said[name][rows] = crowd.judge(policy, own)
        known = vetoes.training(
            folds, fold, [p for policies, _ in CHOSEN.values() for p in policies]
        )
        for name, (policies, choose) in CHOSEN.items():
            mine = dataclasses.replace(known, said={p: known.said[p] for p in policies})
            policy = choose(mine)
            said[name][rows] = crowd.judge(policy, own)
            chosen[name].append(_words(policy))
    asked = np.flatnonzero(t.is_test)
    wanted = t.label[asked] == importers.APPROPRIATE
    real = t.source == "agent_permissions"
    yield Figure(metric="users", value=float(t.n_users), unit="users", kind="measured")
    for name in names:
        due = real and name == "logit with prior"
        found = common.figures(f"{name}, always", common.always(scores[name][asked]), wanted,
                               paper=PUBLISHED if due else None,
                               **runner.judge(_accuracy(scores[name][asked], wanted) >= PUBLISHED, "at least 0.851, as published", due=due, otherwise="MISSED"))  # fmt: skip
        yield from found
        area = metrics.risk_area(scores[name][asked], wanted)
        yield Figure(
            metric=f"{name}: area under risk by coverage",
            value=round(area, 4),
            unit="1",
            kind="measured",
        )
    best = scores["logit with prior"][asked]
    low, high = metrics.bootstrap(
        t.user[asked],
        lambda i: _accuracy(best[i], wanted[i]),
        n_resamples=50 if settings.is_tiny else 1000,
    )
    yield Figure(
        metric=f"logit with prior, always: 95 % of resampled users [{low:.3f}, {high:.3f}]",
        value=round(_accuracy(best, wanted), 4),
        unit="1",
        kind="measured",
    )
    for name, verdicts in said.items():
        judged: dict[str, Any] = {}
        if real and name in (SMALLEST, SURELY):
            right = metrics.evaluate(verdicts[asked], wanted).accuracy
            judged = {
                "paper": PUBLISHED_CONFIDENT,
                **runner.judge(
                    right >= PUBLISHED_CONFIDENT, "at least 0.944, as published", otherwise="MISSED"
                ),
            }
        yield from common.figures(name, verdicts[asked], wanted, users=t.user[asked], **judged)
        yield from common.at_matched_coverage(name, verdicts[asked], best, wanted)
        if name in chosen:
            yield Figure(
                metric=f"{name}: chosen were {'; '.join(chosen[name])}",
                value=float(len(set(chosen[name]))), unit="settings", kind="measured",
            )  # fmt: skip
    for name in (FEWEST, FEWER):
        found = metrics.evaluate(said[name][asked], wanted)
        few = found.false_share.k <= MOST_FALSE and found.coverage >= LEAST_DECIDED
        # The finer grid was made after the other choice's 6 of 510 were seen: it gets no verdict.
        first = real and name == FEWEST
        yield Figure(
            metric=f"{name}: shared of {found.false_share.n} inappropriate ones, at coverage {found.coverage:.3f}",
            value=float(found.false_share.k), unit="requests", kind="measured",
            **runner.judge(few, "at most 5 at coverage 0.25 or more", due=first, otherwise="MISSED"),
        )  # fmt: skip


def _words(policy: Policy) -> str:
    limits = [
        f"{what} {limit:g}"
        for what, limit in (("share", policy.veto_share), ("withhold", policy.veto_withhold))
        if limit is not None
    ]
    return f"support {policy.min_support}, veto {', '.join(limits) or 'none'}"


def _accuracy(score: np.ndarray, wanted: np.ndarray) -> float:
    return float(((score > 0) == wanted).mean())


EXPERIMENT = runner.Experiment(
    name="ariel.users",
    title="Privacy judgements of real users",
    cases=cases,
    measure=measure,
    flags={"data": ""},
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
