"""`Ariel` and its log: what is proven, taken back, shared by processes, or cannot be written."""

import dataclasses
import json
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import proof as proofs
from ariel_jax.algorithms.ariel import schema
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Policy, Request
from ariel_jax.errors import (
    ConfigError,
    IntegrityError,
    StorageError,
)

from .agent_cases import ADDRESS, CITY, FACTS, MESSAGES, opened, stored


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def ariel(path):
    with opened(path) as ariel:
        yield ariel


def test_taking_a_judgement_back_is_a_log_without_it(path):
    """Spec: retraction is the log without that row, for every outcome."""
    requests = [
        CITY,
        ADDRESS,
        dataclasses.replace(CITY, recipient="bank"),
        dataclasses.replace(CITY, data=("phone",)),
    ]
    said = [
        (ADDRESS, "appropriate"),
        (CITY, "inappropriate"),
        (requests[2], "appropriate"),
        (CITY, "appropriate"),
    ]
    for gone in range(4):
        with (
            opened(path.with_name(f"with{gone}")) as one,
            opened(path.with_name(f"without{gone}")) as two,
        ):
            for number, (request, value) in enumerate(said):
                made = one.record(request, value, "user_cli")
                if number == gone:
                    back = made.id
                else:
                    two.record(request, value, "user_cli")
            one.judge(CITY)
            one.retract(back, source="user_cli")
            for request in requests:
                a, b = one.judge(request).outcome, two.judge(request).outcome
                ids = [j.id for j in one.store.judgements("ann")]
                mine = [j.id for j in two.store.judgements("ann")]
                renamed = dict(zip(ids, mine, strict=True))
                assert a.verdict == b.verdict
                assert a.rule == b.rule
                assert tuple(renamed[i] for i in a.premises) == b.premises
            one.verify()


def test_the_history_in_memory_is_that_of_the_log(path):
    """Two judges on one log, one of which is opened anew for each request."""
    rng = np.random.default_rng(1)
    data, recipients = ("address", "city", "phone"), ("firm", "bank", "shop", "bistro")

    def request():
        return Request(
            data=(str(rng.choice(data)),), recipient=str(rng.choice(recipients)),
            purpose=str(rng.choice(["life", "dining", "delivery"])), principle="asked",
        )  # fmt: skip

    policy = Policy(reliability=0.4)
    with opened(path, policy=policy) as kept, opened(path, policy=policy) as writer:
        for step in range(40):
            standing = [j.id for j in writer.store.judgements("ann")]
            draw = rng.random()
            if draw < 0.1 and standing:
                writer.retract(int(rng.choice(standing)), source="user_cli")
            elif draw < 0.2 and standing:
                writer.record(
                    request(), "appropriate", "user_cli", supersedes=[int(rng.choice(standing))]
                )
            elif draw < 0.25:
                edges = writer.ontology.edges
                kinds = {1: "retracted", 2: "curated"}
                now = edges[0].status
                status = kinds[1] if now == "curated" else kinds[2]
                changed = [dataclasses.replace(edges[0], status=status), *edges[1:]]
                all_nodes = [n for s in FACTS.nodes.values() for n in s]
                writer.set_ontology(
                    Ontology.of(all_nodes, changed), why=f"step {step}", source="user_cli"
                )
            else:
                value = ["appropriate", "inappropriate", "ask"][int(rng.integers(3))]
                writer.record(request(), value, "agent_claimed" if draw > 0.9 else "user_ui")
            asked = [request() for _ in range(3)]
            with Ariel.open(path, user="ann", policy=policy) as fresh:
                assert kept.judge_many(asked) == fresh.judge_many(asked)
        verdicts = {kept.judge(request()).verdict for _ in range(60)}
        assert verdicts == {"share", "withhold", "ask"}
        assert kept.verify() == 60


def test_the_same_log_facts_and_request_give_the_same_bytes(path):
    texts = []
    for name in ("one", "two"):
        with opened(path.with_name(name)) as ariel:
            ariel.store._clock = lambda: 1.7e9
            ariel.record(ADDRESS, "appropriate", "user_cli")
            made = ariel.judge(CITY)
            texts.append(made.proof_json)
            assert proofs.canonical(made.proof).decode() == made.proof_json
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["premises"][0]["judgement_id"] == 1


@pytest.mark.parametrize("change", [
    lambda p: p["premises"][0].update(judgement_id=2),
    lambda p: p["paths"][0]["steps"][0].update(edge=4),
    lambda p: p["paths"].pop(),
    lambda p: p.update(verdict="withhold"),
    lambda p: p.update(ontology_hash="0" * 64),
    lambda p: p.update(prev_decision_hash="1" * 64),
    lambda p: p.update(user="bob"),
    lambda p: p["request"]["nodes"].update(recipient=["firm"]),
    lambda p: p.update(extra=float(2)),
])  # fmt: skip
def test_a_proof_that_was_changed_is_found_though_the_chain_was_made_anew(path, change):
    with opened(path) as ariel:
        ariel.record(ADDRESS, "appropriate", "user_cli")
        ariel.record(dataclasses.replace(CITY, data=("phone",)), "appropriate", "user_cli")
        ariel.judge(CITY)
        ariel.verify()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("DROP TRIGGER decisions_stay")
    (row,) = connection.execute("SELECT * FROM decisions").fetchall()
    proof = json.loads(row["proof_json"])
    change(proof)
    text = json.dumps(proof, sort_keys=True, separators=(",", ":"))
    text = text.replace('"extra":2.0', '"extra": 2.0')  # not canonical
    new = dict(row) | {"proof_json": text}
    hash_ = schema.digest("decisions", new, row["number"], row["prev_hash"])
    connection.execute("UPDATE decisions SET proof_json = ?, hash = ?", (text, hash_))
    connection.execute(schema.guards()["decisions_stay"])
    connection.close()
    with Ariel.open(path, user="ann") as ariel:
        ariel.store.verify()
        with pytest.raises(IntegrityError, match="decision 1"):
            ariel.verify()


