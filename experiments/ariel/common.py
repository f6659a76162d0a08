"""What the experiments of ARIEL share: judging many users, and figures of verdicts."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ariel_jax import load_pretrained
from ariel_jax.algorithms.ariel import baselines, bulk, metrics
from ariel_jax.algorithms.ariel.types import Policy
from ariel_jax.models.hf import Model
from experiments.runner import Figure, Settings, judge

STRICT = Policy()
TINY_MODEL = pathlib.Path(__file__).parents[1] / "mozo" / "tiny"
RESAMPLES = 300  # of the users
PROFILES = {
    "bare": Policy(reliability="off"),
    "deny overrides": Policy(reliability="off", conflict="deny_overrides"),
    "majority of premises": Policy(reliability="off", conflict="majority"),
    "two premises": Policy(reliability="off", min_support=2),
    "strict": STRICT,
    "strict, two premises": Policy(min_support=2),
    "standard (strict, veto 0)": Policy.profile("standard"),
    "cautious (strict, veto 1 both ways)": Policy.profile("cautious"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Person:
    """One user's part.

    Attributes:
        order: for each slot, what approvals cover; denials by the transpose.
        history: [m, K], oldest first.
        said: [m] labels.
        asked: [n, K].
        context: of the data nodes, where orders depend on it.
    """

    order: Sequence[np.ndarray]
    history: np.ndarray
    said: np.ndarray
    asked: np.ndarray
    context: np.ndarray | None = None


class Crowd:
    """People who are judged in one program, each by the own history."""

    def __init__(self, people: Sequence[Person]) -> None:
        self.people = people
        most = max(len(p.history) for p in people)
        self.n_words = 1 << max(-(-most // 32) - 1, 0).bit_length()
        self.room = 1 << max(max(len(p.asked) for p in people) - 1, 0).bit_length()
        self._kept: dict[Any, bulk.CompiledHistory] = {}

    def _compiled(self, policy: Policy) -> bulk.CompiledHistory:
        if policy.reliability not in self._kept:
            made = []
            for p in self.people:
                deny = [np.swapaxes(a, -1, -2) for a in p.order]
                options = {"context": p.context, "n_words": self.n_words}
                history = bulk.compile_history(p.order, deny, p.history, p.said, **options)
                if policy.reliability != "off":
                    keep = bulk.reliable(history, policy)
                    history = bulk.compile_history(
                        p.order, deny, p.history, p.said, keep=keep, **options
                    )
                made.append(history)
            self._kept[policy.reliability] = bulk.stack(made)
        return self._kept[policy.reliability]

    def judge(self, policy: Policy, scores: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Verdicts of all requests, one person's behind the other's."""
        shape = (len(self.people), self.room, self.people[0].asked.shape[1])
        asked = np.full(shape, bulk.UNMAPPED, np.int32)
        score = np.zeros(shape[:2], np.float32)
        for i, p in enumerate(self.people):
            asked[i, : len(p.asked)] = p.asked
            if scores is not None:
                score[i, : len(p.asked)] = scores[i]
        given = None if scores is None else score
        found = np.asarray(
            bulk.judge_users(self._compiled(policy), asked, policy, score=given).verdict
        )
        return np.concatenate([found[i, : len(p.asked)] for i, p in enumerate(self.people)])


