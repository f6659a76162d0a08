"""From what was asked for, ids or words, to nodes; what is not understood is not written down. Host only."""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import ANY, MOST_TEXT, SLOTS, UNSPEC, Request
from ariel_jax.errors import InvalidRequestError, MapperUnavailableError, UnknownNodeError

MOST_CHARACTERS = 2_000
"""Of one text; longer ones are refused."""
MOST_ITEMS = 64
"""Of one request."""
NOT_UNDERSTOOD, IN_WORDS = "(not understood)", "(in other words)"
"""What is written down in place of words that are no name: they may hold a value."""
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters to Unicode, blanks to a reader


class Mapped(Protocol):
    """What a mapper makes of a text."""

    @property
    def node(self) -> str | None:
        """Id of a node, or None: the mapper abstains."""
        ...

    @property
    def score(self) -> float:
        """How sure it is, in [0, 1]."""
        ...

    @property
    def by(self) -> str:
        """How it was found."""
        ...

    @property
    def candidates(self) -> Sequence[tuple[str, float]]:
        """The next best, for the question to the user."""
        ...


class Mapper(Protocol):
    """Whatever chooses the node of a slot that a text means."""

    @property
    def name(self) -> str:
        """With its version, for proofs."""
        ...

    def map(self, slot: str, text: str) -> Mapped:
        """The node that `text` means in `slot`, or none.

        Raises:
            MapperUnavailableError: what it needs cannot be reached.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A request, and how it was read.

    Attributes:
        request: with `UNSPEC` where something was not understood.
        entries: one for each item and each other slot, as a proof shows them: slot, input, node, by, score.
        unmapped: slot and candidates of what was not understood.
        reason: `unmapped` or `mapper_failed`; empty where all was understood.
        mapper: its name, `ids` where none was needed.
    """

    request: Request
    entries: tuple[Mapping[str, Any], ...]
    unmapped: tuple[Mapping[str, Any], ...]
    reason: str
    mapper: str


def read(
    slots: Mapping[str, str | Sequence[str]],
    ontology: Ontology,
    mapper: Mapper | None,
    *,
    task_text: str = "",
    allow_any: bool = False,
) -> Reading:
    """Reads what stands in each slot.

    Args:
        slots: ids, or words where there is a mapper; `data` may have several; a missing slot is that of
            `Request`'s default.
        ontology: of the user.
        mapper: for words; None: ids only.
        task_text: for people.
        allow_any: whether `ANY` may stand in a slot, as in a judgement of the user.

    Raises:
        InvalidRequestError: no data, no recipient, `ANY` where it may not stand, or a text that is too long.
    """
    check_text(task_text=task_text)
    slots = {
        slot: text for slot, text in slots.items()
        if slot not in SLOTS[1:] or not isinstance(text, str) or not is_blank(text)
    }  # fmt: skip
    items = slots.get("data", ())
    items = (items,) if isinstance(items, str) else tuple(items)
    texts = [("data", text) for text in items]
    texts += [(slot, slots[slot]) for slot in SLOTS[1:] if slots.get(slot)]
    _check(texts, slots, allow_any)
    entries, unmapped, failed = [], [], False
    nodes: dict[str, list[str]] = {}
    for slot, text in texts:
        entry, candidates, has_failed = _one(slot, str(text), ontology, mapper)
        failed = failed or has_failed
        if entry["node"] is None:
            unmapped.append({"slot": slot, "candidates": candidates})
        entries.append(entry)
        nodes.setdefault(slot, []).append(entry["node"] or UNSPEC)
    others = {slot: found[0] for slot, found in nodes.items() if slot != "data"}
    request = Request(data=tuple(nodes["data"]), task_text=task_text, **others)
    reason = "mapper_failed" if failed else "unmapped" if unmapped else ""
    return Reading(
        request=request, entries=tuple(entries), unmapped=tuple(unmapped), reason=reason,
        mapper="ids" if mapper is None else mapper.name,
    )  # fmt: skip


