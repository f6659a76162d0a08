"""How many drafts to verify, chosen between segments from what they cost and how many held."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ariel_jax._checks import positive, positive_int
from ariel_jax.decode.speculative import Speculative
from ariel_jax.decode.state import DecodeState, StepInfo
from ariel_jax.decode.strategy import Autoregressive, Strategy
from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

MEMORY = 0.7  # weight of the past when a segment's acceptance comes in


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What the last segments showed.

    Attributes:
        found: share of the steps that had a draft.
        held: chance that a draft holds if all before it did.
        idle: reviews since drafts were last tried.
        steps: of the slowest request, counted since the last review.
        row_steps, proposed, accepted: of all requests, counted since the last review.
    """

    found: float = 0.5
    held: float = 0.5
    idle: int = 0
    steps: int = 0
    row_steps: int = 0
    proposed: int = 0
    accepted: int = 0

    def tokens_per_step(self, k: int) -> float:
        """Expected tokens of a step with k drafts (Leviathan et al. 2023, eq. 1)."""
        a = min(self.held, 0.999)
        return 1 + self.found * a * (1 - a**k) / (1 - a)


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """Takes, segment by segment, the number of drafts that promises most tokens per second.

    Plain decoding is one of the choices; from it, drafts are tried again for one segment after
    `patience` segments. All choices share the proposer's arrays.

    Attributes:
        choices: strategies of rising rows, the first one plain decoding.
        costs: time of a step of each choice over that of the first; measured, see
            `algorithms.bmc.step_costs`.
        segment_steps: steps between two choices.
        patience: segments of plain decoding before drafts are tried again.
        at: which choice holds now.
        outlook: what the last segments showed.

    Guarantees:
        The tokens of plain decoding, as each of its choices gives them.

    References:
        The rule maximises (expected tokens) / (measured cost); the expectation is that of Leviathan
        et al. 2023, arXiv 2211.17192, with an acceptance estimated online.
    """

    choices: tuple[Strategy, ...]
    costs: tuple[float, ...]
    segment_steps: int = 16
    patience: int = 12
    at: int = 1
    outlook: Outlook = dataclasses.field(default=Outlook(), compare=False)  # compiles nothing

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(segment_steps=self.segment_steps, patience=self.patience)
        positive(**{f"costs[{i}]": cost for i, cost in enumerate(self.costs)})
        rows = [choice.rows for choice in self.choices]
        if len(rows) < 2 or len(rows) != len(self.costs) or rows != sorted(set(rows)):
            raise ConfigError(
                f"Adaptive got choices of {rows} rows and {len(self.costs)} costs: give at least "
                "two choices of rising rows and one cost each."
            )
        proposers = [getattr(choice, "proposer", None) for choice in self.choices[1:]]
        kinds = {type(proposer).__name__ for proposer in proposers}
        if len(kinds) != 1 or any(p is None or p.has_state for p in proposers):
            raise ConfigError(
                f"Adaptive got drafts of {sorted(kinds)}: all must be of one kind that keeps no "
                "arrays, such as NGram; a draft model's cache would miss what plain decoding adds."
            )
        if not all(p.tree.is_chain for p in proposers if p is not None):
            raise ConfigError(
                "Adaptive got drafts in a tree; how many of them hold says nothing about fewer or "
                "more of them. Choose among chains."
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
        """After every segment."""
        return self.segment_steps

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
        """The choice of most expected tokens per second."""
        outlook = self.outlook
        added = {
            name: getattr(outlook, name) + int(np.sum(stats[name]))
            for name in ("proposed", "accepted")
        }
        # Segments also end for other reasons: a full cache, a look at the text.
        steps = outlook.steps + int(np.max(stats["steps"], initial=0))
        row_steps = outlook.row_steps + int(np.sum(stats["steps"]))
        outlook = dataclasses.replace(outlook, steps=steps, row_steps=row_steps, **added)
        if steps < self.segment_steps:
            return dataclasses.replace(self, outlook=outlook)
        outlook = self._reviewed(outlook)
        if self.at == 0 and outlook.idle >= self.patience:
            return dataclasses.replace(self, at=1, outlook=outlook)
        drafts = [choice.rows - 1 for choice in self.choices]
        rates = [
            outlook.tokens_per_step(k) / cost for k, cost in zip(drafts, self.costs, strict=True)
        ]
        best = int(np.argmax(rates))
        # A change compiles or warms another program: not for a gain within the noise.
        if rates[best] < 1.02 * rates[self.at]:
            best = self.at
        return dataclasses.replace(self, at=best, outlook=outlook)

    def _reviewed(self, outlook: Outlook) -> Outlook:
        k = self.rows - 1
        if k == 0:
            return Outlook(found=outlook.found, held=outlook.held, idle=outlook.idle + 1)
        proposed = outlook.proposed
        found = min(1.0, proposed / (k * outlook.row_steps))  # requests that are done take no steps
        held = _chance(outlook.accepted * k / proposed, k) if proposed else outlook.held
        keep = MEMORY if outlook.idle == 0 else 0.0
        return Outlook(
            found=keep * outlook.found + (1 - keep) * found,
            held=keep * outlook.held + (1 - keep) * held,
        )


def _chance(mean: float, k: int) -> float:
    """The chance a with which each of k drafts holds if `mean` of them do: a + a^2 + ... + a^k."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(middle**i for i in range(1, k + 1)) < mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def adaptive(proposers: tuple[Any, ...], costs: tuple[float, ...], **options: Any) -> Adaptive:
    """`Adaptive` over plain decoding and one `Speculative` for each proposer.

    Args:
        proposers: the same kind with rising k.
        costs: of plain decoding (1) and of each.
        **options: of `Adaptive`.
    """
    choices = (Autoregressive(), *(Speculative(p) for p in proposers))
    return Adaptive(choices, costs, **options)
