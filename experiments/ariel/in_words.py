"""The language model of `icl`: made-up users' judgements in its prompt, in words."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel.importers import APPROPRIATE
from ariel_jax.algorithms.ariel.lm import Chooser, in_context
from experiments.ariel import common, priors
from experiments.runner import Figure, Settings

SLOTS = {"data": "item", "recipient": "recipient", "purpose": "purpose", "rule": "rule"}


def names(sizes: priors.Sizes) -> dict[str, list[str]]:
    """Plain words for made-up nodes, which say nothing about what a user wants of them."""
    return {
        slot: [f"{word} {i}" for i in range(n)]
        for (slot, word), n in zip(SLOTS.items(), sizes, strict=True)
    }


def figures(config: dict[str, Any], settings: Settings) -> Iterator[Figure]:
    """Accuracy by number of priors, beside simpler answers about the same requests.

    The nearest priors come from all that a user said, the others, and what majority and own logit know, are
    the first k: so whoever just repeats the nearest one's label stands beside.
    """
    chooser = Chooser(common.local_model(settings))
    for family in config["families"]:
        users = priors.unseen(family, config["n_users"], config["sizes"], settings.seed)
        for k in config["priors"]:
            parts = (priors.told(made, k, config["n_requests"]) for made in users)
            found = [one for one in parts if one is not None]
            yield from _asked(f"{family}, {k} priors", chooser, found, names(config["sizes"]))


def _asked(
    what: str, chooser: Chooser, found: list[priors.Told], called: in_context.Names
) -> Iterator[Figure]:
    asked = np.concatenate([one.person.asked for one in found])
    truth = np.concatenate([one.wanted for one in found])
    scores = {
        name: np.concatenate([one.scores[name] for one in found])
        for name in ("majority", "own logit")
    }
    fitting: dict[str, float] = {}
    for kind in ("random", "nearest"):
        nodes, label = priors.together(found, kind)
        said = in_context.log_odds(chooser, called, nodes, label, asked)
        scores[f"language model, {kind} priors"] = said.log_odds
        last = np.where(label[:, -1] == APPROPRIATE, 1.0, -1.0)
        scores[f"copying the last of {kind} priors"] = last
        fitting[f"language model, {kind} priors"] = label.shape[1] - float(said.n_dropped.mean())
    right = {name: float(((score > 0) == truth).mean()) for name, score in scores.items()}
    for name, score in scores.items():
        willing = float((score > 0).mean())
        yield _figure(f"{what}, {name}: accuracy", right[name], baseline=right["majority"])
        yield _figure(f"{what}, {name}: share judged appropriate", willing, baseline=truth.mean())
    for name, n in fitting.items():
        yield _figure(f"{what}, {name}: priors that its context had room for", n, unit="priors")


def _figure(metric: str, value: float, *, baseline: float | None = None, unit: str = "1") -> Figure:
    beside = None if baseline is None else round(float(baseline), 4)
    return Figure(metric=metric, value=round(value, 4), unit=unit, kind="measured", baseline=beside)
