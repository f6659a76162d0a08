"""What a local language model behind the gate makes of words: the case `language model` of `text`."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from ariel_jax.algorithms.ariel import calibration, metrics
from ariel_jax.algorithms.ariel.calibration import Phrase
from ariel_jax.algorithms.ariel.lm import LMMapper
from ariel_jax.algorithms.ariel.mapper import Mapping
from ariel_jax.algorithms.ariel.ontology import Ontology
from experiments import runner
from experiments.ariel import common
from experiments.runner import Figure, Settings

LEVELS = ("L1", "L2")  # names and descriptions, which a model might know
SLOTS = ("data", "recipient", "purpose")


def figures(phrases: pathlib.Path, n_texts: int, settings: Settings) -> Iterator[Figure]:
    """A threshold from `dev`, then what is right and wrong on `test`, at it and without it.

    Args:
        phrases: those by another hand.
        n_texts: of each split, and of those phrases.
        settings: `--model` names the model.
    """
    nodes = Ontology.core().nodes
    mapper = LMMapper(
        common.local_model(settings),
        nodes,
        tau=0.0,
        margin=0.0,
        n_names=4 if settings.is_tiny else 16,
    )
    tau, chosen = calibration.calibrate(
        calibration.mappings(mapper, _some("dev", n_texts, settings))
    )
    yield Figure(
        metric=f"threshold, from {chosen.n} dev phrases of which it keeps {chosen.mapped}",
        value=tau, unit="probability", kind="measured",
    )  # fmt: skip
    found = calibration.mappings(mapper, _some("test", n_texts, settings))
    yield from _rates("test phrases", found, tau, judged=not settings.is_tiny)
    rows = json.loads(phrases.read_text(encoding="utf-8"))
    for kind in ("short", "foreign", "trap"):
        mine = [
            Phrase(level="L2", slot=row["slot"], text=row["text"], gold=row["node"])
            for row in rows
            if row["kind"] == kind
        ]
        found = calibration.mappings(mapper, _drawn(mine, n_texts, settings))
        yield from _rates(f"another hand, {kind}", found, tau, judged=not settings.is_tiny)


def _some(split: calibration.Split, n: int, settings: Settings) -> list[Phrase]:
    of_levels = [calibration.phrases(split, level) for level in LEVELS]
    pool = [p for level in of_levels for p in level if p.slot in SLOTS]
    return _drawn(pool, n, settings)


def _drawn(pool: list[Phrase], n: int, settings: Settings) -> list[Phrase]:
    order = np.random.default_rng(settings.seed).permutation(len(pool))
    return [pool[i] for i in order[:n]]


def _rates(
    title: str, found: list[tuple[Phrase, Mapping]], tau: float, *, judged: bool
) -> Iterator[Figure]:
    for when, least in (("at the threshold", tau), ("without one", 0.0)):
        kept = [pair for pair in found if pair[1].node is not None and pair[1].score >= least]
        tally = calibration.tally(kept)
        right = metrics.share_of(tally.mapped - tally.wrong, len(found))
        wrong = metrics.share_of(tally.wrong, len(found))
        yield Figure(
            metric=f"{title}, {when}: understood rightly {right}", value=round(right.value, 4),
            unit="1", kind="measured",
        )  # fmt: skip
        due = judged and when == "at the threshold"
        yield Figure(
            metric=f"{title}, {when}: understood wrongly {wrong}", value=round(wrong.value, 4),
            unit="1", kind="measured", **runner.judge(tally.wrong <= 0.02 * len(found), "at most 0.02", due=due),
        )  # fmt: skip
