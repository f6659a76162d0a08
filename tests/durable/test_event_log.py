import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from ariel_jax.durable import EventLog
from ariel_jax.errors import ConfigError, IntegrityError, StorageError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.sqlite"


def filled(path, n=5):
    with EventLog(path) as log:
        for i in range(n):
            log.append("spend", {"amount": i / 3, "text": "ü\u0000\n"})
        return log.head()


def tamper(path, *statements):
    """Changes the file as somebody would who does not respect the triggers."""
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER events_keep")
    connection.execute("DROP TRIGGER events_stay")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_events_come_back_in_order_and_verify(path):
    head = filled(path)
    with EventLog(path) as log:
        events = log.events()
        assert [e.number for e in events] == [1, 2, 3, 4, 5]
        assert [e.body["amount"] for e in events] == [i / 3 for i in range(5)]
        assert events[0].body["text"] == "ü\u0000\n"
        assert [e.number for e in log.events(after=3)] == [4, 5]
        assert log.head() == head == (5, events[-1].digest)
        assert log.verify(head=head) == 5
        assert log.verify(head=(2, events[1].digest)) == 5
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("statements", "bad"),
    [
        (["UPDATE events SET body = '{\"amount\":0}' WHERE number = 2"], 2),
        (["UPDATE events SET time_ns = time_ns + 1 WHERE number = 3"], 3),
        (["UPDATE events SET kind = 'refund' WHERE number = 1"], 1),
        (["DELETE FROM events WHERE number = 4"], 4),
        (["DELETE FROM events WHERE number = 1", "UPDATE events SET number = number - 1"], 1),
        (
            [
                "UPDATE events SET number = -2 WHERE number = 2",
                "UPDATE events SET number = 2 WHERE number = 3",
                "UPDATE events SET number = 3 WHERE number = -2",
            ],
            2,
        ),
    ],
)
def test_verify_names_the_first_changed_removed_or_moved_event(path, statements, bad):
    filled(path)
    tamper(path, *statements)
    with EventLog(path) as log, pytest.raises(IntegrityError, match=f"event {bad} was changed"):
        log.verify()


def test_removal_of_the_latest_events_shows_against_a_remembered_head_only(path):
    head = filled(path)
    tamper(path, "DELETE FROM events WHERE number > 3")
    with EventLog(path) as log:
        assert log.verify() == 3
        with pytest.raises(IntegrityError, match="remembered event 5"):
            log.verify(head=head)


def test_two_logs_with_equal_events_are_told_apart(path, tmp_path):
    filled(path)
    other = filled(tmp_path / "other.sqlite")
    with EventLog(path) as log, pytest.raises(IntegrityError, match="another log"):
        log.verify(head=other)


def test_the_file_itself_refuses_changes(path):
    filled(path)
    connection = sqlite3.connect(path)
    for statement in ("DELETE FROM events", "UPDATE events SET kind = 'x'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_a_transaction_is_all_or_nothing(path):
    with EventLog(path) as log:
        log.append("first", {})

        def stop():
            with log.transaction():
                log.append("second", {})
                log.append("third", {})
                raise KeyError("stop")

        with pytest.raises(KeyError):
            stop()
        assert [e.kind for e in log.events()] == ["first"]
        with log.transaction():
            log.append("second", {})
            log.append("third", {})
        assert log.verify() == 3


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}])
def test_a_body_that_is_not_json_is_refused_and_nothing_written(path, body):
    with EventLog(path) as log:
        with pytest.raises(ConfigError, match="must be JSON"):
            log.append("bad", body)
        assert log.events() == []
        log.append("good", {})
        assert log.verify() == 1


def test_a_full_disk_raises_and_keeps_every_acknowledged_event(path):
    code = f"""
import resource
from ariel_jax import errors
from ariel_jax.durable import EventLog
log = EventLog({str(path)!r})
log.append("small", {{}})
hard = {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}
resource.setrlimit(resource.RLIMIT_FSIZE, (32_768, hard))
n, failed = 1, 0
for i in range(40):
    try:
        log.append("large", {{"text": "x" * 3000}})
        n += 1
    except errors.StorageError:
        failed += 1
assert failed > 20, failed
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.append("after", {{}})
print(n + 1, log.verify())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    acknowledged, stored = map(int, run.stdout.split())
    assert acknowledged == stored
    with EventLog(path) as log:
        assert log.verify() == stored


@pytest.mark.parametrize("message", ["database or disk is full", "readonly database", "I/O error"])
@pytest.mark.parametrize("fail_at", ["BEGIN", "INSERT", "COMMIT"])
def test_a_disk_that_fails_at_any_statement_changes_nothing(path, monkeypatch, message, fail_at):
    filled(path, n=2)
    with EventLog(path) as log:
        real = log._connection

        class Failing:
            def __getattr__(self, name):
                return getattr(real, name)

            def execute(self, statement, *args):
                if statement.startswith(fail_at):
                    raise sqlite3.OperationalError(message)
                return real.execute(statement, *args)

        monkeypatch.setattr(log, "_connection", Failing())
        with pytest.raises(StorageError, match=message):
            log.append("third", {})
        monkeypatch.undo()
        assert log.verify() == 2
        log.append("third", {})
        assert log.verify() == 3


def test_a_killed_writer_loses_nothing_that_was_acknowledged(path):
    code = f"""