def figures(
    name: str,
    said: np.ndarray,
    wanted: np.ndarray,
    *,
    users: np.ndarray | None = None,
    **judged: Any,
) -> Iterator[Figure]:
    """Accuracy, F1, coverage and false shares of verdicts; `judged` goes to the accuracy.

    With `users` [n], whose each request is, the accuracy and the false shares get the interval in which 95 %
    of them lie when whole users are drawn anew: a user's requests are not independent of one another.
    """
    found = metrics.evaluate(said, wanted)
    shares = found.false_share
    yield Figure(
        metric=f"{name}: coverage", value=round(found.coverage, 4), unit="1", kind="measured"
    )
    if not found.coverage:
        return
    rows: list[tuple[str, float, dict[str, Any]]] = [
        ("accuracy on decided", found.accuracy, judged),
        ("F1 appropriate, decided", found.f1["decided"][0], {}),
        ("F1 inappropriate, decided", found.f1["decided"][1], {}),
    ]
    if found.coverage < 1:
        rows += [
            (f"F1 {kind}, asks {how}", found.f1[convention][i], {})
            for i, kind in enumerate(("appropriate", "inappropriate"))
            for how, convention in (("as misses", "miss"), ("answered", "oracle"))
        ]
    for metric, value, fields in rows:
        if value == value:
            yield Figure(
                metric=f"{name}: {metric}",
                value=round(value, 4),
                unit="1",
                kind="measured",
                **fields,
            )
    yield Figure(
        metric=f"{name}: false shares {shares}", value=round(shares.value if shares.n else 0.0, 4),
        unit="1", kind="measured",
    )  # fmt: skip
    if users is not None:
        for what, of in (("accuracy on decided", _accuracy), ("false shares", _false_share)):
            low, high = metrics.bootstrap(
                users, lambda i, of=of: of(said[i], wanted[i]), n_resamples=RESAMPLES
            )
            yield Figure(
                metric=f"{name}: {what}, 95 % of resampled users [{low:.3f}, {high:.3f}]",
                value=round(of(said, wanted), 4), unit="1", kind="measured",
            )  # fmt: skip


def _accuracy(said: np.ndarray, wanted: np.ndarray) -> float:
    decided = said != metrics.ASK
    right = (said == metrics.SHARE) == wanted
    return float(right[decided].mean()) if decided.any() else float("nan")


def _false_share(said: np.ndarray, wanted: np.ndarray) -> float:
    return float((said[~wanted] == metrics.SHARE).mean()) if not wanted.all() else float("nan")


def local_model(settings: Settings) -> Model:
    """The language model that `--model` names, where a script has it; else nano, and at smoke scale a tiny one."""
    return load_pretrained(
        settings.flags.get("model") or (TINY_MODEL if settings.is_tiny else "nano")
    )


def always(score: np.ndarray) -> np.ndarray:
    """Verdicts of a method that never asks: share what is likelier appropriate than not."""
    return np.where(score > 0, metrics.SHARE, metrics.WITHHOLD)


def at_matched_coverage(
    name: str, said: np.ndarray, score: np.ndarray, wanted: np.ndarray
) -> Iterator[Figure]:
    """The selective form of a score where it decides as many as `said`, beside the accuracy of `said`.

    The threshold is read off these very scores, which flatters the selective form a little.
    """
    found = metrics.evaluate(said, wanted)
    if not found.coverage:
        return
    chosen = metrics.selective(score, metrics.at_coverage(score, found.coverage))
    other = metrics.evaluate(chosen, wanted)
    yield Figure(
        metric=f"selective logit where {name} decides: accuracy", value=round(other.accuracy, 4),
        unit="1", kind="measured", baseline=round(found.accuracy, 4),
    )  # fmt: skip
    yield Figure(
        metric=f"selective logit where {name} decides: false shares {other.false_share}",
        value=round(other.false_share.value, 4), unit="1", kind="measured",
        baseline=round(found.false_share.value, 4),
    )  # fmt: skip


def logits(
    people: Sequence[Person], sizes: tuple[int, ...], population: baselines.Additive | None
) -> list[np.ndarray]:
    """Each person's additive logit on the own requests, with a population's prior or none."""
    scores = []
    for p in people:
        told = p.said != bulk.ASKS
        fitted = baselines.personal_logit(
            p.history[told], p.said[told] == bulk.APPROPRIATE, sizes, population=population
        )
        scores.append(fitted.score(p.asked))
    return scores


__all__ = [
    "PROFILES", "STRICT", "Crowd", "Person", "always", "at_matched_coverage", "figures", "judge", "logits",
]  # fmt: skip
