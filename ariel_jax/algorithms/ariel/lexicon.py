"""Names and letters of the nodes of a slot: what `LexiconMapper` looks things up in. Host only."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ariel_jax.algorithms.ariel.frames import DETERMINERS, FRAMES, bare, pieces
from ariel_jax.algorithms.ariel.text import (
    WEAK_WORDS,
    clean,
    content_words,
    core_words,
    is_carrier,
    joins,
    words,
)
from ariel_jax.algorithms.ariel.types import Node

CORRECTED = 0.95
"""Score of a name that is found after one letter of a word was mended."""
FRAMED = 0.9
"""Score of a name in a frame of more than articles."""
NEAREST = 0.99
"""Highest score by letters: 1 is for names."""
LONGEST = 7
"""Words of the longest name that is looked for in a frame."""
SHORTEST = 5
"""Letters of the shortest word that is mended."""

_WHOLE = frozenset(
    "other others neither never nobody none nothing rather evil fake false former".split()
)
"""Words that are spelled right and mean what they say: "other" is not a misspelled "mother"."""

Words = tuple[str, ...]
Pieces = tuple[tuple[int, int, str], ...]


class SlotIndex:
    """Finds the nodes of one slot by name, and ranks them by letters in common.

    Args:
        slot: of all nodes.
        nodes: in any order.
    """

    def __init__(self, slot: str, nodes: Sequence[Node]) -> None:
        self.slot = slot
        self.ids = [node.id for node in nodes]
        self._exact: dict[str, str | None] = {}
        self._spelled: dict[Words, str | None] = {}
        forms: list[tuple[int, Words, str]] = []
        texts: list[tuple[Words, int]] = []
        for number, node in enumerate(nodes):
            surfaces = (node.label, *node.aliases)
            for surface in (node.id, *surfaces):
                _enter(self._exact, clean(surface)[0].casefold(), node.id)
            for surface in surfaces:
                spelled = words(clean(surface)[0])
                _enter(self._spelled, spelled, node.id)
                bare = content_words(spelled, slot)
                core = core_words(spelled, slot)
                forms += [
                    (len(spelled) - len(form), form, node.id)
                    for form in (bare, core)
                    if joins(set(spelled) - set(form))
                ]
                whole = joins(set(spelled) - set(bare))
                texts.append((bare if whole else spelled, number))
            everything = " ".join((*surfaces, node.definition))
            texts.append((content_words(words(clean(everything)[0]), slot), number))
        self._short = _fewest_left_out(forms)
        self._texts = [text for text, _ in texts]
        self._owner = np.array([number for _, number in texts], np.int64)
        self._spelling = Spelling({w for form in self._spelled for w in form}, slot)

    @functools.cached_property
    def _letters(self) -> "Letters":
        return Letters(self._texts)

    def named(self, text: str) -> tuple[str | None, float, str]:
        """(id, score, how) of the node with this name, or (None, 0, "").

        Every word that is not of the name stands in the closed list of the slot (`frames.FRAMES`).
        """
        node = self._exact.get(text.casefold())
        if node is not None:
            return node, 1.0, "exact"
        left = bare(text, self.slot)
        node = self._exact.get(left)
        if node is not None:
            return node, 1.0, "normalised"
        row = pieces(left)
        if not row:
            return None, 0.0, ""
        found = self._framed(left, row)
        if found is None and not left.endswith("'s"):  # the doctor's is not the doctor
            found = self._shortened(row) or self._mended(row)
        return found or (None, 0.0, "")

    def names_in(self, found: Words) -> tuple[set[str], set[int]]:
        """Nodes that words name, the longest name first at each place, and where these words stand.

        A name that several nodes have counts as one of its own.
        """
        nodes: set[str] = set()
        inside: set[int] = set()
        start = 0
        while start < len(found):
            size = next(
                (n for n in range(min(LONGEST, len(found) - start), 0, -1)
                 if self._is_name(found[start : start + n])), 0,
            )  # fmt: skip
            if size:
                name = found[start : start + size]
                nodes.add(self._exact.get(" ".join(name)) or self._spelled.get(words(" ".join(name)))
                          or " ".join(name))  # fmt: skip
                inside |= set(range(start, start + size))
            start += size or 1
        return nodes, inside

    def _is_name(self, found: Words) -> bool:
        name = " ".join(found)
        return name in self._exact or (not name.endswith("'s") and words(name) in self._spelled)

    def _framed(self, text: str, row: Pieces) -> tuple[str, float, str] | None:
        """The longest name in the text around which nothing but a frame stands."""
        for size in range(min(LONGEST, len(row)), 0, -1):
            nodes, around = set(), set()
            for start in range(len(row) - size + 1):
                inside = row[start : start + size]
                outside = {w for _, _, w in (*row[:start], *row[start + size :])}
                name = text[inside[0][0] : inside[-1][1]]
                if outside <= FRAMES[self.slot] and not name.endswith("'s"):
                    node = self._exact.get(name) or self._spelled.get(words(name))
                    if node is not None:
                        nodes.add(node)
                        around |= outside
            if nodes:
                if len(nodes) > 1:
                    return None
                plain = around <= DETERMINERS
                score, how = (1.0, "normalised") if plain else (FRAMED, "framed")
                return nodes.pop(), score, how
        return None

    def _shortened(self, row: Pieces) -> tuple[str, float, str] | None:
        """A name without the words that join its others."""
        spelled = words(" ".join(word for _, _, word in row))
        node = self._by_words(spelled)
        return (node, 1.0, "normalised") if node is not None else None

    def _mended(self, row: Pieces) -> tuple[str, float, str] | None:
        """A name with one letter of a word mended, in a frame."""
        spelled = words(" ".join(word for _, _, word in row))
        mended = self._spelling.mend(spelled)
        node = self._by_words(mended) if mended else None
        return (node, CORRECTED, "corrected") if node is not None else None

    def _by_words(self, form: Words) -> str | None:
        """The node of a name of these words, where what stands beside it is a frame."""
        allowed = FRAMES[self.slot] | (
            frozenset(WEAK_WORDS) if self.slot == "data" else frozenset()
        )
        for table, kept in (
            (self._spelled, form),
            (self._short, content_words(form, self.slot)),
            (self._short, core_words(form, self.slot)),
        ):
            left_out = [w for w in form if w not in kept]
            node = table.get(kept)
            if node is not None and all(w in allowed for w in left_out):
                return node
        return None

    def ranked(self, text: str) -> list[tuple[str, float]]:
        """All nodes, best first, ties by id.

        Half of the cosine with a name counts by the share of words in common (Dice), so that a name
        that says more or less than the text comes behind. At most `NEAREST`.
        """
        if not self.ids:
            return []
        asked = content_words(words(text), self.slot)
        mended = self._spelling.mend(asked) or asked
        cosine = self._letters.cosine(mended)
        mine = frozenset(mended)
        near = np.flatnonzero(cosine > 0.2)
        score = cosine * 0.5
        for row in near:
            theirs = frozenset(self._texts[row])
            score[row] += 0.5 * cosine[row] * 2 * len(mine & theirs) / (len(mine) + len(theirs))
        best = np.zeros(len(self.ids))
        np.maximum.at(best, self._owner, np.minimum(score, NEAREST))
        order = sorted(range(len(best)), key=lambda n: (-best[n], self.ids[n]))
        return [(self.ids[n], float(best[n])) for n in order]


def _enter(table: dict[Any, str | None], key: Any, node: str) -> None:
    """Adds a name; one that two nodes have belongs to neither."""
    table[key] = node if table.get(key, node) == node else None


def _fewest_left_out(forms: list[tuple[int, Words, str]]) -> dict[Words, str | None]:
    """Shortened names: where two nodes share one, it is that of the node it leaves fewer words of."""
    table: dict[Words, str | None] = {}
    cost: dict[Words, int] = {}
    for left_out, form, node in sorted(forms):
        if cost.setdefault(form, left_out) == left_out:
            _enter(table, form, node)
    return table


class Spelling:
    """Mends single letters of words that are not in a vocabulary.

    Args:
        vocabulary: words that stay as they are.
        slot: words that carry a phrase in it stay too.
    """

    def __init__(self, vocabulary: set[str], slot: str) -> None:
        self._known, self._slot = vocabulary, slot
        self._near: dict[str, set[str]] = {}
        for word in vocabulary:
            if len(word) >= SHORTEST:
                for form in _without_one(word):
                    self._near.setdefault(form, set()).add(word)

    def mend(self, found: Words) -> Words | None:
        """The words with strange ones replaced by the only known word one letter away.

        Returns:
            None where a strange word has no such neighbour or several, or no word is strange.
        """
        out, changed = [], False
        for word in found:
            if word in _WHOLE and word not in self._known:
                return None
            if word not in self._known and not is_carrier(word, self._slot):
                near = {
                    other
                    for form in _without_one(word)
                    for other in self._near.get(form, ())
                    if len(word) >= SHORTEST - 1 and one_letter_apart(word, other)
                }
                if len(near) != 1:
                    return None
                word, changed = near.pop(), True
            out.append(word)
        return tuple(out) if changed else None


def _without_one(word: str) -> set[str]:
    return {word} | {word[:n] + word[n + 1 :] for n in range(len(word))}


def one_letter_apart(a: str, b: str) -> bool:
    """Whether one letter added, left out, replaced, or changed over with the next makes a of b."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    x, y = a[start:], b[start:]
    swapped = len(x) > 1 and len(y) > 1 and x[0] == y[1] and x[1] == y[0] and x[2:] == y[2:]
    return x[1:] == y[1:] or x[1:] == y or x == y[1:] or swapped


