"""A small ontology and a judge over it, shared by tests of `Ariel`."""

import dataclasses
import os

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Edge, Node, Request


def nodes(slot, *ids):
    return [Node(slot=slot, id=i, label=i.capitalize(), aliases=(f"the {i}",)) for i in ids]


FACTS = Ontology.of(
    [
        *nodes("data", "address", "city", "phone", "mail"), *nodes("subject", "self", "child"),
        *nodes("sender", "self"), *nodes("recipient", "firm", "bank", "shop", "bistro"),
        *nodes("purpose", "life", "dining", "delivery"), *nodes("principle", "asked"),
    ],
    [
        Edge(id=1, slot="data", type="reveals", src="address", dst="city"),
        Edge(id=2, slot="recipient", type="isa", src="shop", dst="firm"),
        Edge(id=3, slot="recipient", type="isa", src="bank", dst="firm"),
        Edge(id=4, slot="purpose", type="narrower", src="dining", dst="life"),
        Edge(id=5, slot="recipient", type="trust", src="bistro", dst="shop", status="proposed"),
    ],
)  # fmt: skip
CITY = Request(data=("city",), recipient="shop", purpose="delivery", principle="asked")
ADDRESS = dataclasses.replace(CITY, data=("address",))
MESSAGES = ["database or disk is full", "attempt to write a readonly database", "disk I/O error"]


def opened(path, user="ann", **options):
    return Ariel.open(path, user=user, ontology=FACTS, source="user_cli", **options)


def stored(path):
    """All bytes beside the log."""
    return b"".join((path.parent / name).read_bytes() for name in os.listdir(path.parent))
