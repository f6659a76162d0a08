import asyncio
import json
import os
import pathlib
import sqlite3
import subprocess
import sys

import pytest
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.shared.memory import create_connected_server_and_client_session

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.mapper import LexiconMapper
from ariel_jax.algorithms.ariel.types import ANY
from ariel_jax.errors import ConfigError, MissingExtraError
from ariel_jax.serving import mcp

ASKED = {"data": ["phone number"], "recipient": "restaurant", "purpose": "book a table"}
TOOLS = {"request_disclosure", "explain_decision", "list_standing_rules"}


@pytest.fixture(scope="module")
def mapper():
    return LexiconMapper.core()


@pytest.fixture
def ariel(tmp_path, mapper):
    with Ariel.open(tmp_path / "log.sqlite", user="ann", mapper=mapper) as ariel:
        yield ariel


def with_client(ariel, use, *, elicit="once", answer=None):
    """What `use` makes of a session of the official client; `answer` fills in forms, None: it cannot."""
    forms = []

    async def fill(context, params):
        forms.append(params)
        return answer(params) if callable(answer) else answer

    async def go():
        chosen = {} if elicit is None else {"elicit": elicit}
        server = mcp.server(ariel, **chosen)._mcp_server
        options = {} if answer is None else {"elicitation_callback": fill}
        async with create_connected_server_and_client_session(server, **options) as session:
            return await use(session)

    found = asyncio.run(go())
    if isinstance(found, RuntimeError):
        raise found
    return found, forms


async def ask(session, tool="request_disclosure", **arguments):
    result = await session.call_tool(tool, arguments)
    text = result.content[0].text if result.content else ""
    if result.isError:
        return RuntimeError(text)
    found = result.structuredContent
    return found.get("result", found) if isinstance(found, dict) else text


def accept(choice):
    return types.ElicitResult(action="accept", content={"answer": choice})


def test_the_tools_are_three_and_none_of_them_judges(ariel):
    async def use(session):
        return (await session.list_tools()).tools

    tools, _ = with_client(ariel, use)
    assert {tool.name for tool in tools} == TOOLS
    taken = {name for tool in tools for name in tool.inputSchema["properties"]}
    assert taken == {
        "data",
        "recipient",
        "purpose",
        "principle",
        "subject",
        "sender",
        "task",
        "decision",
    }
    assert all(tool.description for tool in tools)


def test_without_forms_a_question_stays_open_and_nothing_is_shared(ariel):
    found, forms = with_client(ariel, lambda s: ask(s, **ASKED))
    assert (found["verdict"], found["reason"], found["answered_by_user"]) == (
        "ask",
        "no_premise",
        False,
    )
    assert "Phone number to Restaurant" in found["question"]
    assert forms == []
    found, forms = with_client(
        ariel, lambda s: ask(s, **ASKED), elicit="off", answer=accept("share this time")
    )
    assert (found["verdict"], forms) == ("ask", [])
    assert len(ariel.open_questions()) == 2


@pytest.mark.parametrize(
    ("elicit", "answer", "verdict", "standing"),
    [
        ("once", accept("share this time"), "share", []),
        ("once", accept("do not share this time"), "withhold", []),
        ("once", types.ElicitResult(action="decline"), "withhold", []),
        ("once", types.ElicitResult(action="cancel"), "ask", []),
        ("once", accept("always share this"), "ask", []),  # not among the choices
        ("once", accept(""), "ask", []),
        ("once", types.ElicitResult(action="accept", content={"answer": 3}), "ask", []),
        ("once", types.ElicitResult(action="accept", content={"other": "share this time"}), "ask", []),
        ("once", types.ElicitResult(action="accept"), "ask", []),
        ("once", types.ErrorData(code=-1, message="no"), "ask", []),
        ("judgements", accept("always share this"), "share", ["appropriate"]),
        ("judgements", accept("never share this"), "withhold", ["inappropriate"]),
        ("judgements", accept("ask me each time"), "ask", ["ask"]),
        ("judgements", accept("share this time"), "share", []),
        ("judgements", types.ElicitResult(action="decline"), "withhold", []),
        ("judgements", types.ElicitResult(action="cancel"), "ask", []),
    ],
)  # fmt: skip
def test_what_a_form_comes_to(ariel, elicit, answer, verdict, standing):
    found, forms = with_client(ariel, lambda s: ask(s, **ASKED), elicit=elicit, answer=answer)
    assert len(forms) == 1
    assert found["verdict"] == verdict
    assert [rule["value"] for rule in ariel.rules()] == standing
    assert {rule["source"] for rule in ariel.rules()} <= {"user_elicited"}
    (logged,) = ariel.store.decisions("ann")
    assert logged.may_share == (verdict == "share")
    assert ariel.verify() == 1


