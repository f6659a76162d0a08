"""What the log keeps, checks, forgets and gives back."""

import json
import os
import sqlite3

import pytest

from ariel_jax.algorithms.ariel import query, schema
from ariel_jax.algorithms.ariel.log_check import supersession
from ariel_jax.algorithms.ariel.records import request_json, request_of
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import Node, Request
from ariel_jax.errors import ConfigError, IntegrityError, StorageError, UntrustedSourceError

from .store_cases import ASKS, FACTS, MAIL, PHONE, SHARES, begin, decide, fill, tamper


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def store(path):
    with Store(path) as store:
        begin(store, "ann")
        yield store


def test_what_is_written_comes_back(store, path):
    fill(store)
    first, second = store.judgements("ann", standing=False, retracted=True)
    assert (first.request.key, first.value, first.source) == (PHONE.key, "appropriate", "user_cli")
    assert first.created_at.endswith("+00:00")
    assert [j.id for j in store.judgements("ann")] == [first.id]
    assert second.value == "inappropriate"
    asked, shared = store.decisions("ann")
    assert asked.outcome == ASKS
    assert (asked.question, asked.answer, asked.answered) == (
        {"text": "May it?"},
        "appropriate once",
        "share",
    )
    assert asked.may_share
    assert asked.verdict == "ask"
    assert (shared.outcome, shared.request.key, shared.latency_us) == (SHARES, PHONE.key, 12)
    assert store.ontology("ann") == FACTS
    assert store.disclosed("ann", "bistro") == {"phone": 2}
    assert store.verify().rows == 8
    for name in os.listdir(path.parent):
        assert (path.parent / name).stat().st_mode & 0o777 == 0o600, name


def test_no_text_reaches_the_file(store, path):
    store.append_judgement("ann", PHONE, "appropriate", "user_cli")
    decide(store)
    files = b"".join((path.parent / name).read_bytes() for name in os.listdir(path.parent))
    assert b"bistro" in files
    assert b"0170" not in files


def test_the_later_judgement_on_the_same_nodes_stands(store):
    ids = [store.append_judgement("ann", PHONE, v, "user_cli").id
           for v in ("appropriate", "inappropriate", "appropriate")]  # fmt: skip
    assert [j.superseded_by for j in store.judgements("ann", standing=False)] == [
        ids[1],
        ids[2],
        None,
    ]


def test_what_an_agent_claims_supersedes_nothing(store):
    mine = store.append_judgement("ann", PHONE, "inappropriate", "user_cli")
    claim = store.append_judgement("ann", PHONE, "appropriate", "agent_claimed")
    assert not claim.is_premise
    with pytest.raises(UntrustedSourceError, match="only the user"):
        store.append_judgement("ann", MAIL, "appropriate", "agent_claimed", supersedes=[mine.id])
    with pytest.raises(UntrustedSourceError, match="only the user"):
        store.retract("ann", mine.id, "agent_claimed")
    with pytest.raises(UntrustedSourceError, match="only the user"):
        store.append_answer(
            "ann", decide(store, question={}).id, "appropriate", "share", "agent_claimed"
        )
    assert [j.id for j in store.judgements("ann") if j.is_premise] == [mine.id]
    later = store.append_judgement("ann", PHONE, "ask", "user_cli")
    marks = {j.id: j.superseded_by for j in store.judgements("ann", standing=False)}
    assert marks == {mine.id: later.id, claim.id: None, later.id: None}


def test_a_judgement_that_is_taken_back_was_never_there(store):
    one = store.append_judgement("ann", PHONE, "appropriate", "user_cli")
    mail = store.append_judgement("ann", MAIL, "appropriate", "user_cli")
    two = store.append_judgement("ann", PHONE, "inappropriate", "user_cli", supersedes=[mail.id])
    assert store.judgements("ann") == [two]
    store.retract("ann", two.id, "user_cli")
    assert store.judgements("ann") == [one, mail]
    with pytest.raises(ConfigError, match="not allowed"):
        store.retract("ann", two.id, "user_cli")
    assert store.verify().users == 1


