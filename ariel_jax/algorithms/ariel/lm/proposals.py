"""Edges that a language model proposes: yes or no, asked both ways. They wait for the user."""

import dataclasses
from collections.abc import Iterable

from ariel_jax._checks import one_of, positive, positive_int
from ariel_jax.algorithms.ariel.lexicon import SlotIndex
from ariel_jax.algorithms.ariel.lm.scoring import Chooser
from ariel_jax.algorithms.ariel.mapper import Nodes
from ariel_jax.algorithms.ariel.prompts import edge_prompt, prompts_hash
from ariel_jax.algorithms.ariel.types import EDGE_TYPES, Edge, EdgeType, Node

ASKED = ("reveals", "isa", "trust", "stricter", "narrower")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Log-odds of yes over no, for x towards y and for y towards x."""

    forth: float
    back: float


def ask(chooser: Chooser, edge_type: EdgeType, x: Node, y: Node) -> Answers:
    """Asks whether the edge holds, both ways.

    Returns:
        Log-odds, less those of the same question about nothing.

    Raises:
        ConfigError: no question exists for this type.
        ModelOutputError: a logit is no number.
    """
    one_of(ASKED, edge_type=edge_type)
    empty = _odds(chooser, edge_prompt(edge_type, None, None))
    return Answers(
        forth=_odds(chooser, edge_prompt(edge_type, x, y)) - empty,
        back=_odds(chooser, edge_prompt(edge_type, y, x)) - empty,
    )


def _odds(chooser: Chooser, prompt: str) -> float:
    yes, no = chooser.logprobs(prompt, ("yes", "no"))
    return float(yes - no)


def propose(
    chooser: Chooser,
    edge_type: EdgeType,
    pairs: Iterable[tuple[Node, Node]],
    *,
    first_id: int,
    margin: float = 1.0,
) -> list[Edge]:
    """Edges of status `proposed` for those pairs where the answers agree.

    A clear yes one way and a clear no the other give an edge, a clear yes both ways gives `same`; all
    else gives none. Proposed edges cannot support `share`.

    Args:
        chooser: with the model.
        edge_type: one of `ASKED`.
        pairs: of nodes of one slot; see `neighbours`.
        first_id: of the new edges, above all others of the ontology.
        margin: log-odds that make an answer clear.

    Raises:
        ConfigError: no question exists for this type, it may not stand in the slot, or margin is not
            above 0.
    """
    positive(margin=margin)
    positive_int(first_id=first_id)
    edges: list[Edge] = []
    for x, y in pairs:
        one_of(EDGE_TYPES[edge_type], slot=x.slot)
        one_of((x.slot,), slot_of_the_other=y.slot)
        found = decide(ask(chooser, edge_type, x, y), margin)
        if found == 0:
            continue
        src, dst = (y, x) if found < 0 else (x, y)
        edges.append(
            Edge(
                id=first_id + len(edges),
                slot=x.slot,
                type="same" if found == 2 else edge_type,
                src=src.id,
                dst=dst.id,
                status="proposed",
                origin=f"lm:{prompts_hash()}",
                reason=f"A language model says so of {src.label} and {dst.label}.",
            )
        )
    return edges


def decide(answers: Answers, margin: float) -> int:
    """1 for an edge forth, -1 for one back, 2 for `same`, 0 for none."""
    forth, back = answers.forth, answers.back
    if forth > margin and back > margin:
        return 2
    if forth > margin and back < -margin:
        return 1
    return -1 if back > margin and forth < -margin else 0


def neighbours(nodes: Nodes, slot: str, *, n: int = 3) -> list[tuple[Node, Node]]:
    """Pairs worth asking about: siblings of a family, and the n nodes nearest by letters.

    Returns:
        Each pair once, in the order of ids.
    """
    one_of(nodes, slot=slot)
    positive_int(n=n)
    by_id = {node.id: node for node in nodes[slot]}
    index = SlotIndex(slot, nodes[slot])
    pairs: set[tuple[str, str]] = set()
    for node in by_id.values():
        family = node.id.split(".")[0]
        near = {other for other in by_id if "." in node.id and other.startswith(f"{family}.")}
        near |= {other for other, _ in index.ranked(node.label)[: n + 1]}
        pairs |= {(min(node.id, o), max(node.id, o)) for o in near if o != node.id}
    return [(by_id[a], by_id[b]) for a, b in sorted(pairs)]