def test_an_old_proof_holds_though_its_premise_and_facts_do_not_stand_any_more(ariel):
    made = ariel.record(ADDRESS, "appropriate", "user_cli")
    before = ariel.judge(CITY)
    ariel.record(ADDRESS, "inappropriate", "user_cli")
    ariel.retract_edge(1, source="user_cli")
    assert ariel.judge(CITY).verdict == "ask"
    ariel.retract(made.id, source="user_cli")
    assert ariel.verify(before) == 1
    assert ariel.verify() == 2


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("fail_at", ["BEGIN", "INSERT INTO decisions", "COMMIT"])
def test_what_cannot_be_logged_is_not_shared(ariel, monkeypatch, message, fail_at):
    """Fail closed, for a verdict that would be `share`."""
    ariel.record(ADDRESS, "appropriate", "user_cli")
    assert ariel.judge(ADDRESS).verdict == "share"
    real, ran = ariel.store._connection, []

    class Failing:
        def __getattr__(self, name):
            return getattr(real, name)

        def execute(self, statement, *args):
            if statement.startswith(fail_at):
                raise sqlite3.OperationalError(message)
            return real.execute(statement, *args)

    @ariel.guard(data="address", recipient="shop", purpose="delivery", principle="asked")
    def send():
        ran.append(1)

    monkeypatch.setattr(ariel.store, "_connection", Failing())
    for attempt in (lambda: ariel.judge(ADDRESS), send, lambda: ariel.for_agent().request(data="address", recipient="shop")):  # fmt: skip
        with pytest.raises(StorageError, match=message):
            attempt()
    monkeypatch.undo()
    assert ran == []
    assert len(ariel.log()) == 1
    send()
    assert ran == [1]


def test_a_log_that_is_only_read_shares_nothing(path):
    with opened(path) as ariel:
        ariel.record(ADDRESS, "appropriate", "user_cli")
        ariel.judge(ADDRESS)
    with Ariel.open(path, user="ann", read_only=True) as ariel:
        assert ariel.judge_many([ADDRESS])[0].would_be == "share"
        with pytest.raises(StorageError, match="readonly"):
            ariel.judge(ADDRESS)
        assert ariel.verify() == 1
    with pytest.raises(ConfigError, match="'bob' has no log"):
        Ariel.open(path, user="bob", read_only=True)


def test_a_full_disk_shares_nothing(path):
    with opened(path) as ariel:
        ariel.record(ADDRESS, "appropriate", "user_cli")
        pages = ariel.store._connection.execute("PRAGMA page_count").fetchone()[0]
        ariel.store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        shared = 0
        with pytest.raises(StorageError, match="full"):  # noqa: PT012
            while shared < 500:
                shared += ariel.judge(ADDRESS).verdict == "share"
        assert len(ariel.log()) == shared
        ariel.store.verify()


def test_users_do_not_share_judgements_or_facts(path):
    with opened(path) as ann, opened(path, user="bob") as bob:
        ann.record(CITY, "appropriate", "user_cli")
        ann.retract_edge(2, source="user_cli")
        assert bob.judge(CITY).verdict == "ask"
        assert bob.ontology == FACTS
        mine = ann.judge(CITY)
        with pytest.raises(ConfigError, match="has none of that id"):
            bob.explain(mine.id)
        with pytest.raises(ConfigError, match="has none of that id"):
            bob.answer(mine.id, "appropriate")
        bob.forget()
        assert ann.verify() == 1


def test_a_judge_whose_user_was_forgotten_judges_nothing(path):
    with opened(path) as one, opened(path) as two:
        one.record(CITY, "appropriate", "user_cli")
        assert two.judge(CITY).verdict == "share"
        one.forget()
        with pytest.raises(StorageError, match="was deleted"):
            two.judge(CITY)
        assert b"shop" not in stored(path)
        with opened(path) as three:
            assert three.judge(CITY).verdict == "ask"
            assert two.judge(CITY).verdict == "ask"


BUSY = """
import sys
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.types import Request
with Ariel.open(sys.argv[1], user="ann") as ariel:
    for i in range(12):
        for data in ("city", "address"):
            request = Request(data=(data,), recipient="shop", purpose="delivery", principle="asked")
            ariel.record(request, ("appropriate", "inappropriate")[(i + int(sys.argv[2])) % 2], "user_ui")
            ariel.judge(Request(data=("city",), recipient="shop", purpose="delivery", principle="asked"))
"""


def test_two_processes_judge_and_record_at_once_and_every_proof_holds(path):
    opened(path).close()
    runs = [subprocess.Popen([sys.executable, "-c", BUSY, path, str(i)]) for i in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    with Ariel.open(path, user="ann") as ariel:
        assert ariel.verify() == 48
        assert {row["verdict"] for row in ariel.log()} >= {"share", "withhold"}


def test_a_proof_that_leaves_out_a_standing_judgement_is_refused(ariel, monkeypatch):
    ariel.record(CITY, "appropriate", source="user_cli")
    assert ariel.judge(CITY).verdict == "share"
    ariel.verify()
    real = proofs.build
    monkeypatch.setattr(proofs, "build", lambda *a, **k: real(*a, **k) | {"last_judgement": 0})
    ariel.judge(CITY)
    with pytest.raises(IntegrityError, match="leaves out judgement 1"):
        ariel.verify()
