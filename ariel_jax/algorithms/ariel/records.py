"""What ARIEL's log gives back, and how requests are written down in it; host only."""

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from ariel_jax.algorithms.ariel.types import SLOTS, Judgement, Outcome, Request
from ariel_jax.errors import ConfigError, IntegrityError

LIMIT = 200
"""Characters of an id, a user's name or a note; longer ones are refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision as it was logged.

    Attributes:
        id: unique in the file and rising.
        user: whose data it is about.
        request: without its text.
        outcome: of the rules.
        proof: its parsed form.
        proof_json: its canonical form.
        ontology_hash: of the facts that were used.
        latency_us: from the request to the log, without the commit.
        created_at: ISO 8601, for people; ids decide the order.
        hash: of its row.
        question: to the user, where it asks.
        answer: what the user said to that; None: nothing yet.
        answered: the verdict that follows from the answer.
        meant: what the user answered about, where not all was understood; None: the request as it stands.
    """

    id: int
    user: str
    request: Request
    outcome: Outcome
    proof: dict[str, Any]
    proof_json: str
    ontology_hash: str
    latency_us: int
    created_at: str
    hash: str
    question: dict[str, Any] | None
    answer: str | None
    answered: str | None
    meant: Request | None = None

    @property
    def about(self) -> Request:
        """What the verdict or the answer is about; what was not understood and not said is `UNSPEC`."""
        return self.meant or self.request

    @property
    def is_once(self) -> bool:
        """Whether the user's answer was for one disclosure only."""
        return self.answer is not None and self.answer.endswith(" once")

    @property
    def verdict(self) -> str:
        """`share`, `withhold` or `ask`, as the rules said; an answer does not change it."""
        return self.outcome.verdict

    @property
    def may_share(self) -> bool:
        """Whether the rules, or the user's answer, allow this one disclosure of `about`."""
        return (self.answered or self.verdict) == "share"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """What would be said about a request; no decision, no proof, and no permission.

    Attributes:
        would_be: `share`, `withhold` or `ask`.
        rule, reason, premises, against: as of an `Outcome`.
    """

    would_be: str
    rule: str | None
    reason: str
    premises: tuple[int, ...]
    against: tuple[int, ...]

    @classmethod
    def of(cls, said: Outcome) -> "Forecast":
        """The forecast of an outcome that is not logged."""
        return cls(
            would_be=said.verdict, rule=said.rule, reason=said.reason, premises=said.premises,
            against=said.against,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What tells whether a history in memory is still that of the log.

    Ids alone would not: a row that was undone may have been followed by another with the same id.

    Attributes:
        version_hash, retraction_hash, judgement_hash: of the user's latest rows, empty without.
        judgement: id of the latest one, 0 without.
    """

    version_hash: str
    retraction_hash: str
    judgement_hash: str
    judgement: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tombstone:
    """What is left of a user who was forgotten: that there was one, and how many rows."""

    id: int
    judgements: int
    decisions: int
    rows: int
    created_at: str


def check_name(**values: str) -> None:
    """Checks ids, users' names and the like: printable text, not empty, not long.

    Raises:
        ConfigError: a value is not.
    """
    for name, value in values.items():
        if not (isinstance(value, str) and 0 < len(value) <= LIMIT and value.isprintable()):
            raise ConfigError(
                f"{name}={str(value)[:LIMIT]!r} is not allowed: pass printable text of at most {LIMIT} "
                "characters."
            )


def check_request(request: Request) -> None:
    """Checks what will be stored of a request; raises what `check_name` raises."""
    for slot in SLOTS:
        for node in request.slot(slot):
            check_name(**{slot: node})
    if len(request.data) > LIMIT:
        raise ConfigError(f"data has {len(request.data)} items: pass at most {LIMIT}.")


def request_json(request: Request) -> dict[str, Any]:
    """A request's slots, without its text."""
    return {slot: list(request.data) if slot == "data" else request.slot(slot)[0] for slot in SLOTS}


def request_of(value: Mapping[str, Any]) -> Request:
    """The request of what `request_json` gives."""
    values: dict[str, Any] = {slot: value[slot] for slot in SLOTS}
    values["data"] = tuple(values["data"])
    return Request(**values)


def judgement_of(row: sqlite3.Row) -> Judgement:
    """The judgement of a row.

    Raises:
        IntegrityError: it was damaged.
    """
    try:
        request = request_of(json.loads(row["nodes_json"]))
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            f"judgement {row['id']} was changed: {error}. Restore a copy of the file."
        ) from error
    return Judgement(
        id=row["id"], request=request, value=row["value"], source=row["source"],
        created_at=row["created_at"], superseded_by=row["superseded_by"],
    )  # fmt: skip


def outcome_of(value: Mapping[str, Any]) -> Outcome:
    """The outcome of what `dataclasses.asdict` gave, read back from JSON."""

    def frozen(x: Any) -> Any:
        return tuple(frozen(y) for y in x) if isinstance(x, list) else x

    return Outcome(**{name: frozen(x) for name, x in value.items()})
