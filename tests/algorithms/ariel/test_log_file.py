"""What one commit of the log writes, where that goes, and that looking at the latest row costs nothing."""

import itertools

from ariel_jax.algorithms.ariel import log_file
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import Node, Outcome, Request

FACTS = Ontology.of(
    [Node(slot=s, id=i, label=i) for s, i in (("data", "phone"), ("recipient", "bistro"))], []
)
PHONE = Request(data=("phone",), recipient="bistro")


def begin(store, user):
    store.add_user(user)
    store.set_ontology(user, FACTS, why="opened")


def decide(store):
    return store.append_decision(
        "ann", PHONE, Outcome(verdict="ask", reason="no_premise"), b"{}", ontology_hash=FACTS.hash,
        latency_us=1, question={"text": "x" * 3000},
    )  # fmt: skip


def test_commits_write_one_file_and_what_was_written_ahead_goes_into_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "WAL_PAGES", 40)
    path, copy = tmp_path / "log.sqlite", tmp_path / "copy.sqlite"
    ahead = path.with_name("log.sqlite-wal")
    with Store(path) as store:
        begin(store, "ann")
        mode = [store._rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")]
        assert mode == ["wal", 2]  # FULL: a commit is on the disk when it returns
        sizes = []
        for _ in range(20):
            decide(store)
            sizes.append(ahead.stat().st_size)
        assert max(sizes) < 4200 * (40 + 25)  # pages, and those of the commit that finds so many
        for suffix in ("", "-wal"):  # as a backup would find them
            there = path.with_name(path.name + suffix).read_bytes()
            copy.with_name(copy.name + suffix).write_bytes(there)
        with Store(copy) as other:
            assert other.decisions("ann") == store.decisions("ann")
            assert other.verify() == store.verify()
        begin(store, "zacharias")
        assert b"zacharias" in ahead.read_bytes()
        store.forget("zacharias")
        assert ahead.stat().st_size == 0
        assert ahead.stat().st_mode & 0o777 == 0o600
    assert not ahead.exists()
    assert b"zacharias" not in path.read_bytes()


def test_no_look_at_the_latest_row_sorts_all_of_them(tmp_path):
    looks = []
    with Store(tmp_path / "log.sqlite") as store:
        begin(store, "ann")
        store._connection.set_trace_callback(looks.append)
        store.append_judgement("ann", PHONE, "appropriate", "user_cli")
        decide(store)
        store.state("ann")
        store.previous_decision_hash("ann")
        store._connection.set_trace_callback(None)
        latest = [look for look in looks if look.startswith("SELECT") and "LIMIT 1" in look]
        assert len(latest) >= 5
        planted = "SELECT hash FROM decisions WHERE user = 'ann' ORDER BY id DESC LIMIT 1"
        for look in (*latest, planted):
            plan = [row["detail"] for row in store._rows(f"EXPLAIN QUERY PLAN {look}")]
            sorts = [
                step for before, step in itertools.pairwise(plan)
                if "TEMP B-TREE" in step and before.startswith("SEARCH")
            ]  # fmt: skip
            assert bool(sorts) == (look == planted), look
