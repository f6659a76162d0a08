"""The text of a task: who holds the log can check it against a proof, and nobody else can guess it."""

import hashlib
import hmac
import itertools
import json
import os
import pathlib
import sqlite3

import pytest

from ariel_jax.algorithms.ariel import checker, proof, query
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.schema import ROOT
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.text import is_text_of, keyed_digest, text_digest
from ariel_jax.algorithms.ariel.types import Node, Policy, Request
from ariel_jax.errors import ConfigError, IntegrityError, StorageError

VERSION_1 = pathlib.Path(__file__).with_name("log_version_1.sql")
TEXT = "book a table"
GUESSES = ("", "call the bank", "buy shoes", TEXT)
FACTS = Ontology.of(
    [
        *(Node(slot="data", id=i, label=i.capitalize()) for i in ("phone", "city")),
        *(Node(slot=slot, id="self", label="Self") for slot in ("subject", "sender")),
        Node(slot="recipient", id="bistro", label="Bistro"),
    ],
    [],
)
PHONE = Request(data=("phone",), recipient="bistro", task_text=TEXT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


def opened(path, user="ann", **options):
    return Ariel.open(path, user=user, ontology=FACTS, source="user_cli", **options)


def old_log(path):
    """A file that version 1 wrote: three decisions, two of them and a judgement with `TEXT`."""
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1.read_text())
    connection.close()


def stored(path):
    """All bytes beside the log."""
    return b"".join((path.parent / name).read_bytes() for name in os.listdir(path.parent))


def without_the_log(text, found):
    """Every digest that somebody can make of a guess, who has the proof and nothing else."""
    said = [str(value).encode() for value in (found.get("prev_decision_hash"), found.get("user"))]
    said += [b"", found["ontology_hash"].encode(), bytes(32), TEXT.encode()]
    raw = text.encode()
    plain = {hashlib.new(name, raw).hexdigest() for name in ("sha256", "sha1", "sha512", "md5")}
    salted = {hashlib.sha256(salt + raw).hexdigest() for salt in said}
    salted |= {hashlib.sha256(raw + salt).hexdigest() for salt in said}
    return plain | salted | {hmac.new(salt, raw, "sha256").hexdigest() for salt in said}


def attacked(found):
    """The guesses that a proof gives away."""
    known = {value for name, value in found["request"].items() if name != "nodes"}
    return [text for text in GUESSES if text and known & without_the_log(text, found)]


def test_a_proof_without_its_log_does_not_tell_whether_a_guess_is_right(path):
    with opened(path) as ariel:
        made = ariel.judge(PHONE)
        exported = json.loads(
            query.export("decisions", "jsonl", ariel.store.decisions("ann"), []).splitlines()[0]
        )["proof"]
        key = ariel.store.text_key("ann")
    assert exported == made.proof
    assert len(exported["request"]["text_hmac"]) == 64
    assert attacked(exported) == []
    # The true text was among the guesses.
    assert text_digest(TEXT, ROOT, key) == exported["request"]["text_hmac"]
    assert key.hex() not in made.proof_json
    old_log(path.with_name("old"))
    with Ariel.open(path.with_name("old"), user="ann") as old:
        assert attacked(old.decision(1).proof) == [TEXT]  # the attack works on what version 1 wrote


def test_who_holds_the_log_can_tell_the_text(path):
    with opened(path) as ariel:
        made, silent = ariel.judge(PHONE), ariel.judge(Request(data=("city",), recipient="bistro"))
        for found in (made, made.id, made.proof):
            assert [text for text in GUESSES if ariel.is_text(found, text)] == [TEXT]
        assert [text for text in GUESSES if ariel.is_text(silent, text)] == [""]
        assert ariel.verify() == 2
        with pytest.raises(ConfigError, match="decision 9"):
            ariel.is_text(9, TEXT)
        for nothing in (
            {"verdict": "share"},
            {"request": None},
            {"request": {}},
            {"request": {"text_hmac": None}},
            {"request": {"text_hmac": "ééé"}},
            {"request": {"text_sha256": 5}},
            made.proof | {"prev_decision_hash": 7},
        ):
            with pytest.raises(ConfigError, match="proof"):
                ariel.is_text(nothing, TEXT)
    with Ariel.open(path, user="ann", read_only=True) as ariel:
        assert ariel.is_text(1, TEXT)
        assert not ariel.is_text(1, "")


