"""What an agent may be handed of a user's privacy judge; host only."""

from typing import TYPE_CHECKING, Any

from ariel_jax.algorithms.ariel.records import Decision, request_json

if TYPE_CHECKING:
    from ariel_jax.algorithms.ariel.agent import Ariel


class AgentView:
    """A user's judge as an agent sees it: no way here writes a judgement, a fact or an answer."""

    def __init__(self, ariel: "Ariel"):
        self._ariel = ariel

    def request(self, **slots: Any) -> dict[str, Any]:
        """Judges as `Ariel.judge_text` does; what `show` gives."""
        return self.show(self._ariel.judge_text(**slots))

    def show(self, decision: Decision | int) -> dict[str, Any]:
        """What an agent may know of a decision: no earlier judgements but those of the explanation.

        An answer for once is the `verdict` the first time only, and in the process that took it: later
        it is what the verdict `was`.
        """
        found = self._ariel.decision(decision)
        return self.seen(found, picks_up=not found.is_once or self._ariel.picks_up(found))

    def seen(self, found: Decision, *, picks_up: bool) -> dict[str, Any]:
        """As `show`; `picks_up` says whether an answer is the verdict still."""
        outcome = found.outcome
        shown: dict[str, Any] = {
            "decision": found.id, "verdict": found.answered or found.verdict, "rule": outcome.rule,
            "reason": outcome.reason, "answered_by_user": found.answered is not None,
        }  # fmt: skip
        if not picks_up:
            shown |= {"verdict": found.verdict, "was": found.answered}
        if found.meant is not None:
            shown["about"] = request_json(found.meant)
        if outcome.approved or outcome.denied or outcome.undecided:
            shown["items"] = {
                "approved": list(outcome.approved), "denied": list(outcome.denied),
                "undecided": list(outcome.undecided),
            }  # fmt: skip
        if found.question is not None and found.answered is None:
            shown["question"] = found.question["text"]
            shown["unmapped"] = found.question["unmapped"]
        return shown

    def explain(self, decision: int) -> str:
        """Why, in words."""
        return self._ariel.explain(decision)

    def rules(self) -> list[dict[str, Any]]:
        """The judgements that stand."""
        return self._ariel.rules()
