"""Small ontologies, made-up users and random cases that the tests of ARIEL share."""

import dataclasses

import numpy as np

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import (
    ANY,
    EDGE_TYPES,
    SLOTS,
    UNSPEC,
    Edge,
    Judgement,
    Node,
    Policy,
    Request,
)
from ariel_jax.errors import OntologyCycleError

NODES = {
    "data": "location location.city location.address location.trace contact contact.phone "
    "health health.blood age.exact age.range",
    "subject": "self child",
    "sender": "self",
    "recipient": "organisation shop bistro advertiser professional doctor bank employer",
    "purpose": "dining booking marketing treatment",
    "principle": "asked notified none",
}
EDGES = [
    ("data", "reveals", "location.trace", "location.address"),
    ("data", "reveals", "location.address", "location.city"),
    ("data", "isa", "health.blood", "health"),
    ("data", "isa", "contact.phone", "contact"),
    ("data", "reveals", "age.exact", "age.range"),
    ("recipient", "isa", "shop", "organisation"),
    ("recipient", "isa", "bistro", "shop"),
    ("recipient", "isa", "employer", "organisation"),
    ("recipient", "isa", "doctor", "professional"),
    ("recipient", "trust", "bistro", "advertiser"),
    ("purpose", "narrower", "booking", "dining"),
    ("principle", "stricter", "asked", "notified"),
    ("principle", "stricter", "notified", "none"),
]


PROPOSED = Edge(
    id=90, slot="data", type="reveals", src="contact.phone", dst="age.range", status="proposed"
)
"""Nothing in `small()` says so."""


def small() -> Ontology:
    """The restaurant, the city and the doctor."""
    nodes = [
        Node(slot=slot, id=name, label=name.rsplit(".", 1)[-1])
        for slot, names in NODES.items()
        for name in names.split()
    ]
    edges = [
        Edge(id=i, slot=slot, type=kind, src=src, dst=dst)
        for i, (slot, kind, src, dst) in enumerate(EDGES, start=1)
    ]
    return Ontology.of(nodes, edges)


def ask(data, recipient="bistro", purpose="dining", principle="notified") -> Request:
    """A request; `data` may be one id."""
    items = (data,) if isinstance(data, str) else tuple(data)
    return Request(data=items, recipient=recipient, purpose=purpose, principle=principle)


def said(*rows, source="user_cli") -> list[Judgement]:
    """Judgements 1, 2, ... of (request, value); `yes` and `no` for short."""
    words = {"yes": "appropriate", "no": "inappropriate", "ask": "ask"}
    return [
        Judgement(id=i, request=request, value=words[value], source=source)
        for i, (request, value) in enumerate(rows, start=1)
    ]


def random_ontology(
    rng: np.random.Generator,
    size: int = 4,
    n_edges: int = 10,
    *,
    types: tuple[str, ...] = tuple(EDGE_TYPES),
    proposed: float = 0.0,
    scoped: float = 0.0,
    retracted: float = 0.1,
) -> Ontology:
    """Nodes a0, a1, ... in each slot and edges that form no cycle."""
    nodes = [
        Node(slot=slot, id=f"{slot[:2]}{i}", label=f"{slot} {i}")
        for slot in SLOTS
        for i in range(size)
    ]
    made = Ontology.of(nodes, ())
    pairs = [(kind, slot) for kind in types for slot in EDGE_TYPES[kind]]
    for number in range(1, n_edges + 1):
        kind, slot = pairs[rng.integers(len(pairs))]
        src, dst = rng.choice(size, 2, replace=False)
        draw = rng.random(3)
        status = "proposed" if draw[0] < proposed else ("curated", "confirmed")[number % 2]
        scope = f"da{rng.integers(size)}" if slot != "data" and draw[1] < scoped else None
        edge = Edge(
            id=number,
            slot=slot,
            type=kind,
            src=f"{slot[:2]}{src}",
            dst=f"{slot[:2]}{dst}",
            scope=scope,
            status="retracted" if draw[2] < retracted else status,
        )
        try:
            made = made.with_edges(edge)
        except OntologyCycleError:
            continue
    return made


def random_request(
    rng: np.random.Generator, ontology: Ontology, *, judged: bool = False, bundles: float = 0.2
) -> Request:
    """A request, or what a judgement is about: then `ANY` may stand anywhere."""

    def one(slot: str) -> str:
        if rng.random() < 0.08:
            return ANY if judged else UNSPEC
        if judged and rng.random() < 0.04:
            return UNSPEC
        return ontology.nodes[slot][rng.integers(len(ontology.nodes[slot]))].id

    n = 1 + int(rng.integers(1, 3)) * (rng.random() < bundles)
    return Request(
        data=tuple(one("data") for _ in range(n)), **{slot: one(slot) for slot in SLOTS[1:]}
    )


def random_history(
    rng: np.random.Generator, ontology: Ontology, n: int, *, bundles: float = 0.2
) -> list[Judgement]:
    """Judgements of a user who is not consistent; some of them are no premises."""
    values = ("appropriate", "inappropriate", "ask")
    made = []
    for number in range(1, n + 1):
        about = random_request(rng, ontology, judged=True, bundles=bundles)
        if made and rng.random() < 0.1:
            about = made[rng.integers(len(made))].request
        made.append(
            Judgement(
                id=3 * number,
                request=about,
                value=values[rng.choice(3, p=(0.5, 0.42, 0.08))],
                source="agent_claimed" if rng.random() < 0.08 else "user_ui",
                superseded_by=3 * n if number < n and rng.random() < 0.05 else None,
            )
        )
    return made


def case(seed, n=22, **options):
    """A generator, a random ontology, its closures and a random history."""
    rng = np.random.default_rng(seed)
    ontology = random_ontology(rng, size=3, n_edges=14, **options)
    ontology = narrowed(ontology, 1 + int(rng.integers(3)))
    return rng, ontology, Closures(ontology), random_history(rng, ontology, n)


def random_policy(rng: np.random.Generator) -> Policy:
    """Any policy."""
    conflicts = ("escalate", "deny_overrides", "most_specific", "latest", "majority")
    return Policy(
        conflict=conflicts[rng.integers(5)],
        reliability=("off", "strict", 0.4, 0.6)[rng.integers(4)],
        min_support=int(rng.integers(1, 3)),
        bundle=("joint", "itemwise")[rng.integers(2)],
        trust_proposed=bool(rng.integers(2)),
        veto_share=(None, 0.0)[rng.integers(2)],
        veto_withhold=(None, 0.5)[rng.integers(2)],
    )


def narrowed(ontology: Ontology, slots: int) -> Ontology:
    """The same with one node in all slots but the first ones, so that more is covered."""
    kept = {slot: ontology.nodes[slot][: None if i < slots else 1] for i, slot in enumerate(SLOTS)}
    ids = {slot: {node.id for node in members} for slot, members in kept.items()}
    edges = [e for e in ontology.edges if {e.src, e.dst} <= ids[e.slot]]
    return Ontology.of([node for members in kept.values() for node in members], edges)


def replaced(judgement: Judgement, **changes) -> Judgement:
    """The judgement with some fields changed."""
    return dataclasses.replace(judgement, **changes)