def test_digests_of_a_text_differ_between_decisions_users_and_logs(path):
    with opened(path) as ariel, opened(path, user="bob") as bob:
        key = ariel.store.text_key("ann")
        assert len(key) == 32
        one, two = (ariel.judge(PHONE).proof for _ in range(2))
        digests = [found["request"]["text_hmac"] for found in (one, two)]
        assert digests[0] != digests[1]  # equal texts cannot be told from their digests
        assert [ariel.is_text(found, TEXT) for found in (one, two)] == [True, True]
        assert digests == [text_digest(TEXT, p["prev_decision_hash"], key) for p in (one, two)]
        his = bob.judge(PHONE).proof
        assert his["request"]["text_hmac"] not in digests
        assert not ariel.is_text(his, TEXT)
        assert bob.is_text(his, TEXT)
    with opened(path) as ariel:
        assert ariel.store.text_key("ann") == key
    with opened(path.with_name("other")) as ariel:
        assert ariel.judge(PHONE).proof["request"]["text_hmac"] not in digests


def test_a_log_without_texts_has_no_key(path):
    with opened(path) as ariel:
        made = ariel.judge(Request(data=("phone",), recipient="bistro"))
        assert made.proof["request"]["text_hmac"] == ""
        assert ariel.store.known_text_key("ann") is None
        assert ariel.is_text(made, "")
        with pytest.raises(ConfigError, match="without its key"):
            ariel.is_text({"request": {"nodes": {}, "text_hmac": "0" * 64}}, TEXT)
        ariel.judge(PHONE)
        for change in ("DELETE FROM text_keys", "UPDATE text_keys SET key = zeroblob(32)"):
            with pytest.raises(sqlite3.IntegrityError, match="stays until"):
                ariel.store._connection.execute(change)
        ariel.store._connection.execute("DROP TRIGGER text_keys_update")
        with pytest.raises(IntegrityError, match="text_keys_update"):
            ariel.verify()
        with pytest.raises(ConfigError, match="no log"):
            ariel.store.text_key("bob")


def test_forget_deletes_the_key_and_leaves_the_others(path):
    with opened(path) as ariel, opened(path, user="bob") as bob:
        mine, his = ariel.judge(PHONE).proof, bob.judge(PHONE).proof
        key, other = ariel.store.text_key("ann"), bob.store.text_key("bob")
        assert key in stored(path)
        ariel.forget()
        assert key not in stored(path)
        assert other in stored(path)
        assert bob.is_text(his, TEXT)
        bob.verify()
    with opened(path) as again:  # the same name, a new key
        again.judge(PHONE)
        assert again.store.text_key("ann") != key
        assert not again.is_text(mine, TEXT)


def test_nothing_of_the_text_is_kept_of_a_judgement(path):
    with opened(path) as ariel:
        ariel.record(PHONE, "appropriate", "user_cli")
        (row,) = ariel.store._rows("SELECT * FROM judgements")
        assert row["text_sha256"] == ""
        assert ariel.judge(PHONE).verdict == "share"
        assert ariel.verify() == 1


def test_a_key_that_was_not_written_leaves_no_decision(path, monkeypatch):
    with opened(path) as ariel:

        def fail(user):
            raise StorageError("disk full")

        monkeypatch.setattr(ariel.store, "text_key", fail)
        with pytest.raises(StorageError, match="disk full"):
            ariel.judge(PHONE)
        monkeypatch.undo()
        assert ariel.log() == []


