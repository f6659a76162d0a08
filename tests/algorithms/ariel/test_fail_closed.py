"""What another process, a rolled-back step or a changed file may not lead a judge to share."""

import contextlib
import dataclasses
import sqlite3

import pytest

from ariel_jax.algorithms.ariel import reading, schema
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import ANY, UNSPEC, Edge, Node, Outcome, Policy, Request
from ariel_jax.errors import (
    ConfigError,
    IntegrityError,
    InvalidRequestError,
    StorageError,
    UntrustedSourceError,
)

FACTS = Ontology.of(
    [Node(slot=slot, id=i, label=i.capitalize()) for slot, ids in {
        "data": ("address", "city", "phone", "mail"), "subject": ("self",), "sender": ("self",),
        "recipient": ("firm", "bank", "shop"), "purpose": ("dining",), "principle": ("asked",),
    }.items() for i in ids],
    [
        Edge(id=1, slot="data", type="reveals", src="address", dst="city"),
        Edge(id=2, slot="recipient", type="isa", src="shop", dst="firm"),
        Edge(id=3, slot="recipient", type="isa", src="bank", dst="firm"),
    ],
)  # fmt: skip
CITY = Request(data=("city",), recipient="shop", purpose="dining", principle="asked")
ADDRESS = dataclasses.replace(CITY, data=("address",))
PHONE = dataclasses.replace(CITY, data=("phone",))


