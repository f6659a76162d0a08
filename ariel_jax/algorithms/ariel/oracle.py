"""The rules once more, in plain loops over judgements and edges: what `judge` must agree with."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import (
    ANY,
    HUMAN_SOURCES,
    OPEN_SLOTS,
    SLOTS,
    UNSPEC,
    Edge,
    Judgement,
    Outcome,
    Policy,
    Request,
)

_TRUSTED = ("curated", "confirmed")
_ACTIVE = ("curated", "confirmed", "proposed")
_POLARITY = {"appropriate": "approve", "inappropriate": "deny"}


def _leads(edge: Edge, polarity: str, x: str) -> str | None:
    """Where one edge leads from x: to what a judgement may be about so that it covers x."""
    if edge.type == "same":
        return {edge.src: edge.dst, edge.dst: edge.src}.get(x)
    if edge.type in ("isa", "narrower"):
        return edge.dst if x == edge.src else None
    if polarity == "kind":
        return None
    # Who approves the larger or riskier thing approves the smaller; denials go the other way.
    towards_src = (edge.type == "reveals") == (polarity == "approve")
    here, there = (edge.dst, edge.src) if towards_src else (edge.src, edge.dst)
    return there if x == here else None


@functools.lru_cache(maxsize=65536)
def reach(
    ontology: Ontology,
    slot: str,
    polarity: str,
    x: str,
    scopes: frozenset[str],
    statuses: tuple[str, ...],
) -> frozenset[str]:
    """All y that a judgement may be about to cover x, by depth-first search; x is one of them."""
    found, waiting = {x}, [x]
    while waiting:
        here = waiting.pop()
        for edge in ontology.edges:
            if edge.slot != slot or edge.status not in statuses:
                continue
            if edge.scope is not None and edge.scope not in scopes:
                continue
            there = _leads(edge, polarity, here)
            if there is not None and there not in found:
                found.add(there)
                waiting.append(there)
    return frozenset(found)


def scopes_of(
    ontology: Ontology, data: tuple[str, ...], statuses: tuple[str, ...]
) -> frozenset[str]:
    """Nodes that every item is a kind of."""
    above = [reach(ontology, "data", "kind", x, frozenset(), statuses) for x in data]
    return frozenset.intersection(*above)


def entails(
    ontology: Ontology,
    judged: Request,
    request: Request,
    polarity: str,
    *,
    scopes: frozenset[str],
    statuses: tuple[str, ...],
) -> bool:
    """Whether a judgement of this polarity about `judged` covers `request`.

    Args:
        ontology: of both.
        judged: what the judgement is about.
        request: what is asked.
        polarity: `approve`: each node asked is covered by one judged. `deny`: each node judged covers
            one that is asked. `kind`: as `approve`, along `isa`, `narrower` and `same` only.
        scopes: those that hold.
        statuses: of the edges that count.
    """

    def covers(slot: str, x: str, y: str) -> bool:
        if y == ANY:
            return True
        known = {node.id for node in ontology.nodes[slot]}
        if x not in known or y not in known:
            return False
        return y in reach(ontology, slot, polarity, x, scopes, statuses)

    for slot in SLOTS:
        asked, about = request.slot(slot), judged.slot(slot)
        if polarity == "deny":
            if not all(any(covers(slot, x, y) for x in asked) for y in about):
                return False
        elif not all(any(covers(slot, x, y) for y in about) for x in asked):
            return False
    return True


def standing(history: Sequence[Judgement]) -> list[Judgement]:
    """What a human said and did not say anew about the same nodes, by id."""
    said = [j for j in history if j.source in HUMAN_SOURCES and j.superseded_by is None]
    latest = {j.request.key: j for j in sorted(said, key=lambda j: j.id)}
    return sorted(latest.values(), key=lambda j: j.id)


def breadth(ontology: Ontology, judgement: Judgement) -> int:
    """How many nodes a premise covers, added up over slots: less is more specific."""
    polarity, total = _POLARITY[judgement.value], 0
    for slot in SLOTS:
        members = [node.id for node in ontology.nodes[slot]]
        about = judgement.request.slot(slot)
        for x in members:
            above = reach(ontology, slot, polarity, x, frozenset(), _TRUSTED)
            total += any(y == ANY or (y in members and y in above) for y in about)
    return total


def reliability(
    ontology: Ontology,
    history: Sequence[Judgement],
    judgement: Judgement,
    statuses: tuple[str, ...],
) -> tuple[int, int]:
    """How many other standing judgements a premise entails, and how many it contradicts."""
    ok = bad = 0
    for other in standing(history):
        if other.id == judgement.id or other.value == "ask":
            continue
        scopes = scopes_of(ontology, other.request.data, statuses)
        polarity = _POLARITY[judgement.value]
        if entails(
            ontology, judgement.request, other.request, polarity, scopes=scopes, statuses=statuses
        ):
            ok += other.value == judgement.value
            bad += other.value != judgement.value
    return ok, bad


@dataclasses.dataclass
class _Said:
    verdict: str
    rule: str | None
    reason: str
    premises: list[Judgement]
    against: list[Judgement]
    dropped: list[Judgement]
    asking: list[Judgement] = dataclasses.field(default_factory=list)


def judge(
    request: Request,
    history: Sequence[Judgement],
    ontology: Ontology,
    policy: Policy | None = None,
    *,
    score: float | None = None,
) -> Outcome:
    """What `judge.judge` says, by the rules read one by one; slow.

    Args:
        request: of ids of nodes.
        history: of one user, in any order.
        ontology: of the user.
        policy: None is `Policy()`.
        score: as for `judge.judge`.
    """
    policy = policy or Policy()
    for slot in SLOTS:
        known = {node.id for node in ontology.nodes[slot]} | {UNSPEC}
        if not set(request.slot(slot)) <= known:
            return Outcome(verdict="ask", reason="unmapped")
    statuses = _ACTIVE if policy.trust_proposed else _TRUSTED

    @functools.cache
    def counts(judgement: Judgement) -> tuple[int, int]:
        return reliability(ontology, history, judgement, statuses)

    def keeps(judgement: Judgement) -> bool:
        if policy.reliability == "off":
            return True
        ok, bad = counts(judgement)
        if policy.reliability == "strict":
            return bad == 0
        return (ok + 1) / (ok + bad + 2) >= float(policy.reliability)

    said, items = _decide(request, history, ontology, policy, statuses, keeps)

    def supports(judgements: list[Judgement]) -> tuple[int, ...]:
        ordered = sorted(judgements, key=lambda j: (breadth(ontology, j), -j.id))
        return tuple(j.id for j in ordered)

    suggestion = None
    if said.verdict == "ask" and said.reason in ("no_premise", "partial", "min_support"):
        more = [j for j in _support(request, history, ontology, "approve", _ACTIVE) if keeps(j)]
        fewer = [j for j in _support(request, history, ontology, "approve", statuses) if keeps(j)]
        denied = [j for j in _support(request, history, ontology, "deny", _ACTIVE) if keeps(j)]
        no_denial = not denied and "withhold" not in items.values()
        if no_denial and len(more) > len(fewer) and len(more) >= policy.min_support:
            suggestion = "share"
            if said.reason == "no_premise":
                said.reason = "proposed_only"
    if score is not None and said.rule not in (None, "R0"):
        limit = policy.veto_share if said.verdict == "share" else policy.veto_withhold
        if limit is not None and (score <= limit if said.verdict == "share" else score >= limit):
            said.verdict, said.rule, said.reason = "ask", None, "veto"
    why = "bad={1}" if policy.reliability == "strict" else "ok={0}, bad={1}"
    by_verdict = {
        verdict: tuple(x for x, v in items.items() if v == verdict)
        for verdict in ("share", "withhold", "ask")
    }
    return Outcome(
        verdict=said.verdict,  # pyright: ignore[reportArgumentType]
        rule=said.rule,
        premises=supports(said.premises),
        against=supports(said.against) + tuple(j.id for j in said.asking),
        dropped=tuple(
            (j.id, why.format(*counts(j))) for j in sorted(said.dropped, key=lambda j: j.id)
        ),
        reason=said.reason,
        approved=by_verdict["share"],
        denied=by_verdict["withhold"],
        undecided=by_verdict["ask"],
        suggestion=suggestion,
    )


def _support(
    request: Request,
    history: Sequence[Judgement],
    ontology: Ontology,
    polarity: str,
    statuses: tuple[str, ...],
) -> list[Judgement]:
    scopes = scopes_of(ontology, request.data, statuses)
    return [
        j
        for j in standing(history)
        if _POLARITY.get(j.value) == polarity
        and entails(ontology, j.request, request, polarity, scopes=scopes, statuses=statuses)
    ]


def _asking(request: Request, history: Sequence[Judgement], ontology: Ontology) -> list[Judgement]:
    """Wishes to be asked about this, or about what it or an item of it would tell."""
    ones = [request, *(dataclasses.replace(request, data=(item,)) for item in request.data)]
    return [
        j
        for j in standing(history)
        if j.value == "ask" and any(_blocks(ontology, j.request, one) for one in ones)
    ]


def _blocks(ontology: Ontology, judged: Request, request: Request) -> bool:
    scopes = scopes_of(ontology, request.data, _ACTIVE)

    def tells(slot: str, x: str, y: str) -> bool:
        if x == UNSPEC or y == ANY or (y == UNSPEC and slot in OPEN_SLOTS):
            return True
        return y in reach(ontology, slot, "deny", x, scopes, _ACTIVE)

    return all(
        any(tells(slot, x, y) for x in request.slot(slot))
        for slot in SLOTS
        for y in judged.slot(slot)
    )


def _decide(
    request: Request,
    history: Sequence[Judgement],
    ontology: Ontology,
    policy: Policy,
    statuses: tuple[str, ...],
    keeps: Callable[[Judgement], bool],
) -> tuple[_Said, dict[str, str]]:
    for judgement in standing(history):
        if judgement.request.key == request.key:
            if judgement.value == "ask":
                return _Said("ask", None, "always_ask", [], [], []), {}
            verdict = "share" if judgement.value == "appropriate" else "withhold"
            return _Said(verdict, "R0", "", [judgement], [], []), {}
    alone: dict[str, _Said] = {}
    if len(request.data) > 1:
        for item in request.data:
            one = dataclasses.replace(request, data=(item,))
            alone[item], _ = _decide(one, history, ontology, policy, statuses, keeps)
    all_approve = _support(request, history, ontology, "approve", statuses)
    all_deny = _support(request, history, ontology, "deny", _ACTIVE)
    approve = [j for j in all_approve if keeps(j)]
    deny = [j for j in all_deny if keeps(j)]
    for item in alone.values():
        if item.verdict == "withhold":
            deny += [j for j in item.premises if j not in deny]
    said = _resolve(request, ontology, policy, statuses, approve, deny)
    shares = [item for item in alone.values() if item.verdict == "share"]
    if said.reason == "no_premise" and shares:
        said.reason = "partial"
        if policy.bundle == "itemwise" and len(shares) == len(alone):
            premises = {j.id: j for item in shares for j in item.premises}
            said = _Said("share", "R1-itemwise", "", list(premises.values()), [], [])
    seen = all_approve + all_deny + [j for item in alone.values() for j in item.dropped]
    if said.verdict == "share" and any(item.verdict == "withhold" for item in alone.values()):
        said = _Said("ask", None, "conflict", approve, deny, [])
    if said.verdict == "share" and (asking := _asking(request, history, ontology)):
        said = _Said("ask", None, "always_ask", said.premises, said.against, [], asking)
    kept = {j.id for j in approve + deny + said.premises}
    said.dropped = list({j.id: j for j in seen if j.id not in kept}.values())
    return said, {item: found.verdict for item, found in alone.items()}


def _resolve(
    request: Request,
    ontology: Ontology,
    policy: Policy,
    statuses: tuple[str, ...],
    approve: list[Judgement],
    deny: list[Judgement],
) -> _Said:
    if not approve and not deny:
        return _Said("ask", None, "no_premise", [], [], [])
    if not deny:
        winners, losers, shares = approve, deny, True
    elif not approve:
        winners, losers, shares = deny, approve, False
    else:
        left_approve, left_deny = approve, deny
        if policy.conflict == "most_specific":
            both = approve + deny
            left_approve = [
                j for j in approve if not _defeated(j, both, request, ontology, statuses)
            ]
            left_deny = [j for j in deny if not _defeated(j, both, request, ontology, statuses)]
        says = _winner(policy.conflict, left_approve, left_deny)
        if says is None:
            return _Said("ask", None, "conflict", approve, deny, [])
        shares = says == "share"
        winners, losers = (left_approve, deny) if shares else (left_deny, approve)
    if len(winners) < policy.min_support:
        return _Said("ask", None, "min_support", winners, losers, [])
    verdict, rule = ("share", "R1") if shares else ("withhold", "R2")
    return _Said(verdict, rule, "", winners, losers, [])


def _winner(conflict: str, approve: list[Judgement], deny: list[Judgement]) -> str | None:
    if conflict == "deny_overrides":
        return "withhold"
    if conflict == "latest":
        last = max(approve + deny, key=lambda j: j.id)
        return "share" if last.value == "appropriate" else "withhold"
    if conflict == "majority":
        if len(approve) != len(deny):
            return "share" if len(approve) > len(deny) else "withhold"
        return None
    if conflict == "most_specific":
        if not deny:
            return "share"
        if not approve:
            return "withhold"
    return None


def _defeated(
    judgement: Judgement,
    others: list[Judgement],
    request: Request,
    ontology: Ontology,
    statuses: tuple[str, ...],
) -> bool:
    """Whether another premise lies between the request and this one, in what is a kind of what."""

    def below(one: Request, other: Request) -> bool:
        return entails(ontology, other, one, "kind", scopes=frozenset(), statuses=statuses)

    return any(
        below(request, other.request)
        and below(other.request, judgement.request)
        and not below(judgement.request, other.request)
        for other in others
    )
