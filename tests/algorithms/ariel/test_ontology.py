import dataclasses
import json

import numpy as np
import pytest

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.ontology import Ontology, canonical_json
from ariel_jax.algorithms.ariel.types import SLOTS, Edge, Node
from ariel_jax.errors import ConfigError, OntologyCycleError, UnknownNodeError

DATA = [Node(slot="data", id=name, label=name) for name in "abcd"]


def edge(number, src, dst, type="reveals", slot="data", **more):
    return Edge(id=number, slot=slot, type=type, src=src, dst=dst, **more)


def test_the_hash_is_that_of_the_content_whatever_its_order(ontology):
    nodes = [node for slot in SLOTS for node in ontology.nodes[slot]]
    rng = np.random.default_rng(0)
    for _ in range(5):
        shuffled = [nodes[i] for i in rng.permutation(len(nodes))]
        edges = [ontology.edges[i] for i in rng.permutation(len(ontology.edges))]
        assert Ontology.of(shuffled, edges).hash == ontology.hash
    again = Ontology.from_json(json.loads(canonical_json(ontology.as_json())))
    assert again == ontology
    assert again.as_json() == ontology.as_json()


def test_every_change_of_a_node_or_an_edge_changes_the_hash(ontology):
    hashes = {ontology.hash, ontology.retract(1).hash}
    first = ontology.edges[0]
    for change in ({"reason": "x"}, {"origin": "user"}, {"status": "proposed"}):
        edges = [dataclasses.replace(first, **change), *ontology.edges[1:]]
        hashes.add(Ontology.of([n for s in SLOTS for n in ontology.nodes[s]], edges).hash)
    hashes.add(ontology.with_nodes(Node(slot="data", id="new", label="new")).hash)
    assert len(hashes) == 6


@pytest.mark.parametrize("type_", ["reveals", "isa"])
def test_a_cycle_is_refused_and_named(type_):
    edges = [edge(1, "a", "b", type_), edge(2, "b", "c", type_), edge(3, "c", "a", type_)]
    with pytest.raises(OntologyCycleError, match=r"(\w) -> \w -> \w -> \1") as caught:
        Ontology.of(DATA, edges)
    assert caught.value.path[0] == caught.value.path[-1]
    assert set(caught.value.path) == set("abc")
    assert Ontology.of(DATA, edges[:2]).edges == tuple(edges[:2])


def test_a_cycle_of_nodes_that_are_the_same_is_none():
    edges = [edge(1, "a", "b"), edge(2, "b", "c"), edge(3, "c", "a")]
    same = [edge(4, "a", "c", "same"), edge(5, "b", "a", "same")]
    assert len(Ontology.of(DATA, edges + same).edges) == 5
    with pytest.raises(OntologyCycleError):  # only two of the three are the same
        Ontology.of(DATA, edges + same[:1])


def test_a_cycle_through_the_members_of_a_class_is_found():
    """a reveals b, c reveals a; b and c are the same: a is as much as b."""
    edges = [edge(1, "a", "b"), edge(2, "c", "a"), edge(3, "b", "c", "same")]
    with pytest.raises(OntologyCycleError):
        Ontology.of(DATA, edges)


def test_kind_of_and_revealing_together_are_a_cycle_for_approvals():
    """If an exact age is a kind of age range and reveals it, an approval of one releases the other."""
    with pytest.raises(OntologyCycleError):
        Ontology.of(DATA, [edge(1, "a", "b", "isa"), edge(2, "a", "b", "reveals")])


def test_a_proposed_same_does_not_excuse_a_curated_cycle():
    edges = [edge(1, "a", "b"), edge(2, "b", "a"), edge(3, "a", "b", "same", status="proposed")]
    with pytest.raises(OntologyCycleError):
        Ontology.of(DATA, edges)
    edges[2] = dataclasses.replace(edges[2], status="confirmed")
    assert Ontology.of(DATA, edges)
    edges[1] = dataclasses.replace(edges[1], status="retracted")
    assert Ontology.of(DATA, edges[:2])


def test_merged_cycles_become_one_class():
    edges = [edge(1, "a", "b"), edge(2, "b", "c"), edge(3, "c", "a")]
    made = Ontology.of(DATA, edges, merge_cycles=True)
    assert {e.origin for e in made.edges if e.type == "same"} == {"merged"}
    closures = Closures(made)
    for polarity in ("approve", "deny"):
        assert all(closures.covers("data", polarity, x, y) for x in "abc" for y in "abc")
        assert not closures.covers("data", polarity, "a", "d")
    assert Ontology.from_json(made.as_json()) == made


