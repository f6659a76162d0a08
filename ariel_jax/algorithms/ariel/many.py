"""Many requests against one user's judgements: `judge` in bulk, with the same verdicts and premises."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel import bulk
from ariel_jax.algorithms.ariel.closure import Closures, Context
from ariel_jax.algorithms.ariel.history import History
from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS, INAPPROPRIATE
from ariel_jax.algorithms.ariel.judge import judge
from ariel_jax.algorithms.ariel.metrics import NAMES
from ariel_jax.algorithms.ariel.travel import ACTIVE, TRUSTED
from ariel_jax.algorithms.ariel.types import (
    ANY,
    HUMAN_SOURCES,
    SLOTS,
    UNSPEC,
    Judgement,
    Policy,
    Request,
)

_VALUES = {"appropriate": APPROPRIATE, "inappropriate": INAPPROPRIATE, "ask": ASKS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """What bulk judging says of one request; `judge` tells more.

    Attributes:
        verdict: `share`, `withhold` or `ask`.
        rule: as in `Outcome`.
        premise: id of the judgement to show first, None where it asks.
        n_approve, n_deny: surviving judgements for and against.
    """

    verdict: str
    rule: str | None
    premise: int | None
    n_approve: int
    n_deny: int


class Many:
    """Judges requests of one user in bulk.

    Args:
        closures: of the user's ontology.
        judgements: in any order.
        policy: None is `Policy()`.

    Raises:
        ConfigError: two judgements have one id.
        UnknownNodeError: one that counts is about a node that the ontology lacks.
    """

    def __init__(
        self, closures: Closures, judgements: Sequence[Judgement], policy: Policy | None = None
    ) -> None:
        self.closures, self.policy = closures, policy or Policy()
        self._host = History(closures, judgements)
        self._told = [
            j
            for j in sorted(judgements, key=lambda j: j.id)
            if j.source in HUMAN_SOURCES and j.superseded_by is None
        ]
        self._asks = any(j.value == "ask" for j in self._told)
        # A bundle that was judged is a data node of its own: what it covers follows from its items.
        sets = {j.request.data for j in self._told if len(j.request.data) > 1}
        self._sets = sorted(sets)
        self._index = {slot: dict(closures.ontology.index(slot)) for slot in SLOTS}
        n_data = len(self._index["data"])
        self._is_plain = not any(ANY in items for items in self._sets)
        self._set_index: dict[tuple[str, ...], int] = {
            items: n_data + i for i, items in enumerate(self._sets)
        }
        statuses = ACTIVE if self.policy.trust_proposed else TRUSTED
        self._contexts, of_data = self._find_contexts(statuses)
        nodes = np.array([self._row(j.request) for j in self._told], np.int32).reshape(
            -1, len(SLOTS)
        )
        value = np.array([_VALUES[j.value] for j in self._told], np.int8)
        approve = [self._closure(slot, "approve", statuses) for slot in SLOTS]
        options: dict[str, Any] = {"context": of_data, "breadth": self._breadth(nodes, value)}
        if self.policy.conflict == "most_specific":
            options["kind"] = [self._closure(s, "kind", statuses)[0] for s in SLOTS]
        same = [self._closure(slot, "deny", statuses) for slot in SLOTS]
        held = bulk.compile_history(approve, same, nodes, value, **options)
        keep = bulk.reliable(held, self.policy)
        deny = [self._closure(slot, "deny", ACTIVE) for slot in SLOTS]
        keep = np.concatenate([keep, np.ones(len(nodes) - len(keep), bool)])
        self.compiled = bulk.compile_history(approve, deny, nodes, value, keep=keep, **options)

    def encode(self, requests: Sequence[Request]) -> np.ndarray:
        """Requests of one item each as rows for `bulk.judge_batch`, int32 [B, 6]."""
        V = self.compiled.n_nodes
        index = [self._index[slot] | {UNSPEC: V} for slot in SLOTS]
        rows = [
            [at.get(r.slot(slot)[0], bulk.UNMAPPED) for at, slot in zip(index, SLOTS, strict=True)]
            for r in requests
        ]
        return np.array(rows, np.int32).reshape(-1, len(SLOTS))

    def judge(
        self, requests: Sequence[Request], scores: Sequence[float] | None = None
    ) -> list[Said]:
        """What `judge` says of each request.

        Those of several items go through it, all do where a judged bundle contains `ANY`, and where the
        user wants to be asked about something, those do that would be shared: `ask` travels in `judge`,
        not in bulk.

        Args:
            requests: of ids of nodes.
            scores: log-odds of another model, for vetoes; None for none.
        """
        single = [i for i, r in enumerate(requests) if self._is_plain and len(r.data) == 1]
        found: list[Said | None] = [None] * len(requests)
        if single:
            score = None if scores is None else np.array([scores[i] for i in single], np.float32)
            said = bulk.judge_batch(
                self.compiled,
                self.encode([requests[i] for i in single]),
                self.policy,
                score=score,
            )
            for i, one in zip(single, self._read(said), strict=True):
                is_held = self._asks and one.verdict == "share" and one.rule != "R0"
                found[i] = None if is_held else one
        for i, request in enumerate(requests):
            if found[i] is None:
                found[i] = self._alone(request, None if scores is None else scores[i])
        return [one for one in found if one is not None]

    def _read(self, said: bulk.BatchVerdict) -> list[Said]:
        ids = np.array([j.id for j in self._told], np.int64)
        row = np.asarray(self.compiled.row)
        verdict, n_app, n_den, yes, no, told = (
            np.asarray(a)
            for a in (
                said.verdict,
                said.n_app,
                said.n_den,
                said.wit_app,
                said.wit_den,
                said.repeated,
            )
        )
        found = []
        for i, number in enumerate(verdict.tolist()):
            name, rule, bit = NAMES[number], None, -1
            if name != "ask":
                repeats = told[i] >= 0
                rule = "R0" if repeats else {"share": "R1", "withhold": "R2"}[name]
                bit = told[i] if repeats else (yes[i] if name == "share" else no[i])
            premise = int(ids[row[bit]]) if bit >= 0 else None
            found.append(
                Said(
                    verdict=name,
                    rule=rule,
                    premise=premise,
                    n_approve=int(n_app[i]),
                    n_deny=int(n_den[i]),
                )
            )
        return found

    def _alone(self, request: Request, score: float | None) -> Said:
        said = judge(request, self._host, self.closures, self.policy, score=score)
        shares = said.verdict == "share"
        both = (len(said.premises), len(said.against))
        return Said(
            verdict=said.verdict,
            rule=said.rule,
            premise=said.premises[0] if said.premises and said.verdict != "ask" else None,
            n_approve=both[0 if shares else 1],
            n_deny=both[1 if shares else 0],
        )

    def _row(self, request: Request) -> list[int]:
        row = []
        for slot in SLOTS:
            items = request.slot(slot)
            first = items[0]
            if items in self._set_index:  # more than one
                row.append(self._set_index[items])
            elif first == ANY:
                row.append(bulk.ANYTHING)
            else:
                row.append(self._index[slot].get(first, bulk.NOT_SAID))
        return row

    def _find_contexts(self, statuses: tuple[str, ...]) -> tuple[list[Context], np.ndarray]:
        """The scopes that hold for some data node, the empty one first; which, for each node."""
        known: list[Context] = [frozenset()]
        numbers = []
        for items in [*((node,) for node in self._index["data"]), *self._sets]:
            context = self.closures.context(items, statuses=statuses)
            if context not in known:
                known.append(context)
            numbers.append(known.index(context))
        return known, np.array(numbers, np.int32)

    def _closure(self, slot: str, polarity: str, statuses: tuple[str, ...]) -> np.ndarray:
        """By context, bool [C, V, V], bundles included."""
        contexts = [frozenset[str]()] if polarity == "kind" else self._contexts
        made = [
            self.closures.matrix(slot, polarity, context=context, statuses=statuses)
            for context in contexts
        ]
        if slot == "data":
            made = [self._with_sets(matrix, polarity) for matrix in made]
        return np.stack(made)

    def _with_sets(self, matrix: np.ndarray, polarity: str) -> np.ndarray:
        n, index = len(matrix), self._index["data"]
        groups = [[i] for i in range(n)]
        # What is no node neither covers nor is covered: a bundle with such an item has none of its own.
        groups += [[index.get(item, n) for item in items] for items in self._sets]
        wide = np.zeros((n + 1, n + 1), bool)
        wide[:n, :n] = matrix
        made = np.zeros((len(groups), len(groups)), bool)
        made[:n, :n] = matrix
        for x, asked in enumerate(groups):
            for y in range(len(groups)) if x >= n else range(n, len(groups)):
                pairs = wide[np.ix_(asked, groups[y])]
                covered = pairs.any(0).all() if polarity == "deny" else pairs.any(1).all()
                made[x, y] = covered
        return made

    def _breadth(self, nodes: np.ndarray, value: np.ndarray) -> np.ndarray:
        """How many nodes each judgement covers, added up over slots, as `History` orders them."""
        total = np.zeros(len(nodes), np.int64)
        for k, slot in enumerate(SLOTS):
            n = len(self._index[slot])
            for polarity, of_side in (
                ("approve", value == APPROPRIATE),
                ("deny", value != APPROPRIATE),
            ):
                matrix = self.closures.matrix(slot, polarity, statuses=TRUSTED)
                counts = matrix.sum(0).tolist()
                if slot == "data":  # of a bundle, what one of its items covers
                    index = self._index["data"]
                    for items in self._sets:
                        columns = [index[item] for item in items if item in index]
                        counts.append(int(matrix[:, columns].any(1).sum()))
                counts = np.array([*counts, n, 0])
                about = nodes[of_side, k]
                place = np.where(about == bulk.ANYTHING, len(counts) - 2, about)
                total[of_side] += counts[np.where(about <= bulk.NOT_SAID, len(counts) - 1, place)]
        return total
