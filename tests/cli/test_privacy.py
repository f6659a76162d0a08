import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys

import httpx
import pytest

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.mapper import LexiconMapper
from ariel_jax.cli import main as cli

BOOKING = ("--data", "phone number", "--recipient", "restaurant", "--purpose", "book a table")
ADDRESS = ("--data", "location.address", "--recipient", "commerce.delivery", "--purpose", "shopping.delivery",
           "--principle", "ANY")  # fmt: skip
CITY = (
    "--data",
    "location.city",
    "--recipient",
    "commerce.delivery",
    "--purpose",
    "shopping.delivery",
)


@pytest.fixture(scope="module")
def mapper():
    return LexiconMapper.core()


@pytest.fixture
def where(tmp_path):
    return ("--db", str(tmp_path / "log.sqlite"), "--user", "ann")


@pytest.fixture
def call(capsys, monkeypatch, where, mapper):
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)
    # The same mapper each time: making it takes longer than most commands.
    monkeypatch.setattr(Ariel, "_text_mapper", lambda self, ontology: mapper)

    def run(*arguments, at=where):
        status = cli.main(["privacy", *map(str, arguments), *at])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    def judge(*arguments):
        status = cli.main(["judge", *arguments, *where])
        return status, capsys.readouterr().out

    run.judge = judge
    return run


def test_an_approval_is_recorded_covers_less_and_is_explained(call):
    status, out, _ = call("record", "appropriate", *ADDRESS, "--note", "groceries")
    assert status == 0
    assert out.startswith("judgement 1: appropriate: ")
    assert "It covers" not in out
    assert call.judge(*CITY)[0] == 0
    status, out, _ = call("explain", 1)
    assert out.startswith("Shared your City")
    assert "reveals" in out
    status, out, _ = call("explain", 1, "--proof")
    assert json.loads(out)["premises"][0]["judgement_id"] == 1
    status, out, _ = call("explain", 1, "--why-not", "withhold")
    assert (status, out) == (0, "no judgement that stands is anywhere near 'withhold'\n")
    call.judge(
        "--data",
        "phone number",
        "--recipient",
        "commerce.delivery",
        "--purpose",
        "shopping.delivery",
    )
    status, out, _ = call("explain", 2, "--why-not", "share", "--json")
    assert json.loads(out)["why_not"][0]["failed"] == ["data"]


def test_a_judgement_that_only_repeats_says_so(call):
    status, out, _ = call("record", "appropriate", *BOOKING)
    assert status == 0
    assert "It covers this very request again and no other: it says nothing about principle." in out
    assert "--principle ANY" in out


def test_questions_are_listed_and_answered(call):
    assert call("record", "ask", *ADDRESS)[0] == 0
    call.judge(*BOOKING)
    call.judge(*CITY)
    status, out, _ = call("ask")
    assert [line[:10] for line in out.splitlines() if line.startswith("decision")] == [
        "decision 1",
        "decision 2",
    ]
    assert [q["decision"] for q in json.loads(call("ask", "--json")[1])] == [1, 2]
    assert "Phone number" in call("ask", "--decision", 1)[1]
    assert call("ask", "--decision", 1, "--answer", "inappropriate", "--once")[:2] == (
        10, "withhold  (decision 1, answered: inappropriate once)\n")  # fmt: skip
    assert call("ask", "--answer", "ask")[0] == 20  # the latest open one
    assert call("ask")[1] == "no question is open\n"
    status, _, err = call("ask", "--answer", "appropriate")
    assert (status, "no question is open" in err) == (2, True)
    status, _, err = call("ask", "--decision", 1, "--answer", "appropriate")
    assert (status, "answered before" in err) == (2, True)
    assert call.judge(*BOOKING)[0] == 20
    assert [json.loads(call("rules", "--json")[1])[i]["value"] for i in (0, 1)] == ["ask", "ask"]


def test_words_that_were_not_understood_are_said_in_the_answer(call):
    assert call.judge("--data", "phone number", "--recipient", "qqqq")[0] == 20
    status, _, err = call("ask", "--answer", "appropriate")
    assert (status, "say in slots=" in err) == (2, True)
    assert (
        call("ask", "--answer", "appropriate", "--meant", "recipient=commerce.restaurant")[0] == 0
    )
    assert call.judge("--data", "phone number", "--recipient", "restaurant")[0] == 0


