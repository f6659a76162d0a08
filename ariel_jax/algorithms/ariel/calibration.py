"""How sure a mapper must be: its threshold from the packaged paraphrases. Host only.

The paraphrases were written for this package, by the hand that wrote the ontology: they measure whether
a mapper is careful, not how people talk. Templates, descriptions and texts outside of the ontology are
disjoint between `dev`, which sets the threshold, and `test`, which no threshold has seen.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Mapping as Table
from typing import Any, Literal

import numpy as np

from ariel_jax._checks import in_range, one_of
from ariel_jax.algorithms.ariel.mapper import (
    MARGIN,
    STAGES,
    LexiconMapper,
    Mapper,
    Mapping,
    Nodes,
    asset,
    core_nodes,
    nodes_hash,
)
from ariel_jax.algorithms.ariel.text import LIMIT
from ariel_jax.algorithms.ariel.types import SLOTS, Node

Split = Literal["dev", "test"]
SPLITS = ("dev", "test")
LEVELS = ("L0", "L1", "L2", "L3", "L4", "sentence", "unseen", "typo")
"""L0 label with an article at most, L1 label or alias in a short phrase, L2 description, L3 with values around it, L4 nothing of the ontology; `sentence`: as
L1, in a sentence with other words; `unseen`: an
alias that was taken out of the lexicon; `typo`: a
label or alias with two letters changed over or one missing."""
ALPHA = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phrase:
    """A text and the node that it means; None where the ontology has none."""

    level: str
    slot: str
    text: str
    gold: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """What a mapper did with phrases.

    Attributes:
        n: phrases.
        mapped: to a node, right or wrong.
        wrong: to another node than the right one; with L4, to any.
    """

    n: int
    mapped: int
    wrong: int

    @property
    def coverage(self) -> float:
        """Share of the phrases that were mapped rightly."""
        return (self.mapped - self.wrong) / self.n if self.n else 0.0

    @property
    def wrong_rate(self) -> float:
        """Share of the mappings that are wrong."""
        return self.wrong / self.mapped if self.mapped else 0.0

    @property
    def wrong_bound(self) -> float:
        """Upper bound of that share at 95 % (Clopper and Pearson 1934, one-sided)."""
        return clopper_pearson_upper(self.wrong, self.mapped)


def clopper_pearson_upper(k: int, n: int, *, error: float = 0.05) -> float:
    """The largest rate under which k or fewer of n events have a probability of at least `error`.

    Args:
        k: events that were seen.
        n: trials; with 0 the bound is 1.
        error: probability that the true rate lies above.

    Returns:
        In (0, 1]; one-sided, by bisection of the binomial sum to 1e-12.

    Raises:
        ConfigError: error is not in (0, 1).

    References:
        Clopper and Pearson 1934, Biometrika 26(4).
    """
    in_range(0, 1, ends="()", error=error)
    if k >= n:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]

    def at_most_k(rate: float) -> float:
        return sum(
            math.exp(c + i * math.log(rate) + (n - i) * math.log1p(-rate))
            for i, c in enumerate(logs)
        )

    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if at_most_k(middle) > error else (low, middle)
    return high


def phrases(split: Split, level: str, nodes: Nodes | None = None) -> list[Phrase]:
    """Texts with the nodes that they mean.

    Args:
        split: `dev` or `test`.
        level: one of `LEVELS`.
        nodes: by slot; None for the packaged ontology.

    Returns:
        In an order that does not change. One template a name, in turn, so every template is used.

    Raises:
        ConfigError: no such split or level.
    """
    one_of(SPLITS, split=split)
    one_of(LEVELS, level=level)
    nodes = core_nodes() if nodes is None else nodes
    source = asset("paraphrases.json")
    if level == "L2":
        rows = source["described"][split]
        return [_phrase(level, s, text, gold) for s in SLOTS for gold, text in rows[s]]
    if level == "L4":
        rows = source["outside"][split]
        return [_phrase(level, s, text, None) for s in SLOTS for text in rows[s]]
    found = []
    for slot in SLOTS:
        names = [(node.id, name) for node in nodes[slot] for name in _names(node, level, split)]
        frames = _frames(source, split, level, slot)
        for number, (gold, name) in enumerate(names):
            plain = name.split()[0].lower() in _NO_ARTICLE
            text = frames[0 if plain else number % len(frames)].replace("{x}", name)
            found.append(_phrase(level, slot, text, gold))
    return found


_NO_ARTICLE = frozenset(
    "my the all every everyone everything anyone any i me how who what where when whether with without".split()
)
"""Names that begin so go into the first template, which has no article."""


def _phrase(level: str, slot: str, text: str, gold: str | None) -> Phrase:
    return Phrase(level=level, slot=slot, text=text[:LIMIT], gold=gold)


def _frames(source: Any, split: Split, level: str, slot: str) -> list[str]:
    if level == "L0":
        return source["plain"][split][slot]
    if level == "L3":
        return source["values"][split]
    return source["sentences" if level == "sentence" else "templates"][split][slot]


def _names(node: Node, level: str, split: Split) -> Iterable[str]:
    if level == "unseen":
        return node.aliases[SPLITS.index(split) :: 2]
    names = (node.label[0].lower() + node.label[1:], *node.aliases)
    if level in ("L1", "sentence"):
        return names
    return [_misspelled(name, split) for name in names] if level == "typo" else names[:1]


def _misspelled(name: str, split: Split) -> str:
    """Two letters of the longest word changed over (dev), or its third one left out (test)."""
    word = max(name.split(), key=len)
    middle = len(word) // 2
    changed = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return name.replace(word, changed if split == "dev" else word[:2] + word[3:])


def without_names(nodes: Nodes, split: Split) -> dict[str, tuple[Node, ...]]:
    """The nodes without the aliases that level `unseen` of this split asks for, nor such as contain one.

    The packaged definitions stay: they are one line, not a list of names.
    """
    one_of(SPLITS, split=split)
    return {
        slot: tuple(
            dataclasses.replace(
                node,
                aliases=tuple(
                    a for n, a in enumerate(node.aliases) if n % 2 != SPLITS.index(split)
                ),
            )
            for node in nodes[slot]
        )
        for slot in SLOTS
    }


def lexicon_mappings(
    split: Split,
    *,
    levels: Sequence[str] = LEVELS,
    tau: float | None = None,
    margin: float = MARGIN,
    stages: Collection[str] | None = None,
    nodes: Nodes | None = None,
) -> dict[str, list[tuple[Phrase, Mapping]]]:
    """What the lexicon makes of the phrases of every level; of `unseen`, without the names asked for.

    Args:
        split: `test`, unless a threshold is being chosen.
        levels: of `LEVELS`.
        tau: threshold of the mapping by letters; None is the packaged one.
        margin: between the best two nodes.
        stages: None is what the packaged calibration admits.
        nodes: by slot; None for the packaged ontology.
    """
    nodes = core_nodes() if nodes is None else nodes
    mapper = LexiconMapper(nodes, tau=tau, margin=margin, stages=stages)
    found = {}
    for level in levels:
        if level == "unseen":
            known = without_names(nodes, split)
            reader = LexiconMapper(known, tau=tau, margin=margin, stages=stages)
        else:
            reader = mapper
        found[level] = mappings(reader, phrases(split, level, nodes))
    return found


def mappings(mapper: Mapper, texts: Sequence[Phrase]) -> list[tuple[Phrase, Mapping]]:
    """Every phrase with what `mapper` makes of it."""
    return [(phrase, mapper.map(phrase.slot, phrase.text)) for phrase in texts]


def tally(found: Iterable[tuple[Phrase, Mapping]], *, by: str | None = None) -> Tally:
    """Counts right and wrong mappings; with `by`, only those of one stage count as mapped."""
    n = mapped = wrong = 0
    for phrase, mapping in found:
        n += 1
        if mapping.node is None or (by is not None and mapping.by != by):
            continue
        mapped += 1
        wrong += mapping.node != phrase.gold
    return Tally(n=n, mapped=mapped, wrong=wrong)


def report(
    found: Table[str, Iterable[tuple[Phrase, Mapping]]], *, by: str | None = None
) -> dict[str, Tally]:
    """A tally for every level of what `lexicon_mappings` found, or another mapper."""
    return {level: tally(pairs, by=by) for level, pairs in found.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """A threshold and what it stands on; `as_json` is what `assets/calibration.json` holds.

    Attributes:
        tau: threshold of the mapping by letters: 1, so that it only suggests.
        admitted: stages between names and letters that keep the bound, of `mapper.STAGES`.
        alpha: highest bound on the rate of wrong mappings, for each stage by itself.
        tallies: for `lexicon` (at tau) and every stage: n, wrong, bound (one-sided, 95 %), on `dev`.
        margin: between the best two nodes.
        dev_sha256: of the texts.
        nodes_sha256: of the names and definitions.
    """

    tau: float
    admitted: tuple[str, ...]
    alpha: float
    tallies: Table[str, Table[str, float]]
    margin: float
    dev_sha256: str
    nodes_sha256: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"version": 1, **dataclasses.asdict(self), "admitted": list(self.admitted)}


def calibrate(
    found: Sequence[tuple[Phrase, Mapping]], *, alpha: float = ALPHA, step: float = 0.01
) -> tuple[float, Tally]:
    """The smallest threshold whose bound on wrong mappings, and that of all above it, is below alpha.

    Thresholds are tried from 1 downwards until one fails, so that trying several does not weaken the
    bound (fixed sequence testing; Angelopoulos et al. 2021, arXiv 2110.01052). As long as there are
    too few mappings for any bound (none wrong, bound above alpha) the search goes on: no look at the
    errors has decided anything then.

    Args:
        found: phrases with mappings that were made without a threshold (tau 0), by one stage.
        alpha: highest allowed bound.
        step: between thresholds.

    Returns:
        (tau, tally at tau); tau is 1 where no threshold does.

    Raises:
        ConfigError: alpha or step is not in (0, 1).
    """
    in_range(0, 1, ends="()", alpha=alpha, step=step)
    best = (1.0, Tally(n=len(found), mapped=0, wrong=0))
    for tau in np.round(np.arange(1.0, 0.0, -step), 6):
        now = tally(pair for pair in found if pair[1].node is not None and pair[1].score >= tau)
        if now.wrong_bound <= alpha:
            best = (float(tau), dataclasses.replace(now, n=len(found)))
        elif now.wrong:
            break
    return best


def calibrate_lexicon(
    nodes: Nodes | None = None, *, alpha: float = ALPHA, margin: float = MARGIN
) -> Calibration:
    """What `LexiconMapper` may do, from the dev paraphrases.

    Every stage is held to alpha by itself: names that are found as they stand, which are most
    phrases and hardly ever wrong, would hide the errors of the others. Letters in common get no
    threshold: no cosine tells a name from the name with "not" before it, so they only suggest.
    """
    nodes = core_nodes() if nodes is None else nodes
    found = [
        pair
        for pairs in lexicon_mappings(
            "dev", tau=0.0, margin=margin, stages=STAGES, nodes=nodes
        ).values()
        for pair in pairs
    ]
    letters = Tally(n=len(found), mapped=0, wrong=0)
    stages = {stage: tally(found, by=stage) for stage in STAGES}
    return Calibration(
        tau=1.0,
        admitted=tuple(s for s, t in stages.items() if t.wrong_bound <= alpha),
        alpha=alpha,
        tallies={
            name: {"n": t.mapped, "wrong": t.wrong, "bound": round(t.wrong_bound, 6)}
            for name, t in {"lexicon": letters, **stages}.items()
        },
        margin=margin,
        dev_sha256=phrases_hash("dev", nodes),
        nodes_sha256=nodes_hash(nodes),
    )


def phrases_hash(split: Split, nodes: Nodes | None = None) -> str:
    """SHA-256 of all phrases of a split."""
    rows = [[p.level, p.slot, p.text, p.gold] for lv in LEVELS for p in phrases(split, lv, nodes)]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()
