"""The privacy judge over HTTP: agents ask with one key, the user judges with another. Host only.

`routes` gives the ways in; `serving.http` makes an application of them.

| call | key | does |
|---|---|---|
| `POST /v1/judge` | agent, human | judges a request in ids or words |
| `GET /v1/decisions/{id}` | agent, human | what was decided and why; to the human with its proof |
| `GET /v1/questions` | human | what waits for an answer |
| `POST /v1/judgements` | human | a judgement, or the answer to a question |
"""

from collections.abc import Mapping
from typing import Any

from ariel_jax._checks import known_keys
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.types import SLOTS
from ariel_jax.errors import ConfigError, HttpError, InvalidRequestError
from ariel_jax.serving.http import Call, Route

AGENT, HUMAN = "agent", "human"
_WORDS = ("data", "recipient", "purpose", "principle", "subject", "sender", "task_text")
_ANSWER = ("decision", "value", "once", "generalise", "slots", "supersedes", "retract_edges")


def routes(ariel: Ariel) -> list[Route]:
    """The ways into a user's judge."""
    view = ariel.for_agent()

    def judge(call: Call) -> dict[str, Any]:
        return view.request(**words(call.body))

    def decision(call: Call) -> dict[str, Any]:
        found = _decision(ariel, call.path["id"])
        if HUMAN not in call.roles:
            return view.show(found) | {"explanation": ariel.explain(found)}
        shown = view.seen(found, picks_up=True) | {"explanation": ariel.explain(found)}
        shown |= {"question": found.question, "proof": found.proof, "hash": found.hash}
        return shown

    def questions(call: Call) -> dict[str, Any]:
        return {"questions": [
            {"decision": d.id, "at": d.created_at, "question": d.question} for d in ariel.open_questions()
        ]}  # fmt: skip

    def judgements(call: Call) -> dict[str, Any]:
        return _judgement(ariel, call.body)

    return [
        Route(method="POST", path="/v1/judge", roles=(AGENT, HUMAN), handle=judge),
        Route(method="GET", path="/v1/decisions/{id:int}", roles=(AGENT, HUMAN), handle=decision),
        Route(method="GET", path="/v1/questions", roles=(HUMAN,), handle=questions),
        Route(method="POST", path="/v1/judgements", roles=(HUMAN,), handle=judgements, status=201),
    ]


def words(body: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Ariel.judge_text` from JSON.

    Raises:
        ConfigError: an unknown name, or a value that is no text.
    """
    known_keys("a request", _WORDS, body)
    found = dict(body)
    data = found.get("data")
    items = [data] if isinstance(data, str) else data
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InvalidRequestError("data is not allowed: pass a text or a list of texts.")
    for name, value in found.items():
        if name != "data" and not isinstance(value, str):
            raise InvalidRequestError(f"{name} is not allowed: pass a text.")
    if "recipient" not in found:
        raise InvalidRequestError("recipient is missing: say who would get it.")
    return found | {"data": items}


def _decision(ariel: Ariel, number: int) -> Any:
    try:
        return ariel.decision(number)
    except ConfigError as error:
        raise HttpError(404, "NotFound", str(error)) from None


def _judgement(ariel: Ariel, body: Mapping[str, Any]) -> dict[str, Any]:
    if "decision" in body:
        known_keys("an answer", _ANSWER, body)
        options = {name: body[name] for name in _ANSWER[2:] if name in body}
        _check_types(body)
        found = ariel.answer(body["decision"], body.get("value", ""), **options, source="user_ui")
        return {"decision": found.id, "answer": found.answer, "verdict": found.answered}
    known_keys("a judgement", ("request", "value", "note", "supersedes"), body)
    _check_types(body)
    asked = body.get("request")
    if not isinstance(asked, dict):
        raise InvalidRequestError("request is missing: pass an object with data and recipient.")
    known_keys("a request", SLOTS, asked)
    made = ariel.record(
        ariel.understand(**words(asked)), body.get("value", ""), "user_ui", note=body.get("note", ""),
        supersedes=body.get("supersedes", ()),
    )  # fmt: skip
    return {"judgement": made.id, "value": made.value}


def _check_types(body: Mapping[str, Any]) -> None:
    """JSON that would otherwise end as an error of Python's."""
    wanted: dict[str, Any] = {"decision": int, "value": str, "once": bool, "note": str}
    for name, kind in wanted.items():
        if name in body and type(body[name]) is not kind:
            raise InvalidRequestError(
                f"{name}={body[name]!r} is not allowed: pass {kind.__name__}."
            )
    for name in ("supersedes", "retract_edges"):
        numbers = body.get(name, [])
        if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
            raise InvalidRequestError(f"{name} is not allowed: pass a list of numbers.")
    for name in ("generalise", "slots"):
        table = body.get(name, {})
        if not isinstance(table, dict) or not all(
            isinstance(v, str) or (name == "slots" and _is_texts(v)) for v in table.values()
        ):
            raise InvalidRequestError(f"{name} is not allowed: pass an object of texts.")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