def opened(path, **options):
    return Ariel.open(path, user="ann", ontology=FACTS, source="user_cli", **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def ariel(path):
    with opened(path) as ariel:
        yield ariel


def change(path, *statements, guards=False):
    """Changes the file past the library; `guards`: with its triggers in force."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name in () if guards else schema.guards():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for trigger in () if guards else schema.guards().values():
        connection.execute(trigger)
    connection.close()


def test_facts_of_a_step_that_was_undone_are_not_remembered(path, ariel):
    ariel.record(ADDRESS, "appropriate", "user_cli")
    once = ariel.judge(PHONE)
    ariel.answer(once, "appropriate", once=True)
    with pytest.raises(ConfigError, match="answered before"):
        ariel.answer(once, "appropriate", retract_edges=[3])
    with Ariel.open(path, user="ann") as other:
        other.retract_edge(1, source="user_cli")
        assert other.judge(CITY).verdict == "ask"
    assert ariel.judge(CITY).verdict == "ask"
    assert ariel.verify() == 3


@pytest.mark.parametrize("what", ["judgement", "fact", "retraction"])
def test_rows_that_were_undone_under_a_transaction_of_the_caller_are_noticed(path, ariel, what):
    # The caller's transaction is undone behind the judge's back: nothing but hashes can tell.
    first = ariel.record(ADDRESS, "appropriate", "user_cli")
    second = ariel.record(PHONE, "inappropriate", "user_cli")
    with contextlib.suppress(KeyError), ariel.store.transaction():
        if what == "judgement":
            ariel.record(dataclasses.replace(CITY, data=("mail",)), "appropriate", "user_cli")
        elif what == "fact":
            ariel.retract_edge(3, source="user_cli")
        else:
            ariel.retract(second.id, source="user_cli")
        assert ariel.judge_many([CITY])[0].would_be == "share"
        raise KeyError
    with Ariel.open(path, user="ann") as other:
        if what == "judgement":
            other.record(CITY, "inappropriate", "user_cli")
        elif what == "fact":
            other.retract_edge(1, source="user_cli")
        else:
            other.retract(first.id, source="user_cli")
        expected = other.judge(CITY).verdict
    assert expected != "share"
    assert ariel.judge(CITY).verdict == expected
    assert ariel.judge(dataclasses.replace(CITY, data=("mail",))).verdict == "ask"
    assert ariel.verify() == 3


def test_a_decision_on_facts_that_are_not_the_latest_is_not_logged(ariel):
    with pytest.raises(StorageError, match="not the latest"):
        ariel.store.append_decision(
            "ann", CITY, Outcome(verdict="share", rule="R0"), b"{}", ontology_hash="0" * 64, latency_us=1
        )  # fmt: skip
    assert not ariel.log()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE judgements SET value = 'appropriate' WHERE id = 2",
        "DELETE FROM judgements WHERE id = 2",
        "UPDATE judgements SET superseded_by = NULL WHERE id = 1",
        "UPDATE judgements SET superseded_by = 3 WHERE id = 2",
        "DELETE FROM decisions WHERE id = 1",
    ],
)
def test_a_log_that_was_changed_shares_nothing(path, statement):
    with opened(path) as ariel:
        ariel.record(CITY, "appropriate", "user_cli")
        ariel.record(CITY, "inappropriate", "user_cli")
        assert ariel.judge(CITY).verdict == "withhold"
        ariel.record(PHONE, "appropriate", "user_cli")
    change(path, statement)
    with Ariel.open(path, user="ann") as ariel:
        for attempt in (lambda: ariel.judge(CITY), lambda: ariel.judge(PHONE), ariel.rules):
            with pytest.raises(IntegrityError):
                attempt()
    change(path, "UPDATE users SET created_at = created_at")
    with Ariel.open(path, user="ann") as ariel, pytest.raises(IntegrityError):
        ariel.judge_many([CITY])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE judgements SET value = 'appropriate' WHERE id = 2",
        "UPDATE judgements SET superseded_by = 3 WHERE id = 2",
        "DELETE FROM judgements WHERE id = 1",
        "UPDATE decisions SET verdict = 'share'",
    ],
)
def test_rows_that_come_later_are_checked_before_they_count(path, ariel, statement):
    ariel.record(PHONE, "appropriate", "user_cli")
    assert ariel.judge(ADDRESS).verdict == "ask"
    with Store(path) as other:
        other.append_judgement("ann", CITY, "inappropriate", "user_cli")
        other.append_judgement("ann", ADDRESS, "appropriate", "user_cli")
    change(path, statement)
    if "superseded_by" in statement:
        assert ariel.judge(CITY).verdict == "withhold"  # the mark is not believed
    else:
        with pytest.raises(IntegrityError):
            ariel.judge(CITY)


def test_a_mark_is_set_once_to_a_later_judgement(path, ariel):
    first = ariel.record(CITY, "appropriate", "user_cli")
    second = ariel.record(CITY, "inappropriate", "user_cli")
    third = ariel.record(PHONE, "inappropriate", "user_cli")
    for id_, mark in ((first.id, "NULL"), (first.id, third.id), (second.id, 99), (second.id, second.id),
                      (third.id, first.id)):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="stays so"):
            change(
                path, f"UPDATE judgements SET superseded_by = {mark} WHERE id = {id_}", guards=True
            )
    ariel.retract(second.id, source="user_cli")
    assert ariel.judge(CITY).verdict == "share"
    ariel.verify()


def test_a_veto_needs_a_score(path):
    for policy in (Policy.profile("standard"), Policy.profile("cautious"), Policy(veto_withhold=0.0)):  # fmt: skip
        with pytest.raises(ConfigError, match="scorer="):
            opened(path, policy=policy)
    assert not path.exists()
    with opened(path, policy=Policy.profile("cautious"), scorer=lambda request: None) as ariel:
        ariel.record(ADDRESS, "appropriate", "user_cli")
        ariel.record(PHONE, "inappropriate", "user_cli")
        asked = ariel.judge(CITY)
        assert (asked.verdict, asked.outcome.reason) == ("ask", "veto")
        assert ariel.judge(ADDRESS).verdict == "share"  # the user's own word on this very request
        wide = dataclasses.replace(PHONE, data=("phone", "mail"))
        assert ariel.judge(wide).outcome.reason == "veto"
        ariel.verify()


def test_an_answer_replaces_only_what_was_not_understood(ariel):
    asked = ariel.judge_text(data=["phone", "zorbl", "blorz"], recipient="shop")
    assert asked.request.data == (UNSPEC, "phone")
    for said in ("mail", ["mail"], ["mail", "city", "address"], []):
        with pytest.raises(ConfigError, match=r"one node for each|say in slots"):
            ariel.answer(asked, "appropriate", slots={"data": said})
    answered = ariel.answer(asked, "appropriate", slots={"data": ["mail", "city"]})
    assert answered.about.data == ("city", "mail", "phone")
    assert [j.request.data for j in ariel.store.judgements("ann")] == [("city", "mail", "phone")]
    assert ariel.for_agent().show(asked.id)["about"]["data"] == ["city", "mail", "phone"]
    assert ariel.store.decision(asked.id, "ann").about == answered.about
    asked = ariel.judge_text(data="phone", recipient="zorbl")
    with pytest.raises(ConfigError, match="one node for each"):
        ariel.answer(asked, "appropriate", slots={"recipient": ["shop", "bank"]})
    assert ariel.answer(asked, "appropriate", slots={"recipient": "bank"}).about.recipient == "bank"
    assert ariel.verify() == 2


def test_an_answer_for_once_is_a_verdict_once(path, ariel):
    asked = ariel.judge(PHONE)
    ariel.answer(asked, "appropriate", once=True)
    view = ariel.for_agent()
    assert view.show(asked.id)["verdict"] == "share"
    for _ in range(2):
        again = view.show(asked.id)
        assert (again["verdict"], again["was"]) == ("ask", "share")
    asked = ariel.judge(PHONE)
    ariel.answer(asked, "appropriate", once=True)
    with Ariel.open(path, user="ann") as other:
        assert other.for_agent().show(asked.id)["was"] == "share"


def test_each_writer_says_who_writes(path, ariel):
    for write in (
        lambda: ariel.record(CITY, "appropriate"), lambda: ariel.add(), lambda: ariel.retract(1),
        lambda: ariel.retract_edge(1), lambda: ariel.confirm_edge(1),
        lambda: ariel.set_ontology(FACTS, why="x"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="source"):
            write()
    for options, kind in (({}, ConfigError), ({"source": "agent_claimed"}, UntrustedSourceError),
                          ({"source": "system"}, ConfigError)):  # fmt: skip
        with pytest.raises(kind):
            Ariel.open(path, user="ann", ontology=FACTS.retract(1), **options)
    assert ariel.ontology == FACTS


def test_no_hash_of_words_is_kept(path, ariel):
    import hashlib

    number = "5551234567"
    found = ariel.judge_text(data=[number, "my fone"], recipient="shop")
    assert {entry["input"] for entry in found.proof["mapping"]} <= {
        reading.NOT_UNDERSTOOD, reading.IN_WORDS, "shop"
    }  # fmt: skip
    assert hashlib.sha256(number.encode()).hexdigest()[:16] not in found.proof_json
    assert ariel.verify() == 1


@pytest.mark.parametrize(
    "slots",
    [
        {"task_text": "\ud800"}, {"task_text": "x" * 1_000_000}, {"recipient": "\u200b"}, {"recipient": "\u202e \u2066"},
        {"recipient": "\u3164"}, {"data": "\u200b\ufeff"}, {"data": "\ud800"}, {"recipient": "sh\udfffop"},
        {"data": ["city", "\u200d"]},
    ],
)  # fmt: skip
def test_what_nobody_can_read_is_refused(ariel, slots):
    with pytest.raises(InvalidRequestError) as error:
        ariel.judge_text(**({"data": "city", "recipient": "shop"} | slots))
    str(error.value).encode()
    assert not ariel.log()


def test_a_blank_purpose_is_none(ariel):
    ariel.record(Request(data=("city",), recipient="shop", purpose=ANY), "appropriate", "user_cli")
    found = ariel.judge_text(data="city", recipient="shop", purpose="\u200b")
    assert found.request.purpose == UNSPEC
    with pytest.raises(InvalidRequestError, match="surrogate"):
        ariel.record(CITY, "appropriate", "user_cli", note="\ud800")


def test_facts_that_change_while_a_text_is_read_count(path):
    class Slow:
        name = "slow"

        def map(self, slot, text):
            if not self.changed:
                self.changed = True
                with Ariel.open(path, user="ann") as other:
                    other.retract_edge(1, source="user_cli")
            return mapper.map(slot, text)

    slow = Slow()
    slow.changed = False
    with opened(path) as ariel:
        ariel.record(ADDRESS, "appropriate", "user_cli")
        mapper = ariel._text_mapper(ariel.ontology)
    with Ariel.open(path, user="ann", mapper=slow) as ariel:
        found = ariel.judge_text(
            data="City!", recipient="shop", purpose="dining", principle="asked"
        )
        assert slow.changed
        assert found.verdict == "ask"
        assert found.ontology_hash == FACTS.retract(1).hash
        assert ariel.verify() == 1


def test_what_is_recorded_and_judged_in_one_step_is_one_commit_and_both_are_in_the_log(path, ariel):
    ariel.judge(PHONE)
    statements = []
    ariel.store._connection.set_trace_callback(statements.append)
    judgement, found = ariel.record_and_judge(ADDRESS, "appropriate", "user_cli", CITY)
    apart = len(statements)
    assert statements.count("COMMIT") == 1
    ariel.record(PHONE, "inappropriate", "user_cli")
    ariel.judge(PHONE)
    assert statements[apart:].count("COMMIT") == 2
    assert (found.verdict, found.outcome.premises) == ("share", (judgement.id,))
    with Store(path) as other:  # as another process sees it
        assert other.decisions("ann")[1] == found
        assert judgement in other.judgements("ann")
    assert ariel.verify() == 3


@pytest.mark.parametrize("fail_at", ["INSERT INTO judgements", "INSERT INTO decisions", "COMMIT"])
def test_a_step_that_fails_at_any_statement_leaves_neither(path, ariel, monkeypatch, fail_at):
    ariel.judge(CITY)
    real = ariel.store._connection

    class Failing:
        def __getattr__(self, name):
            return getattr(real, name)

        def execute(self, statement, *args):
            if statement.startswith(fail_at):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *args)

    monkeypatch.setattr(ariel.store, "_connection", Failing())
    with pytest.raises(StorageError, match="full"):
        ariel.record_and_judge(ADDRESS, "appropriate", "user_cli", CITY)
    monkeypatch.undo()
    assert ariel.judge(CITY).verdict == "ask"  # nor is it remembered
    with pytest.raises(InvalidRequestError, match="ANY"):
        ariel.record_and_judge(
            ADDRESS, "appropriate", "user_cli", dataclasses.replace(CITY, purpose=ANY)
        )
    assert not ariel.rules()
    with pytest.raises(ConfigError, match="source"):
        ariel.record_and_judge(ADDRESS, "appropriate", "a friend", CITY)
    ariel.record_and_judge(ADDRESS, "appropriate", "agent_claimed", CITY)
    assert ariel.judge(CITY).verdict == "ask"
    assert ariel.verify() == 4


def test_a_scorer_is_asked_before_others_are_kept_from_writing(path):
    """And facts that change meanwhile are read again: the judgement is written once."""
    seen = []

    def scorer(request):
        seen.append(scored.store._connection.in_transaction)
        if len(seen) == 1:
            with Ariel.open(path, user="ann") as other:
                node = Node(slot="recipient", id="kiosk", label="Kiosk")
                other.add(nodes=[node], source="user_cli")
        return 1.0

    with opened(path, scorer=scorer) as scored:
        judgement, found = scored.record_and_judge(ADDRESS, "appropriate", "user_cli", CITY)
        assert seen == [False, False]
        assert (found.verdict, found.outcome.premises) == ("share", (judgement.id,))
        assert len(scored.rules()) == 1
        assert scored.verify() == 1


def test_a_decision_is_returned_as_the_log_has_it(path, ariel):
    ariel.record(ADDRESS, "appropriate", "user_cli")
    text = dataclasses.replace(PHONE, task_text="call 0170 1234567")
    for request in (CITY, text, dataclasses.replace(PHONE, data=("phone", "city"))):
        found = ariel.judge(request)
        assert ariel.decision(found.id) == found
        with Store(path) as other:
            assert other.decision(found.id, "ann") == found


def test_a_forecast_is_no_permission(ariel):
    ariel.record(CITY, "appropriate", "user_cli")
    (found,) = ariel.judge_many([CITY])
    assert (found.would_be, found.rule) == ("share", "R0")
    for name in ("verdict", "may_share", "answered"):
        assert not hasattr(found, name)
    assert not ariel.log()


def test_the_newest_judgements_are_the_last_of_those_that_stand(ariel):
    for data in ("city", "phone", "mail", "phone", "address"):
        ariel.record(dataclasses.replace(CITY, data=(data,)), "appropriate", "user_cli")
    ariel.record(CITY, "ask", "user_cli")
    history = ariel._refresh()
    for n in (1, 2, 10):
        assert history.members(history.newest(n)) == history.premises()[-n:]
    assert history.ids(history.newest(2)) == [4, 5]
