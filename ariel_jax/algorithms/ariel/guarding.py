"""The decorator of functions that disclose something; host only."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ariel_jax.algorithms.ariel.records import Decision
from ariel_jax.algorithms.ariel.types import VALUES
from ariel_jax.errors import ConfigError, DisclosureDenied

if TYPE_CHECKING:
    from ariel_jax.algorithms.ariel.agent import Ariel


def guard(
    ariel: "Ariel", slots: Mapping[str, Any], on_ask: Callable[[Decision], Any] | None
) -> Callable[[Any], Any]:
    """The decorator; `Ariel.guard` describes it."""

    def decorate(function: Any) -> Any:
        def decide(*args: Any, **kwargs: Any) -> Decision:
            said: dict[str, Any] = {
                slot: value(*args, **kwargs) if callable(value) else value
                for slot, value in slots.items()
            }
            return ariel.judge_text(**said)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: Any, **kwargs: Any) -> Any:
                decision = decide(*args, **kwargs)
                if decision.verdict == "ask" and on_ask is not None:
                    answer = on_ask(decision)
                    answer = await answer if inspect.isawaitable(answer) else answer
                    decision = _answered(ariel, decision, answer)
                _check(decision)
                return await function(*args, **kwargs)

            return guarded_async

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            decision = decide(*args, **kwargs)
            if decision.verdict == "ask" and on_ask is not None:
                decision = _answered(ariel, decision, on_ask(decision))
            _check(decision)
            return function(*args, **kwargs)

        return guarded

    return decorate


def _answered(ariel: "Ariel", decision: Decision, answer: Any) -> Decision:
    """The decision with what `on_ask` returned written down; None is no answer."""
    if answer is None:
        return decision
    if isinstance(answer, bool):
        value = "appropriate" if answer else "inappropriate"
        return ariel.answer(decision, value, once=True, source="user_elicited")
    if answer not in VALUES:
        raise ConfigError(
            f"on_ask returned {answer!r}: return True, False, None, or one of {', '.join(VALUES)}."
        )
    return ariel.answer(decision, answer, source="user_elicited")


def _check(decision: Decision) -> None:
    if decision.may_share:
        return
    said = decision.answered or decision.verdict
    because = f" ({decision.outcome.reason})" if decision.outcome.reason else ""
    raise DisclosureDenied(
        f"decision {decision.id}: {said}{because}: nothing was disclosed. Ask the user, or explain the "
        "decision."
    )
