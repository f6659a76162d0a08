"""The rules read once more for the checker of proofs, in plain searches. Shares no code with the judge."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

SLOTS = ("data", "subject", "sender", "recipient", "purpose", "principle")
_OPEN = ("purpose", "principle")
_HUMAN = ("user_elicited", "user_cli", "user_ui", "imported_by_user")
_VERDICTS = {"appropriate": "share", "inappropriate": "withhold"}
# From what is asked to what was judged: an approval of all doctors covers a cardiologist, one of an
# address covers the city that it reveals; a denial of the city covers the address.
_FORWARD = {
    "appropriate": ("isa", "narrower", "trust", "stricter", "same"),
    "inappropriate": ("isa", "narrower", "reveals", "same"),
    "kind": ("isa", "narrower", "same"),
}
_BACKWARD = {
    "appropriate": ("reveals", "same"),
    "inappropriate": ("trust", "stricter", "same"),
    "kind": ("same",),
}

_Judged = dict[int, Any]
Nodes = tuple[tuple[str, ...], ...]
"""For each of `SLOTS` what stands there."""


@dataclasses.dataclass
class Found:
    """What the rules say, with judgements by id."""

    verdict: str
    rule: str | None = None
    reason: str = ""
    premises: _Judged = dataclasses.field(default_factory=dict)
    against: _Judged = dataclasses.field(default_factory=dict)
    dropped: _Judged = dataclasses.field(default_factory=dict)
    alone: dict[str, "Found"] = dataclasses.field(default_factory=dict)
    suggestion: str | None = None


def ways(edge: Any, value: str) -> list[tuple[str, str]]:
    """From what is asked to what was judged, along one edge."""
    forward = [(edge.src, edge.dst)] if edge.type in _FORWARD[value] else []
    return forward + ([(edge.dst, edge.src)] if edge.type in _BACKWARD[value] else [])


def nodes_of(judgement: Any) -> dict[str, list[str]]:
    """What a judgement is about."""
    return {slot: list(judgement.request.slot(slot)) for slot in SLOTS}


class Travel:
    """How far judgements reach along edges; what was searched for once is kept.

    Args:
        edges: by id.
    """

    def __init__(self, edges: Mapping[int, Any]) -> None:
        self.edges = edges
        self.scoped = {edge.slot for edge in edges.values() if edge.scope is not None}
        self._arrows: dict[Any, dict[str, list[str]]] = {}
        self._reached: dict[Any, frozenset[str]] = {}

    def counts(self, edge: Any, items: Sequence[str], statuses: tuple[str, ...]) -> bool:
        """Whether an edge counts for these items; without any, no scope holds."""
        if edge.status not in statuses or edge.scope is None:
            return edge.status in statuses
        kinds = [self.reach("data", "kind", item, (), statuses) for item in items]
        return bool(kinds) and all(edge.scope in above for above in kinds)

    def reach(
        self, slot: str, value: str, x: str, items: Sequence[str], statuses: tuple[str, ...]
    ) -> frozenset[str]:
        """What may be judged so that it covers x."""
        key = (slot, value, tuple(items) if slot in self.scoped else (), statuses)
        if (x, key) not in self._reached:
            if key not in self._arrows:
                arrows: dict[str, list[str]] = {}
                for start, there in self._usable(slot, value, items, statuses):
                    arrows.setdefault(start, []).append(there)
                self._arrows[key] = arrows  # only when it is whole: it outlives an interruption
            found, waiting = {x}, [x]
            while waiting:
                for there in self._arrows[key].get(waiting.pop(), ()):
                    if there not in found:
                        found.add(there)
                        waiting.append(there)
            self._reached[x, key] = frozenset(found)
        return self._reached[x, key]

    def _usable(
        self, slot: str, value: str, items: Sequence[str], statuses: tuple[str, ...]
    ) -> Iterator[tuple[str, str]]:
        for edge in self.edges.values():
            if edge.slot == slot and self.counts(edge, items, statuses):
                yield from ways(edge, value)

    def joins(
        self, slot: str, value: str, asked: Nodes, judged: Sequence[str], statuses: tuple[str, ...]
    ) -> bool:
        """Whether a slot of what was judged covers that of what is asked; `ask` goes where denials do."""
        items = () if value == "kind" else asked[0]
        travels = "inappropriate" if value == "ask" else value

        def hit(x: str, y: str) -> bool:
            if y == "ANY" or (value == "ask" and (x == "UNSPEC" or y == "UNSPEC")):
                return y == "ANY" or x == "UNSPEC" or slot in _OPEN
            return "UNSPEC" not in (x, y) and y in self.reach(slot, travels, x, items, statuses)

        here = asked[SLOTS.index(slot)]
        if travels == "inappropriate":
            return all(any(hit(x, y) for x in here) for y in judged)
        return all(any(hit(x, y) for y in judged) for x in here)


class Rules:
    """A policy, edges, and the judgements up to the last one.

    Args:
        policy: as a proof has it.
        travel: along the edges.
        judgements: of the user.
        last: id of the last judgement that was seen.
        read: what earlier rules read of judgements, by id; what these read is added.
    """

    def __init__(
        self,
        policy: Mapping[str, Any],
        travel: Travel,
        judgements: Iterable[Any],
        last: int,
        read: dict[int, tuple[Any, Nodes]],
    ) -> None:
        self.policy, self.travel = policy, travel
        self.standing: dict[Nodes, Any] = {}
        for j in sorted(judgements, key=lambda j: j.id):
            later = j.superseded_by is not None and j.superseded_by <= last
            if j.id <= last and j.source in _HUMAN and not later:
                request, nodes = read.get(j.id, (None, ()))
                if request is not j.request:
                    nodes = tuple(j.request.slot(s) for s in SLOTS)
                    read[j.id] = (j.request, nodes)
                self.standing[nodes] = j
        self.by_id = {j.id: j for j in self.standing.values()}
        self.nodes: dict[int, Nodes] = {j.id: nodes for nodes, j in self.standing.items()}
        self.trusted = ("curated", "confirmed")
        self.active = (*self.trusted, "proposed")
        self.statuses = self.active if policy["trust_proposed"] else self.trusted
        self.tallies: dict[int, tuple[int, int]] = {}

    def statuses_of(self, value: str) -> tuple[str, ...]:
        """Of the edges that such judgements travel along."""
        return self.statuses if value == "appropriate" else self.active

    def covers(self, judged: Nodes, value: str, asked: Nodes, statuses: tuple[str, ...]) -> bool:
        """Whether a judgement about some nodes, with that value, would cover others."""
        pairs = zip(SLOTS, judged, strict=True)
        return all(self.travel.joins(s, value, asked, nodes, statuses) for s, nodes in pairs)

    def supporters(
        self, value: str, asked: Nodes, statuses: tuple[str, ...] | None = None
    ) -> _Judged:
        """Judgements of a value that cover what is asked."""
        along = statuses or self.statuses_of(value)
        known: dict[Any, bool] = {}  # by slot, for the nodes that stand there in many judgements

        def fits(slot: str, judged: tuple[str, ...]) -> bool:
            if (slot, judged) not in known:
                known[slot, judged] = self.travel.joins(slot, value, asked, judged, along)
            return known[slot, judged]

        nodes = self.nodes
        return {
            n: j
            for n, j in self.by_id.items()
            if j.value == value and all(map(fits, SLOTS, nodes[n]))
        }

    def entailed(self, judged: Nodes, value: str) -> _Judged:
        """Judgements, but those that ask, that one about these nodes with that value would cover."""
        known: dict[Any, bool] = {}
        scoped = self.travel.scoped
        found = {}
        for n, other in self.by_id.items():
            if other.value == "ask":
                continue
            asked = self.nodes[n]
            for slot, here, there in zip(SLOTS, judged, asked, strict=True):
                key = (slot, there, asked[0] if slot in scoped else ())
                if key not in known:
                    known[key] = self.travel.joins(slot, value, asked, here, self.statuses)
                if not known[key]:
                    break
            else:
                found[n] = other
        return found

    def tally(self, j: Any) -> tuple[int, int]:
        """How many others a premise entails and contradicts."""
        if j.id not in self.tallies:
            others = self.entailed(self.nodes[j.id], j.value)
            hit = [other.value == j.value for n, other in others.items() if n != j.id]
            self.tallies[j.id] = (sum(hit), len(hit) - sum(hit))
        return self.tallies[j.id]

    def reliable(self, j: Any) -> bool:
        """Whether the policy keeps a premise."""
        limit = self.policy["reliability"]
        if limit == "off":
            return True
        ok, bad = self.tally(j)
        return bad == 0 if limit == "strict" else (ok + 1) / (ok + bad + 2) >= limit

    def why(self, j: Any) -> str:
        """Why a premise is dropped."""
        ok, bad = self.tally(j)
        return f"bad={bad}" if self.policy["reliability"] == "strict" else f"ok={ok}, bad={bad}"

    def judge(self, asked: Nodes, score: float | None, *, lacks_score: bool = False) -> Found:
        """The verdict on a request, with the suggestion and the veto of a score, or of a missing one."""
        found = self.decide(asked)
        if found.reason in ("no_premise", "partial", "min_support"):
            self._suggest(found, asked)
        shares = found.verdict == "share"
        limit = self.policy["veto_share" if shares else "veto_withhold"]
        if limit is None or found.rule in (None, "R0"):
            return found
        if lacks_score if score is None else (score <= limit if shares else score >= limit):
            found.verdict, found.rule, found.reason = "ask", None, "veto"
        return found

    def _suggest(self, found: Found, asked: Nodes) -> None:
        def kept(value: str, statuses: tuple[str, ...]) -> int:
            return sum(self.reliable(j) for j in self.supporters(value, asked, statuses).values())

        denied = kept("inappropriate", self.active)
        if denied or any(one.verdict == "withhold" for one in found.alone.values()):
            return
        more, fewer = kept("appropriate", self.active), kept("appropriate", self.statuses)
        if more > fewer and more >= self.policy["min_support"]:
            found.suggestion = "share"
            if found.reason == "no_premise":
                found.reason = "proposed_only"

    def decide(self, asked: Nodes) -> Found:
        """The verdict by judgements alone."""
        repeat = self.standing.get(asked)
        if repeat is not None:
            if repeat.value == "ask":
                return Found("ask", reason="always_ask")
            return Found(_VERDICTS[repeat.value], "R0", premises={repeat.id: repeat})
        items = [((item,), *asked[1:]) for item in asked[0]]
        alone = {one[0][0]: self.decide(one) for one in items} if len(items) > 1 else {}
        approvals, denials = (self.supporters(value, asked) for value in _VERDICTS)
        approve = {n: j for n, j in approvals.items() if self.reliable(j)}
        deny = {n: j for n, j in denials.items() if self.reliable(j)}
        withheld = [one for one in alone.values() if one.verdict == "withhold"]
        for one in withheld:
            deny |= one.premises
        found = self._resolve(approve, deny, asked)
        shares = [one for one in alone.values() if one.verdict == "share"]
        if found.reason == "no_premise" and shares:
            found = Found("ask", reason="partial")
            if self.policy["bundle"] == "itemwise" and len(shares) == len(alone):
                premises = {n: j for one in shares for n, j in one.premises.items()}
                found = Found("share", "R1-itemwise", premises=premises)
        if found.verdict == "share" and withheld:
            found = Found("ask", reason="conflict", premises=approve, against=deny)
        seen = approvals | denials
        for one in alone.values():
            seen |= one.dropped
        kept = approve | deny | found.premises
        found.dropped = {n: j for n, j in seen.items() if n not in kept}
        found.alone = alone
        asking: _Judged = {}
        for one in [asked, *items]:
            asking |= self.supporters("ask", one) if found.verdict == "share" else {}
        if asking:
            found.verdict, found.rule, found.reason = "ask", None, "always_ask"
            found.against = found.against | asking
        return found

    def _resolve(self, approve: _Judged, deny: _Judged, asked: Nodes) -> Found:
        if not approve and not deny:
            return Found("ask", reason="no_premise")
        left_approve, left_deny, share = approve, deny, bool(approve)
        if approve and deny:
            conflict, both = self.policy["conflict"], {**approve, **deny}
            if conflict == "most_specific":
                left_approve, left_deny = (
                    {n: q for n, q in side.items() if not self._defeated(q, both, asked)}
                    for side in (approve, deny)
                )
            says = {
                "deny_overrides": False,
                "latest": max(both) in approve,
                "majority": len(approve) > len(deny) if len(approve) != len(deny) else None,
                "most_specific": None if left_approve and left_deny else bool(left_approve),
            }.get(conflict)
            if says is None:
                return Found("ask", reason="conflict", premises=approve, against=deny)
            share = says
        winning, against = (left_approve, deny) if share else (left_deny, approve)
        if len(winning) < self.policy["min_support"]:
            return Found("ask", reason="min_support", premises=winning, against=against)
        verdict, rule = ("share", "R1") if share else ("withhold", "R2")
        return Found(verdict, rule, premises=winning, against=against)

    def _defeated(self, q: Any, others: _Judged, asked: Nodes) -> bool:
        about = self.nodes[q.id]

        def below(one: Nodes, judged: Nodes) -> bool:
            return self.covers(judged, "kind", one, self.statuses)

        return any(
            below(asked, self.nodes[n])
            and below(self.nodes[n], about)
            and not below(about, self.nodes[n])
            for n in others
        )