def test_marks_are_those_that_follow_from_what_was_said(store):
    """The mark that SQL sets, against the rule, after each of many random steps."""
    import numpy as np

    rng = np.random.default_rng(0)
    requests = [
        Request(data=(d,), recipient=r) for d in ("phone", "mail") for r in ("bistro", "bank")
    ]
    for _ in range(60):
        standing = [j.id for j in store.judgements("ann") if j.source != "agent_claimed"]
        kept = [j.id for j in store.judgements("ann", standing=False)]
        if kept and rng.random() < 0.25:
            store.retract("ann", int(rng.choice(kept)), "user_cli")
        else:
            source = "agent_claimed" if rng.random() < 0.2 else "user_ui"
            also = (
                [int(rng.choice(standing))]
                if standing and source == "user_ui" and rng.random() < 0.3
                else []
            )
            store.append_judgement(
                "ann", requests[rng.integers(4)], "appropriate", source, supersedes=also
            )
        marks = {
            j.id: j.superseded_by for j in store.judgements("ann", standing=False, retracted=True)
        }
        assert supersession(store._connection, "ann") == marks
    assert sum(mark is not None for mark in marks.values()) > 10
    store.verify()


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE judgements SET value = 'inappropriate' WHERE id = 1", "row 2 (of judgements)"),
        ("UPDATE judgements SET source = 'user_ui' WHERE id = 1", "row 2 (of judgements)"),
        ("UPDATE judgements SET nodes_json = replace(nodes_json, 'phone', 'mail')", "row 2 (of judgements)"),
        ("UPDATE decisions SET verdict = 'share' WHERE id = 1", "row 5 (of decisions)"),
        ("UPDATE decisions SET proof_json = '{}' WHERE id = 2", "row 8 (of decisions)"),
        ("UPDATE decisions SET created_at = '2020' WHERE id = 2", "row 8 (of decisions)"),
        ("UPDATE escalations SET question = '{}'", "row 6 (of escalations)"),
        ("UPDATE answers SET verdict = 'withhold'", "row 7 (of answers)"),
        ("DELETE FROM answers", "row 7"),
        ("DELETE FROM retractions", "row 4"),
        ("UPDATE ontology_versions SET why = 'else'", "row 1 (of ontology_versions)"),
        ("UPDATE judgements SET superseded_by = 2 WHERE id = 1", "marked as superseded by 2 and not by None"),
        ("UPDATE edges SET status = 'retracted'", "the table edges"),
        ("UPDATE nodes SET label = 'x' WHERE id = 'city'", "the table nodes"),
        ("UPDATE ontologies SET json = replace(json, 'said so', 'no')", "was changed"),
        ("UPDATE users SET created_at = 'never'", "the list of users: row 1"),
        ("UPDATE decisions SET number = number + 10 WHERE id = 2", "row 8"),
    ],
)  # fmt: skip
def test_verify_names_what_was_changed(path, statement, bad):
    with Store(path) as store:
        begin(store, "ann")
        fill(store)
        store.verify()
    tamper(path, statement)
    with Store(path) as store, pytest.raises(IntegrityError) as caught:
        store.verify()
    assert bad in str(caught.value)


def test_rows_gone_from_the_end_show_against_a_remembered_head(path):
    with Store(path) as store:
        begin(store, "ann")
        fill(store)
        heads = store.verify().heads
        assert store.verify(heads=heads).heads == heads
    tamper(path, "DELETE FROM decisions WHERE id = 2")
    with Store(path) as store:
        assert store.verify().rows == 7
        with pytest.raises(IntegrityError, match="lacks the remembered row 8"):
            store.verify(heads=heads)
        with pytest.raises(IntegrityError, match="no log of"):
            store.verify(heads={"bob": (1, "x")})


def test_a_trigger_that_was_removed_is_found(path):
    with Store(path) as store:
        begin(store, "ann")
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER decisions_keep")
    connection.close()
    with Store(path) as store, pytest.raises(IntegrityError, match="trigger decisions_keep"):
        store.verify()


