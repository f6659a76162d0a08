"""The rules: share or withhold where an earlier judgement entails it, else ask. Host only.

After Flemings et al. (arXiv 2512.05065); rules, conflict policies and reliability are reconstructed.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.history import History
from ariel_jax.algorithms.ariel.tables import Positions
from ariel_jax.algorithms.ariel.travel import ACTIVE, TRUSTED
from ariel_jax.algorithms.ariel.types import ANY, SLOTS, UNSPEC, Judgement, Outcome, Policy, Request
from ariel_jax.errors import ConfigError

__all__ = ["History", "judge"]

_NONE = np.zeros(0, np.int64)


def judge(
    request: Request,
    history: History | Sequence[Judgement],
    closures: Closures,
    policy: Policy | None = None,
    *,
    score: float | None = None,
) -> Outcome:
    """Judges a request by the user's earlier judgements.

    A judgement on the same nodes decides (R0). Else an approval that covers every slot supports
    `share` (R1) and a denial that does supports `withhold` (R2). Unreliable premises are dropped,
    where both kinds remain the policy decides, and where nothing does it asks. What would be shared is
    asked where one of several items is withheld by itself, or where the user wants to be asked: a
    judgement `ask` travels as a denial does, whatever its reliability, and slots left open are no way
    round it. Approvals travel along curated and confirmed edges only, unless the policy trusts proposed
    ones; denials along proposed ones too. No model is asked.

    Args:
        request: of ids of nodes.
        history: of one user; a sequence is packed first, so keep a `History` where speed counts.
        closures: of the user's ontology, those that the history was made with.
        policy: None is `Policy()`.
        score: log-odds that the user approves, by a model; it can only turn an entailed verdict into
            `ask`. None: there is none, and no veto.

    Returns:
        The outcome; it depends on ids, not on the order of the history.

    Raises:
        ConfigError: the score is not finite, or the history was made with another ontology.
    """
    policy = policy or Policy()
    if score is not None and not math.isfinite(score):
        raise ConfigError(
            f"score={score} is not allowed: pass a finite number, or None where there is no score."
        )
    if not isinstance(history, History):
        history = History(closures, history)
    elif history.closures.ontology.hash != closures.ontology.hash:
        raise ConfigError(
            "the history was made with another ontology: build History(closures, judgements) anew "
            "when the ontology changes."
        )
    if _unmapped(request, closures):
        return Outcome(verdict="ask", reason="unmapped")
    case = _Case(request, history, policy)
    found = case.decide()
    case.suggest(found)
    return vetoed(_outcome(found, history, policy), policy, score)


def _unmapped(request: Request, closures: Closures) -> bool:
    index = closures.ontology.index
    return any(
        x == ANY or (x != UNSPEC and x not in index(slot))
        for slot in SLOTS
        for x in request.slot(slot)
    )


@dataclasses.dataclass(kw_only=True)
class _Found:
    """A verdict with positions in the history in place of ids."""

    verdict: str = "ask"
    rule: str | None = None
    reason: str = ""
    premises: Positions = dataclasses.field(default_factory=lambda: _NONE)
    against: Positions = dataclasses.field(default_factory=lambda: _NONE)
    dropped: Positions = dataclasses.field(default_factory=lambda: _NONE)
    asking: Positions = dataclasses.field(default_factory=lambda: _NONE)
    items: dict[str, str] = dataclasses.field(default_factory=dict)
    suggestion: str | None = None


class _Case:
    """One request, or one item of a bundle asked alone."""

    def __init__(self, request: Request, history: History, policy: Policy) -> None:
        self.request, self.history, self.policy = request, history, policy
        self.statuses = ACTIVE if policy.trust_proposed else TRUSTED
        self.rows = history.rows(request)
        self.n_approve = self.n_deny = 0

    def support(self, polarity: str, statuses: tuple[str, ...]) -> Positions:
        context = self.history.closures.context(self.request.data, statuses=statuses)
        return np.flatnonzero(self.history.covering(self.rows, polarity, statuses, context))

    def reliable(self, positions: Positions) -> Positions:
        limit = self.policy.reliability
        if limit == "off" or not len(positions):
            return positions
        ok, bad = self.history.tally(self.statuses)[:, positions]
        if limit == "strict":
            return positions[bad == 0]
        return positions[(ok + 1) / (ok + bad + 2) >= limit]

    def decide(self) -> _Found:
        repeat = self.history.latest(self.request)
        if repeat is not None:
            judgement, position = repeat
            if judgement.value == "ask":
                return _Found(reason="always_ask")
            verdict = "share" if judgement.value == "appropriate" else "withhold"
            return _Found(verdict=verdict, rule="R0", premises=np.array([position]))
        alone = self.items()
        raw_approve = self.support("approve", self.statuses)
        raw_deny = self.support("deny", ACTIVE)
        approve, deny = self.reliable(raw_approve), self.reliable(raw_deny)
        denied = [item.premises for item in alone.values() if item.verdict == "withhold"]
        if denied:
            deny = np.unique(np.concatenate([deny, *denied]))
        found = self.resolve(approve, deny)
        if found.reason == "no_premise" and alone:
            found = self.by_items(alone)
        if found.verdict == "share":
            found = self.held_back(found, denied, approve, deny)
        seen = [raw_approve, raw_deny, *(item.dropped for item in alone.values())]
        kept = np.concatenate([approve, deny, found.premises])
        found.dropped = np.setdiff1d(np.concatenate(seen), kept)
        found.items = {name: item.verdict for name, item in alone.items()}
        self.n_approve, self.n_deny = len(approve), len(deny)
        return found

    def items(self) -> dict[str, _Found]:
        if len(self.request.data) == 1:
            return {}
        return {
            name: _Case(
                dataclasses.replace(self.request, data=(name,)), self.history, self.policy
            ).decide()
            for name in self.request.data
        }

    def resolve(self, approve: Positions, deny: Positions) -> _Found:
        if not len(approve) and not len(deny):
            return _Found(reason="no_premise")
        shares, approvals, denials = len(approve) > 0, approve, deny
        if len(approve) and len(deny):
            winner = self.winner(approve, deny)
            if winner is None:
                return _Found(reason="conflict", premises=approve, against=deny)
            shares, approvals, denials = winner
        premises, against = (approvals, deny) if shares else (denials, approve)
        if len(premises) < self.policy.min_support:
            return _Found(reason="min_support", premises=premises, against=against)
        verdict, rule = ("share", "R1") if shares else ("withhold", "R2")
        return _Found(verdict=verdict, rule=rule, premises=premises, against=against)

    def winner(
        self, approve: Positions, deny: Positions
    ) -> tuple[bool, Positions, Positions] | None:
        """Whether it shares, and what is left of both sides; None where nobody wins."""
        conflict = self.policy.conflict
        if conflict == "deny_overrides":
            return False, approve, deny
        if conflict == "latest":
            return bool(approve.max() > deny.max()), approve, deny
        if conflict == "majority" and len(approve) != len(deny):
            return len(approve) > len(deny), approve, deny
        if conflict == "most_specific":
            defeated = self.defeated(np.concatenate([approve, deny]))
            approve, deny = approve[~defeated[approve]], deny[~defeated[deny]]
            if not len(approve) or not len(deny):
                return len(approve) > 0, approve, deny
        return None

    def defeated(self, positions: Positions) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Which judgements have another between the request and themselves."""
        history, statuses, nothing = self.history, self.statuses, frozenset[str]()
        defeated = np.zeros(len(history), np.bool_)
        near = history.covering(self.rows, "kind", statuses, nothing)
        for member in history.members(positions[near[positions]]):
            above = history.covering(history.rows(member.request), "kind", statuses, nothing)
            below = history.covered(history.columns(member.request), "kind", statuses, scoped=False)
            defeated |= above & ~below
        return defeated

    def by_items(self, alone: dict[str, _Found]) -> _Found:
        approved = [item.premises for item in alone.values() if item.verdict == "share"]
        if self.policy.bundle == "itemwise" and len(approved) == len(alone):
            premises = np.unique(np.concatenate(approved))
            return _Found(verdict="share", rule="R1-itemwise", premises=premises)
        return _Found(reason="partial" if approved else "no_premise")

    def held_back(
        self, found: _Found, denied: list[Positions], approve: Positions, deny: Positions
    ) -> _Found:
        """A share turned into a question by an item that is withheld, or a wish to be asked."""
        if denied:
            return _Found(reason="conflict", premises=approve, against=deny)
        request = self.request
        asking = self.support("ask", ACTIVE)
        if len(request.data) > 1:  # more scopes may hold for one item than for all
            alone = [dataclasses.replace(request, data=(name,)) for name in request.data]
            items = [_Case(one, self.history, self.policy).support("ask", ACTIVE) for one in alone]
            asking = np.unique(np.concatenate([asking, *items]))
        if not len(asking):
            return found
        return dataclasses.replace(
            found, verdict="ask", rule=None, reason="always_ask", asking=asking
        )

    def suggest(self, found: _Found) -> None:
        """What proposed edges would say, where nothing speaks against it."""
        if not self.history.has_proposed or self.policy.trust_proposed or self.n_deny:
            return
        if found.reason not in ("no_premise", "partial", "min_support"):
            return
        more = len(self.reliable(self.support("approve", ACTIVE)))
        if more > self.n_approve and more >= self.policy.min_support:
            found.suggestion = "share"
            if found.reason == "no_premise":
                found.reason = "proposed_only"