def check_text(**texts: str) -> None:
    """Checks what is hashed or stored of texts.

    Raises:
        InvalidRequestError: one is too long, or has half of a surrogate pair; the message does not quote it.
    """
    for name, text in texts.items():
        if len(text) > MOST_TEXT:
            raise InvalidRequestError(
                f"{name} has {len(text)} characters: pass at most {MOST_TEXT}."
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidRequestError(
                f"{name} holds half of a surrogate pair, which is no character: pass text in UTF-8."
            )


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing: spaces, control and format characters alone count as nothing."""
    if text.isascii():
        return not any("!" <= character <= "~" for character in text)
    return all(
        (unicodedata.category(character)[0] in "CZ" and not "\ud800" <= character <= "\udfff")
        or character in _FILLERS
        for character in unicodedata.normalize("NFKC", text)
    )  # fmt: skip


def _check(texts: Sequence[tuple[str, Any]], slots: Mapping[str, Any], allow_any: bool) -> None:
    if unknown := sorted(set(slots) - set(SLOTS)):
        raise InvalidRequestError(f"the request has {unknown}: pass some of {list(SLOTS)}.")
    for slot in ("data", "recipient"):
        if not any(name == slot for name, _ in texts):
            raise InvalidRequestError(
                f"{slot} is missing: say {'what is asked for' if slot == 'data' else 'who would get it'}."
            )
    if len(texts) > MOST_ITEMS:
        raise InvalidRequestError(
            f"the request has {len(texts)} entries: pass at most {MOST_ITEMS}."
        )
    for slot, text in texts:
        if not isinstance(text, str) or is_blank(text):
            raise InvalidRequestError(
                f"{slot} holds something that is no text: pass an id or words."
            )
        if len(text) > MOST_CHARACTERS:
            raise InvalidRequestError(
                f"{slot} has {len(text)} characters: pass an id or a few words, at most {MOST_CHARACTERS}."
            )
        check_text(**{slot: text})
        if (text == ANY and not allow_any) or (slot == "data" and text == UNSPEC):
            raise InvalidRequestError(
                f"{slot}={text} is not allowed in a request: name what is asked for."
            )


def _one(
    slot: str, text: str, ontology: Ontology, mapper: Mapper | None
) -> tuple[dict[str, Any], list[list[Any]], bool]:
    """An entry, candidates, and whether the mapper failed."""
    if text in (ANY, UNSPEC) or text in ontology.index(slot):
        return _entry(slot, text, text, "id", 1.0), [], False
    # Words that are no name may hold a value, such as a telephone number. Not even a hash of them is kept:
    # few values are possible, and each can be tried.
    is_name = _is_name(slot, text, ontology)
    shown = text if is_name else NOT_UNDERSTOOD
    if mapper is None:
        return _entry(slot, shown, None, "none", 0.0), _nearest(slot, text, ontology), False
    try:
        found = mapper.map(slot, text)
    except MapperUnavailableError:
        return _entry(slot, shown, None, "none", 0.0, ("mapper_failed",)), [], True
    flags = tuple(getattr(found, "flags", ()))
    failed = getattr(found, "reason", "") == "mapper_failed"
    node = found.node
    # Whatever a mapper says, only a node of the user's ontology counts.
    if node is not None and node != UNSPEC and node not in ontology.index(slot):
        node, failed, flags = None, True, (*flags, "illegal_node")
    if slot == "data" and node == UNSPEC:
        node = None
    if node is not None and not is_name:
        shown = IN_WORDS
    candidates = [[name, round(float(score), 6)] for name, score in found.candidates]
    return _entry(slot, shown, node, found.by, float(found.score), flags), candidates, failed


def _entry(
    slot: str, shown: str, node: str | None, by: str, score: float, flags: tuple[str, ...] = ()
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "slot": slot, "input": shown, "node": node, "by": by, "score": round(score, 6)
    }  # fmt: skip
    return entry | ({"flags": list(flags)} if flags else {})


def _is_name(slot: str, text: str, ontology: Ontology) -> bool:
    try:
        ontology.resolve(slot, text)
    except UnknownNodeError:
        return False
    return True


def _nearest(slot: str, text: str, ontology: Ontology) -> list[list[Any]]:
    try:
        return [[ontology.resolve(slot, text), 1.0]]
    except UnknownNodeError as error:
        found = [ontology.resolve(slot, name) for name in error.nearest]
        return [[node, 0.0] for node in dict.fromkeys(found)]
