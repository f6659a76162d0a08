"""What a plan does, rests on and warns of, in words. Host only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ariel_jax.algorithms.mozo.price import Plan

FEW = 1000  # units, below which sampling gains little


def how(plan: Plan) -> str:
    """How demonstrations are drawn, and what each may say."""
    n, slots, units = plan.n_demonstrations, plan.config.n_slots, f"{plan.unit}s"
    drawn = {
        "poisson": f"each of {n} {units} by a coin of {plan.probability:.4g}",
        "without_replacement": f"{slots} of {n} {units}",
        "partition": f"one of {plan.n_groups} fixed groups of {slots} {units} for a query",
        "none": f"all {n} {units}",
    }[plan.sampler]
    if plan.records_per_owner > 1:
        drawn += f" with up to {plan.records_per_owner} demonstrations each"
    elif plan.unit == "owner":
        drawn += " with one demonstration each"
    again = "" if plan.redraw_every is None else f", drawn anew after {plan.redraw_every} tokens"
    each = "each" if plan.records_per_owner == 1 else "each demonstration"
    numbers = plan.numbers
    if plan.config.bounds_range:
        bound = f"of influence h = {numbers.h:.4g}"
        if plan.relation == "replace_one":
            bound += f" and 2 h = {plan.influence:.4g} where one is replaced"
        elif plan.records_per_owner > 1:
            bound += f" and {plan.records_per_owner} h = {plan.influence:.4g} of an owner"
    else:
        bound = f"in a Rényi ball of radius {numbers.renyi_c:.4g} at order {plan.config.alpha}"
    return f"{drawn}{again}, {each} {bound} ({plan.config.contract}, {plan.config.pool})"


def protected(plan: Plan) -> str:
    """What one of the data set's units is."""
    if plan.unit == "demonstration":
        return "one demonstration"
    return "one owner with all demonstrations that name it"


def assumptions(plan: Plan) -> tuple[str, ...]:
    """What must be true for the price to hold."""
    shown = (
        "one demonstration of each owner is shown"
        if plan.unit == "owner" and plan.records_per_owner == 1
        else "all demonstrations are shown"
    )
    drawn = {
        "poisson": f"each {plan.unit} enters each block by its own, secret coin, whose probability does "
        "not depend on the private records",
        "without_replacement": "subsets are drawn uniformly, secretly and anew for every block, and the "
        f"number of {plan.unit}s is public",
        "partition": "groups were fixed without looking at the records, and each query goes to the group "
        "that its number says",
        "none": f"{shown} every time",
    }[plan.sampler]
    named = () if plan.unit == "demonstration" else ("demonstrations name whose they are truly",)
    return (
        drawn,
        f"what is protected is {protected(plan)}",
        *named,
        "query, instruction, zero-shot row, support, temperature and all numbers are public or depend on "
        "released tokens only",
        "a demonstration's row depends on no other demonstration",
        "nothing but drawn tokens leaves: no logits, lambdas, subsets or times",
        "keys of draws come from the operating system and are used once",
    )


def cautions(plan: Plan) -> tuple[str, ...]:
    """What the user should be warned of."""
    is_drawn = plan.sampler in ("poisson", "without_replacement")
    if is_drawn and plan.n_demonstrations >= FEW:
        return ()
    admitted = (
        f"the influence of one demonstration on a token's log-ratio is h = {plan.numbers.h:.3g}"
        if plan.config.bounds_range
        else f"the ball around the zero-shot row has the radius {plan.numbers.renyi_c:.3g}"
    )
    reason = (
        f"{plan.n_demonstrations} {plan.unit}s are few: below {FEW} secret draws protect little"
        if is_drawn
        else f"with sampler={plan.sampler!r} nothing is drawn in secret: the bound alone protects {plan.unit}s"
    )
    return (
        f"{reason}, and {admitted}. Text is close to what the model says without demonstrations where that is small.",
    )
