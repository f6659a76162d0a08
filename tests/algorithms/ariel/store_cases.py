"""A log with a row of each kind, and who changes it past the library; shared by tests of the log."""

import sqlite3

from ariel_jax.algorithms.ariel import schema
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Edge, Node, Outcome, Request

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
