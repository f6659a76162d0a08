"""What a session of private text guarantees, in words and as numbers, and what it does not."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ariel_jax.algorithms.mozo import words
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.privacy.ledger import Terms
from ariel_jax.privacy.renyi import Price
from ariel_jax.privacy.report import json_values, page

NEIGHBOURS = {
    "zero_out": "in which one {unit} counts as nothing",
    "add_remove": "with one {unit} more or less",
    "replace_one": "with one {unit} replaced by another one",
}
NOT_PRIVATE = "NOT PRIVATE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyReport:
    """The guarantee of the answers of one session.

    Attributes:
        epsilon: of what was charged, by itself: Rényi differential privacy.
        delta: the account's.
        ledger, account: file and account that were charged.
        account_epsilon, account_limit: what everything on it has spent and reserved at `delta` now, and
            what it may.
        relation: between neighbouring data sets.
        unit: what is protected: `demonstration` or `owner`.
        sampler: how demonstrations are drawn.
        mechanism: contract and pool.
        h: most that one demonstration adds to the range of a token's log-ratio; None under a Rényi ball.
        influence: the range between the laws of a token on neighbouring data sets, which is what is priced:
            h, or 2 h where one is replaced, or h for each demonstration of an owner; None under a Rényi ball.
        queries, planned_queries: begun with demonstrations, and reserved for; 0 where the budget covered none.
        public_queries: answered without demonstrations.
        tokens, blocks: drawn with demonstrations.
        guarantee: in words.
        assumptions: what must be true for it.
        not_protected: what it does not cover.
        warnings: what weakens it, or makes demonstrations useless.
        void: why the account is not private at all; usually empty.
    """

    epsilon: float
    delta: float
    ledger: str
    account: str
    account_epsilon: float
    account_limit: float
    relation: str
    unit: str
    sampler: str
    mechanism: str
    h: float | None
    influence: float | None
    queries: int
    planned_queries: int
    public_queries: int
    tokens: int
    blocks: int
    guarantee: str
    assumptions: tuple[str, ...]
    not_protected: tuple[str, ...]
    warnings: tuple[str, ...]
    void: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; infinity is None."""
        return json_values(dataclasses.asdict(self))

    def markdown(self) -> str:
        """The report as a page."""
        h, influence = (
            "unbounded" if value is None else f"{value:.4g}" for value in (self.h, self.influence)
        )
        rows = [
            ("epsilon charged", f"{self.epsilon:.4f}"),
            ("delta", f"{self.delta:g}"),
            ("neighbouring data sets", f"{self.relation}, one {self.unit}"),
            ("sampler", self.sampler),
            ("mechanism", self.mechanism),
            ("influence h of one demonstration on a token's log-ratio", h),
            (f"the same between neighbouring data sets ({self.relation})", influence),
            ("queries answered, reserved for", f"{self.queries}, {self.planned_queries}"),
            ("queries answered without demonstrations", f"{self.public_queries}"),
            ("tokens, blocks", f"{self.tokens}, {self.blocks}"),
            ("charged to", f"{self.account}, in {self.ledger}"),
            ("that account now", f"{self.account_epsilon:.4f} of {self.account_limit:g}"),
        ]
        warned = [*(f"{NOT_PRIVATE}: {reason}" for reason in self.void), *self.warnings]
        return page(
            "Privacy of these answers",
            self.guarantee,
            rows,
            assumptions=self.assumptions,
            not_protected=self.not_protected,
            warnings=warned,
        )


def make_report(
    plan: Plan,
    terms: Terms,
    used: Price,
    *,
    ledger: str,
    account_epsilon: float,
    void: Sequence[str],
    planned_queries: int,
    queries: int,
    public_queries: int,
    tokens: int,
    blocks: int,
) -> PrivacyReport:
    """The report of a session.

    Args:
        plan: what was paid for.
        terms: of the account that paid.
        used: what was charged, or stands reserved.
        ledger: its file.
        account_epsilon: what the account stands at.
        void: why it is not private, by its ledger.
        planned_queries: that the reservation covers.
        queries: begun with demonstrations.
        public_queries: answered without.
        tokens: drawn with demonstrations.
        blocks: started with demonstrations.
    """
    epsilon = used.epsilon(terms.delta)
    pair = NEIGHBOURS[plan.relation].format(unit=plan.unit)
    if void:
        guarantee = f"{NOT_PRIVATE}: {'; '.join(void)}."
    elif queries == 0:
        guarantee = "No demonstration was used: the answers tell nothing about them."
    else:
        guarantee = (
            f"Whoever sees the {queries} answers, and knows everything but {words.protected(plan)}, can "
            f"tell this data set from one {pair} only as well as (epsilon = {epsilon:.4f}, delta = {terms.delta:g})-differential "
            f"privacy allows. Paid for: {plan.describe(planned_queries)}. Other answers from the same "
            "demonstrations add to it."
        )
    return PrivacyReport(
        epsilon=epsilon,
        delta=terms.delta,
        ledger=ledger,
        account=terms.account,
        account_epsilon=account_epsilon,
        account_limit=terms.epsilon,
        relation=plan.relation,
        unit=plan.unit,
        sampler=plan.sampler,
        mechanism=f"contract {plan.config.contract}, pool {plan.config.pool}",
        h=plan.numbers.h if math.isfinite(plan.influence) else None,
        influence=plan.influence if math.isfinite(plan.influence) else None,
        queries=queries,
        planned_queries=planned_queries,
        public_queries=public_queries,
        tokens=tokens,
        blocks=blocks,
        guarantee=guarantee,
        assumptions=plan.assumptions(),
        not_protected=_not_protected(plan),
        warnings=plan.cautions(),
        void=tuple(void),
    )


def _not_protected(plan: Plan) -> tuple[str, ...]:
    found = NOT_PROTECTED
    if plan.unit == "demonstration":
        found += ("several demonstrations of one person",)
    if plan.relation == "add_remove":
        number = f"time and memory of reading all {plan.unit}s, which grow with their number"
    else:
        number = f"the number of {plan.unit}s: probabilities and weights are made of it"
    return (*found, number)


NOT_PROTECTED = (
    "the queries, the instruction and everything else in the zero-shot prompt: they are public",
    "a demonstration that also stands in the instruction or in a query, and facts that the model was "
    "trained on: the zero-shot row knows them",
    "choices of numbers, slots or wording by scores on private demonstrations: each look is an uncharged "
    "query",
    "how long the computation takes: shapes and passes are the same for every draw, the clock is not "
    "controlled",
    "the memory of this process and generators that are not cryptographic: draws and keys stay secret only "
    "as long as both do",
)
