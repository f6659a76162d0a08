"""What a private run guarantees, in words and as numbers, and what it does not."""

import dataclasses
from typing import Any

from ariel_jax.privacy.accounting import Plan
from ariel_jax.privacy.audit import Audit
from ariel_jax.privacy.ledger import Terms
from ariel_jax.privacy.report import json_values, page

NEIGHBOURS = {
    "add_remove": "with one record more or less",
    "zero_out": "with one record replaced by one that counts as nothing",
    "replace_one": "with one record replaced by another one",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyReport:
    """The guarantee of one run.

    Attributes:
        method: how it trained.
        epsilon: of the steps that were taken, as charged: Rényi differential privacy.
        epsilon_pld: of the same steps by privacy loss distributions, smaller and not charged.
        delta: of both; the account's.
        ledger, account: file and account that were charged.
        account_epsilon, account_limit: what all runs on it have spent and reserved at `delta` now, and
            what they may.
        relation: between neighbouring data sets.
        sampler, accountant: how batches are drawn, and by what the price was computed.
        noise_multiplier, clip_norm, sampling_probability: of every step.
        steps, planned_steps: taken, and paid for.
        guarantee: in words.
        assumptions: what must be true for it.
        not_protected: what it does not cover.
        canaries: made-up records, each of which took part by a coin.
        audit: what an attack on the run showed, if there was one.
    """

    method: str
    epsilon: float
    epsilon_pld: float
    delta: float
    ledger: str
    account: str
    account_epsilon: float
    account_limit: float
    relation: str
    sampler: str
    accountant: str
    noise_multiplier: float
    clip_norm: float
    sampling_probability: float
    steps: int
    planned_steps: int
    guarantee: str
    assumptions: tuple[str, ...]
    not_protected: tuple[str, ...]
    canaries: int = 0
    audit: Audit | None = None

    def with_audit(self, audit: Audit) -> "PrivacyReport":
        """The same with what an audit of the run or of its step found (`privacy.audit`)."""
        return dataclasses.replace(self, audit=audit)

    def audited(self) -> str:
        """What the audit found, in words; that there was none."""
        if (audit := self.audit) is None:
            return "none was made"
        verdict = "above the claim, which is wrong:" if audit.refutes else "within the claim of"
        words = (
            f"epsilon is at least {audit.lower_bound:.4f} with confidence {1 - audit.significance:.0%}, "
            f"{verdict} {audit.epsilon:.4f} at delta {audit.delta:g}; area under the attack's curve "
            f"{audit.auroc:.3f}"
        )
        return (
            words if audit.most is None else f"{words}; no attack could show above {audit.most:.2f}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values; infinity is None."""
        return json_values(dataclasses.asdict(self))

    def markdown(self) -> str:
        """The report as a page."""
        rows = [
            ("method", self.method),
            ("steps taken, planned", f"{self.steps}, {self.planned_steps}"),
            ("epsilon charged", f"{self.epsilon:.4f}"),
            ("epsilon by privacy loss distributions", f"{self.epsilon_pld:.4f}"),
            ("delta", f"{self.delta:g}"),
            ("neighbouring data sets", self.relation),
            ("sampler", self.sampler),
            ("accountant", self.accountant),
            ("noise multiplier, clip norm", f"{self.noise_multiplier:.4f}, {self.clip_norm:g}"),
            ("charged to", f"{self.account}, in {self.ledger}"),
            ("that account now", f"{self.account_epsilon:.4f} of {self.account_limit:g}"),
        ]
        if self.canaries:
            rows.append(("canaries", _CANARIES.format(self.canaries)))
        if self.audit is not None:
            rows.append(("audit lower bound", self.audited()))
        return page(
            "Privacy of this run",
            self.guarantee,
            rows,
            assumptions=self.assumptions,
            not_protected=self.not_protected,
        )


def make_report(
    plan: Plan,
    terms: Terms,
    *,
    method: str,
    clip_norm: float,
    steps: int,
    ledger: str,
    account_epsilon: float,
    log_private_stats: bool,
    canaries: int = 0,
) -> PrivacyReport:
    """The report of a run that has taken so many steps of its plan.

    Args:
        plan: what was paid for.
        terms: of the account that paid.
        method: how the run trains.
        clip_norm: of every example.
        steps: taken.
        ledger: its file.
        account_epsilon: what the account stands at.
        log_private_stats: whether metrics.jsonl holds numbers of the data.
        canaries: made-up records beside the data.
    """
    taken = plan.replace(steps=steps)
    epsilon, tight = taken.epsilon(terms.delta), taken.tight_epsilon(terms.delta)
    guarantee = (
        f"Whoever sees the parameters after each of the {steps} steps can tell this data set from one "
        f"{NEIGHBOURS[plan.relation]} only as well as (epsilon = {epsilon:.4f}, delta = {terms.delta:g})-"
        f"differential privacy allows. {taken.describe()[:1].upper()}{taken.describe()[1:]}. By privacy "
        f"loss distributions epsilon is {tight:.4f}; the account is charged the former, and other runs "
        "on the same data add to it."
    )
    return PrivacyReport(
        method=method,
        epsilon=epsilon,
        epsilon_pld=tight,
        delta=terms.delta,
        ledger=ledger,
        account=terms.account,
        account_epsilon=account_epsilon,
        account_limit=terms.epsilon,
        relation=plan.relation,
        sampler=f"Poisson, every record with probability {plan.sampling_probability:g} in every step",
        accountant="Rényi differential privacy (dp-accounting)",
        noise_multiplier=plan.noise_multiplier,
        clip_norm=clip_norm,
        sampling_probability=plan.sampling_probability or 1.0,
        steps=steps,
        planned_steps=plan.steps,
        guarantee=guarantee,
        assumptions=plan.assumptions()[:2] + _ASSUMED,
        not_protected=_not_protected(plan, log_private_stats),
        canaries=canaries,
    )


_CANARIES = (
    "{} made-up records, nobody's, each in the data or not by a secret fair coin; the model was trained on "
    "those that were in"
)
_ASSUMED = (
    "one record is one row of the data: who contributes several is protected less",
    "the initial weights were not made from these records",
)


def _not_protected(plan: Plan, log_private_stats: bool) -> tuple[str, ...]:
    metrics = "losses, gradient norms and scores on private data: no price covers them"
    if log_private_stats:
        metrics += "; metrics.jsonl of this run holds such numbers, keep it secret"
    lines = [
        metrics,
        "choices of learning rate, clip norm, rank or steps by what earlier runs on this data showed",
        "the folder of the run: its checkpoints hold the keys of noise and draws; release the model alone",
        "attacks on generators that are not cryptographic, and on the gaps of floating-point noise",
    ]
    if plan.relation == "add_remove":
        lines.append(
            "settings that were computed from the number of records, which is private here"
        )
    return tuple(lines)