def test_a_conflict_is_settled_by_a_changed_mind(call):
    wide = (
        "--data",
        "phone number",
        "--recipient",
        "commerce",
        "--purpose",
        "dining.book_table",
        "--principle",
        "ANY",
    )
    deny = (
        "--data",
        "phone number",
        "--recipient",
        "restaurant",
        "--purpose",
        "dining",
        "--principle",
        "ANY",
    )
    call("record", "appropriate", *wide)
    call("record", "inappropriate", *deny)
    status, out = call.judge(*BOOKING)
    assert status == 20
    assert "judgements [1] and [2] disagree" in out
    assert call("ask", "--answer", "appropriate", "--supersedes", "2")[0] == 0
    assert call.judge(*BOOKING)[0] == 0
    assert (
        json.loads(call("log", "--where", "reason = 'conflict'", "--json")[1])[0]["answered"]
        == "share"
    )
    status, out, _ = call("retract", 3)
    assert "judgement 2 stands again: inappropriate" in out
    assert call.judge(*BOOKING)[0] == 20
    assert call("verify")[0] == 0


def test_the_text_of_a_task_is_checked_against_its_decision(call):
    call.judge(*BOOKING, "--task", "a table for two")
    call.judge(*BOOKING)
    assert call("verify", "--decision", 1, "--task", "a table for two")[0] == 0
    assert call("verify", "--decision", 2, "--task", "")[0] == 0
    for number, text in ((1, "a table for three"), (1, ""), (2, "a table for two")):
        status, out, err = call("verify", "--decision", number, "--task", text)
        assert (status, out) == (2, "")
        assert f"not the text that decision {number}" in err
    assert "--task needs --decision" in call("verify", "--task", "a table for two")[2]


def test_the_log_is_verified_against_remembered_heads(call, tmp_path):
    heads = tmp_path / "heads.json"
    call.judge(*BOOKING)
    status, out, _ = call("verify")
    assert status == 0
    assert "2 proofs hold" not in out
    assert "1 proofs hold" in out
    assert "only --heads FILE tells" in out
    assert call("verify", "--heads", heads)[0] == 0
    assert heads.stat().st_mode & 0o777 == 0o600
    call.judge(*BOOKING)
    assert call("verify", "--heads", heads, "--decision", 1)[0] == 0
    connection = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    trigger = connection.execute(
        "SELECT sql FROM sqlite_master WHERE name = 'escalations_keep'"
    ).fetchone()[0]
    connection.execute("DROP TRIGGER escalations_keep")
    connection.execute("DELETE FROM escalations WHERE id = 2")
    connection.execute(trigger)
    connection.close()
    assert call("verify")[0] == 0
    status, out, err = call("verify", "--heads", heads)
    assert (status, out) == (2, "")
    assert "lacks the remembered row" in err
    heads.write_text("[]")
    assert "is no file of heads" in call("verify", "--heads", heads)[2]


def test_decisions_are_listed_by_conditions_and_exported(call, tmp_path):
    call("record", "appropriate", *ADDRESS)
    call.judge(*BOOKING)
    call.judge(*CITY)
    assert len(call("log")[1].splitlines()) == 2
    status, out, _ = call(
        "log", "--where", "verdict = 'share' AND recipient LIKE 'commerce%'", "--json"
    )
    assert [row["data"] for row in json.loads(out)] == ["location.city"]
    status, out, err = call("log", "--where", "DROP TABLE decisions")
    assert (status, out) == (2, "")
    assert "Pass a condition" in err
    out = tmp_path / "decisions.csv"
    assert call("export", "decisions", "--form", "csv", "--out", out)[0] == 0
    assert out.stat().st_mode & 0o777 == 0o600
    with out.open() as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["ask", "share"]
    lines = call("export", "decisions")[1].splitlines()
    assert [json.loads(line)["proof"]["verdict"] for line in lines] == ["ask", "share"]
    assert json.loads(call("export", "judgements")[1])["value"] == "appropriate"


def test_judgements_go_to_other_judges(call, tmp_path):
    import clingo

    assert "there is no decision" in call("export", "asp", at=begun(call))[2]
    call("record", "appropriate", *ADDRESS)
    call.judge(*CITY)
    program = call("export", "asp")[1]
    control = clingo.Control(["--warn=none"])
    control.add("base", [], program)
    control.ground([("base", [])])
    found = []
    control.solve(on_model=lambda model: found.append(str(model)))
    assert 'share("decision_1")' in found[0]
    out = tmp_path / "rules.cedar"
    assert call("export", "cedar", "--out", out)[0] == 0
    assert "permit" in out.read_text()
    entities = json.loads((tmp_path / "rules.cedar.entities.json").read_text())
    assert {"type": "Data", "id": "location.city"} in [entity["uid"] for entity in entities]


def begun(call):
    """Makes a log without decisions; no other flags."""
    call("record", "ask", *ADDRESS)
    from inspect import signature

    return signature(call).parameters["at"].default


