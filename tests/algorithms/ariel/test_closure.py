"""Closures against networkx, clingo and SQLite; what travels where."""

import itertools
import sqlite3

import clingo
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.algorithms.ariel import oracle
from ariel_jax.algorithms.ariel.closure import Closures, closure, one_step
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import ANY, SLOTS, UNSPEC, Edge, Node
from ariel_jax.errors import ConfigError

from .cases import random_ontology

EDGE = st.integers(0, 2**31)


def by_networkx(arrows, n):
    graph = networkx.DiGraph(arrows)
    graph.add_nodes_from(range(n))
    return {(x, y) for x in range(n) for y in networkx.descendants(graph, x) | {x}}


def by_clingo(arrows, n):
    control = clingo.Control(["--warn=none"])
    facts = "".join(f"edge({x},{y})." for x, y in arrows)
    rules = f"node(0..{n - 1}). a(X,X) :- node(X). a(X,Z) :- edge(X,Y), a(Y,Z). #show a/2."
    control.add("base", [], facts + rules)
    control.ground([("base", [])])
    found = set()
    control.solve(
        on_model=lambda model: found.update(
            tuple(argument.number for argument in atom.arguments)
            for atom in model.symbols(shown=True)
        )
    )
    return found


def by_sqlite(arrows, n):
    with sqlite3.connect(":memory:") as database:
        database.execute("create table edges (x, y)")
        database.executemany("insert into edges values (?, ?)", arrows)
        database.execute("create table nodes (x)")
        database.executemany("insert into nodes values (?)", [(i,) for i in range(n)])
        rows = database.execute(
            "with recursive a(x, y) as (select x, x from nodes union "
            "select a.x, edges.y from a join edges on a.y = edges.x) select x, y from a"
        ).fetchall()
    database.close()
    return set(rows)


@pytest.mark.parametrize("seed", range(6))
def test_the_closure_is_networkxs_clingos_and_sqlites_on_digraphs_with_cycles(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 24))
    adjacency = rng.random((n, n)) < rng.choice([0.5, 1.2, 3.0]) / n
    arrows = [(int(x), int(y)) for x, y in zip(*np.nonzero(adjacency), strict=True)]
    found = {(int(x), int(y)) for x, y in zip(*np.nonzero(closure(adjacency)), strict=True)}
    assert found == by_networkx(arrows, n) == by_clingo(arrows, n) == by_sqlite(arrows, n)


def test_a_long_chain_and_a_full_graph_keep_every_path():
    """Counts that were not cut back to 0 and 1 would overflow and lose paths."""
    chain = np.eye(200, k=1, dtype=np.bool_)
    assert (closure(chain) == np.triu(np.ones((200, 200), np.bool_))).all()
    assert closure(np.ones((200, 200), np.bool_)).all()
    assert closure(np.zeros((0, 0), np.bool_)).shape == (0, 0)


def test_each_type_of_edge_carries_approvals_and_denials_its_own_way():
    """Rows are the table: what an approval for one end covers, and a denial."""
    table = {
        "isa": ("dst covers src", "dst covers src"),
        "narrower": ("dst covers src", "dst covers src"),
        "reveals": ("src covers dst", "dst covers src"),
        "trust": ("dst covers src", "src covers dst"),
        "stricter": ("dst covers src", "src covers dst"),
        "same": ("both", "both"),
    }
    slots = {"narrower": "purpose", "trust": "recipient", "stricter": "principle"}
    for kind, expected in table.items():
        slot = slots.get(kind, "data")
        nodes = [Node(slot=slot, id=name, label=name) for name in ("dst", "src")]
        made = Ontology.of(nodes, [Edge(id=1, slot=slot, type=kind, src="src", dst="dst")])
        for polarity, says in zip(("approve", "deny"), expected, strict=True):
            covers = {
                f"{y} covers {x}": Closures(made).covers(slot, polarity, x, y)
                for x, y in (("src", "dst"), ("dst", "src"))
            }
            wanted = {row: says in (row, "both") for row in covers}
            assert covers == wanted, (kind, polarity)


@settings(max_examples=25, deadline=None)
@given(EDGE)
def test_without_isa_and_narrower_denials_travel_against_approvals(seed):
    rng = np.random.default_rng(seed)
    made = Closures(
        random_ontology(rng, types=("reveals", "trust", "stricter", "same"), scoped=0.3, n_edges=20)
    )
    for slot, scope in itertools.product(SLOTS, ("da0", "da1")):
        context = frozenset({scope})
        approve = made.matrix(slot, "approve", context=context)
        assert (made.matrix(slot, "deny", context=context) == approve.T).all()


def test_with_isa_they_do_not(closures):
    approve, deny = (closures.matrix("recipient", p) for p in ("approve", "deny"))
    assert (deny != approve.T).any()


@settings(max_examples=25, deadline=None)
@given(EDGE)
def test_covers_is_reached_by_a_plain_search_and_each_path_leads_there(seed):
    rng = np.random.default_rng(seed)
    ontology = random_ontology(rng, size=5, proposed=0.3, scoped=0.3, n_edges=24)
    closures = Closures(ontology)
    statuses = [("curated", "confirmed"), ("curated", "confirmed", "proposed")][seed % 2]
    item = f"da{rng.integers(5)}"
    context = closures.context((item,), statuses=statuses)
    scopes = {e.scope for e in ontology.edges}
    assert context == scopes & oracle.scopes_of(ontology, (item,), statuses)
    options = {"context": context, "statuses": statuses}
    for slot, polarity in itertools.product(SLOTS, ("approve", "deny", "kind")):
        for x, y in itertools.product(ontology.index(slot), repeat=2):
            found = y in oracle.reach(ontology, slot, polarity, x, context, statuses)
            assert closures.covers(slot, polarity, x, y, **options) == found
            path = closures.path(slot, polarity, x, y, **options)
            assert (path is not None) == found
            here = x
            for edge in path or ():
                here = oracle._leads(edge, polarity, here)
            assert not found or here == y


def test_a_path_is_the_shortest_and_of_several_that_with_the_smallest_ids():
    nodes = [Node(slot="data", id=name, label=name) for name in "abcd"]
    ways = [(5, "a", "b"), (2, "b", "d"), (4, "a", "c"), (9, "c", "d"), (1, "a", "d")]
    edges = [Edge(id=i, slot="data", type="reveals", src=x, dst=y) for i, x, y in ways]
    path = Closures(Ontology.of(nodes, edges[:4])).path("data", "deny", "a", "d")
    assert [edge.id for edge in path] == [4, 9]
    path = Closures(Ontology.of(nodes, edges)).path("data", "deny", "a", "d")
    assert [edge.id for edge in path] == [1]


def test_any_covers_everything_and_unspecified_nothing(closures):
    for x in ("bistro", UNSPEC, ANY, "gone"):
        assert closures.covers("recipient", "approve", x, ANY)
        assert closures.path("recipient", "approve", x, ANY) == ()
        for y in (UNSPEC, "gone"):
            assert not closures.covers("recipient", "approve", x, y)
    assert not closures.covers("recipient", "deny", UNSPEC, "bistro")


def test_an_unknown_polarity_is_refused(ontology):
    with pytest.raises(ConfigError, match="polarity='refuse'"):
        one_step(ontology, "data", "refuse")