def _outcome(found: _Found, history: History, policy: Policy) -> Outcome:
    def items(verdict: str) -> tuple[str, ...]:
        return tuple(name for name, said in found.items.items() if said == verdict)

    return Outcome(
        verdict=found.verdict,  # pyright: ignore[reportArgumentType]
        rule=found.rule,
        premises=history.in_order(found.premises),
        against=(*history.in_order(found.against), *history.ids(found.asking)),
        dropped=tuple(_dropped(found.dropped, history, policy)),
        reason=found.reason,
        approved=items("share"),
        denied=items("withhold"),
        undecided=items("ask"),
        suggestion=found.suggestion,  # pyright: ignore[reportArgumentType]
    )


def _dropped(positions: Positions, history: History, policy: Policy) -> Iterable[tuple[int, str]]:
    if not len(positions):
        return ()
    statuses = ACTIVE if policy.trust_proposed else TRUSTED
    ok, bad = history.tally(statuses)[:, positions].tolist()
    if policy.reliability == "strict":
        why = {count: f"bad={count}" for count in set(bad)}
        return zip(history.ids(positions), (why[b] for b in bad), strict=True)
    both = [f"ok={o}, bad={b}" for o, b in zip(ok, bad, strict=True)]
    return zip(history.ids(positions), both, strict=True)


def vetoed(outcome: Outcome, policy: Policy, score: float | None) -> Outcome:
    """What a score leaves of an outcome without one: the same, or a question."""
    if score is None or outcome.rule in (None, "R0"):
        return outcome
    limit = policy.veto_share if outcome.verdict == "share" else policy.veto_withhold
    if limit is None or (score > limit if outcome.verdict == "share" else score < limit):
        return outcome
    return dataclasses.replace(outcome, verdict="ask", rule=None, reason="veto")