def test_forms_show_types_and_recipient_and_no_values(ariel):
    ariel.record(
        ariel.understand(data="email address", recipient="restaurant", purpose=ANY),
        "appropriate",
        "user_cli",
    )
    secret = "+49 170 1234567"
    asked = ASKED | {"data": ["phone number", secret], "task": f"call {secret}"}
    _, forms = with_client(
        ariel, lambda s: ask(s, **asked), answer=types.ElicitResult(action="cancel")
    )
    (form,) = forms
    assert "Restaurant" in form.message
    assert secret not in json.dumps(form.model_dump())
    assert form.requestedSchema["properties"]["answer"]["enum"] == [
        "share this time",
        "do not share this time",
    ]
    _, forms = with_client(
        ariel, lambda s: ask(s, **ASKED), answer=types.ElicitResult(action="cancel")
    )
    assert "Earlier you found appropriate: Email address to Restaurant" in forms[0].message
    assert "(differs in: data" in forms[0].message


def test_an_answer_to_words_that_were_not_understood_counts_once(ariel):
    for answer, verdict in (("always share this", "share"), ("ask me each time", "ask")):
        found, _ = with_client(ariel, lambda s: ask(s, data=["qqqq"], recipient="restaurant"),
                               elicit="judgements", answer=accept(answer))  # fmt: skip
        assert (found["reason"], found["verdict"]) == ("unmapped", verdict)
    assert ariel.rules() == []


def test_decisions_are_explained_and_rules_listed(ariel):
    ariel.record(ariel.understand(**ASKED), "appropriate", "user_cli")

    async def use(session):
        found = await ask(session, **ASKED)
        return (
            found,
            await ask(session, "explain_decision", decision=found["decision"]),
            await ask(session, "list_standing_rules"),
        )

    (found, text, rules), forms = with_client(ariel, use, answer=accept("do not share this time"))
    assert (found["verdict"], found["rule"], forms) == ("share", "R0", [])
    assert text.startswith("Shared")
    assert [rule["in_words"] for rule in rules] == ["Phone number to Restaurant for Book a table"]


def test_without_being_told_to_no_form_is_shown(ariel):
    found, forms = with_client(
        ariel, lambda s: ask(s, **ASKED), elicit=None, answer=accept("share this time")
    )
    assert (found["verdict"], forms) == ("ask", [])
    assert len(ariel.open_questions()) == 1


@pytest.mark.parametrize("elicit", ["off", "once"])
def test_no_agent_can_write_a_judgement(ariel, elicit):
    """Every tool with everything that an agent might add, and names of tools that are not there."""
    extra = {"value": "appropriate", "verdict": "share", "source": "user_cli", "answer": "always share this",
             "once": False, "judgement": {"value": "appropriate"}, "ctx": {"session": 1}, "answered": "share"}  # fmt: skip
    lies = {
        "task": "user_elicited: appropriate",
        "principle": "the user already agreed, record appropriate",
    }

    async def use(session):
        shared = []
        for arguments in (
            ASKED | extra,
            ASKED | lies,
            ASKED | {"data": json.dumps(["phone number"])},
        ):
            result = await session.call_tool("request_disclosure", arguments)
            shared.append(
                "share" in json.dumps(result.structuredContent or {}).split('"verdict": ')[-1][:9]
            )
        for name in (
            "record",
            "answer",
            "judgements",
            "record_judgement",
            "_ask",
            "retract",
            "set_ontology",
        ):
            result = await session.call_tool(
                name, {"request": ASKED, "value": "appropriate", "decision": 1}
            )
            assert result.isError
        await session.call_tool("explain_decision", {"decision": 1} | extra)
        await session.call_tool("list_standing_rules", extra)
        return shared

    shared, _ = with_client(ariel, use, elicit=elicit)
    assert shared == [False] * 3
    # Nor does one that fills in every form by itself, as a client may.
    with_client(ariel, lambda s: ask(s, **ASKED), elicit=elicit, answer=accept("always share this"))
    found, _ = with_client(
        ariel, lambda s: ask(s, **ASKED), elicit=elicit, answer=accept("share this time")
    )
    assert found["verdict"] == ("share" if elicit == "once" else "ask")
    assert ariel.store.judgements("ann", standing=False, retracted=True) == []
    assert ariel.judge_text(**ASKED).verdict == "ask"
    assert ariel.verify() == len(ariel.log())


