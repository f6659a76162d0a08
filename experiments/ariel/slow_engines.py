"""The rules by other means, for `throughput`: words of NumPy, loops in Python, and clingo."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel import bulk, metrics
from ariel_jax.algorithms.ariel.importers import APPROPRIATE
from ariel_jax.algorithms.ariel.interchange import to_asp
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Edge, EdgeType, Judgement, Node, Request
from ariel_jax.errors import missing_extra

Engine = Callable[[np.ndarray], list[int]]
"""Verdicts of requests [B, K]."""
SLOTS: Mapping[str, EdgeType] = {
    "data": "reveals",
    "recipient": "trust",
    "sender": "trust",
    "principle": "stricter",
}
"""The slots of the experiment, and what orders each: no kinds, so a denial travels as an approval turned round."""
BLOCK = 4096  # requests
_VERDICTS = {"share": metrics.SHARE, "withhold": metrics.WITHHOLD, "ask": metrics.ASK}


class Words:
    """The same judge in NumPy, on words of 64 bits."""

    def __init__(self, history: bulk.CompiledHistory) -> None:
        def wide(a: Any) -> np.ndarray:
            bits = np.asarray(a)
            if bits.shape[-1] % 2:
                bits = np.concatenate([bits, np.zeros((*bits.shape[:-1], 1), np.uint32)], -1)
            return np.ascontiguousarray(bits).view(np.uint64)

        self.table, self.yes, self.no = (
            wide(a) for a in (history.table, history.approving, history.denying)
        )

    def judge(self, asked: np.ndarray) -> tuple[np.ndarray, ...]:
        """Verdicts, counts and first premises; conflicts are asked."""
        parts = [self._some(asked[i : i + BLOCK]) for i in range(0, len(asked), BLOCK)]
        return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))

    def _some(self, asked: np.ndarray) -> tuple[np.ndarray, ...]:
        covering = self.table[0][asked[:, 0]]
        for k in range(1, asked.shape[1]):
            covering &= self.table[k][asked[:, k]]
        counts, firsts = [], []
        for side in (self.yes, self.no):
            mask = covering & side
            counts.append(np.bitwise_count(mask).sum(1, dtype=np.int32))
            word = (mask != 0).argmax(1)
            bits = mask[np.arange(len(mask)), word]
            low = np.bitwise_count((bits & (~bits + np.uint64(1))) - np.uint64(1)).astype(np.int32)
            firsts.append(np.where(bits == 0, -1, word.astype(np.int32) * 64 + low))
        yes, no = counts[0] > 0, counts[1] > 0
        verdict = np.where(yes == no, metrics.ASK, np.where(yes, metrics.SHARE, metrics.WITHHOLD))
        return (verdict.astype(np.int8), *counts, *firsts)


def plain_python(order: Sequence[np.ndarray], nodes: np.ndarray, value: np.ndarray) -> Engine:
    """Two loops over lists; a judgement on the same nodes decides."""
    lists = [a.tolist() for a in order]
    premises = list(zip(nodes.tolist(), value.tolist(), strict=True))
    slots = range(len(lists))

    def judge(asked: np.ndarray) -> list[int]:
        found = []
        for r in asked.tolist():
            counts, repeat = [0, 0], None
            for p, v in premises:
                if p == r:
                    repeat = v
                if all(lists[k][r[k]][p[k]] if v else lists[k][p[k]][r[k]] for k in slots):
                    counts[v] += 1
            yes = counts[APPROPRIATE] > 0 if repeat is None else repeat == APPROPRIATE
            no = counts[1 - APPROPRIATE] > 0 if repeat is None else not yes
            found.append(metrics.ASK if yes == no else metrics.SHARE if yes else metrics.WITHHOLD)
        return found

    return judge


def clingo(order: Sequence[np.ndarray], nodes: np.ndarray, value: np.ndarray) -> Engine:
    """The answer-set program that the library exports, grounded and solved for all requests at once."""
    try:
        import clingo as solver
    except ImportError as error:
        raise missing_extra("clingo", "test", "ARIEL's rules as an answer-set program") from error
    ontology = Ontology.of(_nodes(order), _edges(order))
    said = [
        Judgement(id=i, request=_request(row), value="appropriate" if v == APPROPRIATE else "inappropriate")
        for i, (row, v) in enumerate(zip(nodes.tolist(), value.tolist(), strict=True), start=1)
    ]  # fmt: skip

    def judge(asked: np.ndarray) -> list[int]:
        requests = {str(i): _request(row) for i, row in enumerate(asked.tolist())}
        control = solver.Control(["--warn=none"])
        control.add("base", [], to_asp(ontology, said, requests))
        control.ground([("base", [])])
        with control.solve(yield_=True) as models:
            (found,) = [
                {atom.arguments[0].string: _VERDICTS[atom.name] for atom in model.symbols(shown=True)}
                for model in models
            ]  # fmt: skip
        return [found[name] for name in requests]

    return judge


ENGINES: Mapping[str, Callable[[Sequence[np.ndarray], np.ndarray, np.ndarray], Engine]] = {
    "plain Python": plain_python,
    "clingo": clingo,
}


def _nodes(order: Sequence[np.ndarray]) -> list[Node]:
    made = [
        Node(slot=slot, id=f"{slot}.{i}", label=f"{slot} {i}")
        for slot, closure in zip(SLOTS, order, strict=True)
        for i in range(len(closure))
    ]
    return [*made, *(Node(slot=s, id="only", label=s) for s in ("subject", "purpose"))]


def _edges(order: Sequence[np.ndarray]) -> list[Edge]:
    """One edge from each node to the next in its order."""
    made = []
    for (slot, kind), closure in zip(SLOTS.items(), order, strict=True):
        chain = np.argsort(
            closure.sum(0)
        ).tolist()  # what is covered by an approval of few comes first
        for x, y in itertools.pairwise(chain):
            # An approval of y covers x where closure[x, y]; only `reveals` is written the other way round.
            low, high = (x, y) if closure[x, y] else (y, x)
            src, dst = (high, low) if kind == "reveals" else (low, high)
            made.append(Edge(id=len(made) + 1, slot=slot, type=kind, src=f"{slot}.{src}", dst=f"{slot}.{dst}"))  # fmt: skip
    return made


def _request(row: Sequence[int]) -> Request:
    named = {slot: f"{slot}.{i}" for slot, i in zip(SLOTS, row, strict=True)}
    return Request(data=(named.pop("data"),), subject="only", purpose="only", **named)
