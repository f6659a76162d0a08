"""`ariel-jax judge`: may this be disclosed? By the user's earlier judgements: share, withhold or ask."""

import json
from dataclasses import dataclass
from typing import Any

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.records import Decision
from ariel_jax.cli.privacy_log import STATUS, Asked, Judging, open_judge

NEEDS_JAX = False


@dataclass(frozen=True, kw_only=True)
class Args(Judging, Asked):
    """Flags of `ariel-jax judge`."""

    task: str = ""
    """What is being done, for the record; only a keyed digest of it is kept."""


def run(args: Args) -> int:
    """Prints the decision; returns 0 to share, 10 to withhold, 20 to ask.

    Raises:
        InvalidRequestError: no data, no recipient, or a text that is too long.
        StorageError: it could not be logged: share nothing.
        IntegrityError: the log was changed.
    """
    with open_judge(args) as ariel:
        decision = ariel.judge_text(**args.slots(), task_text=args.task)
        if args.json:
            print(json.dumps(as_json(ariel, decision), ensure_ascii=False))
        else:
            print(in_text(ariel, decision))
    return STATUS[decision.verdict]


def as_json(ariel: Ariel, decision: Decision) -> dict[str, Any]:
    """A decision with its proof and explanation."""
    return {
        "decision": decision.id, "user": decision.user, "verdict": decision.verdict,
        "reason": decision.outcome.reason, "explanation": ariel.explain(decision),
        "question": decision.question, "answer": decision.answer, "answered": decision.answered,
        "proof": decision.proof, "hash": decision.hash,
    }  # fmt: skip


def in_text(ariel: Ariel, decision: Decision) -> str:
    """A decision for people."""
    lines = [f"{decision.verdict}  (decision {decision.id})", ariel.explain(decision)]
    if decision.question is not None and decision.answer is None:
        lines += question_lines(decision)
        lines.append(
            f"Answer with: ariel-jax privacy ask --decision {decision.id} --answer appropriate|inappropriate|ask"
        )
    return "\n".join(lines)


def question_lines(decision: Decision) -> list[str]:
    """A question for people."""
    question = decision.question or {}
    lines = [question["text"], question["why"]]
    for entry in question["closest"]:
        differs = ", ".join(entry["differs_in"])
        lines.append(
            f"  judgement {entry['judgement']} ({entry['at'][:10]}): {entry['value']}: {entry['in_words']}"
            + (f"; differs in {differs}" if differs else "")
        )
    for entry in question["unmapped"]:
        names = ", ".join(name for name, _ in entry["candidates"]) or "nothing looks like it"
        lines.append(f"  not understood: {entry['slot']} (did you mean: {names})")
    if "conflict" in question:
        conflict = question["conflict"]
        lines.append(
            f"  judgements {conflict['one_side']} and {conflict['other_side']} disagree: an exception, did you "
            "change your mind (--supersedes), or is a fact wrong (--retract-edges)?"
        )
    shared = question["already_shared_with_recipient"]
    if shared:
        lines.append("  shared with this recipient before: "
                     + ", ".join(f"{item} ({n} times)" for item, n in shared.items()))  # fmt: skip
    if question["suggestion"]:
        lines.append(f"  facts that you have not confirmed would make it: {question['suggestion']}")
    return [line for line in lines if line]
