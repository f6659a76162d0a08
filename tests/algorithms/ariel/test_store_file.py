"""The file of the log: failing disks, other processes, older and foreign files."""

import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from ariel_jax.algorithms.ariel import schema
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import Request
from ariel_jax.errors import IntegrityError, StorageError

from .store_cases import PHONE, begin, decide, fill


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def store(path):
    with Store(path) as store:
        begin(store, "ann")
        yield store


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
from store_cases import PHONE, begin, decide
from ariel_jax.algorithms.ariel.store import Store
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
