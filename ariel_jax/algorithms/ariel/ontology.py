"""What a user's judgements may be generalised along: nodes and typed edges. Host only.

Flemings et al. (arXiv 2512.05065) infer judgements over a data hierarchy and an order of recipients;
the types of edges and how a judgement travels along each are reconstructed here.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib.resources
import json
import types
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from ariel_jax._checks import known_keys, one_of
from ariel_jax.algorithms.ariel.cycles import without_cycles
from ariel_jax.algorithms.ariel.types import (
    ANY,
    EDGE_TYPES,
    SLOTS,
    STATUSES,
    UNSPEC,
    Edge,
    Node,
)
from ariel_jax.errors import ConfigError, UnknownNodeError

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def canonical_json(value: Any) -> bytes:
    """The one form of a JSON value that hashes are taken of: sorted keys, no blanks, UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def unknown(what: str, given: str, allowed: Iterable[str], slot: str) -> UnknownNodeError:
    """The error for a node, slot or type of edge that does not exist, with what looks like it."""
    nearest = tuple(difflib.get_close_matches(given, list(allowed), n=3, cutoff=0.5))
    hint = f"the nearest are {', '.join(nearest)}" if nearest else "nothing looks like it"
    return UnknownNodeError(
        f"{what} {given!r} does not exist in slot {slot!r}: {hint}. Correct the name, or add it "
        "to the ontology first.",
        slot=slot,
        node=given,
        nearest=nearest,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Ontology:
    """Nodes by slot and the edges between them; immutable, equal where the hashes are.

    Make one with `Ontology.of`, which checks it. Edges on a cycle would make different things equal
    and are refused, in what approvals travel along as in what denials do, unless `same` says so.

    Attributes:
        nodes: by slot, sorted by id; every slot is there.
        edges: sorted by id, retracted ones included.
    """

    nodes: Mapping[str, tuple[Node, ...]]
    edges: tuple[Edge, ...]

    @classmethod
    def of(
        cls, nodes: Iterable[Node], edges: Iterable[Edge], *, merge_cycles: bool = False
    ) -> "Ontology":
        """Checks nodes and edges and puts them in order.

        Args:
            nodes: in any order.
            edges: in any order; the ends of each must be among the nodes.
            merge_cycles: declare the members of a cycle to be the `same` instead of refusing it. The
                edges that say so have the origin `merged`. Refused all the same are scoped cycles, and those
                that approvals or denials alone travel round.

        Raises:
            UnknownNodeError: a slot, a type of edge, an end or a scope does not exist.
            OntologyCycleError: a cycle of edges that are not `same`.
            ConfigError: a repeated or reserved id, a control character or a mark of writing direction in
                an id, a label or an alias, a type in a slot where it has no meaning, an edge
                from a node to itself, or a scope in the slot `data`.
        """
        by_slot: dict[str, dict[str, Node]] = {slot: {} for slot in SLOTS}
        for node in nodes:
            _check_node(node, by_slot)
            by_slot[node.slot][node.id] = node
        by_id: dict[int, Edge] = {}
        for edge in edges:
            _check_edge(edge, by_slot)
            if edge.id in by_id:
                raise ConfigError(
                    f"two edges have the id {edge.id}: give each edge an id of its own."
                )
            by_id[edge.id] = edge
        ordered = {
            slot: tuple(members[i] for i in sorted(members)) for slot, members in by_slot.items()
        }
        made = tuple(by_id[i] for i in sorted(by_id))
        made = without_cycles(ordered, made, merge_cycles)
        return cls(types.MappingProxyType(ordered), made)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, merge_cycles: bool = False) -> "Ontology":
        """Reads what `as_json` gives.

        Args:
            value: `{"version": 1, "nodes": [...], "edges": [...]}`, each with the fields of `Node` and
                `Edge`; those that have a default may be left out.
            merge_cycles: as in `of`.

        Raises:
            ConfigError: another version, unknown or missing fields, or what `of` raises.
        """
        known_keys("the ontology", ("version", "nodes", "edges"), value)
        if value.get("version") != 1:
            raise ConfigError(
                f"version={value.get('version')!r} is not allowed: this library reads ontologies "
                "of version 1. Update the library, or export the ontology anew."
            )
        nodes = [
            Node(**{**row, "aliases": tuple(row.get("aliases", ()))})
            for row in (_row("node", Node, row) for row in value.get("nodes", ()))
        ]
        edges = [Edge(**_row("edge", Edge, row)) for row in value.get("edges", ())]
        return cls.of(nodes, edges, merge_cycles=merge_cycles)

    @classmethod
    def core(cls) -> "Ontology":
        """The curated ontology that comes with the library.

        Raises:
            ConfigError: the packaged file is damaged.
        """
        return _core()

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads; plain lists and dictionaries."""
        return {
            "version": 1,
            "nodes": [
                dataclasses.asdict(n) | {"aliases": list(n.aliases)} for n in self._all_nodes
            ],
            "edges": [dataclasses.asdict(edge) for edge in self.edges],
        }

    @property
    def _all_nodes(self) -> list[Node]:
        return [node for slot in SLOTS for node in self.nodes[slot]]

    @functools.cached_property
    def nodes_hash(self) -> str:
        """SHA-256 of the nodes' canonical JSON."""
        return hashlib.sha256(canonical_json(self.as_json()["nodes"])).hexdigest()

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of `nodes_hash` and the edges; the order given has no part."""
        edges = [dataclasses.asdict(edge) for edge in self.edges]
        return hashlib.sha256(
            canonical_json({"edges": edges, "nodes_sha256": self.nodes_hash})
        ).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ontology) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @functools.cached_property
    def _indices(self) -> Mapping[str, Mapping[str, int]]:
        return {
            slot: types.MappingProxyType({node.id: i for i, node in enumerate(members)})
            for slot, members in self.nodes.items()
        }

    def index(self, slot: str) -> Mapping[str, int]:
        """The place of each node of a slot, by id: rows and columns of a closure.

        Raises:
            UnknownNodeError: no such slot.
        """
        if slot not in self._indices:
            raise unknown("slot", slot, SLOTS, slot)
        return self._indices[slot]

    def node(self, slot: str, node_id: str) -> Node:
        """The node of a slot with this id.

        Raises:
            UnknownNodeError: no such slot or node; it names the nearest ids.
        """
        place = self.index(slot).get(node_id)
        if place is None:
            raise unknown("node", node_id, self.index(slot), slot)
        return self.nodes[slot][place]

    @functools.cached_property
    def _names(self) -> Mapping[str, Mapping[str, str]]:
        names: dict[str, dict[str, str]] = {slot: {} for slot in SLOTS}
        for node in reversed(self._all_nodes):  # of two nodes with one alias the first has it
            for name in (*node.aliases, node.label):
                names[node.slot][name.casefold()] = node.id
        for node in self._all_nodes:
            names[node.slot][node.id.casefold()] = node.id
        return names

    def resolve(self, slot: str, name: str) -> str:
        """The id of the node with this id, label or alias; small and capital letters are one.

        Raises:
            UnknownNodeError: no such slot or name.
        """
        self.index(slot)
        found = self._names[slot].get(name.strip().casefold())
        if found is None:
            raise unknown("name", name, self._names[slot], slot)
        return found

    @property
    def next_edge_id(self) -> int:
        """An id that no edge has."""
        return self.edges[-1].id + 1 if self.edges else 1

    def edge(self, edge_id: int) -> Edge:
        """The edge with this id.

        Raises:
            ConfigError: there is none.
        """
        for edge in self.edges:
            if edge.id == edge_id:
                return edge
        raise ConfigError(
            f"edge_id={edge_id!r} is not allowed: the ontology has no such edge. List the edges "
            "and pass the id of one of them."
        )

    def with_nodes(self, *nodes: Node) -> "Ontology":
        """This ontology and more nodes; raises what `of` raises."""
        return Ontology.of([*self._all_nodes, *nodes], self.edges)

    def with_edges(self, *edges: Edge, merge_cycles: bool = False) -> "Ontology":
        """This ontology and more edges; raises what `of` raises."""
        return Ontology.of(self._all_nodes, [*self.edges, *edges], merge_cycles=merge_cycles)

    def retract(self, edge_id: int) -> "Ontology":
        """This ontology with an edge that no longer counts.

        Raises:
            ConfigError: no such edge.
        """
        return self._with_status(self.edge(edge_id), "retracted")

    def confirm(self, edge_id: int) -> "Ontology":
        """This ontology with a proposed edge that the user has confirmed.

        Raises:
            ConfigError: no such edge, or one that is not proposed.
        """
        edge = self.edge(edge_id)
        if edge.status != "proposed":
            raise ConfigError(
                f"edge_id={edge_id} is not allowed: the edge is {edge.status}, and only a proposed "
                "one can be confirmed. Add an edge with a new id instead."
            )
        return self._with_status(edge, "confirmed")

    def _with_status(self, edge: Edge, status: Any) -> "Ontology":
        changed = dataclasses.replace(edge, status=status)
        kept = [changed if other.id == edge.id else other for other in self.edges]
        return Ontology.of(self._all_nodes, kept)


@functools.cache
def _core() -> Ontology:
    file = importlib.resources.files("ariel_jax.algorithms.ariel") / "assets" / "ontology.json"
    return Ontology.from_json(json.loads(file.read_text(encoding="utf-8")))


def _row(what: str, kind: type, row: Any) -> dict[str, Any]:
    fields = dataclasses.fields(kind)
    if not isinstance(row, Mapping):
        raise ConfigError(
            f"a {what} of the ontology is {row!r}: write it as an object with fields."
        )
    known_keys(f"a {what} of the ontology", [field.name for field in fields], row)
    missing = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.name not in row
    ]
    if missing:
        raise ConfigError(f"a {what} of the ontology lacks {missing}: {dict(row)!r}. Add them.")
    return dict(row)


def _unseen(character: str) -> bool:
    """Control characters, line ends, marks of writing direction and halves of surrogate pairs."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTIONS


def _check_node(node: Node, by_slot: Mapping[str, Mapping[str, Node]]) -> None:
    if node.slot not in by_slot:
        raise unknown("slot", node.slot, SLOTS, node.slot)
    if node.id in ("", ANY, UNSPEC):
        raise ConfigError(
            f"id={node.id!r} is not allowed for a node: {ANY!r} and {UNSPEC!r} are reserved, and an "
            "id is not empty. Choose another id."
        )
    for text in (node.id, node.label, *node.aliases):
        if found := sorted({c for c in text if _unseen(c)}):
            raise ConfigError(
                f"node {node.id!a} of slot {node.slot!r} has {', '.join(f'U+{ord(c):04X}' for c in found)} "
                "in its id, label or aliases: control characters and marks of writing direction can show "
                "another name than the one that is meant. Remove them."
            )
    if node.id in by_slot[node.slot]:
        raise ConfigError(
            f"two nodes of slot {node.slot!r} have the id {node.id!r}: give each an id of its own."
        )


def _check_edge(edge: Edge, by_slot: Mapping[str, Mapping[str, Node]]) -> None:
    if edge.slot not in by_slot:
        raise unknown("slot", edge.slot, SLOTS, edge.slot)
    if edge.type not in EDGE_TYPES:
        raise unknown("type of edge", edge.type, EDGE_TYPES, edge.slot)
    one_of(EDGE_TYPES[edge.type], **{f"slot of a {edge.type!r} edge": edge.slot})
    one_of(STATUSES, status=edge.status)
    for end in (edge.src, edge.dst):
        if end not in by_slot[edge.slot]:
            raise unknown("node", end, by_slot[edge.slot], edge.slot)
    if edge.src == edge.dst:
        raise ConfigError(f"edge {edge.id} goes from {edge.src!r} to itself: leave it out.")
    if edge.scope is not None:
        if edge.slot == "data":
            raise ConfigError(
                f"edge {edge.id} of slot 'data' has the scope {edge.scope!r}: only edges of other "
                "slots can be limited to requests for some data. Remove the scope."
            )
        if edge.scope not in by_slot["data"]:
            raise unknown("node", edge.scope, by_slot["data"], "data")