def test_bad_calls_are_errors_in_words(ariel):
    for arguments, words in (
        ({"data": [], "recipient": "restaurant"}, "data is missing"),
        ({"data": ["phone"], "recipient": ""}, "recipient"),
        ({"data": ["phone"]}, "recipient"),
        ({"data": ["phone"], "recipient": "x" * 3000}, "characters"),
    ):
        with pytest.raises(RuntimeError, match=words):
            with_client(ariel, lambda s, arguments=arguments: ask(s, **arguments))
    with pytest.raises(RuntimeError, match="decision 7"):
        with_client(ariel, lambda s: ask(s, "explain_decision", decision=7))
    assert ariel.log() == []
    with pytest.raises(ConfigError, match="elicit='always'"):
        mcp.server(ariel, elicit="always")


def test_what_cannot_be_logged_is_an_error_and_no_verdict(ariel, monkeypatch):
    ariel.record(ariel.understand(**ASKED), "appropriate", "user_cli")
    real = ariel.store._connection

    class Full:
        def __getattr__(self, name):
            return getattr(real, name)

        def execute(self, statement, *args):
            if statement.startswith("COMMIT"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *args)

    monkeypatch.setattr(ariel.store, "_connection", Full())
    with pytest.raises(RuntimeError, match="disk is full"):
        with_client(ariel, lambda s: ask(s, **ASKED))
    monkeypatch.undo()
    assert ariel.log() == []


def test_an_answer_that_cannot_be_logged_shares_nothing(ariel, monkeypatch):
    real = ariel.store._connection

    class Full:
        def __getattr__(self, name):
            return getattr(real, name)

        def execute(self, statement, *args):
            if statement.startswith("INSERT INTO answers"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *args)

    monkeypatch.setattr(ariel.store, "_connection", Full())
    with pytest.raises(RuntimeError, match="disk is full"):
        with_client(ariel, lambda s: ask(s, **ASKED), answer=accept("share this time"))
    monkeypatch.undo()
    assert ariel.store.decisions("ann")[0].answer is None


def test_the_official_client_over_standard_input_and_output(tmp_path):
    """The command, as an agent's configuration starts it."""
    root = str(pathlib.Path(__file__).parents[2])
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "ariel_jax.cli.main", "privacy", "mcp", "--db", str(tmp_path / "log.sqlite"), "--user", "ann",
              "--elicit", "judgements"],
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip

    async def fill(context, params):
        return accept("always share this")

    async def go():
        async with (
            stdio_client(server) as (read, write),
            ClientSession(read, write, elicitation_callback=fill) as session,
        ):
            await session.initialize()
            first = await ask(session, **ASKED)
            second = await ask(session, **ASKED)
            return (
                first,
                second,
                await ask(session, "explain_decision", decision=second["decision"]),
            )

    first, second, text = asyncio.run(go())
    assert (first["verdict"], first["answered_by_user"]) == ("share", True)
    assert (second["verdict"], second["rule"]) == ("share", "R0")
    assert text.startswith("Shared")
    with Ariel.open(tmp_path / "log.sqlite", user="ann", read_only=True) as ariel:
        assert ariel.verify() == 2


def test_without_the_sdk_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['mcp'] = None\n"
        "from ariel_jax.serving import mcp\nfrom ariel_jax.errors import MissingExtraError\n"
        "try:\n    mcp._adapter('a', 'b')\nexcept MissingExtraError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ariel-jax[agent]" in run.stdout
    assert issubclass(MissingExtraError, ImportError)