def test_facts_are_listed_and_changed(call, tmp_path):
    call.judge(*BOOKING)
    status, out, _ = call("ontology", "--slot", "recipient", "--match", "restaurant")
    assert status == 0
    assert "commerce.restaurant" in out
    added = call("ontology", "--add-node", "recipient", "bistro_x", "Bistro X", "--add-edge", "recipient", "isa",
                 "bistro_x", "commerce.restaurant", "--json", "--match", "bistro_x")  # fmt: skip
    found = json.loads(added[1])
    assert [node["label"] for node in found["nodes"]] == ["Bistro X"]
    (edge,) = found["edges"]
    assert (edge["status"], edge["origin"]) == ("confirmed", "user")
    call("record", "appropriate", *BOOKING, "--principle", "ANY")
    bistro = ("--data", "phone number", "--recipient", "bistro_x", "--purpose", "book a table")
    assert call.judge(*bistro)[0] == 0
    assert call("ontology", "--retract", edge["id"])[0] == 0
    assert call.judge(*bistro)[0] == 20
    file = tmp_path / "facts.json"
    assert call("export", "ontology", "--out", file)[0] == 0
    facts = json.loads(file.read_text())
    facts["edges"] = [e for e in facts["edges"] if e["id"] != edge["id"]]
    file.write_text(json.dumps(facts))
    assert call("ontology", "--read", file)[0] == 0
    before = json.loads(call("ontology", "--json")[1])["hash"]
    for arguments, message in (
        (("--add-node", "recipient", "x"), "three words"),
        (("--add-edge", "recipient", "isa", "a"), "four words"),
        (("--add-edge", "recipient", "likes", "bistro_x", "work"), "likes"),
        (("--retract", 10**6), "no such edge"),
        (("--confirm", 1), "only a proposed"),
        (("--slot", "colour"), "colour"),
        (("--read", tmp_path / "none.json"), "cannot be read"),
        (("--add-node", "recipient", "new", "New", "--retract", 10**6), "no such edge"),
    ):
        status, out, err = call("ontology", *arguments)
        assert (status, out) == (2, ""), arguments
        assert message in err
    assert json.loads(call("ontology", "--json")[1])["hash"] == before
    assert call("verify")[0] == 0


def test_forgetting_needs_a_word_and_leaves_the_others(call, where, tmp_path):
    call("record", "appropriate", *BOOKING)
    bob = (*where[:3], "bob")
    call("record", "inappropriate", *BOOKING, at=bob)
    status, _, err = call("forget")
    assert (status, "--yes" in err) == (2, True)
    status, out, _ = call("forget", "--yes")
    assert (status, out[:12]) == (0, "1 judgements")
    assert "copies elsewhere" in out
    status, _, err = call("rules")
    assert (status, "it has ['bob']" in err) == (2, True)
    status, _, err = call("forget", "--yes")
    assert (status, "has no log" in err) == (2, True)
    assert call("verify", at=bob)[0] == 0
    assert (
        "there is no privacy log" in call("forget", "--yes", at=("--db", str(tmp_path / "none")))[2]
    )


BAD = [
    (("record", "maybe", *BOOKING), "invalid choice"),
    (("record", "appropriate"), "data is missing"),
    (
        ("record", "appropriate", "--data", "phone number", "--recipient", "qqqq"),
        "is not understood",
    ),
    (("record", "appropriate", *BOOKING, "--supersedes", "7"), "supersedes=[7]"),
    (("ask", "--once"), "pass --answer"),
    (("ask", "--answer", "appropriate", "--decision", "9"), "decision 9"),
    (("ask", "--answer", "appropriate", "--generalise", "colour=red"), "SLOT=NODE"),
    (("ask", "--answer", "appropriate", "--generalise", "recipient"), "SLOT=NODE"),
    (("ask", "--decision", "9"), "no open question"),
    (("explain", "9"), "decision 9"),
    (("explain", "x"), "invalid"),
    (("retract", "9"), "judgement 9"),
    (("export", "everything"), "invalid choice"),
    (("serve", "--host", "0.0.0.0"), "reached by other machines"),
    (("shout",), "shout"),
    ((), "Missing subcommand"),
]


def test_bad_input_is_status_2_and_one_message(call, where):
    call.judge(*BOOKING)
    call("ask", "--answer", "inappropriate", "--once")
    call.judge(*BOOKING)
    for arguments, message in BAD:
        at = where if arguments and arguments[0] != "shout" else ()
        status, out, err = call(*arguments, at=at)
        assert (status, out) == (2, ""), arguments
        assert message in err
    assert call("rules")[1] == "no judgements\n"