class Letters:
    """Cosine of character 3- to 5-grams, weighted by tf-idf, with a fixed set of texts.

    Weights are (1 + log count) (1 + log((1 + n) / (1 + texts with it))); a gram that no text has counts
    in the length of what is asked, so strange words lower the cosine.

    Args:
        texts: as words.
    """

    def __init__(self, texts: Sequence[Words]) -> None:
        counts = [grams(text) for text in texts]
        rows: dict[str, list[int]] = {}
        for number, count in enumerate(counts):
            for gram in count:
                rows.setdefault(gram, []).append(number)
        self._n = len(texts)
        self._idf = {gram: self._rarity(len(found)) for gram, found in rows.items()}
        length = np.array([self._length(count) for count in counts])
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for gram, found in rows.items():
            tf = 1 + np.log(np.array([counts[row][gram] for row in found], np.float64))
            at = np.array(found)
            self._weights[gram] = (at, tf * self._idf[gram] / length[at])

    def _rarity(self, n_texts: int) -> float:
        return 1 + float(np.log((1 + self._n) / (1 + n_texts)))

    def _length(self, count: dict[str, int]) -> float:
        unknown = self._rarity(0)
        squares = [((1 + np.log(n)) * self._idf.get(g, unknown)) ** 2 for g, n in count.items()]
        return float(np.sqrt(sum(squares))) or 1.0

    def cosine(self, text: Words) -> np.ndarray:
        """[texts] float64, in [0, 1]."""
        count = grams(text)
        out = np.zeros(self._n)
        for gram, n in count.items():
            if gram in self._weights:
                at, weight = self._weights[gram]
                out[at] += weight * ((1 + np.log(n)) * self._idf[gram])
        return np.minimum(out / self._length(count), 1.0)


def grams(text: Words) -> dict[str, int]:
    """How often each run of 3 to 5 characters stands in the words, joined and bounded by blanks."""
    marked = f" {' '.join(text)} "
    count: dict[str, int] = {}
    for size in (3, 4, 5):
        for start in range(len(marked) - size + 1):
            gram = marked[start : start + size]
            count[gram] = count.get(gram, 0) + 1
    return count