from ariel_jax.durable import EventLog
log = EventLog({str(path)!r})
while True:
    print(log.append("spend", {{"text": "x" * 500}}).number, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with child.stdout:
        acknowledged = [int(child.stdout.readline()) for _ in range(20)][-1]
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split("\n")
        child.wait()
    acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
    with EventLog(path) as log:
        assert log.verify() >= acknowledged


SPEND = """
import sys
from ariel_jax.durable import EventLog
with EventLog(sys.argv[1]) as log:
    for _ in range(5):
        with log.transaction():
            balance = sum(e.body["amount"] for e in log.events())
            log.append("spend", {"amount": 1, "balance": balance})
"""


def test_threads_and_processes_take_turns(path):
    processes = [subprocess.Popen([sys.executable, "-c", SPEND, path]) for _ in range(2)]
    with EventLog(path) as log:

        def spend():
            for _ in range(5):
                with log.transaction():
                    balance = sum(e.body["amount"] for e in log.events())
                    log.append("spend", {"amount": 1, "balance": balance})

        threads = [threading.Thread(target=spend) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for process in processes:
            assert process.wait() == 0
        assert log.verify() == 25
        # Read-and-append was one step: every balance was seen exactly once.
        assert [e.body["balance"] for e in log.events()] == list(range(25))


def test_a_log_held_by_another_process_is_reported(path):
    with EventLog(path) as log, EventLog(path, timeout_s=0.1) as other:
        with log.transaction(), pytest.raises(StorageError, match="locked"):
            other.append("late", {})
        assert other.append("now", {}).number == 1


def test_files_that_are_no_log_are_refused(tmp_path):
    (tmp_path / "text").write_bytes(b"some text that is no database at all" * 40)
    with pytest.raises(IntegrityError, match="no intact event log"):
        EventLog(tmp_path / "text")
    connection = sqlite3.connect(tmp_path / "other.sqlite")
    connection.execute("CREATE TABLE people (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(IntegrityError, match="people"):
        EventLog(tmp_path / "other.sqlite")
    with pytest.raises(StorageError, match="create it first"):
        EventLog(tmp_path / "absent" / "log.sqlite")
    later = tmp_path / "later.sqlite"
    filled(later)
    connection = sqlite3.connect(later)
    connection.execute("UPDATE identity SET format = 2")
    connection.commit()
    connection.close()
    with pytest.raises(IntegrityError, match="format 2"):
        EventLog(later)


def test_a_closed_log_and_a_forked_one_are_refused(path, monkeypatch):
    log = EventLog(path)
    monkeypatch.setattr(log, "_process", os.getpid() + 1)
    with pytest.raises(StorageError, match="forked"):
        log.head()
    monkeypatch.undo()
    log.close()
    with pytest.raises(StorageError, match="closed"):
        log.append("late", {})


def test_opening_a_log_again_does_not_let_go_of_a_transaction(path):
    # Closing any descriptor of a file drops all POSIX locks that the process holds on it.
    code = f"""
from ariel_jax.durable import EventLog
from ariel_jax.errors import StorageError
try:
    EventLog({str(path)!r}, timeout_s=0.2).append("child", {{}})
except StorageError:
    raise SystemExit(7)
"""
    with EventLog(path) as log, log.transaction():
        log.append("mine", {})
        done = []

        def other_thread():
            with pytest.raises(StorageError, match="locked"):
                EventLog(path, timeout_s=0.1)
            done.append(subprocess.run([sys.executable, "-c", code]).returncode)

        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert done == [7]
    with EventLog(path) as log:
        assert [e.kind for e in log.events()] == ["mine"]


def test_a_failed_inner_block_undoes_its_own_events_only(path):
    with EventLog(path) as log:
        with log.transaction():
            log.append("outer", {})
            with pytest.raises(ZeroDivisionError), log.transaction():  # noqa: PT012
                log.append("inner", {})
                raise ZeroDivisionError
            log.append("after", {})
        assert [e.kind for e in log.events()] == ["outer", "after"]
        assert log.verify() == 2


def test_nothing_is_written_after_a_full_disk_undid_the_transaction(path):
    with EventLog(path) as log:
        log.append("first", {})
        (pages,) = log._connection.execute("PRAGMA page_count").fetchone()
        log._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError), log.transaction():  # noqa: PT012
            with pytest.raises(StorageError, match="full"):
                log.append("too large", {"text": "x" * 100_000})
            log.append("small", {})
        log._connection.execute("PRAGMA max_page_count = 100000")
        assert [e.kind for e in log.events()] == ["first"]
        log.append("second", {})
        assert log.verify() == 2


def test_a_kind_that_is_no_text_and_half_a_surrogate_pair_are_refused(path):
    with EventLog(path) as log:
        with pytest.raises(ConfigError, match="must be text"):
            log.append(5, {})
        with pytest.raises(ConfigError, match="JSON"):
            log.append("note", {"text": "\ud800"})
        assert log.verify() == 0
