"""From words to nodes: a ladder of mappers that abstain where they are not sure. Host only.

A mapper may choose a node and nothing else: no text, whatever it says, reaches a verdict by another
way than through the node that it was mapped to.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import warnings
from collections.abc import Collection, Sequence
from collections.abc import Mapping as Table
from typing import Any, Protocol

from ariel_jax._checks import in_range, one_of
from ariel_jax.algorithms.ariel.gate import VERSION as GATE
from ariel_jax.algorithms.ariel.gate import refusal
from ariel_jax.algorithms.ariel.lexicon import SlotIndex
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.text import clean, is_blank, redact
from ariel_jax.algorithms.ariel.types import SLOTS, Node
from ariel_jax.errors import ConfigError, MapperUnavailableError

VERSION = 2
"""Of the lexicon's rules; part of its name, and so of every proof."""
MARGIN = 0.2
"""The best node must lead the second by this much."""
N_CANDIDATES = 3
STAGES = ("framed", "corrected")
"""Stages between names and letters, each used only where its own calibration admits it."""

Nodes = Table[str, Sequence[Node]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mapping:
    """What a mapper made of a text.

    Attributes:
        slot: it was read for.
        text: as read, cleaned.
        node: id of a node, or None: the mapper abstains.
        score: in [0, 1]; 1 for `exact` and `normalised`.
        by: how it was found: `exact`, `normalised`, `framed`, `corrected`, `lexicon`, `encoder`, `lm`, `endpoint`; `none`
            where nothing was.
        candidates: the next best `(id, score)`, best first, for the question to the user.
        reason: why it abstains: `empty` (nothing that can be seen, as if not given), `cut` (too long to
            be read whole), `below_threshold`, `ambiguous`, `mapper_failed`, or what `gate.refusal` gives;
            empty where not.
        flags: what was done to the text (`controls`, `cut`), and `unavailable:NAME` for every stage of
            a ladder that could not be reached.
    """

    slot: str
    text: str
    node: str | None
    score: float = 0.0
    by: str = "none"
    candidates: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    flags: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For a proof: slot, input (values taken out), node, by, score, flags."""
        return {
            "slot": self.slot,
            "input": redact(self.text),
            "node": self.node,
            "by": self.by,
            "score": round(self.score, 6),
            "flags": list(self.flags),
        }


class Mapper(Protocol):
    """Whatever chooses the node of a slot that a text means."""

    @property
    def name(self) -> str:
        """With its version, for proofs."""
        ...

    def map(self, slot: str, text: str) -> Mapping:
        """The node that `text` means in `slot`, or none.

        Raises:
            MapperUnavailableError: what it needs cannot be reached.
        """
        ...


class LexiconMapper:
    """Maps by names: exact, then in one spelling, then in a frame, mended, and by letters in common.

    Up to there every word of the text has to be understood: what is neither of the name nor in the
    closed list of its slot (`frames`), a comma, another mark, a number or an address makes it abstain.
    The last stage compares character 3- to 5-grams, weighted by tf-idf, with every name of a node and
    with all its names and its definition together; the better of the two counts. It abstains below
    `tau` and where the best two are closer than `margin`. It knows no meaning beyond letters.

    Args:
        nodes: by slot, as `Ontology.nodes`.
        tau: the threshold; None takes that of `assets/calibration.json`, which holds for the packaged
            ontology.
        margin: between the best two.
        stages: which of `STAGES` to use; None takes what the packaged calibration admits.

    Raises:
        ConfigError: tau or margin is not in [0, 1], or no such stage.
    """

    def __init__(
        self,
        nodes: Nodes,
        *,
        tau: float | None = None,
        margin: float = MARGIN,
        stages: Collection[str] | None = None,
    ) -> None:
        packaged = asset("calibration.json") if tau is None or stages is None else {}
        self.tau = float(packaged["tau"] if tau is None else tau)
        self.stages = frozenset(packaged["admitted"] if stages is None else stages)
        in_range(0, 1, tau=self.tau, margin=margin)
        for stage in self.stages:
            one_of(STAGES, stage=stage)
        self.margin = margin
        self._nodes = nodes
        self._slots: dict[str, SlotIndex] = {}

    @classmethod
    def core(cls, *, tau: float | None = None, margin: float = MARGIN) -> "LexiconMapper":
        """Over the packaged ontology."""
        return cls(core_nodes(), tau=tau, margin=margin)

    @property
    def name(self) -> str:
        """`lexicon@` with version and threshold."""
        return f"lexicon@{VERSION}:{self.tau:g}"

    def map(self, slot: str, text: str) -> Mapping:
        """The node that `text` means in `slot`.

        Raises:
            ConfigError: no such slot.
            InvalidRequestError: text is no string.
        """
        one_of(SLOTS, slot=slot)
        read, flags = clean(text)
        refused = unread(slot, read, flags)
        if refused is not None:
            return refused
        index = self.index(slot)
        node, score, by = index.named(read)
        if node is not None and (score == 1 or by in self.stages):
            return Mapping(slot=slot, text=read, node=node, score=score, by=by, flags=flags)
        ranked = index.ranked(read)
        found = choose(slot, read, ranked, self.tau, self.margin, by="lexicon", flags=flags)
        reason = "" if found.node is None else refusal(slot, read, index)
        return _as_guess(found, reason) if reason else found

    def ranked(self, slot: str, text: str) -> list[tuple[str, float]]:
        """All nodes of a slot by letters in common with `text`, best first, ties by id."""
        one_of(SLOTS, slot=slot)
        return self.index(slot).ranked(clean(text)[0])

    def offered(self, slot: str, text: str, n_names: int | None) -> dict[str, str]:
        """Labels of a slot that a model may choose from, with their nodes.

        Args:
            slot: whose.
            text: already clean.
            n_names: as many, the nearest by letters in front; None: all, in the slot's order.
        """
        labels = {node.id: node.label for node in self._nodes.get(slot, ())}
        near = list(labels)
        if n_names is not None:
            near = [node for node, _ in self.ranked(slot, text)[:n_names]]
        return {labels[node]: node for node in near}

    def index(self, slot: str) -> SlotIndex:
        """Names and letters of a slot's nodes, made when it is first asked for."""
        if slot not in self._slots:
            self._slots[slot] = SlotIndex(slot, tuple(self._nodes.get(slot, ())))
        return self._slots[slot]


class Ladder:
    """Mappers one after the other: the first that is sure decides.

    A text that the gate refuses (`gate.refusal`: it negates, excepts, names several things, or cannot be
    read) reaches no stage but a `LexiconMapper`, whose names in frames are understood whole and which keeps
    the gate before its own guesses by letters. With a `LexiconMapper` among the stages the gate knows the names
    of its nodes. The stages of a `Ladder` among them become stages of this one.

    A stage that raises `MapperUnavailableError` is left out from then on, with one warning, and
    every later mapping carries the flag `unavailable:NAME`.

    Args:
        stages: in order; the first should be a `LexiconMapper`.

    Raises:
        ConfigError: no stage.
    """

    def __init__(self, stages: Sequence[Mapper]) -> None:
        if not stages:
            raise ConfigError("stages=() is not allowed: pass at least one mapper.")
        self.stages: tuple[Mapper, ...] = tuple(
            one
            for stage in stages
            for one in (stage.stages if isinstance(stage, Ladder) else (stage,))
        )
        self._gone: set[int] = set()
        self._lexicon = next((s for s in self.stages if isinstance(s, LexiconMapper)), None)

    @property
    def name(self) -> str:
        """The gate's version and the names of the stages, joined by `>`."""
        return ">".join((f"gate{GATE}", *(stage.name for stage in self.stages)))

    def map(self, slot: str, text: str) -> Mapping:
        """The mapping of the first stage that is sure; else that of the last, with all candidates.

        Where the gate refuses, the reason is the gate's.

        Raises:
            ConfigError: no such slot.
            InvalidRequestError: text is no string.
            MapperUnavailableError: no stage is left.
        """
        one_of(SLOTS, slot=slot)
        index = None if self._lexicon is None else self._lexicon.index(slot)
        refused = gated(slot, *clean(text), index)
        last = refused
        candidates: dict[str, float] = {}
        for number, stage in enumerate(self.stages):
            is_kept_out = refused is not None and not isinstance(stage, LexiconMapper)
            if number in self._gone or is_kept_out:
                continue
            try:
                found = stage.map(slot, text)
            except MapperUnavailableError as error:
                self._gone.add(number)
                warnings.warn(
                    f"{error} It is left out from now on; the other mappers go on.", stacklevel=2
                )
                continue
            if found.node is not None:
                return self._flagged(found)
            last = found
            for node, score in found.candidates:
                candidates.setdefault(node, score)
        if last is None:
            raise MapperUnavailableError(
                "No mapper can be reached. Put a LexiconMapper first: it needs nothing."
            )
        reason = last.reason if refused is None else refused.reason
        return self._flagged(
            dataclasses.replace(last, candidates=tuple(candidates.items()), reason=reason)
        )

    def _flagged(self, found: Mapping) -> Mapping:
        gone = tuple(f"unavailable:{self.stages[n].name}" for n in sorted(self._gone))
        return dataclasses.replace(found, flags=found.flags + gone) if gone else found


def _as_guess(found: Mapping, reason: str) -> Mapping:
    """What was mapped, as the first of the candidates."""
    pairs = () if found.node is None else ((found.node, found.score),)
    candidates = (*pairs, *found.candidates)[:N_CANDIDATES]
    return dataclasses.replace(found, node=None, by="none", reason=reason, candidates=candidates)


def unread(slot: str, text: str, flags: tuple[str, ...]) -> Mapping | None:
    """Of a cleaned text that no mapper may map: one that says nothing, or was cut; None for others."""
    if is_blank(text):
        return Mapping(slot=slot, text="", node=None, reason="empty", flags=flags)
    if "cut" in flags:  # what was cut off may say "not"
        return Mapping(slot=slot, text=text, node=None, reason="cut", flags=flags)
    return None


def gated(
    slot: str, text: str, flags: tuple[str, ...], index: SlotIndex | None = None
) -> Mapping | None:
    """Of a cleaned text that only a lexicon may map: `unread`, or refused by the gate; None for others.

    Every mapper of this package but the lexicon begins with it, in a `Ladder` or not; a mapper of your
    own has it where it stands in a `Ladder`.
    """
    refused = unread(slot, text, flags)
    reason = "" if refused is not None else refusal(slot, text, index)
    return (
        Mapping(slot=slot, text=text, node=None, reason=reason, flags=flags) if reason else refused
    )


def choose(
    slot: str,
    text: str,
    ranked: Sequence[tuple[str, float]],
    tau: float,
    margin: float,
    *,
    by: str,
    flags: tuple[str, ...] = (),
) -> Mapping:
    """The best of `ranked` ((id, score), best first), or none below tau or within the margin."""
    top = tuple(ranked[:N_CANDIDATES])
    best = top[0][1] if top else 0.0
    second = top[1][1] if len(top) > 1 else 0.0
    if not top or best < tau:
        reason = "below_threshold"
    elif best - second < margin:
        reason = "ambiguous"
    else:
        return Mapping(
            slot=slot, text=text, node=top[0][0], score=best, by=by, candidates=top[1:], flags=flags
        )
    return Mapping(
        slot=slot, text=text, node=None, score=best, candidates=top, reason=reason, flags=flags
    )


def asset(name: str) -> Any:
    """The content of a packaged JSON file."""
    folder = importlib.resources.files("ariel_jax.algorithms.ariel") / "assets"
    return json.loads((folder / name).read_text(encoding="utf-8"))


def core_nodes() -> Nodes:
    """The nodes of the packaged ontology, by slot."""
    return Ontology.core().nodes


def nodes_hash(nodes: Nodes) -> str:
    """SHA-256 of the names and definitions that a mapper reads."""
    rows = [
        [node.slot, node.id, node.label, list(node.aliases), node.definition]
        for slot in SLOTS
        for node in nodes.get(slot, ())
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()
