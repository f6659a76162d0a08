import json
import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from ariel_jax.algorithms.ariel import query, schema
from ariel_jax.algorithms.ariel.log_check import supersession
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.records import request_json, request_of
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import Edge, Node, Outcome, Request
from ariel_jax.errors import ConfigError, IntegrityError, StorageError, UntrustedSourceError

FACTS = Ontology.of(
    [
        *(Node(slot="data", id=i, label=i.capitalize(), aliases=(f"my {i}",)) for i in ("phone", "mail", "city")),
        *(Node(slot="recipient", id=i, label=i.capitalize()) for i in ("bistro", "bank", "shop")),
    ],
    [Edge(id=1, slot="recipient", type="trust", src="bank", dst="shop", reason="said so")],
)  # fmt: skip
PHONE = Request(data=("phone",), recipient="bistro", task_text="call 0170 1234567")
MAIL = Request(data=("mail",), recipient="shop", purpose="UNSPEC")
ASKS = Outcome(verdict="ask", reason="no_premise", dropped=((3, "bad=1"),), undecided=("a", "b"))
SHARES = Outcome(verdict="share", rule="R0", premises=(1,))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def store(path):
    with Store(path) as store:
        begin(store, "ann")
        yield store


def begin(store, user):
    store.add_user(user)
    store.set_ontology(user, FACTS, why="opened")


def decide(store, outcome=ASKS, user="ann", request=PHONE, question=None):
    return store.append_decision(
        user, request, outcome, schema.canonical({"verdict": outcome.verdict}).encode(),
        ontology_hash=FACTS.hash, latency_us=12, question=question,
    )  # fmt: skip


def fill(store, user="ann"):
    """A row of each kind."""
    store.append_judgement(user, PHONE, "appropriate", "user_cli")
    second = store.append_judgement(user, MAIL, "inappropriate", "user_ui", note="no")
    store.retract(user, second.id, "user_cli")
    found = decide(store, user=user, question={"text": "May it?"})
    store.append_answer(user, found.id, "appropriate once", "share", "user_elicited")
    decide(store, SHARES, user=user)


def tamper(path, *statements):
    """Changes the file as somebody would who does not respect the triggers, and puts these back."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name in schema.guards():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for trigger in schema.guards().values():
        connection.execute(trigger)
    connection.close()


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


MESSAGES = ["database or disk is full", "attempt to write a readonly database", "disk I/O error"]


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize(
    "fail_at", ["BEGIN", "INSERT INTO decisions", "INSERT INTO escalations", "COMMIT"]
)
def test_a_disk_that_fails_at_any_statement_changes_nothing(store, monkeypatch, message, fail_at):
    fill(store)
    before = store.verify()
    real = store._connection

    class Failing:
        def __getattr__(self, name):
            return getattr(real, name)

        def execute(self, statement, *args):
            if statement.startswith(fail_at):
                raise sqlite3.OperationalError(message)
            return real.execute(statement, *args)

    monkeypatch.setattr(store, "_connection", Failing())
    with pytest.raises(StorageError, match=message):
        decide(store, question={"text": "May it?"})
    monkeypatch.undo()
    assert store.verify() == before
    assert decide(store).id == 3


def test_a_full_disk_raises_and_keeps_every_acknowledged_row(path):
    code = f"""
import resource, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from ariel_jax import errors
from test_store import PHONE, Store, begin, decide
store = Store({str(path)!r})
begin(store, "ann")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
n, failed = 0, 0
for i in range(200):
    try:
        decide(store, question={{"text": "x" * 3000}})
        n += 1
    except errors.StorageError:
        failed += 1
