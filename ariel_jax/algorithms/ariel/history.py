"""A user's judgements, packed so that one request is held against all of them at once. Host only."""

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ariel_jax.algorithms.ariel.closure import Closures, Context
from ariel_jax.algorithms.ariel.tables import WORD, Positions, Table
from ariel_jax.algorithms.ariel.travel import ACTIVE, TRUSTED
from ariel_jax.algorithms.ariel.types import (
    ANY,
    HUMAN_SOURCES,
    OPEN_SLOTS,
    SLOTS,
    UNSPEC,
    Judgement,
    Request,
)
from ariel_jax.errors import ConfigError

_LAST = (1 << 32) - 1
_POLARITY = {"appropriate": "approve", "inappropriate": "deny", "ask": "ask"}
_ROW = {"approve": 0, "deny": 1, "ask": 2}
_SEVERAL = 3

Rows = tuple[tuple[int, ...], ...]
"""For each slot, the rows of a request's nodes in that slot's tables."""


class History:
    """The judgements of one user, kept up to date as they come.

    Only what a human said counts. Of judgements on the same nodes the one with the larger id is kept:
    it alone repeats, and it alone is a premise, unless its value is `ask`: then it blocks. Each judgement
    that is added changes the counts of reliability at once.

    Args:
        closures: of the user's ontology; a changed ontology needs a new history.
        judgements: in any order.

    Raises:
        ConfigError: two judgements have one id.
        UnknownNodeError: one that counts is about a node that the ontology lacks.
    """

    def __init__(self, closures: Closures, judgements: Iterable[Judgement] = ()) -> None:
        self.closures = closures
        ontology = closures.ontology
        self._index = {slot: ontology.index(slot) for slot in SLOTS}
        self._scoped = {
            slot: frozenset(
                e.scope for e in ontology.edges if e.slot == slot and e.scope is not None
            )
            for slot in SLOTS
        }
        self._proposed = {
            slot: any(e.slot == slot and e.status == "proposed" for e in ontology.edges)
            for slot in SLOTS
        }
        self.has_proposed = any(self._proposed.values())
        self._tables: dict[tuple[str, str, tuple[str, ...], Context], Table] = {}
        self._latest: dict[tuple[tuple[str, ...], ...], tuple[Judgement, int]] = {}
        self._members: list[Judgement] = []
        self._last_id = 0
        self._tallies: dict[tuple[str, ...], npt.NDArray[np.int32]] = {}
        self._contexts: dict[tuple[str, ...], list[Context]] = {TRUSTED: [], ACTIVE: []}
        self._room = 0
        self._item_room = 0
        self._items = 0
        self._grow(64)
        self._grow_items(64)
        self._packing = False  # many are packed at once in the end
        for judgement in sorted(judgements, key=lambda j: j.id):
            self.add(judgement)
        self._packing = True
        for (slot, *_), table in self._tables.items():
            self._fill(slot, table)

    _ids: Positions
    _order: Positions
    _starts: Positions
    _rows: npt.NDArray[np.int64]
    _columns: npt.NDArray[np.int64]
    _where: npt.NDArray[np.int32]
    _live: npt.NDArray[np.uint64]
    _item: npt.NDArray[np.int64]

    def _grow(self, room: int) -> None:
        def longer(name: str, dtype: npt.DTypeLike, *before: int) -> None:
            made = np.zeros((*before, room), dtype)
            if self._room:
                made[..., : self._room] = getattr(self, name)
            setattr(self, name, made)

        longer("_ids", np.int64)
        longer("_order", np.int64)
        longer("_starts", np.int64)
        longer("_rows", np.int64, len(SLOTS))
        longer("_columns", np.int64, len(SLOTS))
        longer("_where", np.int32, 2)  # which context of TRUSTED and of ACTIVE edges
        words = -(-room // 64)
        live = np.zeros((4, words), WORD)  # `_ROW`, and those of several items
        if self._room:
            live[:, : self._live.shape[1]] = self._live
        self._live = live
        for table in self._tables.values():
            table.widen(words)
        for statuses, tally in self._tallies.items():
            made = np.zeros((2, room), np.int32)
            made[:, : self._room] = tally
            self._tallies[statuses] = made
        self._room = room

    def _grow_items(self, room: int) -> None:
        made = np.zeros((2, room), np.int64)  # rows and columns of data nodes
        if self._item_room:
            made[:, : self._item_room] = self._item
        self._item, self._item_room = made, room

    def __len__(self) -> int:
        """How many judgements it has kept for verdicts, superseded ones included."""
        return len(self._members)

    @property
    def last_id(self) -> int:
        """The largest id that was given, whatever became of that judgement; 0 without any."""
        return self._last_id

    def add(self, judgement: Judgement) -> None:
        """Takes one more judgement; what it repeats is superseded.

        Raises:
            ConfigError: its id is not larger than all before.
            UnknownNodeError: it is about a node that the ontology lacks; nothing has changed.
        """
        if judgement.id <= self._last_id:
            raise ConfigError(
                f"id={judgement.id} is not allowed: the history has judgements up to {self._last_id}, "
                "and the later one has the larger id. Build a new History from all of them."
            )
        counts = judgement.superseded_by is None and judgement.source in HUMAN_SOURCES
        if counts:
            self.columns(judgement.request)
        self._last_id = judgement.id
        if not counts:
            return
        _, old = self._latest.get(judgement.request.key, (None, -1))
        if old >= 0:
            self._remove(old)
        self._latest[judgement.request.key] = (judgement, self._store(judgement))

    def _store(self, judgement: Judgement) -> int:
        n, request = len(self._members), judgement.request
        if n == self._room:
            self._grow(n + n // 4 + 64)
        if self._items + len(request.data) > self._item_room:
            self._grow_items(self._items + self._items // 4 + len(request.data) + 64)
        rows, columns = self.rows(request), self.columns(request)
        self._members.append(judgement)
        self._ids[n] = judgement.id
        self._rows[:, n] = [places[0] for places in rows]
        self._columns[:, n] = [places[0] for places in columns]
        self._starts[n] = self._items
        end = self._items + len(request.data)
        self._item[0, self._items : end] = rows[0]
        self._item[1, self._items : end] = columns[0]
        self._items = end
        for i, statuses in enumerate((TRUSTED, ACTIVE)):
            context, known = self.closures.context(request.data, statuses=statuses), self._contexts
            if context not in known[statuses]:
                known[statuses].append(context)
            self._where[i, n] = known[statuses].index(context)
        polarity = _POLARITY[judgement.value]
        breadth = 0 if polarity == "ask" else self._breadth(columns, polarity)
        self._order[n] = (breadth << 32) | (_LAST - n)
        word, bit = divmod(n, 64)
        if self._packing:
            for (slot, *_), table in self._tables.items():
                table.add(n, columns[SLOTS.index(slot)])
        mask = WORD.type(1) << WORD.type(bit)
        self._live[_ROW[polarity], word] |= mask
        if len(request.data) > 1:
            self._live[_SEVERAL, word] |= mask
        for statuses in self._tallies if judgement.is_premise else ():
            self._count(statuses, n, 1)
            self._count_own(statuses, n)
        return n

    def _remove(self, n: int) -> None:
        word, bit = divmod(n, 64)
        self._live[:_SEVERAL, word] &= ~(WORD.type(1) << WORD.type(bit))
        for statuses in self._tallies if self._members[n].is_premise else ():
            self._count(statuses, n, -1)

    def rows(self, request: Request) -> Rows:
        """The rows of a request's nodes; V where there is no such node."""
        return tuple(
            tuple(self._index[slot].get(x, len(self._index[slot])) for x in request.slot(slot))
            for slot in SLOTS
        )

    def columns(self, request: Request) -> Rows:
        """The columns of a judged request's nodes.

        Raises:
            UnknownNodeError: the ontology lacks one.
        """
        return tuple(tuple(self._column(slot, y) for y in request.slot(slot)) for slot in SLOTS)

    def _column(self, slot: str, y: str) -> int:
        index = self._index[slot]
        if y in (ANY, UNSPEC):
            return len(index) + (y == UNSPEC)
        if y not in index:
            self.closures.ontology.node(slot, y)
        return index[y]

    def _table(
        self, slot: str, polarity: str, statuses: tuple[str, ...], context: Context
    ) -> Table:
        # Tables that are the same are one: most slots have no scoped and no proposed edges.
        if statuses == ACTIVE and not self._proposed[slot]:
            statuses = TRUSTED
        key = (slot, polarity, statuses, context & self._scoped[slot])
        table = self._tables.get(key)
        if table is None:
            travels = "deny" if polarity == "ask" else polarity
            matrix = self.closures.matrix(slot, travels, context=key[3], statuses=statuses)
            table = Table(matrix)
            if polarity == "ask":  # what is left open is no way round it
                table.covers[-1, :] = True
                table.covers[:, -1] |= slot in OPEN_SLOTS
            if self._packing:
                self._fill(slot, table)
            self._tables[key] = table
        return table

    def _fill(self, slot: str, table: Table) -> None:
        if slot == "data":
            columns, starts = self._item[1, : self._items], self._starts[: len(self)]
            starts = None if self._items == len(self) else starts
        else:
            columns, starts = self._columns[SLOTS.index(slot), : len(self)], None
        table.fill(columns, starts, self._live.shape[1])

    def _breadth(self, columns: Rows, polarity: str) -> int:
        total = 0
        for slot, places in zip(SLOTS, columns, strict=True):
            table = self._table(slot, polarity, TRUSTED, frozenset())
            if len(places) == 1:
                total += int(table.breadth[places[0]])
            else:
                total += int(np.count_nonzero(table.column(places)[:-1]))
        return total

    def latest(self, request: Request) -> tuple[Judgement, int] | None:
        """The judgement on the same nodes that stands, and its position."""
        return self._latest.get(request.key)

    def covering(
        self, rows: Rows, polarity: str, statuses: tuple[str, ...], context: Context
    ) -> npt.NDArray[np.bool_]:
        """Which judgements of a polarity cover a request.

        Args:
            rows: of the request.
            polarity: `approve`, `deny`, or `ask`, which travels as `deny` does; `kind`: all premises, of
                whose request this is a kind.
            statuses: of the edges that count.
            context: scopes that hold.

        Returns:
            bool [len(self)]: approvals of a set cover its subsets (of items or of what they cover),
            denials of a set its supersets.
        """
        live = self._live
        if polarity == "kind":
            words = live[0] | live[1]
        else:
            words = live[_ROW[polarity]].copy()
        for slot, places in zip(SLOTS, rows, strict=True):
            bits = self._table(slot, polarity, statuses, context).bits
            if polarity in ("deny", "ask") and len(places) > 1:
                words &= np.bitwise_or.reduce(bits[list(places)], axis=0)
            else:
                for place in places:
                    words &= bits[place]
        found = np.unpackbits(words.view(np.uint8), bitorder="little")[: len(self)].view(np.bool_)
        if polarity in ("deny", "ask") and (words & live[_SEVERAL]).any():
            # So far each has one denied item that is covered; of several, all must be.
            covers = self._table("data", polarity, statuses, context).covers
            reached = np.logical_or.reduce(covers[list(rows[0])], axis=0)
            hit = reached[self._item[1, : self._items]]
            found = found & np.logical_and.reduceat(hit, self._starts[: len(self)])
        return found

    def covered(
        self, columns: Rows, polarity: str, statuses: tuple[str, ...], *, scoped: bool = True
    ) -> npt.NDArray[np.bool_]:
        """Which judgements' requests a judgement of a polarity would cover.

        Args:
            columns: of the request that it is about.
            polarity: as for `covering`.
            statuses: of the edges that count.
            scoped: whether scoped edges count, where their scope holds for the covered request.

        Returns:
            bool [len(self)], superseded judgements included.
        """
        n = len(self)
        contexts = self._contexts[statuses] if scoped else [frozenset()]
        where = self._where[0 if statuses == TRUSTED else 1, :n]
        found = np.ones(n, np.bool_)
        if not n:
            return found
        for i, slot in enumerate(SLOTS[1:], start=1):
            if scoped and self._scoped[slot]:
                tables = [self._table(slot, polarity, statuses, c) for c in contexts]
                found &= np.stack([t.column(columns[i]) for t in tables])[where, self._rows[i, :n]]
            else:
                table = self._table(slot, polarity, statuses, frozenset())
                found &= table.column(columns[i])[self._rows[i, :n]]
        table = self._table("data", polarity, statuses, frozenset())
        items = self._item[0, : self._items]
        alone = self._items == n
        starts = self._starts[:n]
        if polarity == "deny":
            for y in columns[0]:
                hit = table.covers[:, y][items]
                found &= hit if alone else np.logical_or.reduceat(hit, starts)
        else:
            hit = table.column(columns[0])[items]
            found &= hit if alone else np.logical_and.reduceat(hit, starts)
        return found

    def _live_bools(self, row: int) -> npt.NDArray[np.bool_]:
        bits = np.unpackbits(self._live[row].view(np.uint8), bitorder="little")
        return bits[: len(self)].view(np.bool_)

    def _count(self, statuses: tuple[str, ...], n: int, sign: int) -> None:
        """Adds or takes judgement n as one that others entail or contradict."""
        judgement, tally = self._members[n], self._tallies[statuses]
        rows = self.rows(judgement.request)
        context = self._contexts[statuses][self._where[0 if statuses == TRUSTED else 1, n]]
        for polarity in ("approve", "deny"):
            hit = self.covering(rows, polarity, statuses, context)
            hit[n] = False
            agrees = polarity == _POLARITY[judgement.value]
            tally[0 if agrees else 1, : len(self)] += np.int32(sign) * hit

    def _count_own(self, statuses: tuple[str, ...], n: int) -> None:
        judgement, tally = self._members[n], self._tallies[statuses]
        polarity = _POLARITY[judgement.value]
        hit = self.covered(self.columns(judgement.request), polarity, statuses)
        hit[n] = False
        same = 0 if polarity == "approve" else 1
        tally[0, n] = np.count_nonzero(hit & self._live_bools(same))
        tally[1, n] = np.count_nonzero(hit & self._live_bools(1 - same))

    def tally(self, statuses: tuple[str, ...]) -> npt.NDArray[np.int32]:
        """How many other judgements each one entails and contradicts along such edges.

        Returns:
            int32 [2, len(self)]: ok, bad.
        """
        if statuses not in self._tallies:
            self._tallies[statuses] = np.zeros((2, self._room), np.int32)
            live = self._live_bools(0) | self._live_bools(1)
            for n in np.flatnonzero(live):
                self._count(statuses, int(n), 1)
        return self._tallies[statuses][:, : len(self)]

    def in_order(self, positions: Positions) -> tuple[int, ...]:
        """Ids of judgements: those that cover least first, of these the latest."""
        places = _LAST - (np.sort(self._order[positions]) & _LAST)
        return tuple(self._ids[places].tolist())

    def ids(self, positions: Positions) -> list[int]:
        """Ids of judgements, in the order given."""
        return self._ids[positions].tolist()

    def members(self, positions: Positions) -> list[Judgement]:
        """The judgements at these positions."""
        return [self._members[n] for n in positions.tolist()]

    def premise(self, judgement_id: int) -> Judgement | None:
        """The stored judgement with this id; None where it is no premise."""
        n = int(np.searchsorted(self._ids[: len(self)], judgement_id))
        found = self._members[n] if n < len(self) else None
        known = found is not None and found.id == judgement_id and found.value != "ask"
        return found if known else None

    def newest(self, n: int) -> Positions:
        """The latest that stand, at most n of them, by id."""
        return np.flatnonzero(self._live_bools(0) | self._live_bools(1))[-n:]

    def about(self, slot: str, node: str, positions: Positions) -> npt.NDArray[np.bool_]:
        """Which of these judgements are about that node in a slot other than `data`."""
        known = node in (ANY, UNSPEC) or node in self._index[slot]
        column = self._column(slot, node) if known else -1
        return self._columns[SLOTS.index(slot), positions] == column

    def missing(self, request: Request, positions: Positions) -> npt.NDArray[np.bool_]:
        """In which slots judgements do not cover a request, along trusted edges.

        Args:
            request: of the user.
            positions: of approvals and denials, each held against it by its own polarity.

        Returns:
            bool [len(SLOTS), len(positions)].
        """
        context = self.closures.context(request.data)
        rows, denies = self.rows(request), self._live_bools(1)[positions]
        ends = np.append(self._starts[1 : len(self)], self._items)
        alone = (ends[positions] - self._starts[positions] == 1).all()
        found = np.empty((len(SLOTS), len(positions)), np.bool_)
        for i, slot in enumerate(SLOTS):
            columns = self._columns[i, positions]
            covered = []
            for polarity in ("approve", "deny"):
                matrix = self.closures.matrix(slot, polarity, context=context)
                if i or (alone and len(rows[0]) == 1):
                    covered.append(_covers(matrix, rows[i][0], columns))
                    continue
                spans = zip(self._starts[positions], ends[positions], strict=True)
                items = [self._item[1, start:end] for start, end in spans]
                pairs = [np.stack([_covers(matrix, x, y) for x in rows[0]]) for y in items]
                whole = 1 if polarity == "approve" else 0  # of [asked, judged]
                covered.append(np.array([p.any(whole).all() for p in pairs], np.bool_))
            found[i] = ~np.where(denies, covered[1], covered[0])
        return found

    def premises(self) -> list[Judgement]:
        """All that stand, by id."""
        live = self._live_bools(0) | self._live_bools(1)
        return list(itertools.compress(self._members, live.tolist()))


def _covers(
    matrix: npt.NDArray[np.bool_], row: int, columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether judgements about the columns cover the row: `ANY` does, and what is no node is covered by that alone."""
    n = len(matrix)
    if row >= n:
        return columns == n
    return (columns == n) | ((columns < n) & matrix[row, np.minimum(columns, n - 1)])
