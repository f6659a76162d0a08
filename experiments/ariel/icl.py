"""A small decoder trained here to judge from examples in its context, beside logits and entailment.

    python -m experiments.ariel.icl --scale cpu --out results

Trained on made-up users of five families, whose effects are drawn anew for every user, so that nothing can be
known but what the context says; tested on users of each family with effects that it has not seen, with 2 to 40
priors, drawn at random or the nearest to the request. It is in-context learning in the exact sense, and no
large language model. Beside it: the user's own logit, which knows as little beforehand, and strict entailment
by the user's true orders, which knows them. Expected: it beats the majority with 40 priors, and random priors
gain with their number. About ten minutes on two cores.

`language model` asks a local model instead, in words ("item 3", "recipient 2"), about some of the same users:
`--model` names one that `load_pretrained` loads. Without it that is nano, a small model of code and plain English
that was never trained for such a thing: expected is about chance with random priors, and with the nearest, which
come from all that a user said, no more than copying the last of them gives. It shows the way, and says nothing of
large models. Judgements that its context has no room for are left out, oldest first, and counted. 50 requests: a
share is known to within 0.14 at best. About five minutes on two cores.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel import icl, metrics, synthetic
from ariel_jax.algorithms.ariel.importers import ASKS
from experiments import runner
from experiments.ariel import common, in_words, priors
from experiments.ariel.priors import Sizes
from experiments.runner import Case, Figure, Settings

FAMILIES = ("lattice", "additive", "conditional", "rules", "segments")
PRIORS = (2, 5, 10, 20, 40)


def cases(settings: Settings) -> Sequence[Case]:
    """The trained model on all families, and one that reads words."""
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
    words = {
        "sizes": config["sizes"],
        "priors": [2, 3] if tiny else list(PRIORS),
        "n_users": 1 if tiny else 5,
        "n_requests": 2 if tiny else 10,
        "families": ["lattice"],
    }
    return [
        Case(name="made-up users", config=config, expected_s=600.0),
        Case(name="language model", config=words, expected_s=300.0),
    ]


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
    """Trains, then asks; or asks in words."""
    if case.name == "language model":
        yield from in_words.figures(case.config, settings)
        return
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


def _family(
    family: str, case: Case, layout: icl.Layout, cfg: Any, params: Any, settings: Settings
) -> Iterator[Figure]:
    c = case.config
    sizes: Sizes = tuple(c["sizes"])
    names = ("majority", "own logit", "icl_jax, random priors", "icl_jax, nearest priors")
    accuracy: dict[tuple[str, int], float] = {}
    users = priors.unseen(family, c["n_users"], sizes, settings.seed)
    for k in c["priors"]:
        found = [one for made in users if (one := priors.told(made, k)) is not None]
        scores = {name: [one.scores[name] for one in found] for name in names[:2]}
        asked = np.concatenate([one.person.asked for one in found])
        for name in ("random", "nearest"):
            nodes, label = priors.together(found, name)
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
    name="ariel.icl",
    title="In-context judgements by a small decoder and by a language model",
    cases=cases,
    measure=measure,
    flags={"model": ""},
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
