"""From words to nodes: a ladder of mappers that abstain where they are not sure. Host only.

A mapper may choose a node and nothing else: no text, whatever it says, reaches a verdict by another
way than through the node that it was mapped to.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import warnings
from collections.abc import Mapping as Table
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ariel_jax._checks import in_range, one_of
from ariel_jax.algorithms.ariel.text import clean, content_words, words
from ariel_jax.algorithms.ariel.types import SLOTS, UNSPEC, Node
from ariel_jax.errors import ConfigError, MapperUnavailableError

VERSION = 1
"""Of the lexicon's rules; part of its name, and so of every proof."""
MARGIN = 0.05
"""The best node must lead the second by this much."""
N_CANDIDATES = 3

Nodes = Table[str, Sequence[Node]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mapping:
    """What a mapper made of a text.

    Attributes:
        slot: it was read for.
        text: as read, cleaned.
        node: id of a node, `UNSPEC` for an empty text, or None: the mapper abstains.
        score: in [0, 1]; 1 for `exact` and `normalised`.
        by: how it was found: `exact`, `normalised`, `lexicon`, `encoder`, `lm`, `endpoint`; `none`
            where nothing was.
        candidates: the next best `(id, score)`, best first, for the question to the user.
        reason: why it abstains: `below_threshold`, `ambiguous`, `mapper_failed`; empty where not.
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
        """For a proof: slot, input, node, by, score, flags."""
        return {
            "slot": self.slot,
            "input": self.text,
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
    """Maps by names: exact, then in one spelling, then by letters in common.

    The last stage compares character 3- to 5-grams, weighted by tf-idf, with every name of a node and
    with all its names and its definition together; the better of the two counts. It abstains below
    `tau` and where the best two are closer than `margin`. It knows no meaning beyond letters.

    Args:
        nodes: by slot, as `Ontology.nodes`.
        tau: the threshold; None takes that of `assets/calibration.json`, which holds for the packaged
            ontology.
        margin: between the best two.

    Raises:
        ConfigError: tau or margin is not in [0, 1].
    """

    def __init__(self, nodes: Nodes, *, tau: float | None = None, margin: float = MARGIN) -> None:
        self.tau = packaged_tau() if tau is None else float(tau)
        in_range(0, 1, tau=self.tau, margin=margin)
        self.margin = margin
        self._slots = {slot: _SlotIndex(tuple(nodes.get(slot, ()))) for slot in SLOTS}

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
        if not read:
            return Mapping(slot=slot, text="", node=UNSPEC, score=1.0, by="exact", flags=flags)
        index = self._slots[slot]
        node, by = index.named(read)
        if node is not None:
            return Mapping(slot=slot, text=read, node=node, score=1.0, by=by, flags=flags)
        ranked = index.ranked(read)
        return choose(slot, read, ranked, self.tau, self.margin, by="lexicon", flags=flags)

    def ranked(self, slot: str, text: str) -> list[tuple[str, float]]:
        """All nodes of a slot by letters in common with `text`, best first, ties by id."""
        one_of(SLOTS, slot=slot)
        return self._slots[slot].ranked(clean(text)[0])


class Ladder:
    """Mappers one after the other: the first that is sure decides.

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
        self.stages = tuple(stages)
        self._gone: set[int] = set()

    @property
    def name(self) -> str:
        """Names of the stages, joined by `>`."""
        return ">".join(stage.name for stage in self.stages)

    def map(self, slot: str, text: str) -> Mapping:
        """The mapping of the first stage that is sure; else that of the last, with all candidates.

        Raises:
            ConfigError: no such slot.
            InvalidRequestError: text is no string.
            MapperUnavailableError: no stage is left.
        """
        last: Mapping | None = None
        candidates: dict[str, float] = {}
        for number, stage in enumerate(self.stages):
            if number in self._gone:
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
        return self._flagged(dataclasses.replace(last, candidates=tuple(candidates.items())))

    def _flagged(self, found: Mapping) -> Mapping:
        gone = tuple(f"unavailable:{self.stages[n].name}" for n in sorted(self._gone))
        return dataclasses.replace(found, flags=found.flags + gone) if gone else found


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


class _SlotIndex:
    """Names and letters of the nodes of one slot."""

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self.ids = [node.id for node in nodes]
        self._exact: dict[str, str | None] = {}
        self._spelled: dict[tuple[str, ...], str | None] = {}
        self._bare: dict[tuple[str, ...], str | None] = {}
        texts: list[tuple[tuple[str, ...], int]] = []
        shortened = []
        for number, node in enumerate(nodes):
            surfaces = (node.label, *node.aliases)
            for surface in (node.id, *surfaces):
                read = clean(surface)[0].casefold()
                _enter(self._exact, read, node.id)
            for surface in surfaces:
                spelled = words(clean(surface)[0])
                bare = content_words(spelled)
                _enter(self._spelled, spelled, node.id)
                texts.append((bare or spelled, number))
                if bare == spelled:
                    _enter(self._bare, bare, node.id)
                elif bare:
                    shortened.append((bare, node.id))
            everything = " ".join((*surfaces, node.definition))
            texts.append((content_words(words(clean(everything)[0])), number))
        taken = set(self._bare)
        for bare, node_id in shortened:  # "my doctor" gives way to a node that is called "doctor"
            if bare not in taken:
                _enter(self._bare, bare, node_id)
        self._letters = _Letters([text for text, _ in texts])
        self._owner = np.array([number for _, number in texts], np.int64)

    def named(self, text: str) -> tuple[str | None, str]:
        """(id, how) of the node with this name, or (None, "")."""
        node = self._exact.get(text.casefold())
        if node is not None:
            return node, "exact"
        spelled = words(text)
        node = self._spelled.get(spelled) or self._bare.get(content_words(spelled))
        return node, "normalised" if node is not None else ""

    def ranked(self, text: str) -> list[tuple[str, float]]:
        """All nodes, best first."""
        if not self.ids:
            return []
        spelled = words(text)
        cosine = self._letters.cosine(content_words(spelled) or spelled)
        best = np.zeros(len(self.ids))
        np.maximum.at(best, self._owner, cosine)
        order = sorted(range(len(best)), key=lambda n: (-best[n], self.ids[n]))
        return [(self.ids[n], float(best[n])) for n in order]


def _enter(table: dict[Any, str | None], key: Any, node: str) -> None:
    """Adds a name; one that two nodes have belongs to neither."""
    table[key] = node if table.get(key, node) == node else None


class _Letters:
    """Cosine of character n-grams, weighted by tf-idf, with a fixed set of texts.

    Weights are (1 + log count) (1 + log((1 + n) / (1 + texts with it))); an n-gram that no text has
    counts in the length of what is asked, so strange words lower the cosine.
    """

    def __init__(self, texts: list[tuple[str, ...]]) -> None:
        counts = [_grams(text) for text in texts]
        rows: dict[str, list[int]] = {}
        for number, count in enumerate(counts):
            for gram in count:
                rows.setdefault(gram, []).append(number)
        self._n = len(texts)
        self._idf = {gram: self._rarity(len(found)) for gram, found in rows.items()}
        length = np.array([self._length(count) for count in counts])
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for gram, found in rows.items():
            tf = np.array([1 + np.log(counts[row][gram]) for row in found])
            at = np.array(found)
            self._weights[gram] = (at, tf * self._idf[gram] / length[at])

    def _rarity(self, n_texts: int) -> float:
        return 1 + float(np.log((1 + self._n) / (1 + n_texts)))

    def _length(self, count: dict[str, int]) -> float:
        unknown = self._rarity(0)
        squares = [((1 + np.log(n)) * self._idf.get(g, unknown)) ** 2 for g, n in count.items()]
        return float(np.sqrt(sum(squares))) or 1.0

    def cosine(self, text: tuple[str, ...]) -> np.ndarray:
        """[texts] float64, in [0, 1]."""
        count = _grams(text)
        out = np.zeros(self._n)
        for gram, n in count.items():
            if gram in self._weights:
                at, weight = self._weights[gram]
                out[at] += weight * ((1 + np.log(n)) * self._idf[gram])
        return np.minimum(out / self._length(count), 1.0)


def _grams(text: tuple[str, ...]) -> dict[str, int]:
    """How often each run of 3 to 5 characters stands in the words, their ends marked by a blank."""
    count: dict[str, int] = {}
    for word in text:
        marked = f" {word} "
        for size in (3, 4, 5):
            for start in range(len(marked) - size + 1):
                gram = marked[start : start + size]
                count[gram] = count.get(gram, 0) + 1
    return count


def _asset(name: str) -> Any:
    folder = importlib.resources.files("ariel_jax.algorithms.ariel") / "assets"
    return json.loads((folder / name).read_text(encoding="utf-8"))


def core_nodes() -> dict[str, tuple[Node, ...]]:
    """The nodes of the packaged ontology, by slot."""
    found: dict[str, list[Node]] = {slot: [] for slot in SLOTS}
    for row in _asset("ontology.json")["nodes"]:
        found[row["slot"]].append(
            Node(
                slot=row["slot"],
                id=row["id"],
                label=row["label"],
                aliases=tuple(row["aliases"]),
                definition=row["definition"],
            )
        )
    return {slot: tuple(nodes) for slot, nodes in found.items()}


def packaged_tau() -> float:
    """The threshold that was calibrated on the packaged paraphrases."""
    return float(_asset("calibration.json")["tau"])


def nodes_hash(nodes: Nodes) -> str:
    """SHA-256 of the names and definitions that a mapper reads."""
    rows = [
        [node.slot, node.id, node.label, list(node.aliases), node.definition]
        for slot in SLOTS
        for node in nodes.get(slot, ())
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()
