"""Plans and their prices: laws with every subset enumerated, the table of influences, faults, reservations."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from ariel_jax.algorithms.mozo import curves
from ariel_jax.algorithms.mozo.config import MOST_RADIUS, Config, Numbers
from ariel_jax.algorithms.mozo.planning import calibrate, largest_h, plan_for
from ariel_jax.algorithms.mozo.price import SAMPLERS, Plan
from ariel_jax.errors import (
    AccountingMismatchError,
    ConfigError,
    PrivacyBudgetError,
    PrivacyConfigError,
    UnprovenMechanismError,
)
from ariel_jax.privacy.renyi import FREE, ORDERS
from experiments.mozo import budgets

SOME = ORDERS[ORDERS <= 64]


def plan(sampler="poisson", n=6, *, eta=1.0, weight=0.5, slots=None, **options):
    """A small plan; Poisson draws always fit."""
    size = {"poisson": n + 1, "none": n}.get(sampler, 2) if slots is None else slots
    if sampler == "poisson":
        options = {"expected": n / 3} | options
    return Plan(
        config=Config(n_slots=size), numbers=Numbers(eta=eta, weight=weight), n_demonstrations=n,
        sampler=sampler, **({"max_tokens": 2} | options),
    )  # fmt: skip


# ---------------------------------------------------------------- every subset enumerated


def texts(anchor, rows, weight, subsets, chances, redraw_every):
    """The exact law of two tokens: [V * V].

    anchor [1 + V, V] log-probabilities of the zero-shot row, before and after each first token; rows
    [n, 1 + V, V] contracted log-ratios; subsets [m, n] with their chances [m].
    """
    logits = anchor + weight * np.einsum("mn,npv->mpv", subsets, rows)
    law = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    first, second = law[:, 0], law[:, 1:]
    if redraw_every == 1:
        return ((chances @ first)[:, None] * np.einsum("m,mpv->pv", chances, second)).ravel()
    return np.einsum("m,mp,mpv->pv", chances, first, second).ravel()


def poisson_law(anchor, rows, weight, q, redraw_every):
    n = len(rows)
    subsets = np.array(list(itertools.product((0.0, 1.0), repeat=n))).reshape(2**n, n)
    drawn = subsets.sum(-1)
    return texts(anchor, rows, weight, subsets, q**drawn * (1 - q) ** (n - drawn), redraw_every)


def fixed_law(anchor, rows, weight, size, redraw_every):
    n = len(rows)
    subsets = np.array([[float(i in chosen) for i in range(n)] for chosen in itertools.combinations(range(n), size)])  # fmt: skip
    return texts(anchor, rows, weight, subsets, np.full(len(subsets), 1 / len(subsets)), redraw_every)  # fmt: skip


def worst(one, other, orders=SOME):
    """[orders] the larger divergence of two laws."""
    a, b = np.log(one), np.log(other)
    grid = orders[:, None]
    forward = np.logaddexp.reduce(grid * a + (1 - grid) * b, axis=-1)
    reverse = np.logaddexp.reduce(grid * b + (1 - grid) * a, axis=-1)
    return np.maximum(forward, reverse) / (orders - 1)


def random_rows(rng, n, eta, n_tokens=3):
    """An anchor and contracted rows, most of them at the edge of what the contract allows."""
    anchor = np.log(rng.dirichlet(np.full(n_tokens, rng.choice([0.2, 1.0])), size=1 + n_tokens) + 1e-7)  # fmt: skip
    alike = np.where(rng.random((1, 1 + n_tokens, n_tokens)) < 0.5, 0.0, eta)
    rows = np.where(rng.random((n, 1 + n_tokens, n_tokens)) < 0.5, 0.0, eta)
    rows = np.where(rng.random((n, 1, 1)) < 0.5, np.broadcast_to(alike, rows.shape), rows)
    return anchor, rows


@pytest.mark.parametrize("redraw_every", [1, 2])
@pytest.mark.parametrize("q", [0.1, 0.5])
def test_no_demonstration_says_more_than_a_poisson_plan_prices(q, redraw_every):
    rng, ratio = np.random.default_rng(2), 0.0
    for _ in range(120):
        n, eta = int(rng.integers(1, 7)), float(rng.choice([0.3, 1.0, 3.0]))
        anchor, rows = random_rows(rng, n, eta)
        priced = plan(n=n, eta=eta, weight=1.0, expected=q * n, redraw_every=redraw_every)
        bound = priced.price().curve[: len(SOME)]
        whole = poisson_law(anchor, rows, 1.0, q, redraw_every)
        for left_out in range(n):
            without = poisson_law(anchor, np.delete(rows, left_out, axis=0), 1.0, q, redraw_every)
            ratio = max(ratio, float((worst(whole, without) / bound).max()))
    assert 0.6 < ratio <= 1 + 1e-9


@pytest.mark.parametrize("redraw_every", [1, 2])
def test_no_replaced_demonstration_says_more_than_a_fixed_subset_is_priced(redraw_every):
    rng, ratio = np.random.default_rng(3), 0.0
    for _ in range(80):
        eta, size = float(rng.choice([0.3, 1.0, 3.0])), int(rng.integers(1, 4))
        anchor, rows = random_rows(rng, 7, eta)
        priced = plan("without_replacement", 6, eta=eta, weight=1.0, slots=size, redraw_every=redraw_every)  # fmt: skip
        bound = priced.price().curve[: len(SOME)]
        one = fixed_law(anchor, rows[:6], 1.0, size, redraw_every)
        for replaced in range(6):
            others = rows[:6].copy()
            others[replaced] = rows[6]
            other = fixed_law(anchor, others, 1.0, size, redraw_every)
            ratio = max(ratio, float((worst(one, other) / bound).max()))
    assert 0.15 < ratio <= 1 + 1e-9


@pytest.mark.parametrize("sampler", ["none", "partition"])
def test_without_a_draw_the_price_is_reached(sampler):
    """And half of it, which forgets that a replaced demonstration may turn from one end to the other, is not."""
    eta, priced = 1.0, plan(sampler, 2, weight=1.0)
    bound = priced.price().curve[: len(SOME)]
    ratio = 0.0
    for rare in np.linspace(0.05, 0.95, 19):
        anchor = np.log(np.broadcast_to([rare, 1 - rare], (3, 2)))
        with_it = np.broadcast_to([eta, 0.0], (1, 3, 2))
        other = -with_it if sampler == "partition" else np.zeros((1, 3, 2))
        one = fixed_law(anchor, with_it, 1.0, 1, 2)
        ratio = max(ratio, float((worst(one, fixed_law(anchor, other, 1.0, 1, 2)) / bound).max()))
    assert 0.98 < ratio <= 1 + 1e-9
    forgotten = 2 * curves.bounded_range(SOME, priced.numbers.h)
    assert (bound > 2 * forgotten).any() == (sampler == "partition")


def test_the_forward_formula_alone_does_not_bound_the_other_direction():
    """A curve that bounds what comes in against what was: without it a token is more likely, not less."""
    q, missed = 0.6, 0.0
    for rare in (0.02, 0.05, 0.2):
        base, moved = np.array([rare, 1 - rare]), np.array([1e-6, 1 - 1e-6])
        grid = curves.MOMENTS[:, None]
        terms = grid * np.log(moved) + (1 - grid) * np.log(base)
        block = np.maximum(np.logaddexp.reduce(terms, axis=-1), 0) / (curves.MOMENTS - 1)
        whole = curves.WHOLE[:63]
        true = worst(base, (1 - q) * base + q * moved, whole.astype(float))
        missed = max(missed, float((true / curves.poisson_forward(block, q)[:63]).max()))
        assert (true <= curves.poisson_reverse(block, q)[:63] * (1 + 1e-9)).all()
    assert missed > 1.5
    # The larger one is charged: the reverse at order 2, the forward at 64.
    block = 2 * curves.bounded_range(curves.MOMENTS, 3.0)
    forward, reverse = curves.poisson_forward(block, 0.01), curves.poisson_reverse(block, 0.01)
    priced = plan(n=100, expected=1.0, eta=6.0, redraw_every=2).price().curve
    assert priced[ORDERS == 2] == pytest.approx(reverse[0])
    assert reverse[0] > forward[0]
    assert priced[ORDERS == 64] == pytest.approx(forward[62])
    assert forward[62] > 2 * reverse[62]


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("row", list(budgets.TABLE))
def test_influences_are_those_that_were_computed_beforehand(row):
    """Every figure of the table at two of its four budgets, to the last digit."""
    sampler, redraw_every, n_queries = row
    priced = budgets.plan_of(sampler, redraw_every)
    known = budgets.TABLE[row]
    for at in (0, 3):
        options = {"epsilon": budgets.EPSILONS[at], "delta": 1e-5, "n_queries": n_queries}
        h = largest_h(priced, **options)
        if sampler == "none":
            assert budgets.simple_h(budgets.EPSILONS[at]) < h
            h = budgets.simple_h(budgets.EPSILONS[at])
        assert budgets.agrees(h, known[at]), (h, known[at])


# ---------------------------------------------------------------- plans


def test_blocks_settlement_and_the_charging_rule():
    drawn = plan(max_tokens=50, redraw_every=20)
    assert drawn.blocks() == (20, 20, 10)
    assert drawn.blocks(21) == (20, 1)
    assert drawn.blocks(0) == ()
    whole, long, short = (drawn.price().curve, *(drawn.block_price(n).curve for n in (20, 10)))
    assert whole == pytest.approx(2 * long + short)
    # A started block costs all its tokens, however few were shown; one that never began costs nothing.
    for tokens in (0, 1, 20):
        assert drawn.settled([1], [tokens]).curve == pytest.approx(long)
    assert drawn.settled([2, 3], [21, 41]).curve == pytest.approx(4 * long + short)
    assert drawn.settled([], []) == FREE["zero_out"] == drawn.settled([0], [0])
    assert long[0] > 20 * drawn.block_price(1).curve[0]  # a block is dearer than its tokens apart

    plain = plan("none", max_tokens=50)
    assert plain.blocks() == (50,)
    assert plain.settled([1], [7]).curve == pytest.approx(7 / 50 * plain.price().curve)
    for priced, used in ((drawn, drawn.settled([3] * 7, [50] * 7)), (plain, plain.settled([1] * 7, [50] * 7))):  # fmt: skip
        assert priced.price(7).covers(used)
        assert used.covers(dataclasses.replace(priced.price(7), what=used.what))
    assert drawn.replace(redraw_every=None).blocks() == (50,)
    for started, tokens in (([4], [1]), ([1], [21]), ([0], [1]), ([1, 1], [1]), ([-1], [0])):
        with pytest.raises(ConfigError):
            drawn.settled(started, tokens)
    for tokens in (0, 21):
        with pytest.raises(ConfigError, match="tokens="):
            drawn.block_price(tokens)


@pytest.mark.parametrize("sampler", ["poisson", "none"])
def test_one_more_or_less_costs_what_one_that_counts_as_nothing_does(sampler):
    public, hidden = plan(sampler), plan(sampler, neighbours="add_remove")
    assert (public.relation, hidden.relation) == ("zero_out", "add_remove")
    assert (public.price(3).relation, hidden.price(3).relation) == ("zero_out", "add_remove")
    assert public.price(3).rdp == hidden.price(3).rdp
    assert public.price(3).delta == hidden.price(3).delta
    assert public.fingerprint() != hidden.fingerprint()
    made = plan_for(n_demonstrations=5000, epsilon=1.0, delta=1e-5, neighbours="add_remove")
    assert made.relation == "add_remove"
    for other in ("without_replacement", "partition"):
        assert plan(other).relation == "replace_one"
        with pytest.raises(PrivacyConfigError, match="one is replaced there"):
            plan(other, neighbours="add_remove")
    with pytest.raises(ConfigError, match="neighbours='replace_one'"):
        plan(sampler, neighbours="replace_one")


def test_groups_of_a_partition_share_their_price():
    """Under replacement a demonstration pays for the queries of its own group only."""
    groups = plan("partition", 7, max_tokens=10)
    assert (groups.n_groups, groups.relation) == (3, "replace_one")
    one = groups.price(1).curve
    assert groups.price(3).curve == pytest.approx(one)
    assert groups.price(4).curve == pytest.approx(2 * one)
    assert one == pytest.approx(10 * curves.bounded_range(ORDERS, 2 * groups.numbers.h))
    # Queries 0 and 3 are of one group.
    used = groups.settled([1, 1, 1, 1], [2, 10, 5, 3])
    assert used.curve == pytest.approx(one)
    assert groups.settled([1, 1, 1, 1], [6, 9, 5, 5]).curve == pytest.approx(11 / 10 * one)


def test_what_truncated_draws_add_to_delta_is_paid():
    made = plan_for(n_demonstrations=10_000, epsilon=2.0, delta=1e-5, max_tokens=50, redraw_every=5, n_queries=200)  # fmt: skip
    assert made.price(200).delta == pytest.approx(2000 * (1 + math.e**2) * made.overflow)
    assert 0 < made.price(200).delta <= 0.01 * 1e-5
    # The bound is above the exact binomial tail, one record more included.
    slots, n = made.config.n_slots, 10_001
    tail = sum(
        math.comb(n, k) * made.probability**k * (1 - made.probability) ** (n - k) for k in range(slots + 1, slots + 40)
    )  # fmt: skip
    assert tail < made.overflow < 30 * tail
    assert made.settled([2], [10]).delta == pytest.approx(2 * made.truncation)
    with pytest.raises(PrivacyConfigError, match="make the plan by plan_for"):
        made.replace(truncation=0.0)


def test_owners_records_are_paid_together_without_a_draw():
    priced = plan("none", 2, slots=6, records_per_owner=3, max_tokens=5, unit="owner")
    assert priced.price().curve == pytest.approx(
        5 * curves.bounded_range(ORDERS, 3 * priced.numbers.h)
    )
    assert "one owner with all demonstrations that name it" in " ".join(priced.assumptions())
    assert "each demonstration of influence h = 0.5 and 3 h = 1.5 of an owner" in priced.describe()
    assert "all 2 owners with up to 3 demonstrations each" in priced.describe()
    with pytest.raises(PrivacyConfigError, match="unit='owner'"):
        priced.replace(unit="demonstration")
    with pytest.raises(PrivacyConfigError, match="records_per_owner=3"):
        plan(records_per_owner=3)
    with pytest.raises(PrivacyConfigError, match="6 records do not fit into n_slots=5"):
        plan("none", 2, slots=5, records_per_owner=3, unit="owner")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_words_of_a_plan_name_its_privacy_unit(sampler):
    named, other = plan(sampler, unit="owner"), plan(sampler)
    assert named.price().rdp == other.price().rdp
    assert "owners" in named.describe()
    assert "with one demonstration each" in named.describe()
    assert "owners" not in other.describe()
    assert "what is protected is one owner with all" in " ".join(named.assumptions())
    assert "what is protected is one demonstration" in other.assumptions()
    assert not any("owner" in line for line in (*other.assumptions(), *other.cautions()))
    found = f"{named.cautions()[0]} {other.cautions()[0]}"
    assert found.count("h = 0.5") == 2
    # What is not drawn in secret has another reason, and however many there are.
    if sampler in ("poisson", "without_replacement"):
        assert found.startswith("6 owners are few: below 1000 secret draws")
    else:
        assert f"with sampler='{sampler}' nothing is drawn in secret" in found
        assert "secret draws" not in found
        assert plan(sampler, 1200).cautions()
    replaced = sampler in ("partition", "without_replacement")
    assert ("h = 0.5 and 2 h = 1 where one is replaced" in named.describe()) == replaced
    with pytest.raises(ConfigError, match="unit='patient'"):
        plan(sampler, unit="patient")


def test_a_ball_is_priced_up_to_its_order_only():
    ball = Config(n_slots=2, contract="renyi", alpha=8)
    numbers = Numbers(eta=0.0, weight=0.5, renyi_c=0.08, kl_cap=0.01)
    plain = Plan(config=ball, numbers=numbers, n_demonstrations=2, sampler="none", max_tokens=3)
    assert plain.price().curve[0] == pytest.approx(3 * (0.5 * 0.08 + 8 / 7 * 0.01))
    assert np.isinf(plain.price().curve[ORDERS > 8]).all()
    assert plain.influence == math.inf
    mean = plain.replace(
        config=dataclasses.replace(ball, pool="arithmetic"),
        numbers=dataclasses.replace(numbers, kl_cap=0.0),
    )
    assert mean.price().curve[0] == pytest.approx(3 * math.log(1 + 0.5 * math.expm1(7 * 0.08)) / 7)
    sampled = plain.replace(sampler="without_replacement", n_demonstrations=100)
    assert np.isfinite(sampled.price().curve[ORDERS <= 4]).all()
    assert np.isinf(sampled.price().curve[ORDERS > 4]).all()
    with pytest.raises(UnprovenMechanismError, match="records_per_owner=2 with contract='renyi'"):
        plain.replace(n_demonstrations=1, records_per_owner=2, unit="owner")
    found = calibrate(plain, epsilon=3.0, delta=1e-5, n_queries=4)
    assert found.numbers.renyi_c / found.numbers.kl_cap == pytest.approx(8)
    assert found.price(4).epsilon(1e-5) <= 3.0 < found.price(5).epsilon(1e-5)
    with pytest.raises(ConfigError, match="there is no influence"):
        largest_h(plain, epsilon=3.0, delta=1e-5)


@pytest.mark.parametrize("sampler", ["poisson", "without_replacement", "partition", "none"])
@pytest.mark.parametrize(("pool", "alpha"), [("product", 8), ("arithmetic", 8), ("product", 16)])
def test_plans_with_a_ball_keep_to_the_budget(pool, alpha, sampler):
    found = plan_for(
        Config(contract="renyi", pool=pool, alpha=alpha),
        n_demonstrations=4 if sampler == "none" else 1000,
        epsilon=6.0,
        delta=1e-5,
        max_tokens=5,
        sampler=sampler,
    )
    assert 0 < found.numbers.renyi_c <= MOST_RADIUS
    assert found.price(1).epsilon(1e-5) <= 6.0
    if found.numbers.renyi_c < MOST_RADIUS:
        assert found.price(1 + found.n_groups).epsilon(1e-5) > 6.0


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("poisson", {"redraw_every": 5, "n_queries": 30}),
        ("poisson", {"redraw_every": 3}),
        ("without_replacement", {"n_queries": 3}),
        ("partition", {"n_queries": 2}),
        ("none", {"n_demonstrations": 4, "n_queries": 2}),
    ],
)
def test_a_calibrated_plan_fits_and_one_query_more_does_not(sampler, options):
    options = {"n_queries": 1, "n_demonstrations": 5000} | options
    found = plan_for(sampler=sampler, epsilon=1.5, delta=1e-5, max_tokens=16, **options)
    assert found.price(options["n_queries"]).epsilon(1e-5) <= 1.5
    more = options["n_queries"] + found.n_groups
    assert found.price(more).epsilon(1e-5) > 1.5
    assert found.numbers.weight == 0.25
    numbers = dataclasses.replace(found.numbers, eta=found.numbers.eta / 2)
    assert calibrate(found.replace(numbers=numbers), epsilon=1.5, delta=1e-5, n_queries=options["n_queries"]) == found  # fmt: skip
    hotter = dataclasses.replace(found.numbers, pool_temperature=0.5, eta=1.0)
    again = calibrate(found.replace(numbers=hotter), epsilon=1.5, delta=1e-5, n_queries=options["n_queries"])  # fmt: skip
    assert again.numbers.h == pytest.approx(found.numbers.h)
    assert again.numbers.eta == pytest.approx(found.numbers.eta / 2)


def test_plans_pay_for_all_demonstrations_of_an_owner():
    base = {
        "n_demonstrations": 6,
        "epsilon": 1.5,
        "delta": 1e-3,
        "max_tokens": 4,
        "sampler": "none",
    }
    owners = base | {"unit": "owner"}
    one, three = plan_for(**owners), plan_for(**owners, records_per_owner=3)
    assert (three.config.n_slots, three.numbers.weight) == (18, 1 / 18)
    assert (three.records_per_owner, three.unit) == (3, "owner")
    assert three.price().epsilon(1e-3) <= 1.5 < three.price(2).epsilon(1e-3)
    # All of an owner's together may say what one demonstration of each may.
    assert three.influence == pytest.approx(one.influence, rel=1e-5)
    assert three.numbers.h == pytest.approx(one.numbers.h / 3, rel=1e-5)
    for change, error in (
        ({"unit": "demonstration"}, PrivacyConfigError),
        ({"sampler": "poisson"}, PrivacyConfigError),
        ({"config": Config(contract="renyi", alpha=16)}, UnprovenMechanismError),
    ):
        with pytest.raises(error, match="records_per_owner=3"):
            plan_for(**(owners | change), records_per_owner=3)
    with pytest.raises(ConfigError, match="records_per_owner=0 is not allowed"):
        plan_for(**owners, records_per_owner=0)


@pytest.mark.parametrize("pool", ["product", "arithmetic"])
def test_plans_of_both_balls_cost_alike(pool):
    """The theorems ask for the ball, not for the way in which a row gets into it."""
    base = {"n_demonstrations": 5000, "epsilon": 2.0, "delta": 1e-5, "max_tokens": 10}
    one, other = (
        plan_for(Config(contract=contract, alpha=16, pool=pool), sampler=sampler, **base)
        for contract, sampler in (("renyi", "poisson"), ("renyi_linear", "poisson"))
    )
    assert one.numbers == other.numbers
    assert one.price() == other.replace(config=one.config).price()
    assert "renyi_linear" in other.describe()


def test_more_budget_draws_and_demonstrations_let_them_say_more():
    base = {"n_demonstrations": 5000, "epsilon": 1.0, "delta": 1e-5, "max_tokens": 20}

    def h(**changes):
        return plan_for(**(base | changes)).numbers.h

    assert h() < h(epsilon=2.0) < h(epsilon=4.0)
    assert h(n_queries=10) < h() < h(redraw_every=5) < h(redraw_every=1)
    assert h(n_demonstrations=1000) < h() < h(n_demonstrations=50_000)
    assert h(sampler="partition") < h(sampler="none", n_demonstrations=4) < h()
    few = plan_for(**(base | {"n_demonstrations": 60, "delta": 1e-3}))
    assert f"h = {few.numbers.h:.3g}" in few.cautions()[0]
    assert plan_for(**base).cautions() == ()
    assert plan_for(**(base | {"epsilon": 400.0, "max_tokens": 1})).numbers.h == 64.0


def test_what_has_no_price_is_refused():
    for sampler in ("knn", "bm25", "fixed"):
        with pytest.raises(AccountingMismatchError, match="nothing is gained by sampling"):
            plan(sampler, slots=2)
    for options in (
        {"expected": 0.0}, {"expected": 7.0}, {"expected": None}, {"truncation": 1.0}, {"max_tokens": 0},
        {"redraw_every": 0}, {"n": 0, "expected": 1.0},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            plan(**options)
    for sampler, options in (
        ("without_replacement", {"expected": 2.0}), ("partition", {"redraw_every": 2}),
        ("none", {"redraw_every": 2}), ("without_replacement", {"slots": 7}), ("none", {"slots": 5}),
        ("partition", {"truncation": 0.1}),
    ):  # fmt: skip
        with pytest.raises(PrivacyConfigError):
            plan(sampler, **options)
    with pytest.raises(UnprovenMechanismError, match="325 times"):
        Plan(
            config=Config(n_slots=4, contract="renyi", alpha=2), n_demonstrations=4, max_tokens=1,
            numbers=Numbers(eta=0.0, weight=1.0, renyi_c=0.01, kl_cap=0.01), sampler="none",
        )  # fmt: skip
    endless = plan(eta=math.inf).price()
    assert np.isinf(endless.curve).all()
    budget = {"n_demonstrations": 5000, "epsilon": 1.0, "delta": 1e-5}
    for change in ({"epsilon": 0.0}, {"epsilon": -1.0, "account_epsilon": 2.0}, {"epsilon": 501.0}, {"delta": 2e-4}, {"delta": 0.0}, {"subset": 6000},
                   {"account_epsilon": 0.0}, {"subset": 2.5, "sampler": "partition"}):  # fmt: skip
        with pytest.raises(PrivacyConfigError):
            plan_for(**(budget | change))
    for name in ("n_demonstrations", "redraw_every", "n_queries", "max_tokens"):
        for value in (0, -3, 2.5):
            with pytest.raises(ConfigError, match=f"{name}={value} is not allowed"):
                plan_for(**(budget | {name: value}))
    with pytest.raises(PrivacyBudgetError, match="however little"):
        plan_for(**(budget | {"epsilon": 1e-7, "delta": 1e-30, "n_queries": 10**6}))
    with pytest.raises(ConfigError, match="n_queries"):
        plan_for(**budget, n_queries=0)


def test_a_price_says_in_words_what_it_is_for():
    words = plan(n=3000, slots=3001, expected=4.0, redraw_every=1).price(3)
    assert words.what == (
        "3 queries of up to 2 tokens, each of 3000 demonstrations by a coin of 0.001333, drawn anew after 1 "
        "tokens, each of influence h = 0.5 (scale, product)"
    )
    assert any("secret coin" in line for line in words.assumptions)
    one = plan()
    assert one.fingerprint() == plan().fingerprint() != plan(eta=1.1).fingerprint()
