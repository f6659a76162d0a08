"""What a score makes of what the rules say: a question, or nothing; host only."""

import dataclasses
from collections.abc import Callable, Sequence

from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.reading import Reading, read
from ariel_jax.algorithms.ariel.records import Forecast, request_json
from ariel_jax.algorithms.ariel.types import Outcome, Policy, Request
from ariel_jax.errors import ConfigError

Scorer = Callable[[Request], float | None]
"""Log-odds that the user approves a request; None where it cannot say."""


def check_scorer(policy: Policy, scorer: object) -> None:
    """Raises ConfigError where a policy has a veto and there is no scorer."""
    if scorer is None and (policy.veto_share is not None or policy.veto_withhold is not None):
        raise ConfigError(
            "the policy lets a score veto verdicts (veto_share, veto_withhold) and there is none: pass "
            "scorer=, or a policy without vetoes."
        )


def score_of(found: Reading, scorer: Scorer | None) -> float | None:
    """The score of what was read; None where there is no scorer, or not all was understood."""
    return None if scorer is None or found.reason else scorer(found.request)


def outcome(found: Reading, history: History, policy: Policy, score: float | None) -> Outcome:
    """What is decided about what was read: asked where not all was understood, else by rules and score.

    Raises:
        ConfigError: the score is not finite.
    """
    if found.reason:
        return Outcome(verdict="ask", reason=found.reason)
    said = judge(found.request, history, history.closures, policy, score=score)
    return without_score(said, score, policy)


def without_score(said: Outcome, score: float | None, policy: Policy) -> Outcome:
    """A verdict that a score could have vetoed, and for which the scorer has none, is a question."""
    limits = {"share": policy.veto_share, "withhold": policy.veto_withhold}
    if score is not None or said.rule in (None, "R0") or limits.get(said.verdict) is None:
        return said
    return dataclasses.replace(said, verdict="ask", rule=None, reason="veto")


class Asked:
    """Requests of ids as `Ariel.judge` reads and scores them, before the log is looked at."""

    def __init__(self, requests: Sequence[Request], ontology: Ontology, scorer: Scorer | None):
        """Reads and scores; raises what `reading.read` and the scorer raise."""
        self._found = [
            read(request_json(one), ontology, None, task_text=one.task_text) for one in requests
        ]
        self._scores = [score_of(found, scorer) for found in self._found]

    def forecasts(self, history: History, policy: Policy) -> list[Forecast]:
        """What would be decided by a history over the same ontology, in order."""
        pairs = zip(self._found, self._scores, strict=True)
        return [Forecast.of(outcome(found, history, policy, score)) for found, score in pairs]
