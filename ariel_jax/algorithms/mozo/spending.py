"""Private text and the ledger: what is reserved before a demonstration is seen, and charged after. Host only."""

from collections.abc import Mapping, Sequence
from typing import Any

from ariel_jax._checks import positive_int
from ariel_jax.algorithms.mozo.planning import check_budget
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.errors import (
    AccountingMismatchError,
    BudgetExceededError,
    LedgerRollbackError,
    PrivacyBudgetError,
    PrivacyConfigError,
)
from ariel_jax.privacy.ledger import Ledger, Ticket


def reserve(
    ledger: Ledger, plan: Plan, n_queries: int = 1, *, details: Mapping[str, Any] | None = None
) -> Ticket:
    """Sets the price of queries at their full length aside, before a forward pass sees a demonstration.

    Args:
        ledger: the account that pays.
        plan: of every query.
        n_queries: how many.
        details: JSON values to keep with the reservation; no secrets.

    Raises:
        BudgetExceededError: it would go beyond the budget; nothing was written.
        AccountingMismatchError: the account protects another neighbouring relation.
        PrivacyConfigError: the account's delta is 1 / n or more, or the plan's `truncation` is too small for
            the account's epsilon.
        StorageError: it could not be written.
    """
    positive_int(n_queries=n_queries)
    terms = ledger.terms
    if plan.relation != terms.relation:
        raise AccountingMismatchError(
            f"this plan with sampler={plan.sampler!r} is priced for {plan.relation} and the account {terms.account!r} is for "
            f"{terms.relation}: 'poisson' and 'none' need an account for their plan's neighbours (zero_out or "
            "add_remove), 'without_replacement' and 'partition' one for replace_one. Open one, or plan for "
            "the account's."
        )
    check_budget(epsilon=terms.epsilon, delta=terms.delta, n_demonstrations=plan.n_demonstrations)
    needed = plan.needed_truncation(terms.epsilon)
    if plan.truncation < needed:
        raise PrivacyConfigError(
            f"truncation={plan.truncation:.3g} is too small for the account {terms.account!r} with epsilon "
            f"{terms.epsilon:g}: draws beyond {plan.config.n_slots} slots add up to {needed:.3g} a block. "
            "Make the plan by plan_for(account_epsilon=...)."
        )
    price = plan.price(n_queries)
    try:
        return ledger.reserve(
            price,
            details={**(details or {}), "plan": plan.fingerprint(), "n_queries": n_queries},
        )
    except PrivacyBudgetError as error:
        stands = ledger.epsilon()
        most = most_tokens(ledger, plan, n_queries)
        hint = (
            f"Queries of up to {most} tokens would fit"
            if most
            else "Not even one token for each would fit"
        )
        raise BudgetExceededError(
            f"{plan.describe(n_queries)} would bring the account {terms.account!r} to epsilon "
            f"{ledger.after(price):.6g} at delta {terms.delta:g}; it may spend {terms.epsilon:g} and stands "
            f"at {stands:.6g}, reservations included. No demonstration was looked at. {hint}; or ask fewer "
            "queries, or let demonstrations say less (a smaller eta).",
            needed=ledger.after(price),
            left=max(terms.epsilon - stands, 0.0),
            most_tokens=most,
        ) from error


def most_tokens(ledger: Ledger, plan: Plan, n_queries: int = 1) -> int:
    """The longest `max_tokens`, up to the plan's, with which so many queries fit now; 0 where none does."""
    low, high = 0, plan.max_tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = ledger.fits(plan.replace(max_tokens=middle).price(n_queries))
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def settle(
    ledger: Ledger,
    ticket: Ticket,
    plan: Plan,
    *,
    blocks_started: Sequence[int],
    tokens: Sequence[int],
) -> None:
    """Charges what was made of a reservation by `Plan.settled`, and gives the rest back.

    Args:
        ledger: that paid.
        ticket: of `reserve`.
        plan: that was reserved.
        blocks_started: per query that was begun, in the order in which the plan numbers them.
        tokens: per query that was begun.

    Raises:
        LedgerRollbackError: the reservation was made for another plan.
        ConfigError: it was settled before, or more was made than reserved.
        StorageError: it could not be written; the reservation stands.
    """
    if ticket.details.get("plan") != plan.fingerprint():
        raise LedgerRollbackError(
            f"reservation {ticket.number} of the account {ledger.terms.account!r} was made for another plan "
            f"({ticket.details.get('plan')}, this is {plan.fingerprint()}): settle it with the plan that was "
            "reserved, or leave it: it counts in full."
        )
    ledger.settle(ticket, plan.settled(blocks_started, tokens))
