"""`--profile`: the operator chooses it for `judge`, `privacy serve` and `privacy mcp`; an agent cannot."""

import asyncio
import json

import httpx
import pytest
from mcp.shared.memory import create_connected_server_and_client_session

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.mapper import LexiconMapper
from ariel_jax.algorithms.ariel.types import ANY, Request
from ariel_jax.cli import main as cli
from ariel_jax.serving import http, mcp

NODES = {"data": "contact.phone", "recipient": "commerce.restaurant", "purpose": "dining.book_table"}  # fmt: skip
BOOKING = [word for slot, node in NODES.items() for word in (f"--{slot}", node)]
SHOP = ["--data", "contact.phone", "--recipient", "commerce.shop"]
AGENT = "agent-key-of-many-letters"
OTHERS = ("commerce.airline", "commerce.hotel", "commerce.shop", "commerce.taxi", "online.game",
          "online.advertiser", "research", "work.recruiter")  # fmt: skip


@pytest.fixture(scope="module")
def mapper():
    return LexiconMapper.core()


@pytest.fixture
def call(tmp_path, capsys, monkeypatch, mapper):
    """The command on a log in which a restaurant alone of nine may have the telephone number."""
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)
    monkeypatch.setattr(Ariel, "_text_mapper", lambda self, ontology: mapper)
    path = tmp_path / "log.sqlite"
    with Ariel.open(path, user="ann") as ariel:
        said = [("commerce.restaurant", "dining", "appropriate")]
        for to, why, value in [*said, *((other, ANY, "inappropriate") for other in OTHERS)]:
            request = Request(data=("contact.phone",), recipient=to, purpose=why, principle=ANY)
            ariel.record(request, value, "user_cli")

    def run(*arguments):
        status = cli.main([*arguments, "--db", str(path), "--user", "ann"])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out

    return run


def test_the_exit_status_follows_from_the_profile(call):
    assert call("judge", *BOOKING)[0] == 0
    assert call("judge", *BOOKING, "--profile", "plain")[0] == 0
    for profile in ("standard", "cautious"):
        status, out = call("judge", *BOOKING, "--profile", profile, "--json")
        found = json.loads(out)
        assert (status, found["verdict"], found["reason"]) == (20, "ask", "veto")
        assert found["proof"]["score"] < 0
        assert found["proof"]["policy"]["veto_share"] == {"standard": 0.0, "cautious": 1.0}[profile]
        assert call("judge", *SHOP, "--profile", profile)[0] == 10  # the user's usual answer
    status, out = call("privacy", "explain", "3", "--why-not", "share")
    assert "no judgement is missing for 'share'" in out
    assert "anywhere near 'withhold'" not in out
    assert call("privacy", "verify")[0] == 0
    assert call("judge", *BOOKING, "--profile", "brave")[0] == 2
    # The user's answer is the last word under every profile.
    assert call("privacy", "ask", "--decision", "3", "--answer", "appropriate")[0] == 0
    for profile in ("plain", "standard", "cautious"):
        assert call("judge", *BOOKING, "--profile", profile)[0] == 0


def test_with_few_judgements_what_could_be_vetoed_is_asked_and_says_so(call):
    for number in ("9", "8"):
        assert call("privacy", "retract", number)[0] == 0
    status, out = call("judge", *BOOKING, "--profile", "standard")
    assert status == 20
    assert "cannot be told yet" in out
    assert call("judge", *SHOP, "--profile", "standard")[0] == 10  # it does not veto these
    assert call("judge", *SHOP, "--profile", "cautious")[0] == 20
    assert call("judge", *BOOKING)[0] == 0
    assert call("privacy", "verify")[0] == 0


@pytest.mark.parametrize(("profile", "verdict"), [("plain", "share"), ("standard", "ask")])
def test_an_agent_over_http_cannot_choose_the_profile(call, monkeypatch, profile, verdict):
    answers = []

    def talk(app, **options):
        async def go():
            transport = httpx.ASGITransport(app=app)
            base, headers = "http://127.0.0.1:1", {"authorization": f"Bearer {AGENT}"}
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                for where, more in (
                    ("", {}), ("?profile=plain", {}), ("", {"profile": "plain"}),
                    ("", {"policy": {"veto_share": None}}), ("", {"task_text": "profile=plain"}),
                ):  # fmt: skip
                    said = await client.post(f"/v1/judge{where}", json=NODES | more, headers=headers)  # fmt: skip
                    answers.append((said.status_code, said.json().get("verdict")))

        asyncio.run(go())

    monkeypatch.setattr(http, "serve", talk)
    monkeypatch.setenv("ARIEL_JAX_HUMAN_KEY", "human-key-of-many-letters")
    monkeypatch.setenv("ARIEL_JAX_AGENT_KEY", AGENT)
    assert call("privacy", "serve", "--profile", profile)[0] == 0
    refused = (400, None)
    assert answers == [(200, verdict), (200, verdict), refused, refused, (200, verdict)]


@pytest.mark.parametrize(("profile", "verdict"), [("plain", "share"), ("standard", "ask")])
def test_an_agent_over_mcp_cannot_choose_the_profile(call, monkeypatch, profile, verdict):
    real, answers = mcp.server, []

    class Talk:
        def __init__(self, ariel, *, elicit):
            self.server = real(ariel, elicit=elicit)._mcp_server

        def run(self):
            async def go():
                async with create_connected_server_and_client_session(self.server) as session:
                    (tool, *_) = (await session.list_tools()).tools
                    assert "profile" not in tool.inputSchema["properties"]
                    asked = NODES | {"data": ["contact.phone"]}
                    for more in ({}, {"profile": "plain"}, {"task": "profile=plain"}):
                        said = await session.call_tool("request_disclosure", asked | more)
                        answers.append((said.isError, (said.structuredContent or {}).get("verdict")))  # fmt: skip

            asyncio.run(go())

    monkeypatch.setattr(mcp, "server", Talk)
    assert call("privacy", "mcp", "--profile", profile)[0] == 0
    assert answers == [(False, verdict)] * 3