@pytest.mark.parametrize("table", [*schema.CHAINED, *schema.ROSTER])
def test_the_file_itself_refuses_changes(store, path, table):
    fill(store)
    begin(store, "bob")
    store.forget("bob")
    connection = sqlite3.connect(path)
    assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    column = (schema.CHAINED | schema.ROSTER)[table][-1]
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = 'x'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.execute("UPDATE judgements SET superseded_by = NULL")
    connection.close()


def test_forget_leaves_no_byte_of_a_user_and_the_others_whole(path):
    with Store(path) as store:
        begin(store, "ann")
        fill(store)
        kept = store.verify().heads["ann"]
        begin(store, "zacharias")
        secret = Request(data=("city",), recipient="bank", purpose="secret.plan")
        store.append_judgement(
            "zacharias", secret, "appropriate", "user_cli", note="mentions-widgets"
        )
        decide(store, user="zacharias", request=secret, question={"text": "about gadgets"})
        own = FACTS.with_nodes(Node(slot="purpose", id="secret.plan", label="Own label"))
        store.set_ontology("zacharias", own, why="mine")
        words = [b"zacharias", b"secret.plan", b"widgets", b"gadgets", b"Own label"]
        files = [path.with_name(path.name + s) for s in ("", "-wal")]
        before = b"".join(f.read_bytes() for f in files)
        assert all(word in before for word in words)
        stone = store.forget("zacharias")
        after = b"".join(f.read_bytes() for f in files)
        assert [word for word in words if word in after] == []
        assert b"bistro" in after
        assert (stone.judgements, stone.decisions, stone.rows) == (1, 1, 5)
        checked = store.verify(heads={"ann": kept})
        assert (checked.users, checked.tombstones) == (1, 1)
        with pytest.raises(StorageError, match="deleted"):
            store.state("zacharias")
        with pytest.raises(ConfigError, match="no log"):
            store.forget("zacharias")
        # Beginning anew reuses no id: a history in memory cannot mistake it for the old one.
        begin(store, "zacharias")
        assert store.append_judgement("zacharias", PHONE, "appropriate", "user_cli").id == 4
        store.verify()
    tamper(path, "DELETE FROM tombstones")
    with Store(path) as store, pytest.raises(IntegrityError, match="the list of users"):
        store.verify()


def test_forget_says_when_another_process_keeps_old_pages(path):
    with Store(path, timeout_s=0.1) as store:
        begin(store, "ann")
        begin(store, "bob")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM judgements").fetchall()
        with pytest.raises(StorageError, match=r"locked|another process"):
            store.forget("bob")
        reader.close()
        with pytest.raises(ConfigError, match="no log"):  # the rows are gone; this cleans the pages
            store.forget("bob")
        assert b"bob" not in path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()