def test_a_key_made_in_a_step_that_is_undone_is_not_used_later(path):
    with opened(path) as ariel:
        with pytest.raises(RuntimeError), ariel.store.transaction():  # noqa: PT012
            gone = ariel.store.text_key("ann")
            raise RuntimeError("undone")
        assert ariel.store.known_text_key("ann") is None
        made = ariel.judge(PHONE)
        assert ariel.store.text_key("ann") != gone
        assert ariel.is_text(made, TEXT)


def test_a_log_of_version_1_opens_and_all_of_it_holds(path):
    old_log(path)
    with Ariel.open(path, user="ann", read_only=True) as ariel:
        assert ariel.store._connection.execute("PRAGMA user_version").fetchone()[0] == 1
        heads = ariel.store.verify().heads
        assert ariel.verify() == 3
        assert [ariel.is_text(i, TEXT) for i in (1, 2, 3)] == [True, True, False]
        assert ariel.is_text(3, "")
    with Ariel.open(path, user="ann") as ariel:
        assert ariel.store._connection.execute("PRAGMA user_version").fetchone()[0] == 2
        assert ariel.store.verify(heads=heads).heads == heads  # no row of it was written anew
        assert [ariel.is_text(i, TEXT) for i in (1, 2, 3)] == [True, True, False]
        found = ariel.judge(PHONE)  # and it goes on
        assert (found.verdict, found.outcome.rule, found.proof["version"]) == ("share", "R0", 2)
        assert ariel.is_text(found, TEXT)
        assert attacked(found.proof) == []
        assert ariel.verify() == 4
        # What version 1 wrote stays, because the chain covers it, until its user is forgotten.
        plain = hashlib.sha256(TEXT.encode()).hexdigest()
        assert [row["text_sha256"] for row in ariel.store._rows("SELECT * FROM judgements")] == [
            plain
        ]
        assert plain.encode() in stored(path)
        ariel.forget()
        assert plain.encode() not in stored(path)


def test_a_version_1_proof_passes_the_checker_and_no_mixture_does(path):
    old_log(path)
    with Ariel.open(path, user="ann") as ariel:
        new = ariel.judge(PHONE).proof
        old = ariel.decision(2).proof
        judgements = ariel.store.judgements("ann")
    checker.verify_proof(old, FACTS.edges, judgements)
    checker.verify_proof(new, FACTS.edges, judgements)
    assert (old["version"], new["version"]) == (1, 2)
    for one, other in itertools.permutations((old, new)):
        for forged in (
            one | {"version": other["version"]},
            one | {"request": other["request"]},
            one | {"version": 3},
            one | {"version": True},
            one | {"request": one["request"] | other["request"]},
        ):
            with pytest.raises(IntegrityError):
                checker.verify_proof(forged, FACTS.edges, judgements)


def test_a_proof_of_the_engine_alone_says_nothing_of_a_text_unless_it_has_a_key():
    history = History(Closures(FACTS), [])
    outcome = judge(PHONE, history, history.closures)
    made = proof.build(outcome, PHONE, history, Policy())
    assert made["request"]["text_hmac"] == ""
    assert attacked(made) == []
    bound = proof.build(outcome, PHONE, history, Policy(), text_key=b"k" * 32)
    for one in (made, bound):
        checker.verify_proof(one, FACTS.edges, [])
    assert [t for t in GUESSES if is_text_of(bound, t, b"k" * 32)] == [TEXT]
    assert not is_text_of(bound, TEXT, b"l" * 32)


def test_digests_are_hmac_as_in_rfc_4231():
    """Test case 2."""
    assert keyed_digest("what do ya want for nothing?", b"Jefe") == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    assert keyed_digest("", b"Jefe") == ""


def test_two_processes_that_make_the_key_at_once_have_one(path, monkeypatch):
    with Store(path) as one, Store(path) as two:
        one.add_user("ann")
        assert two.known_text_key("ann") is None
        made = one.text_key("ann")
        monkeypatch.setattr(two, "known_text_key", lambda user: None)  # it looked just before
        assert two.text_key("ann") == made
        assert len(one._rows("SELECT * FROM text_keys")) == 1
        one.verify()
