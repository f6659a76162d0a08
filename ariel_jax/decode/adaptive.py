"""How many drafts to verify, chosen between segments from what they cost and how many would hold."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ariel_jax._checks import positive, positive_int
from ariel_jax.decode.replay import NGramReplay
from ariel_jax.decode.speculative import Speculative
from ariel_jax.decode.state import DecodeState, StepInfo
from ariel_jax.decode.strategy import Autoregressive, Strategy
from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

SHORTEST_REVIEW = 8  # steps before the first review; each that changes nothing doubles it
WINDOW = 64  # tokens of each request that a review looks back on
PRIOR = 4  # steps of one token each that count as if they had been seen


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What the reviews have seen; the engine's host state, never compiled.

    Attributes:
        replays: of each request.
        first: where the text that counts as evidence begins in each.
        steps: taken since the last review.
        review_steps: how many to take between two.
    """

    replays: tuple[NGramReplay, ...] = ()
    first: tuple[int, ...] = ()
    steps: int = 0
    review_steps: int = SHORTEST_REVIEW


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """Takes, segment by segment, the number of drafts that promises most tokens per second.

    Plain decoding is one of the choices, and the first one. Drafts from the text can be judged
    without being tried: a review counts how many steps each choice would have taken over the last
    tokens. All choices share the proposer's arrays.

    Attributes:
        choices: strategies of rising rows, the first one plain decoding, the others with `NGram`
            drafts that differ in k only.
        costs: time of a step of each choice over that of the first; measured, see
            `algorithms.bmc.step_costs`.
        segment_steps: most steps between two reviews.
        at: which choice holds now.
        outlook: what the reviews have seen.

    Guarantees:
        The tokens of plain decoding, as each of its choices gives them.

    Cost:
        Some microseconds of the host for each token, and the end of a segment for each review: the
        first after 8 steps, each that changes nothing doubles the next.

    References:
        The rule maximises (tokens per step) / (measured cost of a step), as Leviathan et al. 2023,
        arXiv 2211.17192, eq. 1 does with an acceptance; here the tokens are counted instead.
    """

    choices: tuple[Strategy, ...]
    costs: tuple[float, ...]
    segment_steps: int = 32
    at: int = 0
    outlook: Outlook = dataclasses.field(default=Outlook(), compare=False)  # compiles nothing

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(segment_steps=self.segment_steps)
        positive(**{f"costs[{i}]": cost for i, cost in enumerate(self.costs)})
        rows = [choice.rows for choice in self.choices]
        if len(rows) < 2 or len(rows) != len(self.costs) or rows != sorted(set(rows)):
            raise ConfigError(
                f"Adaptive got choices of {rows} rows and {len(self.costs)} costs: give at least "
                "two choices of rising rows and one cost each."
            )
        proposers = [getattr(choice, "proposer", None) for choice in self.choices[1:]]
        kinds = {type(proposer).__name__ for proposer in proposers}
        if kinds != {"NGram"}:
            raise ConfigError(
                f"Adaptive got drafts of {sorted(kinds)}: all must be NGram, which can be judged from "
                "the text; a draft model's cache would miss what plain decoding adds."
            )
        if not all(p.tree.is_chain for p in proposers if p is not None):
            raise ConfigError(
                "Adaptive got drafts in a tree; how many of them hold says nothing about fewer or "
                "more of them. Choose among chains."
            )
        looks = {(p.longest, p.shortest) for p in proposers if p is not None}
        if len(looks) != 1:
            raise ConfigError(
                f"Adaptive got drafts that look for suffixes of {sorted(looks)} (longest, shortest): "
                "they may differ in k only."
            )
        if rows[0] != 1 or not 0 <= self.at < len(rows):
            raise ConfigError(
                f"Adaptive starts with choice {self.at} of {len(rows)}, the first of {rows[0]} "
                "rows: the first must be plain decoding, and the start one of the choices."
            )

    @property
    def now(self) -> Strategy:
        """The choice that holds; programs are compiled for it alone, not for the numbers here."""
        return self.choices[self.at]

    @property
    def rows(self) -> int:
        """Rows of the choice that holds."""
        return self.now.rows

    @property
    def max_rows(self) -> int:
        """Rows of the longest choice."""
        return self.choices[-1].rows

    @property
    def review_steps(self) -> int | None:
        """The steps that are left until the next review."""
        return self._due() - self.outlook.steps

    def _due(self) -> int:
        return min(self.outlook.review_steps, self.segment_steps)

    def init(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> Any:
        """The drafts' state."""
        return self.choices[-1].init(cfg, params, extra, state)

    def prefill(
        self,
        cfg: DecoderConfig,
        params: DecoderParams,
        extra: Any,
        state: DecodeState,
        tokens: jax.Array,
        lengths: jax.Array,
    ) -> DecodeState:
        """The drafts' prefill."""
        return self.choices[-1].prefill(cfg, params, extra, state, tokens, lengths)

    def step(
        self, cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState
    ) -> tuple[DecodeState, StepInfo]:
        """A step of the choice that holds."""
        return self.now.step(cfg, params, extra, state)

    def grow(self, aux: Any, capacity: int) -> Any:
        """The drafts' growth."""
        return self.choices[-1].grow(aux, capacity)

    def reset_rows(self, aux: Any, rows: jax.Array) -> Any:
        """The drafts' reset."""
        return self.choices[-1].reset_rows(aux, rows)

    def choose(self, stats: dict[str, Any]) -> "Adaptive":
        """The choice of most tokens per second over the last tokens."""
        outlook = self._read(stats)
        steps = outlook.steps + int(np.max(stats["steps"], initial=0))
        # Segments also end for other reasons: a full cache, a look at the text.
        if steps < self._due():
            return dataclasses.replace(self, outlook=dataclasses.replace(outlook, steps=steps))
        active = ~np.asarray(stats["done"])
        rates = [
            self._tokens_per_step(outlook, active, choice.rows - 1) / cost
            for choice, cost in zip(self.choices, self.costs, strict=True)
        ]
        best = int(np.argmax(rates))
        # A change compiles or warms another program: not for a gain within the noise.
        if rates[best] < 1.02 * rates[self.at]:
            best = self.at
        longer = min(2 * outlook.review_steps, self.segment_steps)
        next_review = longer if best == self.at else SHORTEST_REVIEW
        outlook = dataclasses.replace(outlook, steps=0, review_steps=next_review)
        return dataclasses.replace(self, at=best, outlook=outlook)

    def _read(self, stats: dict[str, Any]) -> Outlook:
        """The outlook with the new text in it."""
        tokens, known = np.asarray(stats["tokens"]), np.asarray(stats["length"]) + 1
        emitted = np.asarray(stats["emitted"])
        replays, first = list(self.outlook.replays), list(self.outlook.first)
        proposer: Any = self.choices[1].proposer  # pyright: ignore[reportAttributeAccessIssue] checked above
        for row in range(len(known)):
            text = tokens[row, : known[row]].tolist()
            have = replays[row].tokens if row < len(replays) else None
            if have is None or have != text[: len(have)]:  # new, rolled back, another request
                replays[row : row + 1] = [NGramReplay(proposer.longest, proposer.shortest)]
                first[row : row + 1] = [int(known[row] - emitted[row])]
            replays[row].extend(text[len(replays[row].tokens) :])
        return dataclasses.replace(self.outlook, replays=tuple(replays), first=tuple(first))

    def _tokens_per_step(self, outlook: Outlook, active: np.ndarray, k: int) -> float:
        """Of the requests that go on: what k drafts would have brought lately."""
        total = 0.0
        for row in np.flatnonzero(active):
            replay = outlook.replays[row]
            start = max(outlook.first[row], len(replay.tokens) - WINDOW)
            seen = len(replay.tokens) - start
            total += (seen + PRIOR) / (replay.steps(start, k) + PRIOR)
        return total


def adaptive(proposers: tuple[Any, ...], costs: tuple[float, ...], **options: Any) -> Adaptive:
    """`Adaptive` over plain decoding and one `Speculative` for each proposer.

    Args:
        proposers: the same kind with rising k.
        costs: of plain decoding (1) and of each.
        **options: of `Adaptive`.
    """
    choices = (Autoregressive(), *(Speculative(p) for p in proposers))
    return Adaptive(choices, costs, **options)