def test_bad_input_is_refused_before_anything_is_written(store):
    before = store.verify()
    long = Request(data=("x" * 201,), recipient="bistro")
    for attempt, message in (
        (lambda: store.append_judgement("ann", PHONE, "maybe", "user_cli"), "value='maybe'"),
        (lambda: store.append_judgement("ann", PHONE, "ask", "a friend"), "source='a friend'"),
        (lambda: store.append_judgement("ann", long, "ask", "user_cli"), "at most 200"),
        (lambda: store.append_judgement("ann", Request(data=("a\x00b",), recipient="r"), "ask", "user_cli"), "printable"),
        (lambda: store.append_judgement("bob", PHONE, "ask", "user_cli"), "no log"),
        (lambda: store.append_judgement("ann", PHONE, "ask", "user_cli", supersedes=[7]), "supersedes=[7]"),
        (lambda: store.decision(7, "ann"), "decision 7"),
        (lambda: store.append_answer("ann", 7, "x", "share", "user_cli"), "decision 7"),
        (lambda: store.add_user("a\nb"), "printable"),
        (lambda: store.add_user(""), "printable"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert message in str(caught.value)
    assert store.verify() == before


def test_a_user_sees_no_rows_of_another(store):
    begin(store, "bob")
    fill(store)
    mine = store.append_judgement("bob", MAIL, "appropriate", "user_cli")
    asked = decide(store, user="bob", question={"text": "?"})
    assert [j.id for j in store.judgements("bob")] == [mine.id]
    assert [d.id for d in store.decisions("bob")] == [asked.id]
    for attempt in (lambda: store.decision(asked.id, "ann"), lambda: store.retract("ann", mine.id, "user_cli"),
                    lambda: store.append_answer("ann", asked.id, "x", "share", "user_cli")):  # fmt: skip
        with pytest.raises(ConfigError):
            attempt()
    assert store.ontology("bob", version="0" * 64) is None


def test_facts_are_kept_by_version_and_laid_out_in_tables(store):
    changed = FACTS.retract(1)
    assert store.set_ontology("ann", changed, why="wrong")
    assert not store.set_ontology("ann", changed, why="again")
    assert store.ontology("ann") == changed
    assert store.ontology("ann", version=FACTS.hash) == FACTS
    (row,) = store._rows("SELECT * FROM edges WHERE user = 'ann'")
    assert row["status"] == "retracted"
    assert row["retracted_at"] >= row["created_at"]
    # An audit in SQL, by a recursive query over the same tables.
    store.set_ontology("ann", FACTS, why="back")
    reached = store._rows(
        "WITH RECURSIVE r(x) AS (SELECT 'bank' UNION SELECT dst FROM edges JOIN r ON src = x "
        "WHERE status != 'retracted') SELECT x FROM r ORDER BY x"
    )
    assert [row["x"] for row in reached] == ["bank", "shop"]


def test_conditions_in_sql_select_and_can_do_nothing_else(store, path, tmp_path):
    fill(store)
    begin(store, "bob")
    decide(store, user="bob")
    mine = store.decisions("ann")
    assert [r["id"] for r in query.select(mine, "verdict = 'share'")] == [2]
    assert [r["id"] for r in query.select(mine, "answered = 'share' OR rule = 'R0'")] == [1, 2]
    assert [r["id"] for r in query.select(mine, "data LIKE '%phone%' -- all")] == [1, 2]
    assert query.select(mine, "1) UNION SELECT 3 WHERE (1") == query.select(mine)  # bob's stays out
    target = tmp_path / "made"
    for where in (
        "1); DELETE FROM log; SELECT (1",
        f"1) UNION SELECT 1 FROM (SELECT 1); ATTACH '{target}' AS x; --",
        "verdict = ",
        "nobody = 1",
        "1) UNION SELECT id FROM decisions WHERE (1",
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT sum(x) FROM n)",
        "length(hex(zeroblob(100000000))) > 0",
        "load_extension('x')",
        "\x00",
    ):
        with pytest.raises(ConfigError, match="Pass a condition"):
            query.select(mine, where)
    assert not target.exists()
    store.verify()


def test_exports_are_json_lines_and_cells_that_are_no_formulas(store):
    store.append_judgement(
        "ann", Request(data=("=1+1",), recipient="@x", purpose="a,b"), "ask", "user_cli"
    )
    fill(store)
    lines = query.export("decisions", "jsonl", store.decisions("ann"), []).splitlines()
    assert [json.loads(line)["proof"] for line in lines] == [
        {"verdict": "ask"},
        {"verdict": "share"},
    ]
    text = query.export("judgements", "csv", [], store.judgements("ann"))
    assert "'=1+1" in text
    assert "'@x" in text
    assert '"a,b"' in text
    assert query.export("decisions", "csv", store.decisions("ann"), []).count("\n") == 3
    assert query.export("judgements", "csv", [], []) == "id\n"
    with pytest.raises(ConfigError, match="form='xml'"):
        query.export("decisions", "xml", [], [])


def test_a_request_survives_being_written_down():
    assert request_of(json.loads(schema.canonical(request_json(PHONE)))).key == PHONE.key
