"""Checks a proof by plain searches. Shares no code with what made it, and may be read by itself."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ariel_jax.errors import IntegrityError

_SLOTS = ("data", "subject", "sender", "recipient", "purpose", "principle")
_HUMAN = ("user_elicited", "user_cli", "user_ui", "imported_by_user")
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


def verify_proof(proof: Mapping[str, Any], edges: Iterable[Any], judgements: Iterable[Any]) -> None:
    """Checks that a verdict follows from the user's judgements and an ontology's edges.

    That every premise exists, stands and comes from a human; that every step's edge exists, counts and
    may be travelled that way; that paths join the request to the premise in all slots; and, by a search
    of its own, that no judgement to the contrary is passed over. Whether the policy, the score and the
    mapping are those that were in force is for the log to say, which chains proofs by their hashes.

    Args:
        proof: of `proof.build`.
        edges: all `Edge` of the ontology of that time, retracted ones included.
        judgements: all `Judgement` of the user; those after the proof's last one are left out.

    Raises:
        IntegrityError: it does not; the message says where.
    """
    try:
        _Checker(proof, tuple(edges), tuple(judgements)).check()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise IntegrityError(f"the proof is incomplete or damaged: {error!r}.") from error


def _wrong(what: str) -> IntegrityError:
    return IntegrityError(
        f"the proof does not hold: {what}. Do not rely on the verdict; judge the request again."
    )


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise _wrong(what)


class _Checker:
    def __init__(self, proof: Mapping[str, Any], edges: tuple[Any, ...], judgements: Any) -> None:
        self.proof, self.policy = proof, proof["policy"]
        self.edges = {edge.id: edge for edge in edges}
        self.asked: dict[str, list[str]] = proof["request"]["nodes"]
        last = proof["last_judgement"]
        self.standing: dict[Any, Any] = {}
        for j in sorted(judgements, key=lambda j: j.id):
            later = j.superseded_by is not None and j.superseded_by <= last
            if j.id <= last and j.source in _HUMAN and not later:
                self.standing[tuple(j.request.slot(s) for s in _SLOTS)] = j
        self.by_id = {j.id: j for j in self.standing.values() if j.value != "ask"}
        self.reached: dict[Any, frozenset[str]] = {}

    def check(self) -> None:
        proof, verdict, rule = self.proof, self.proof["verdict"], self.proof["rule"]
        _need(proof["version"] == 1, f"version {proof['version']!r} is not known")
        _need(
            set(self.asked) == set(_SLOTS) and all(self.asked.values()), "the request lacks a slot"
        )
        rows = [dataclasses.asdict(self.edges[i]) for i in sorted(self.edges)]
        value = {"edges": rows, "nodes_sha256": proof["nodes_sha256"]}
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        found = hashlib.sha256(text.encode()).hexdigest()
        _need(found == proof["ontology_hash"], "the edges are not those of its ontology's hash")
        rules = {"share": ("R0", "R1", "R1-itemwise"), "withhold": ("R0", "R2"), "ask": (None,)}
        _need(rule in rules.get(verdict, ()), f"rule {rule!r} cannot give {verdict!r}")
        _need((proof["reason"] == "") == (rule is not None), "rule and reason do not fit")
        for premise in proof["premises"]:
            self.check_premise(premise)
        for row in proof["dropped"]:
            number = row["judgement_id"]
            known = number in self.by_id and not self.reliable(self.by_id[number])
            _need(known, f"judgement {number} is not unreliable")
        for item in proof["items"]["approved"]:
            _need(bool(self.supporters("appropriate", [item])), f"{item!r} alone is not approved")
        repeat = self.standing.get(tuple(tuple(self.asked[s]) for s in _SLOTS))
        if rule == "R0" or proof["reason"] == "always_ask":
            want = "ask" if rule is None else proof["premises"][0]["value"]
            _need(repeat is not None and repeat.value == want, "the request was not judged before")
        else:
            _need(repeat is None or verdict == "ask", "an earlier judgement on the same decides")
        if rule is not None:
            self.check_support(verdict, rule)
        if rule not in (None, "R0"):
            self.check_opposite(verdict)
        if proof["reason"] in ("no_premise", "conflict"):
            sides = [self.kept(v) for v in ("appropriate", "inappropriate")]
            both, neither = all(sides), not any(sides)
            _need(both if proof["reason"] == "conflict" else neither, "it asks for another reason")

    def check_premise(self, premise: Mapping[str, Any]) -> None:
        number = premise["judgement_id"]
        _need(number in self.by_id, f"judgement {number} does not stand, or no human made it")
        j = self.by_id[number]
        same = (premise["value"], premise["at"], premise["source"])
        _need(same == (j.value, j.created_at, j.source), f"judgement {number} says otherwise")
        nodes = {slot: list(j.request.slot(slot)) for slot in _SLOTS}
        _need(premise["nodes"] == nodes, f"judgement {number} is about other nodes")

    def check_support(self, verdict: str, rule: str) -> None:
        value = "appropriate" if verdict == "share" else "inappropriate"
        support: dict[tuple[str, ...], set[int]] = {}
        for premise in self.proof["premises"]:
            number, items = premise["judgement_id"], premise["items"]
            _need(premise["value"] == value, f"judgement {number} does not say so")
            whole = items == self.asked["data"]
            alone = len(items) == 1 and items[0] in self.asked["data"]
            fits = {"R1": whole, "R1-itemwise": alone, "R2": whole or alone, "R0": whole}[rule]
            _need(fits, f"judgement {number} is held against other items")
            again = self.repeats(self.by_id[number], items)
            _need(again or rule != "R0", f"judgement {number} is about another request")
            _need(again or self.reliable(self.by_id[number]), f"judgement {number} is unreliable")
            self.check_paths(premise, again)
            support.setdefault(tuple(items) if rule == "R1-itemwise" else (), set()).add(number)
        groups = [(i,) for i in self.asked["data"]] if rule == "R1-itemwise" else [()]
        least = 1 if rule == "R0" else self.policy["min_support"]
        for group in groups:
            one = group and any(
                self.repeats(self.by_id[n], list(group)) for n in support.get(group, ())
            )
            _need(len(support.get(group, ())) >= (1 if one else least), "too few premises")
        if rule == "R1-itemwise":
            _need(self.policy["bundle"] == "itemwise", "the policy does not judge item by item")
        score = self.proof["score"]
        if rule != "R0" and score is not None:
            limit = self.policy["veto_share" if verdict == "share" else "veto_withhold"]
            vetoed = limit is not None and (
                score <= limit if verdict == "share" else score >= limit
            )
            _need(not vetoed, "the score vetoes it")

    def repeats(self, j: Any, items: list[str]) -> bool:
        asked = {**self.asked, "data": items}
        return all(list(j.request.slot(slot)) == asked[slot] for slot in _SLOTS)

    def check_paths(self, premise: Mapping[str, Any], again: bool) -> None:
        number, value, items = premise["judgement_id"], premise["value"], premise["items"]
        paths = [p for p in self.proof["paths"] if p["premise"] == number]
        for slot in _SLOTS:
            asked = items if slot == "data" else self.asked[slot]
            joined = set()
            for path in paths:
                if path["slot"] == slot and (slot != "data" or path["from"] in asked):
                    joined.add(self.check_path(path, asked, premise, again))
            if value == "appropriate":
                complete = set(asked) == {start for start, _ in joined}
            else:
                complete = set(premise["nodes"][slot]) == {end for _, end in joined}
            _need(complete, f"slot {slot!r} of judgement {number} is not covered")

    def check_path(
        self, path: Mapping[str, Any], asked: list[str], premise: Mapping[str, Any], again: bool
    ) -> tuple[str, str]:
        slot, here, value = path["slot"], path["from"], premise["value"]
        _need(here in asked and path["to"] in premise["nodes"][slot], "a path has other ends")
        for step in path["steps"]:
            edge = self.edges.get(step["edge"])
            if edge is None:
                raise _wrong(f"edge {step['edge']} does not exist")
            said = {"edge": edge.id} | {
                name: getattr(edge, name)
                for name in ("type", "src", "dst", "scope", "status", "origin")
            }
            _need(step == said, f"edge {edge.id} is another one")
            _need(edge.slot == slot, f"edge {edge.id} belongs to slot {edge.slot!r}")
            _need(self.counts(edge, value, premise["items"]), f"edge {edge.id} may not be used")
            onward = [there for start, there in _ways(edge, value) if start == here]
            _need(bool(onward), f"edge {edge.id} does not lead on from {here!r}")
            here = onward[0]
        reaches = path["to"] == "ANY" and not path["steps"]
        reaches |= here == path["to"] and (here != "UNSPEC" or again)
        _need(reaches, f"a path of slot {slot!r} ends at {here!r}, not at {path['to']!r}")
        return path["from"], path["to"]

    def counts(self, edge: Any, value: str, items: Iterable[str], suspect: bool = False) -> bool:
        """Whether an edge may carry such judgements; `suspect` is for judging their reliability."""
        allowed = ["curated", "confirmed"]
        if self.policy["trust_proposed"] or (value == "inappropriate" and not suspect):
            allowed.append("proposed")
        if edge.status not in allowed:
            return False
        if edge.scope is None:
            return True
        kinds = [self.reach("data", "kind", item, (), tuple(allowed)) for item in items]
        return all(edge.scope in above for above in kinds)

    def reach(self, slot: str, value: str, x: str, items: Any, statuses: Any) -> frozenset[str]:
        """What may be judged so that it covers x. `statuses`: of edges; True: `suspect` of `counts`."""
        scoped = any(edge.scope is not None and edge.slot == slot for edge in self.edges.values())
        key = (slot, value, x, tuple(items) if scoped else (), statuses)
        if key not in self.reached:
            found, waiting = {x}, [x]
            usable = [
                edge
                for edge in self.edges.values()
                if edge.slot == slot
                and (
                    edge.status in statuses and edge.scope is None
                    if isinstance(statuses, tuple)
                    else self.counts(edge, value, items, statuses)
                )
            ]
            while waiting:
                here = waiting.pop()
                for edge in usable:
                    for start, there in _ways(edge, value):
                        if start == here and there not in found:
                            found.add(there)
                            waiting.append(there)
            self.reached[key] = frozenset(found)
        return self.reached[key]

    def covers(self, j: Any, value: str, nodes: Mapping[str, Any], statuses: Any = False) -> bool:
        for slot in _SLOTS:
            judged = j.request.slot(slot)

            def hit(x: str, y: str, slot: str = slot) -> bool:
                if y == "ANY" or "UNSPEC" in (x, y):
                    return y == "ANY"
                return y in self.reach(slot, value, x, nodes["data"], statuses)

            if value == "inappropriate":
                if not all(any(hit(x, y) for x in nodes[slot]) for y in judged):
                    return False
            elif not all(any(hit(x, y) for y in judged) for x in nodes[slot]):
                return False
        return True

    def supporters(self, value: str, items: list[str]) -> list[Any]:
        nodes = {**self.asked, "data": items}
        return [
            j
            for j in self.by_id.values()
            if j.value == value and (self.repeats(j, items) or self.covers(j, value, nodes))
        ]

    def reliable(self, j: Any) -> bool:
        limit = self.policy["reliability"]
        if limit == "off":
            return True
        hit = [
            other
            for other in self.by_id.values()
            if other is not j
            and self.covers(j, j.value, {s: other.request.slot(s) for s in _SLOTS}, True)
        ]
        bad = sum(other.value != j.value for other in hit)
        return bad == 0 if limit == "strict" else (len(hit) - bad + 1) / (len(hit) + 2) >= limit

    def kept(self, value: str) -> list[Any]:
        """Reliable judgements of that value that cover the request; what denies one item denies all."""
        found = {j.id: j for j in self.supporters(value, self.asked["data"]) if self.reliable(j)}
        if value == "inappropriate" and len(self.asked["data"]) > 1:
            for item in self.asked["data"]:
                found |= {j.id: j for j in self.denying(item)}
        return list(found.values())

    def denying(self, item: str) -> list[Any]:
        """What withholds one item that is asked alone; nothing where it is not withheld."""
        repeat = self.standing.get(((item,), *(tuple(self.asked[s]) for s in _SLOTS[1:])))
        if repeat is not None:
            return [repeat] if repeat.value == "inappropriate" else []
        approve, deny = (
            [j for j in self.supporters(value, [item]) if self.reliable(j)]
            for value in ("appropriate", "inappropriate")
        )
        verdict, winners = self.winners(approve, deny, {**self.asked, "data": [item]})
        return winners if verdict == "withhold" else []

    def winners(
        self, approve: list[Any], deny: list[Any], asked: Mapping[str, Any]
    ) -> tuple[str, list[Any]]:
        """The verdict of the policy and the judgements that it rests on."""
        conflict, both = self.policy["conflict"], approve + deny
        share: bool | None = bool(approve)
        if approve and deny:
            share = {
                "deny_overrides": False,
                "latest": max(both, key=lambda j: j.id) in approve,
                "majority": len(approve) > len(deny) if len(approve) != len(deny) else None,
            }.get(conflict)
            if conflict == "most_specific":
                approve, deny = (
                    [q for q in side if not any(self.defeats(p, q, asked) for p in both)]
                    for side in (approve, deny)
                )
                share = None if approve and deny else bool(approve)
        winning = [] if share is None else approve if share else deny
        if len(winning) < self.policy["min_support"]:
            return "ask", winning
        return ("share" if share else "withhold"), winning

    def check_opposite(self, verdict: str) -> None:
        approve, deny = self.kept("appropriate"), self.kept("inappropriate")
        listed = set(self.proof["against"])
        against = {j.id for j in (deny if verdict == "share" else approve)}
        _need(
            against == listed, f"judgements {sorted(against ^ listed)} are passed over or made up"
        )
        if self.proof["rule"] == "R1-itemwise":
            return
        found, winning = self.winners(approve, deny, self.asked)
        _need(found == verdict, f"the policy says {found!r} to these judgements")
        used = {premise["judgement_id"] for premise in self.proof["premises"]}
        _need(used <= {j.id for j in winning}, "a premise is defeated or does not count")
        _need(self.proof["support"] == len(winning), "the support is counted otherwise")

    def defeats(self, p: Any, q: Any, asked: Mapping[str, Any]) -> bool:
        statuses = ("curated", "confirmed", "proposed")[: 3 if self.policy["trust_proposed"] else 2]

        def below(one: Mapping[str, Any], j: Any) -> bool:
            return self.covers(j, "kind", one, statuses)

        of_p, of_q = ({s: j.request.slot(s) for s in _SLOTS} for j in (p, q))
        return below(asked, p) and below(of_p, q) and not below(of_q, p)


def _ways(edge: Any, value: str) -> list[tuple[str, str]]:
    forward = [(edge.src, edge.dst)] if edge.type in _FORWARD[value] else []
    return forward + ([(edge.dst, edge.src)] if edge.type in _BACKWARD[value] else [])