def test_looking_makes_no_log(call, tmp_path):
    for arguments in (
        ("ask",),
        ("explain", 1),
        ("verify",),
        ("log",),
        ("rules",),
        ("ontology",),
        ("export", "judgements"),
    ):
        status, _, err = call(*arguments)
        assert (status, "there is no privacy log" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_the_server_answers_on_this_machine_with_keys_it_made(tmp_path, where):
    command = [
        sys.executable,
        "-m",
        "ariel_jax.cli.main",
        "privacy",
        "serve",
        "--port",
        "0",
        *where,
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ARIEL_JAX_")}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            lines = [server.stderr.readline() for _ in range(3)]
            port = re.search(r"listening at 127\.0\.0\.1 port (\d+)", lines[-1])[1]
            keys = {}
            for role in ("agent", "human"):
                file = tmp_path / f"log.sqlite.{role}-key"
                assert file.stat().st_mode & 0o777 == 0o600
                keys[role] = {"authorization": f"Bearer {file.read_text().strip()}"}
            asked = {"data": "phone number", "recipient": "restaurant", "purpose": "book a table"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                found = client.post("/v1/judge", json=asked, headers=keys["agent"]).json()
                assert found["verdict"] == "ask"
                answer = {"decision": found["decision"], "value": "appropriate"}
                assert (
                    client.post("/v1/judgements", json=answer, headers=keys["agent"]).status_code
                    == 403
                )
                assert (
                    client.post("/v1/judgements", json=answer, headers=keys["human"]).status_code
                    == 201
                )
                assert (
                    client.post("/v1/judge", json=asked, headers=keys["agent"]).json()["verdict"]
                    == "share"
                )
                assert client.post("/v1/judge", json=asked).status_code == 401
                assert (
                    client.get("/v1/nothing", headers={"host": "evil.example"}).status_code == 421
                )
                large = client.post(
                    "/v1/judge", json={"data": "x" * 100_000}, headers=keys["agent"]
                )
                assert large.status_code == 413
        finally:
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=20)
    said = out + err + "".join(lines)
    assert server.returncode == 130
    assert "Traceback" not in said
    for key in keys.values():
        assert key["authorization"].split()[1] not in said


def lines(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


PHONE = {"data": "phone number", "recipient": "restaurant", "purpose": "ANY", "principle": "ANY"}


def test_judgements_are_imported_all_or_none(call, tmp_path, where):
    file = lines(
        tmp_path / "said.jsonl",
        PHONE | {"value": "inappropriate", "at": "2026-05-03T12:00:00+02:00", "note": "x"},
        PHONE | {"value": "appropriate", "at": "2026-05-02"},
        {"data": ["contact.email", "location.city"], "recipient": "ANY", "value": "ask", "at": "2026-05-01"},
    )  # fmt: skip
    status, out, _ = call("import", file, "--json")
    assert (status, json.loads(out)["judgements"]) == (0, [1, 2, 3])
    status, out, _ = call("rules", "--json")
    rules = json.loads(out)
    # The later time stands, though its line is the first one.
    assert [rule["value"] for rule in rules] == ["ask", "inappropriate"]
    assert {rule["source"] for rule in rules} == {"imported_by_user"}
    assert call.judge(*BOOKING)[0] == 10
    good = PHONE | {"value": "appropriate"}
    for rows, message in (
        ((good, good | {"value": "inappropriate"}), "lines 1 and 2"),
        ((good | {"at": "2026-05-02T02:00+02:00"}, good | {"at": "2026-05-02", "value": "ask"}), "lines 1 and 2"),
        ((good, good | {"recipient": "zorbl"}), "line 2"), ((good, good | {"value": "maybe"}), "line 2"),
        ((good, good | {"source": "user_cli"}), "source"), ((good, good | {"at": "soon"}), "line 2"),
        ((good, [1]), "line 2"), ((good, {"value": "ask"}), "line 2"), ((good | {"data": 3},), "line 1"),
        ((good | {"note": "\ud800"},), "surrogate"), ((), "no judgement"),
    ):  # fmt: skip
        status, out, err = call("import", lines(tmp_path / "bad.jsonl", *rows))
        assert (status, out) == (2, ""), rows
        assert message in err
    assert call("import", tmp_path / "none.jsonl")[0] == 2
    assert json.loads(call("rules", "--json")[1]) == rules
    assert call("verify")[0] == 0


@pytest.mark.parametrize("mark", ["\u202e", "\u200b", "\x07"])
def test_marks_that_nobody_sees_are_flagged_in_the_proof(call, mark):
    status, out = call.judge("--data", f"phone{mark} number", "--recipient", "restaurant", "--json")
    proof = json.loads(out)["proof"]
    assert status == 20
    (entry,) = [entry for entry in proof["mapping"] if entry["slot"] == "data"]
    assert entry["flags"]
    assert mark not in entry["input"]


@pytest.mark.parametrize("task", ["\udcff", "x" * 1_000_000])
def test_a_task_that_cannot_be_kept_is_bad_input(call, task):
    assert call.judge(*BOOKING, "--task", task) == (2, "")
