"""What a score makes of what the rules say: a question, or nothing; host only."""

import dataclasses
from collections.abc import Callable, Sequence

from ariel_jax.algorithms.ariel.judge import History, judge, vetoed
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.reading import Reading, read
from ariel_jax.algorithms.ariel.records import Forecast, request_json
from ariel_jax.algorithms.ariel.scorer import PersonalScorer
from ariel_jax.algorithms.ariel.types import Outcome, Policy, Request
from ariel_jax.errors import ConfigError

Scorer = Callable[[Request], float | None]
"""Log-odds that the user approves a request; None where it cannot say."""


def check_scorer(policy: Policy, scorer: object) -> None:
    """Raises ConfigError where a policy has a veto and there is no scorer, or what was given is none."""
    is_one = isinstance(scorer, PersonalScorer) or (
        callable(scorer) and not isinstance(scorer, type)
    )
    if scorer is not None and not is_one:
        raise ConfigError(
            f"scorer={scorer!r} is not allowed: pass PersonalScorer(), a function of a request, or None."
        )
    if scorer is None and (policy.veto_share is not None or policy.veto_withhold is not None):
        raise ConfigError(
            "the policy lets a score veto verdicts (veto_share, veto_withhold) and there is none: pass "
            "scorer=, such as PersonalScorer(), or a policy without vetoes."
        )


def score_of(found: Reading, scorer: Scorer | PersonalScorer | None) -> float | None:
    """The score that can be had before the log is looked at; none of what was not understood."""
    if scorer is None or isinstance(scorer, PersonalScorer) or found.reason:
        return None
    return scorer(found.request)


def decide(
    found: Reading,
    history: History,
    policy: Policy,
    scorer: Scorer | PersonalScorer | None,
    score: float | None,
) -> tuple[Outcome, float | None]:
    """What is decided about what was read: asked where not all was understood, else by rules and score.

    Args:
        found: of `reading.read`.
        history: of the user, over the ontology that it was read by.
        policy: of the verdict.
        scorer: a `PersonalScorer` is asked here, where its score can veto, and others were asked before.
        score: of `score_of`.

    Returns:
        The outcome, and the score that it was held against.

    Raises:
        ConfigError: the score is not finite.
    """
    if found.reason:
        return Outcome(verdict="ask", reason=found.reason), None
    said = judge(found.request, history, history.closures, policy, score=score)
    if not _can_veto(policy, said) or score is not None:
        return said, score
    if isinstance(scorer, PersonalScorer):
        score = scorer.score(found.request, history)
    if score is None:  # what a score could have vetoed is a question where there is none
        return dataclasses.replace(said, verdict="ask", rule=None, reason="veto"), None
    return vetoed(said, policy, score), score


def _can_veto(policy: Policy, said: Outcome) -> bool:
    limits = {"share": policy.veto_share, "withhold": policy.veto_withhold}
    return said.rule not in (None, "R0") and limits.get(said.verdict) is not None


class Asked:
    """Requests of ids as `Ariel.judge` reads and scores them, before the log is looked at."""

    def __init__(
        self,
        requests: Sequence[Request],
        ontology: Ontology,
        scorer: Scorer | PersonalScorer | None,
    ):
        """Reads and scores; raises what `reading.read` and the scorer raise."""
        self._scorer = scorer
        self._found = [
            read(request_json(one), ontology, None, task_text=one.task_text) for one in requests
        ]
        self._scores = [score_of(found, scorer) for found in self._found]

    def forecasts(self, history: History, policy: Policy) -> list[Forecast]:
        """What would be decided by a history over the same ontology, in order."""
        pairs = zip(self._found, self._scores, strict=True)
        return [
            Forecast.of(decide(found, history, policy, self._scorer, score)[0])
            for found, score in pairs
        ]
