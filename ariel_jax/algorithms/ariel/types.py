"""Plain values of ARIEL: nodes, edges, requests, judgements, policies and outcomes. Host only."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from ariel_jax._checks import one_of, positive_int
from ariel_jax.errors import ConfigError, InvalidRequestError

SLOTS = ("data", "subject", "sender", "recipient", "purpose", "principle")
"""Parameters of a disclosure, after contextual integrity; `principle` is the transmission principle."""
ANY = "ANY"
"""In a judgement, and only where the user chose it: whatever stands in this slot."""
UNSPEC = "UNSPEC"
"""In a request: nothing is said about this slot. Only `ANY` covers it."""
OPEN_SLOTS = ("purpose", "principle")
"""Slots that may be left open: a judgement `ask` that does so goes for whatever stands there."""
MOST_TEXT = 10_000
"""Characters of a task's text."""
SELF = "self"
"""The user, as subject and sender."""

EdgeType = Literal["isa", "reveals", "trust", "stricter", "narrower", "same"]
EDGE_TYPES: Mapping[str, tuple[str, ...]] = {
    "isa": SLOTS,
    "reveals": ("data",),
    "trust": ("sender", "recipient", "subject"),
    "stricter": ("principle",),
    "narrower": ("purpose",),
    "same": SLOTS,
}
"""Each type of edge and the slots it may stand in."""
Polarity = Literal["approve", "deny"]
Status = Literal["curated", "confirmed", "proposed", "retracted"]
STATUSES = ("curated", "confirmed", "proposed", "retracted")
Value = Literal["appropriate", "inappropriate", "ask"]
VALUES = ("appropriate", "inappropriate", "ask")
Verdict = Literal["share", "withhold", "ask"]
Source = Literal["user_elicited", "user_cli", "user_ui", "imported_by_user", "agent_claimed"]
SOURCES = ("user_elicited", "user_cli", "user_ui", "imported_by_user", "agent_claimed")
HUMAN_SOURCES = frozenset(SOURCES[:4])
"""Sources whose judgements may be premises; what an agent claims is kept for audit only."""
PROFILES = ("plain", "standard", "cautious")
CONFLICTS = ("escalate", "deny_overrides", "most_specific", "latest", "majority")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One thing that can stand in a slot.

    Attributes:
        slot: one of `SLOTS`.
        id: dotted and unique in its slot, such as `contact.phone`.
        label: for people.
        aliases: other names.
        definition: one line.
        origin: `core`, `user`, or who proposed it.
    """

    slot: str
    id: str
    label: str
    aliases: tuple[str, ...] = ()
    definition: str = ""
    origin: str = "core"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edge:
    """A fact about two nodes of a slot.

    Attributes:
        id: unique in an ontology, 1 or more.
        slot: of both nodes.
        type: `isa` (every src is a dst, and a judgement about dst is about all of them), `reveals`
            (disclosing src discloses dst), `trust` (this user trusts src at least as much as dst),
            `stricter` (src protects at least as much as dst), `narrower` (purpose src is part of dst),
            `same` (two names of one thing).
        src, dst: ids of nodes.
        scope: id of a data node: the edge holds for requests for it and what is below it; None: always.
        status: `curated`, `confirmed`, `proposed` or `retracted`.
        origin: who says so.
        reason: why, in a line.
    """

    id: int
    slot: str
    type: EdgeType
    src: str
    dst: str
    scope: str | None = None
    status: Status = "curated"
    origin: str = "core"
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A disclosure that an agent asks for.

    Attributes:
        data: ids of data nodes, at least one; kept sorted and without repeats.
        subject, sender: whose data, and who hands them out.
        recipient, purpose, principle: to whom, what for, under which transmission principle.
        task_text: what the agent is doing, for people, at most `MOST_TEXT` characters; never stored by
            value, never decides.

    Raises:
        InvalidRequestError: no data, an empty slot, an id that is no text in Unicode (half of a
            surrogate pair), or a text that is too long.
    """

    data: tuple[str, ...]
    recipient: str
    subject: str = SELF
    sender: str = SELF
    purpose: str = UNSPEC
    principle: str = UNSPEC
    task_text: str = ""

    def __post_init__(self) -> None:
        data = self.data
        if isinstance(data, str) or not data or not all(isinstance(d, str) and d for d in data):
            raise InvalidRequestError(
                f"data={data!r} is not allowed: pass a tuple of at least one id of a data node."
            )
        for slot in SLOTS[1:]:
            value = getattr(self, slot)
            if not isinstance(value, str) or not value:
                raise InvalidRequestError(
                    f"{slot}={value!r} is not allowed: pass the id of a node, or {UNSPEC!r} where "
                    "nothing is known."
                )
        object.__setattr__(self, "data", tuple(sorted(set(data))))
        for slot in SLOTS:
            for value in self.slot(slot):
                if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                    raise InvalidRequestError(
                        f"{slot}={value!a} is not allowed: it has half of a surrogate pair, which is "
                        "no character. Pass the id of a node."
                    )
        if not isinstance(self.task_text, str) or len(self.task_text) > MOST_TEXT:
            given = (
                f"{len(self.task_text)} characters"
                if isinstance(self.task_text, str)
                else "no text"
            )
            raise InvalidRequestError(
                f"task_text has {given}, which is not allowed: pass at most {MOST_TEXT} characters that "
                "say what the agent is doing."
            )

    def slot(self, name: str) -> tuple[str, ...]:
        """The ids in a slot; one, but for `data`."""
        return self.data if name == "data" else (getattr(self, name),)

    @property
    def key(self) -> tuple[tuple[str, ...], ...]:
        """The tuple of nodes that a judgement is about."""
        return tuple(self.slot(name) for name in SLOTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the user decided about a request.

    Attributes:
        id: unique and rising: the later one has the larger id.
        request: what it was about.
        value: `appropriate`, `inappropriate`, or `ask`: never a premise, but what a denial of it would
            cover is not shared without asking.
        source: who said it; only `HUMAN_SOURCES` may be premises.
        created_at: ISO 8601, for people; ids decide the order.
        superseded_by: id of the judgement, or None.
    """

    id: int
    request: Request
    value: Value
    source: Source = "user_cli"
    created_at: str = ""
    superseded_by: int | None = None

    @property
    def is_premise(self) -> bool:
        """Whether it may support a verdict."""
        return self.superseded_by is None and self.value != "ask" and self.source in HUMAN_SOURCES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How verdicts follow from premises.

    Attributes:
        conflict: one of `CONFLICTS`, when premises of both kinds cover a request.
        reliability: `off`, `strict` (a premise that entails the opposite of another judgement of the user
            is dropped), or a number in (0, 1): dropped where (ok + 1) / (ok + bad + 2) is below it.
        min_support: premises that must survive.
        bundle: `joint` (several items are judged together), or `itemwise` (approved where each one is).
        trust_proposed: whether edges of status `proposed` may support `share`.
        veto_share: a score at or below it turns `share` into `ask`; None: no veto.
        veto_withhold: a score at or above it turns `withhold` into `ask`; None: no veto.

    Raises:
        ConfigError: a value is not allowed.
    """

    conflict: str = "escalate"
    reliability: str | float = "strict"
    min_support: int = 1
    bundle: str = "joint"
    trust_proposed: bool = False
    veto_share: float | None = None
    veto_withhold: float | None = None

    def __post_init__(self) -> None:
        one_of(CONFLICTS, conflict=self.conflict)
        one_of(("joint", "itemwise"), bundle=self.bundle)
        positive_int(min_support=self.min_support)
        if isinstance(self.reliability, str):
            one_of(("off", "strict"), reliability=self.reliability)
        elif isinstance(self.reliability, bool) or not 0 < self.reliability < 1:
            raise ConfigError(
                f"reliability={self.reliability!r} is not allowed: pass 'off', 'strict' or a number "
                "between 0 and 1."
            )
        for name in ("veto_share", "veto_withhold"):
            limit = getattr(self, name)
            if limit is not None and not math.isfinite(limit):
                raise ConfigError(
                    f"{name}={limit!r} is not allowed: pass a finite number, or None for no veto."
                )

    @classmethod
    def profile(cls, name: str) -> "Policy":
        """`plain` (no vetoes), `standard` (shares vetoed at a score of 0) or `cautious` (both vetoed at 1).

        All are strict. Those with vetoes need a scorer, such as `scorer.PersonalScorer`.

        Raises:
            ConfigError: no such profile.
        """
        one_of(PROFILES, profile=name)
        if name == "plain":
            return cls()
        if name == "standard":
            return cls(veto_share=0.0)
        return cls(veto_share=1.0, veto_withhold=-1.0)

    def as_json(self) -> dict[str, Any]:
        """For a proof."""
        return dict(vars(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the rules say about a request, before anything is logged.

    Attributes:
        verdict: `share`, `withhold` or `ask`.
        rule: `R0` (judged before), `R1` (approval covers it), `R1-itemwise` (approvals cover each item of
            a bundle), `R2` (denial covers it); None where asked.
        premises: ids of the judgements that support the verdict, the one shown first in front: it covers
            least, and of equals it is the latest. Where it asks: what supports what was not said, after
            a conflict the approvals.
        against: ids of surviving judgements that support the opposite; after a conflict the denials. Where
            the user asked to be asked about what the request would tell, those judgements too, last.
        dropped: ids of unreliable premises and why, by id.
        reason: why it asks: `no_premise`, `conflict`, `min_support`, `veto`, `proposed_only`,
            `always_ask` (the user asked to be asked, about this or about what it would tell), `unmapped`, `mapper_failed`, `partial` (some items
            of a bundle are approved, or each one but not all together); empty where it does not.
        approved, denied, undecided: data nodes of a bundle, each asked alone; empty for one item and
            where R0 decides.
        suggestion: what proposed edges would say, for the question to the user; None without.
    """

    verdict: Verdict
    rule: str | None = None
    premises: tuple[int, ...] = ()
    against: tuple[int, ...] = ()
    dropped: tuple[tuple[int, str], ...] = ()
    reason: str = ""
    approved: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    suggestion: Verdict | None = None