def test_trust_may_turn_around_with_the_data_and_not_within_it():
    nodes = [*DATA, *(Node(slot="recipient", id=name, label=name) for name in ("doctor", "bank"))]
    kinds = [edge(1, "a", "b", "isa")]
    one = edge(2, "doctor", "bank", "trust", "recipient", scope="b")
    other = edge(3, "bank", "doctor", "trust", "recipient", scope="c")
    assert len(Ontology.of(nodes, [*kinds, one, other]).edges) == 3
    for scope in ("a", "b", None):
        with pytest.raises(OntologyCycleError):
            Ontology.of(nodes, [*kinds, one, dataclasses.replace(other, scope=scope)])
    with pytest.raises(OntologyCycleError, match="some data only"):
        Ontology.of(nodes, [*kinds, one, dataclasses.replace(other, scope="a")], merge_cycles=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (edge(9, "a", "zz"), "'zz' does not exist"),
        (edge(9, "a", "b", "relates"), "type of edge 'relates'"),
        (edge(9, "a", "b", slot="datum"), "slot 'datum'"),
        (edge(9, "a", "b", scope="a"), "Remove the scope"),
        (edge(9, "a", "a"), "to itself"),
        (edge(9, "a", "b", "trust"), "'data' is not allowed"),
        (edge(9, "a", "b", status="sure"), "status='sure'"),
        (edge(1, "a", "c"), "two edges have the id 1"),
        (edge(9, "x", "y", "trust", "recipient", scope="q"), "'q' does not exist"),
    ],
)
def test_wrong_edges_are_refused(wrong, says):
    people = [Node(slot="recipient", id=name, label=name) for name in "xy"]
    with pytest.raises(ConfigError, match=says):
        Ontology.of([*DATA, *people], [edge(1, "a", "b"), wrong])


def test_wrong_nodes_are_refused():
    for wrong in ("", "ANY", "UNSPEC", "a"):
        with pytest.raises(ConfigError, match=r"reserved|two nodes"):
            Ontology.of([*DATA, Node(slot="data", id=wrong, label="x")], ())
    with pytest.raises(UnknownNodeError, match="slot 'who'"):
        Ontology.of([Node(slot="who", id="a", label="a")], ())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"version": 2}, "version=2"),
        ({"version": 1, "knots": []}, "knots"),
        ({"version": 1, "nodes": [{"slot": "data"}]}, r"lacks \['id', 'label'\]"),
        ({"version": 1, "nodes": [{"colour": 1}]}, "colour"),
        ({"version": 1, "edges": ["x"]}, "write it as an object"),
    ],
)
def test_wrong_json_is_refused(value, says):
    with pytest.raises(ConfigError, match=says):
        Ontology.from_json(value)


def test_names_are_resolved_and_unknown_ones_get_suggestions(ontology):
    extra = ontology.with_nodes(
        Node(slot="data", id="id.passport", label="Passport", aliases=("travel document", "City"))
    )
    for name in ("id.passport", "passport", " Travel Document "):
        assert extra.resolve("data", name) == "id.passport"
    assert extra.resolve("data", "location.city") == "location.city"
    with pytest.raises(UnknownNodeError) as caught:
        extra.resolve("data", "pasport")
    assert caught.value.nearest[0] == "passport"
    with pytest.raises(UnknownNodeError) as caught:
        ontology.node("data", "location.citty")
    assert caught.value.nearest[0] == "location.city"
    assert ontology.node("data", "location.city").label == "city"
    with pytest.raises(UnknownNodeError):
        ontology.index("who")


def test_edges_are_confirmed_and_retracted_without_touching_the_old_ontology():
    made = Ontology.of(DATA, [edge(1, "a", "b", status="proposed")])
    sure = made.confirm(1)
    assert (made.edge(1).status, sure.edge(1).status) == ("proposed", "confirmed")
    gone = sure.retract(1)
    assert gone.edge(1).status == "retracted"
    assert gone.with_edges(edge(gone.next_edge_id, "b", "a")).next_edge_id == 3
    with pytest.raises(ConfigError, match="the edge is retracted"):
        gone.confirm(1)
    with pytest.raises(ConfigError, match="edge_id=7"):
        made.retract(7)


def test_a_cycle_for_denials_alone_is_not_merged():
    """Merged, an approval of the phone would go for the card."""
    nodes = [Node(slot="data", id=name, label=name) for name in ("phone", "card")]
    one = Edge(id=1, slot="data", type="isa", src="phone", dst="card")
    for type_, src, dst in (("reveals", "card", "phone"), ("reveals", "phone", "card")):
        other = Edge(id=2, slot="data", type=type_, src=src, dst=dst)
        for merge in (False, True):
            if (src, merge) == ("phone", True):
                say = "`approve` only"
            else:
                say = "`deny` only" if merge else "merge_cycles=True"
            with pytest.raises(OntologyCycleError, match=say):
                Ontology.of(nodes, [one, other], merge_cycles=merge)


@pytest.mark.parametrize(
    "odd", ["a\nb", "a\u202eb", "a\u200fb", "a\x00", "\ud800", "a\u2028", "a\x85"]
)
@pytest.mark.parametrize("where", ["id", "label", "aliases"])
def test_names_that_show_as_others_are_refused(odd, where):
    node = Node(slot="data", id="a", label="a")
    changed = dataclasses.replace(node, **{where: (odd,) if where == "aliases" else odd})
    with pytest.raises(ConfigError, match=r"U\+[0-9A-F]{4}"):
        Ontology.of([changed], ())
    Ontology.of([dataclasses.replace(node, label="Müller 👩‍⚕️")], ())
