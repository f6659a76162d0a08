"""Checks a proof by plain searches. Shares no code with what made it, and may be read by itself."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ariel_jax.algorithms.ariel.recount import SLOTS, Found, Rules, Travel, nodes_of, ways
from ariel_jax.errors import IntegrityError

_KEYS = (
    "version verdict rule reason user request mapping premises paths support against dropped items "
    "suggestion policy score last_judgement nodes_sha256 ontology_hash mapper engine prev_decision_hash"
).split()
_WORDS = "user nodes_sha256 ontology_hash mapper engine prev_decision_hash verdict reason".split()
_POLICY = "conflict reliability min_support bundle trust_proposed veto_share veto_withhold".split()
_CONFLICTS = ("escalate", "deny_overrides", "most_specific", "latest", "majority")
_NOT_READ = ("unmapped", "mapper_failed")
_REASONS = (
    *("no_premise", "conflict", "min_support", "veto", "proposed_only", "always_ask", "partial"),
    *_NOT_READ,
)
_TEXT = {1: "text_sha256", 2: "text_hmac"}
"""What a version's proofs have of the text."""
_SHOWN = 3


def verify_proof(
    proof: Mapping[str, Any],
    edges: Iterable[Any],
    judgements: Iterable[Any],
    *,
    last_judgement: int | None = None,
) -> None:
    """Checks that a verdict follows from the user's judgements and an ontology's edges.

    That it has every field, no other one, and values that may stand there; that every premise exists,
    stands and comes from a human; that every step's edge exists, counts and may be travelled that way;
    that there is one path, and no other, for what must be joined to each premise in each slot; and, by
    reading the rules once more over all judgements, that verdict, rule, reason, support, what is
    against it, what was dropped and why, what is said of items and what is suggested are so.

    What it cannot know, and what only a log protects that chains proofs by their hashes: `user`,
    `mapper`, `engine`, `prev_decision_hash` and the digest of the text; that policy and score, where
    another one gives the same, were those in force; in `mapping` all but the nodes, and their order;
    which of the supporting judgements are shown where it asks and in what order, and which of several
    good paths; a question that says `unmapped` or `mapper_failed` in place of another question; that
    the request's nodes are in the ontology; and, unless `last_judgement` is given, that none of the
    later judgements was known.

    Args:
        proof: of `proof.build`.
        edges: all `Edge` of the ontology of that time, retracted ones included.
        judgements: all `Judgement` of the user; those after the proof's last one are left out.
        last_judgement: what the proof must say its last one is, from the log; None: not known.

    Raises:
        IntegrityError: it does not; the message says where.
    """
    Checker(edges).verify(proof, judgements, last_judgement=last_judgement)


class Checker:
    """Checks proofs over one ontology as `verify_proof` does; what is the same for several is found once.

    Args:
        edges: all `Edge` of the ontology, retracted ones included.
    """

    def __init__(self, edges: Iterable[Any]) -> None:
        self._edges = {edge.id: edge for edge in edges}
        self._travel = Travel(self._edges)
        self._hashes: dict[str, str] = {}
        self._known: tuple[Any, Rules] | None = None
        self._read: dict[int, Any] = {}

    def verify(
        self,
        proof: Mapping[str, Any],
        judgements: Iterable[Any],
        *,
        last_judgement: int | None = None,
    ) -> None:
        """Checks one proof; arguments and errors are those of `verify_proof`."""
        try:
            _check_form(proof)
            last = proof["last_judgement"]
            _need(
                last_judgement in (None, last),
                f"it ends with judgement {last}, not {last_judgement}",
            )
            self._check_edges(proof)
            _Check(proof, self._rules(proof, tuple(judgements))).check()
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise IntegrityError(f"the proof is incomplete or damaged: {error!r}.") from error

    def _check_edges(self, proof: Mapping[str, Any]) -> None:
        nodes = proof["nodes_sha256"]
        if nodes not in self._hashes:
            rows = [dataclasses.asdict(self._edges[i]) for i in sorted(self._edges)]
            value = {"edges": rows, "nodes_sha256": nodes}
            text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            self._hashes = {nodes: hashlib.sha256(text.encode()).hexdigest()}
        same = self._hashes[nodes] == proof["ontology_hash"]
        _need(same, "the edges are not those of its ontology's hash")

    def _rules(self, proof: Mapping[str, Any], judgements: tuple[Any, ...]) -> Rules:
        policy, last = json.dumps(proof["policy"], sort_keys=True), proof["last_judgement"]
        if self._known is not None:
            (policy_before, last_before, before), rules = self._known
            if before is judgements and (policy_before, last_before) == (policy, last):
                return rules  # the same tuple, and what is in it does not change
        rules = Rules(dict(proof["policy"]), self._travel, judgements, last, self._read)
        self._known = ((policy, last, judgements), rules)
        return rules