assert failed > 20, failed
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
decide(store)
store.verify()
print(n + 1, len(store.decisions("ann")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    acknowledged, stored = map(int, run.stdout.split())
    assert acknowledged == stored


WRITE = """
import sys
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import Request
with Store(sys.argv[1]) as store:
    for i in range(15):
        with store.transaction():
            seen = len(store.judgements("ann", standing=False))
            store.append_judgement("ann", Request(data=("phone",), recipient=f"r{seen}"), "appropriate", "user_cli")
"""


def test_threads_and_processes_take_turns(path):
    with Store(path) as store:
        begin(store, "ann")
        others = [subprocess.Popen([sys.executable, "-c", WRITE, path]) for _ in range(2)]

        def write():
            for _ in range(15):
                with store.transaction():
                    seen = len(store.judgements("ann", standing=False))
                    store.append_judgement(
                        "ann", Request(data=("phone",), recipient=f"r{seen}"), "appropriate", "user_cli"
                    )  # fmt: skip

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.wait() for other in others] == [0, 0]
        # Reading and writing were one step: every count was seen exactly once.
        assert [j.request.recipient for j in store.judgements("ann")] == [
            f"r{i}" for i in range(60)
        ]
        store.verify()


def test_several_processes_may_begin_a_log_at_once(path):
    code = "import sys; from ariel_jax.algorithms.ariel.store import Store; Store(sys.argv[1]).add_user(sys.argv[2])"
    runs = [subprocess.Popen([sys.executable, "-c", code, path, f"u{i}"]) for i in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    with Store(path) as store:
        assert store.users() == ("u0", "u1", "u2")
        store.verify()


def test_a_held_log_a_closed_one_and_a_forked_one_are_refused(path, monkeypatch):
    store = Store(path)
    begin(store, "ann")
    with (
        Store(path, timeout_s=0.1) as other,
        store.transaction(),
        pytest.raises(StorageError, match="locked"),
    ):
        other.append_judgement("ann", PHONE, "appropriate", "user_cli")
    monkeypatch.setattr(store, "_process", os.getpid() + 1)
    with pytest.raises(StorageError, match="forked"):
        store.users()
    monkeypatch.undo()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.users()


def test_files_that_are_no_log_are_refused(tmp_path, path):
    (tmp_path / "text").write_bytes(b"some text that is no database at all" * 40)
    with pytest.raises(IntegrityError, match="no intact privacy log"):
        Store(tmp_path / "text")
    connection = sqlite3.connect(tmp_path / "other")
    connection.execute("CREATE TABLE people (name TEXT)")
    connection.close()
    with pytest.raises(IntegrityError, match="is no privacy log"):
        Store(tmp_path / "other")
    with pytest.raises(StorageError, match="create it first"):
        Store(tmp_path / "absent" / "log")
    (tmp_path / "empty").touch()
    with pytest.raises(IntegrityError, match="is no privacy log"):
        Store(tmp_path / "empty", read_only=True)
    with pytest.raises(StorageError, match="unable to open"):
        Store(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(IntegrityError, match="version 99"):
        Store(path)


def test_an_older_log_is_brought_up_to_date(path, monkeypatch):
    with Store(path) as store:
        begin(store, "ann")
        fill(store)
        before = store.verify()
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE later (x TEXT);\n")
    )
    with Store(path, read_only=True) as store:
        assert store.verify() == before
    with Store(path) as store:
        assert store._connection.execute("PRAGMA user_version").fetchone()[0] == 3
        assert store._connection.execute("SELECT count(*) FROM later").fetchone()[0] == 0
        assert store.verify() == before


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    with Store(path) as store:
        begin(store, "ann")
    bad = "CREATE TABLE later (x TEXT);\nCREATE TABLE later (x TEXT);\n"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, bad))
        with pytest.raises(StorageError, match="already exists"):
            Store(path)
    with Store(path) as store:
        assert store.users() == ("ann",)
        assert not store._connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'later'"
        ).fetchall()


def test_a_log_that_is_only_read_takes_nothing(path):
    with Store(path) as store:
        begin(store, "ann")
        fill(store)
    with Store(path, read_only=True) as store:
        assert len(store.judgements("ann")) == 1
        store.verify()
        for attempt in (lambda: decide(store), lambda: store.retract("ann", 1, "user_cli"),
                        lambda: store.forget("ann"), lambda: store.add_user("x")):  # fmt: skip
            with pytest.raises(StorageError, match="readonly"):
                attempt()


def test_a_file_that_others_may_read_is_closed_to_them(path):
    Store(path).close()
    path.chmod(0o644)
    Store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    Store(path).close()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(StorageError, match="belongs to another user"):
        Store(path)


def test_a_clock_that_goes_back_changes_no_order(path):
    times = iter([2e9, 2e9, 2e9, 1e9, 1.5e9] + [1e9] * 9)
    with Store(path, clock=lambda: next(times)) as store:
        begin(store, "ann")
        one = store.append_judgement("ann", PHONE, "appropriate", "user_cli")
        two = store.append_judgement("ann", PHONE, "inappropriate", "user_cli")
        assert two.created_at < one.created_at
        assert store.judgements("ann") == [two]
        store.verify()


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
