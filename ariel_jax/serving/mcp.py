"""The privacy judge as an MCP server over standard input and output, for agents that speak it.

Written for version 1 of the SDK, which `_adapter` alone knows. An agent can ask, look and list; there is no
tool that judges. Where the rules ask, the client is asked to show the user a form (MCP *elicitation*): types of
data and the recipient, never values. A client may answer such a form by itself, so by default no form is shown and
questions stay open for the user; with `elicit="once"` an answer counts for the one disclosure and no judgement
is made of it.
"""

import functools
from typing import Any, Literal

import anyio.to_thread

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.records import Decision
from ariel_jax.errors import missing_extra
from ariel_jax.serving.privacy import words

ELICIT = ("off", "once", "judgements")
Elicit = Literal["off", "once", "judgements"]
_ONCE = {
    "share this time": ("appropriate", True),
    "do not share this time": ("inappropriate", True),
}
_JUDGEMENTS = {
    "always share this": ("appropriate", False),
    **_ONCE,
    "never share this": ("inappropriate", False),
    "ask me each time": ("ask", False),
}
_ABOUT = (
    "Before you give anybody the user's data, call request_disclosure, and give out nothing unless its verdict is "
    "share. Say types of data, never values. The user decides; you cannot."
)


def server(ariel: Ariel, *, elicit: Elicit = "off") -> Any:
    """The server; `run()` of it speaks over standard input and output.

    Args:
        ariel: the user's judge.
        elicit: `off`: questions are left open, to be answered elsewhere. `once`: the client is asked to show
            them, and an answer counts for the one disclosure. `judgements`: answers may become judgements,
            for clients that are known to show every form to a person.

    Raises:
        MissingExtraError: the SDK is not installed.
    """
    one_of(ELICIT, elicit=elicit)
    choices = {"off": {}, "once": _ONCE, "judgements": _JUDGEMENTS}[elicit]
    view = ariel.for_agent()
    made, ask, Context = _adapter("ariel_jax privacy judge", _ABOUT)

    async def request_disclosure(
        data: list[str],
        recipient: str,
        ctx: Context,  # pyright: ignore[reportInvalidTypeForm]
        purpose: str = "",
        principle: str = "",
        subject: str = "",
        sender: str = "",
        task: str = "",
    ) -> dict[str, Any]:
        """Ask whether types of the user's data may be given to a recipient.

        Args:
            ctx: of the call; not for the agent.
            data: types of data, in ids or words, such as "phone number". Never values.
            recipient: who would get it, from what you know and not from what they say of themselves.
            purpose: what for.
            principle: under which condition.
            subject: whose data; empty for the user's own.
            sender: who hands it out; empty for the user.
            task: what you are doing, in a few words.
        """
        said = {"data": data, "recipient": recipient, "purpose": purpose, "principle": principle,
                "subject": subject, "sender": sender, "task_text": task}  # fmt: skip
        decision: Decision = await _in_thread(ariel.judge_text, **words(said))
        if decision.verdict == "ask" and decision.question is not None:
            answer = await ask(ctx, _form(decision.question), list(choices))
            if answer is not None:
                value, once = choices[answer]
                # What was not understood cannot become a judgement.
                once = once or (bool(decision.question["unmapped"]) and value != "ask")
                if not (value == "ask" and decision.question["unmapped"]):
                    decision = await _in_thread(
                        ariel.answer, decision, value, once=once, source="user_elicited"
                    )
        return view.show(decision)

    async def explain_decision(decision: int) -> str:
        """Say in words why a decision was made.

        Args:
            decision: its number, from request_disclosure.
        """
        return await _in_thread(view.explain, decision)

    async def list_standing_rules() -> list[dict[str, Any]]:
        """List the user's judgements that stand: what was approved and denied, for whom and what for."""
        return await _in_thread(view.rules)

    for tool in (request_disclosure, explain_decision, list_standing_rules):
        made.tool()(tool)
    return made


async def _in_thread(function: Any, *args: Any, **options: Any) -> Any:
    return await anyio.to_thread.run_sync(functools.partial(function, *args, **options))


def _form(question: dict[str, Any]) -> str:
    """The message of a form; types and recipient, no values."""
    lines = [question["text"], question["why"]]
    lines += [
        f"Earlier you found {entry['value']}: {entry['in_words']} "
        f"(differs in: {', '.join(entry['differs_in']) or 'nothing'})."
        for entry in question["closest"]
    ]
    if shared := question["already_shared_with_recipient"]:
        lines.append(
            "Already shared with this recipient: "
            + ", ".join(f"{item} ({n} times)" for item, n in shared.items())
            + "."
        )
    if question["suggestion"]:
        lines.append(
            f"By facts that you have not confirmed the answer would be: {question['suggestion']}."
        )
    return "\n".join(line for line in lines if line)


def _adapter(name: str, about: str) -> tuple[Any, Any, Any]:
    """All that is peculiar to version 1 of the SDK: a server, a way to ask, and the type of a context.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from mcp import types
        from mcp.server.fastmcp import Context, FastMCP
        from pydantic import BaseModel, Field, create_model
    except ImportError as error:
        raise missing_extra("mcp", "agent", "serving agents over MCP") from error

    async def ask(ctx: Any, message: str, choices: list[str]) -> str | None:
        """What the user chose; None where the client cannot ask or nothing was chosen."""
        can = types.ClientCapabilities(elicitation=types.ElicitationCapability())
        if not choices or not ctx.session.check_client_capability(can):
            return None
        listed: Any = {"enum": choices}
        field: Any = (str, Field(description="Your answer", json_schema_extra=listed))
        form: type[BaseModel] = create_model("Answer", answer=field)
        try:
            result = await ctx.elicit(message=message, schema=form)
        except Exception:  # a client that breaks the protocol has not answered
            return None
        if result.action == "decline":
            return "do not share this time"
        answer = result.data.answer if result.action == "accept" else None
        return answer if answer in choices else None

    return FastMCP(name, instructions=about, log_level="WARNING"), ask, Context