def _wrong(what: str) -> IntegrityError:
    return IntegrityError(
        f"the proof does not hold: {what}. Do not rely on the verdict; judge the request again."
    )


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise _wrong(what)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _alike(one: Any, other: Any) -> bool:
    """Whether they are the same JSON: 1, 1.0 and true are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _keys(what: str, row: Mapping[str, Any], names: Iterable[str]) -> None:
    lacks, extra = sorted(set(names) - set(row)), sorted(set(row) - set(names))
    _need(not lacks and not extra, f"{what} lacks {lacks} and has {extra} besides")


def _check_form(proof: Mapping[str, Any]) -> None:
    _keys("it", proof, _KEYS)
    version = proof["version"]
    _need(_whole(version) and version in _TEXT, f"version {version!r} is not known")
    for name in _WORDS:
        _need(isinstance(proof[name], str), f"{name} is no text")
    last, score, reason = proof["last_judgement"], proof["score"], proof["reason"]
    _need(_whole(last) and last >= 0, f"last_judgement is {last!r}")
    _need(score is None or _finite(score), f"the score is {score!r}")
    rules = {"share": ("R0", "R1", "R1-itemwise"), "withhold": ("R0", "R2"), "ask": (None,)}
    verdict, rule = proof["verdict"], proof["rule"]
    _need(rule in rules.get(verdict, ()), f"rule {rule!r} cannot give {verdict!r}")
    _need(reason in (_REASONS if rule is None else ("",)), "rule and reason do not fit")
    _need(proof["suggestion"] in (None, "share"), f"it suggests {proof['suggestion']!r}")
    _check_policy(proof["policy"])
    request = proof["request"]
    _keys("the request", request, ("nodes", _TEXT[version]))
    digest, nodes = request[_TEXT[version]], request["nodes"]
    _need(set(nodes) == set(SLOTS) and all(nodes.values()), "the request lacks a slot")
    for slot in SLOTS:
        names = nodes[slot]
        _need(all(isinstance(x, str) and x for x in names), f"slot {slot!r} has what is no id")
        _need(slot == "data" or len(names) == 1, f"slot {slot!r} has several nodes")
        _need(list(names) == sorted(set(names)), f"slot {slot!r} is not sorted, or repeats a node")
    good = len(digest) in (0, 64) and set(digest) <= set("0123456789abcdef")
    _need(good, "the digest of the text is none")
    _check_mapping(proof["mapping"], nodes, reason)


def _check_policy(policy: Mapping[str, Any]) -> None:
    _keys("the policy", policy, _POLICY)
    limit, least = policy["reliability"], policy["min_support"]
    good = {
        "conflict": policy["conflict"] in _CONFLICTS,
        "bundle": policy["bundle"] in ("joint", "itemwise"),
        "min_support": _whole(least) and least >= 1,
        "reliability": limit in ("off", "strict") or (_finite(limit) and 0 < limit < 1),
        "trust_proposed": isinstance(policy["trust_proposed"], bool),
    }
    for name in ("veto_share", "veto_withhold"):
        good[name] = policy[name] is None or _finite(policy[name])
    wrong = [name for name, holds in good.items() if not holds]
    _need(not wrong, f"no policy can have such {wrong}")


def _check_mapping(rows: Sequence[Any], nodes: Mapping[str, Any], reason: str) -> None:
    said: dict[str, list[str]] = {}
    for row in rows:
        _keys("a mapping", {k: v for k, v in row.items() if k != "flags"},
              ("slot", "input", "node", "by", "score"))  # fmt: skip
        good = row["slot"] in SLOTS and row["score"] is not None and _finite(row["score"])
        good = good and all(isinstance(row[name], str) for name in ("input", "by"))
        good = good and all(isinstance(flag, str) for flag in row.get("flags", ()))
        _need(good, f"a mapping is {row!r}")
        _need(row["node"] is not None or reason in _NOT_READ, "a part of it was not understood")
        found = said.setdefault(row["slot"], [])
        _need(row["slot"] == "data" or not found, f"slot {row['slot']!r} is mapped twice")
        found.append("UNSPEC" if row["node"] is None else row["node"])
    for slot, found in said.items():
        _need(sorted(set(found)) == list(nodes[slot]), f"slot {slot!r} was mapped to {found}")


class _Check:
    def __init__(self, proof: Mapping[str, Any], rules: Rules) -> None:
        self.proof, self.rules = proof, rules
        self.asked: dict[str, list[str]] = {s: list(proof["request"]["nodes"][s]) for s in SLOTS}

    def check(self) -> None:
        proof = self.proof
        for premise in proof["premises"]:
            self.check_premise(premise)
        shown = [(p["judgement_id"], tuple(p["items"])) for p in proof["premises"]]
        _need(len(shown) == len(set(shown)), "a premise is listed twice")
        self.check_paths()
        if proof["reason"] in _NOT_READ:
            found = Found("ask", reason=proof["reason"])
        else:
            lacks = proof["reason"] == "veto"  # asked for want of a score, too: it only ever asks
            asked = tuple(tuple(self.asked[slot]) for slot in SLOTS)
            found = self.rules.judge(asked, proof["score"], lacks_score=lacks)
        self.check_found(found)
        self.check_shown(found)

    def check_premise(self, premise: Mapping[str, Any]) -> None:
        _keys("a premise", premise, "judgement_id value at source nodes items".split())
        number, items = premise["judgement_id"], list(premise["items"])
        known = _whole(number) and number in self.rules.by_id
        _need(known, f"judgement {number} does not stand, or no human made it")
        j = self.rules.by_id[number]
        same = (premise["value"], premise["at"], premise["source"])
        _need(same == (j.value, j.created_at, j.source), f"judgement {number} says otherwise")
        _need(j.value != "ask", f"judgement {number} is no premise")
        _need(_alike(premise["nodes"], nodes_of(j)), f"judgement {number} is about other nodes")
        whole = items == self.asked["data"]
        alone = len(items) == 1 and items[0] in self.asked["data"]
        rule = self.proof["rule"]
        fits = {"R1-itemwise": alone, "R2": whole or alone}.get(rule, whole)
        _need(fits, f"judgement {number} is held against other items")

    def check_paths(self) -> None:
        """Each path is the next one that must be there, and none is left over."""
        paths = list(self.proof["paths"])
        for path in paths:
            _keys("a path", path, "premise items slot from to steps".split())
        for premise in self.proof["premises"] if self.proof["rule"] is not None else ():
            number, items = premise["judgement_id"], list(premise["items"])
            j, asked = self.rules.by_id[number], {**self.asked, "data": items}
            again = nodes_of(j) == asked
            for slot in SLOTS:
                from_asked = premise["value"] == "appropriate" or again
                for one in asked[slot] if from_asked else premise["nodes"][slot]:
                    _need(bool(paths), f"slot {slot!r} of judgement {number} is not covered")
                    path = paths.pop(0)
                    place = {"premise": number, "items": items, "slot": slot}
                    place["from" if from_asked else "to"] = one
                    fits = _alike(place, {name: path[name] for name in place})
                    _need(fits, f"slot {slot!r} of judgement {number} is not covered")
                    self.check_path(path, asked, premise, again)
        _need(not paths, f"{len(paths)} paths belong to no premise")

    def check_path(
        self,
        path: Mapping[str, Any],
        asked: Mapping[str, Any],
        premise: Mapping[str, Any],
        again: bool,
    ) -> None:
        slot, here, value = path["slot"], path["from"], premise["value"]
        _need(here in asked[slot] and path["to"] in premise["nodes"][slot], "a path has other ends")
        been, statuses = {here}, self.rules.statuses_of(value)
        for step in path["steps"]:
            edge = self.rules.travel.edges.get(step["edge"])
            if edge is None:
                raise _wrong(f"edge {step['edge']} does not exist")
            said = {"edge": edge.id} | {
                name: getattr(edge, name)
                for name in ("type", "src", "dst", "scope", "status", "origin")
            }
            _need(_alike(dict(step), said), f"edge {edge.id} is another one")
            _need(edge.slot == slot, f"edge {edge.id} belongs to slot {edge.slot!r}")
            usable = self.rules.travel.counts(edge, premise["items"], statuses)
            _need(usable, f"edge {edge.id} may not be used")
            onward = [there for start, there in ways(edge, value) if start == here]
            _need(bool(onward), f"edge {edge.id} does not lead on from {here!r}")
            here = onward[0]
            _need(here not in been, f"a path comes to {here!r} twice")
            been.add(here)
        reaches = path["to"] == "ANY" and not path["steps"]
        reaches |= here == path["to"] and (here != "UNSPEC" or again)
        _need(reaches, f"a path of slot {slot!r} ends at {here!r}, not at {path['to']!r}")

    def check_found(self, found: Found) -> None:
        """What the rules say, against what the proof says of it."""
        proof = self.proof
        dropped = [
            {"judgement_id": n, "why": self.rules.why(found.dropped[n])}
            for n in sorted(found.dropped)
        ]
        for row in proof["dropped"]:
            known = any(_alike(dict(row), one) for one in dropped)
            _need(known, f"judgement {row['judgement_id']} is not unreliable as is said")
        said = {verdict: [] for verdict in ("share", "withhold", "ask")}
        for item, one in found.alone.items():
            said[one.verdict].append(item)
        parts = dict(zip(("approved", "denied", "undecided"), said.values(), strict=True))
        _keys("items", proof["items"], parts)
        for part, items in parts.items():
            claimed = list(proof["items"][part])
            _need(_alike(claimed, items), f"{claimed} alone is not {part}, but {items}")
        against = sorted(found.against)
        if not _alike(list(proof["against"]), against):
            odd = sorted(set(against) ^ set(proof["against"])) or "some"
            raise _wrong(f"judgements {odd} are passed over, made up or repeated")
        given = (proof["verdict"], proof["rule"], proof["reason"])
        says = (found.verdict, found.rule, found.reason)
        _need(
            given == says,
            f"the policy says {found.verdict!r} to these judgements, {says[1] or says[2]} and not "
            f"{given[1] or given[2]}",
        )
        _need(_alike(list(proof["dropped"]), dropped), "what was dropped is another list")
        _need(_alike(proof["support"], len(found.premises)), "the support is counted otherwise")
        _need(proof["suggestion"] == found.suggestion, f"it would suggest {found.suggestion!r}")

    def check_shown(self, found: Found) -> None:
        """Premises are among those that count, and as many as must be shown."""
        rule, least = self.proof["rule"], self.proof["policy"]["min_support"]
        shown = [(p["judgement_id"], tuple(p["items"])) for p in self.proof["premises"]]
        if rule == "R1-itemwise":
            groups = [((item,), one, one.rule) for item, one in found.alone.items()]
            order = [items for items, _, _ in groups]
            sorted_by_item = [items for _, items in shown] == sorted(
                (items for _, items in shown), key=order.index
            )
            _need(sorted_by_item, "premises are not in the order of the items")
        else:
            groups = [(None, found, rule)]
        for items, one, by in groups:
            numbers = [n for n, group in shown if items in (None, group)]
            _need(set(numbers) <= set(one.premises), "a premise is defeated or does not count")
            wanted = {None: min(_SHOWN, len(one.premises)), "R0": 1}.get(by, least)
            _need(len(set(numbers)) == len(numbers) == wanted, "too few premises, or too many")
