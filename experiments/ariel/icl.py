"""A small decoder trained here to judge from examples in its context, beside logits and entailment.

    python -m experiments.ariel.icl --scale cpu --out results

Trained on made-up users of five families, whose effects are drawn anew for every user, so that nothing can be
known but what the context says; tested on users of each family with effects that it has not seen, with 2 to 40
priors, drawn at random or the nearest to the request. It is in-context learning in the exact sense, and no
large language model. Beside it: the user's own logit, which knows as little beforehand, and strict entailment
by the user's true orders, which knows them. Expected: it beats the majority with 40 priors, and random priors
gain with their number. More than five minutes on two cores.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel import baselines, icl, metrics, synthetic
from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS
from experiments import runner
from experiments.ariel import common
from experiments.runner import Case, Figure, Settings

FAMILIES = ("lattice", "additive", "conditional", "rules", "segments")
PRIORS = (2, 5, 10, 20, 40)
Sizes = tuple[int, int, int, int]


def cases(settings: Settings) -> Sequence[Case]:
    """One model, all families."""
    tiny = settings.is_tiny
    config = {
        "steps": 4 if tiny else 600,
        "n_rows": 4 if tiny else 32,
        "n_layers": 1 if tiny else 4,
        "d_model": 32 if tiny else 96,
        "sizes": [4, 3, 2, 2] if tiny else [8, 6, 4, 3],
        "priors": [2, 3] if tiny else list(PRIORS),
        "n_users": 2 if tiny else 25,
        "families": list(FAMILIES[:1] if tiny else FAMILIES),
    }
    return [Case(name="made-up users", config=config, expected_s=600.0)]


def drawn(family: str, sizes: Sizes, length: int) -> icl.Draw:
    """Users with effects of their own, drawn anew every time; what rules leave open is never said."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        nodes, label = [], []
        for _ in range(n):
            spare = 8 * length if family == "rules" else length
            knobs = synthetic.Knobs(
                family=family, n_users=1, n_history=spare, n_requests=1, sizes=sizes
            )
            made = synthetic.users(knobs, int(rng.integers(2**31)))
            told = np.flatnonzero(made.said[0] != ASKS)[:length]
            told = np.resize(told, length) if len(told) else np.zeros(length, int)
            nodes.append(made.history[0][told])
            label.append(np.where(made.said[0][told] == ASKS, 0, made.said[0][told]))
        return np.stack(nodes), np.stack(label)

    return draw


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Trains, then asks."""
    c = case.config
    sizes: Sizes = tuple(c["sizes"])
    most = max(c["priors"])
    layout = icl.Layout(sizes=sizes, most_priors=most)
    cfg = layout.config(n_layers=c["n_layers"], d_model=c["d_model"])
    draw = icl.mixture([drawn(family, sizes, most + 1) for family in c["families"]])
    with tempfile.TemporaryDirectory() as folder:
        params = icl.learn(
            folder, draw, layout, cfg, steps=c["steps"], n_rows=c["n_rows"], seed=settings.seed
        )
    for family in c["families"]:
        yield from _family(family, case, layout, cfg, params, settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """A user with k priors.

    Attributes:
        person: what entailment judges.
        wanted: [n] bool, what the user wants of the requests.
        scores: [n] each, of baselines.
        priors: nodes [n, k, K] and labels [n, k] beside each request, drawn at random and the nearest.
    """

    person: common.Person
    wanted: np.ndarray
    scores: dict[str, np.ndarray]
    priors: dict[str, tuple[np.ndarray, np.ndarray]]


def _told(made: synthetic.Users, k: int) -> Told | None:
    """The first k things that a user said; None where there are fewer, or the user never decides."""
    told, asked = np.flatnonzero(made.said[0] != ASKS), made.wanted[0] != ASKS
    if len(told) < k or not asked.any():
        return None
    requests, n = made.asked[0][asked], int(asked.sum())
    history, label = made.history[0][told[:k]], made.said[0][told[:k]]
    yes = label == APPROPRIATE
    near = np.stack([told[icl.nearest_first(r, made.history[0][told], k)] for r in requests])
    own = baselines.personal_logit(history, yes, made.knobs.sizes)
    return Told(
        person=common.Person(order=made.order(0), history=history, said=label, asked=requests, context=made.context),
        wanted=made.wanted[0][asked] == APPROPRIATE,
        scores={"majority": baselines.majority(yes, n), "own logit": own.score(requests)},
        priors={
            "random": (np.tile(history, (n, 1, 1)), np.tile(label, (n, 1))),
            "nearest": (made.history[0][near], made.said[0][near]),
        },
    )  # fmt: skip


def _family(
    family: str, case: Case, layout: icl.Layout, cfg: Any, params: Any, settings: Settings
) -> Iterator[Figure]:
    c = case.config
    sizes: Sizes = tuple(c["sizes"])
    names = ("majority", "own logit", "icl_jax, random priors", "icl_jax, nearest priors")
    accuracy: dict[tuple[str, int], float] = {}
    users = []
    for u in range(c["n_users"]):
        knobs = synthetic.Knobs(family=family, n_users=1, n_history=120, n_requests=20, sizes=sizes)
        users.append(
            synthetic.users(knobs, 10**6 + 1000 * settings.seed + u)
        )  # no seed of the training
    for k in c["priors"]:
        found = [one for made in users if (one := _told(made, k)) is not None]
        scores = {name: [one.scores[name] for one in found] for name in names[:2]}
        asked = np.concatenate([one.person.asked for one in found])
        for name in ("random", "nearest"):
            nodes, label = (np.concatenate([one.priors[name][i] for one in found]) for i in (0, 1))
            odds = icl.log_odds(cfg, params, layout, nodes, label, asked)
            scores[f"icl_jax, {name} priors"] = [odds]
        wanted, people = [one.wanted for one in found], [one.person for one in found]
        truth = np.concatenate(wanted)
        for name in names:
            score = np.concatenate(scores[name])
            accuracy[name, k] = float(((score > 0) == truth).mean())
            f1 = metrics.f1(common.always(score), truth)
            judged: dict[str, Any] = {}
            if name == "icl_jax, random priors" and k == max(c["priors"]):
                better = accuracy[name, k] > accuracy["majority", k]
                judged = runner.judge(
                    better, "above the majority", due=not settings.is_tiny, otherwise="MISSED"
                )
            yield Figure(metric=f"{family}, {k} priors, {name}: accuracy", value=round(accuracy[name, k], 4), unit="1", kind="measured", baseline=round(accuracy["majority", k], 4), **judged)  # fmt: skip
            if f1[0] == f1[0]:
                yield Figure(metric=f"{family}, {k} priors, {name}: F1 appropriate", value=round(f1[0], 4), unit="1", kind="measured")  # fmt: skip
        said = common.Crowd(people).judge(common.STRICT)
        report = metrics.evaluate(said, truth)
        if report.coverage:
            yield Figure(metric=f"{family}, {k} priors, strict entailment: accuracy where it decides", value=round(report.accuracy, 4), unit="1", kind="measured")  # fmt: skip
            score = np.concatenate(scores["icl_jax, random priors"])
            chosen = metrics.selective(score, metrics.at_coverage(score, report.coverage))
            yield Figure(metric=f"{family}, {k} priors, icl_jax where as many are decided: accuracy", value=round(metrics.evaluate(chosen, truth).accuracy, 4), unit="1", kind="measured", baseline=round(report.accuracy, 4))  # fmt: skip
        yield Figure(metric=f"{family}, {k} priors, strict entailment: coverage", value=round(report.coverage, 4), unit="1", kind="measured")  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="ariel.icl", title="In-context judgements by a small decoder", cases=cases, measure=measure
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
