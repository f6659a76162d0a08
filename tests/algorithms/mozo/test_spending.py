"""Reservations for private text never go beyond the budget; records of one owner are one unit."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.algorithms.mozo.config import Config, Numbers
from ariel_jax.algorithms.mozo.owners import units
from ariel_jax.algorithms.mozo.planning import plan_for
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.algorithms.mozo.spending import most_tokens, reserve, settle
from ariel_jax.errors import (
    AccountingMismatchError,
    BudgetExceededError,
    ConfigError,
    LedgerRollbackError,
    PrivacyConfigError,
    PrivacyUnitError,
)
from ariel_jax.privacy import Ledger, Terms

TERMS = Terms(account="letters by person", relation="zero_out", epsilon=2.0, delta=1e-5)
PLAN = plan_for(
    n_demonstrations=5000, epsilon=2.0, delta=1e-5, n_queries=6, max_tokens=12, redraw_every=4
)


@pytest.fixture
def path(tmp_path):
    """Where a ledger may be made."""
    return tmp_path / "ledger.sqlite"


def test_queries_are_reserved_before_and_settled_after(path):
    with Ledger(path, TERMS) as ledger:
        ticket = reserve(ledger, PLAN, 6, details={"who": "a test"})
        assert ticket.details == {"who": "a test", "plan": PLAN.fingerprint(), "n_queries": 6}
        head = ledger.head()
        with pytest.raises(BudgetExceededError, match="No demonstration was looked at") as refused:
            reserve(ledger, PLAN)
        assert ledger.head() == head
        assert refused.value.needed > 2.0
        assert refused.value.left == pytest.approx(2.0 - PLAN.price(6).epsilon(1e-5))
        assert refused.value.most_tokens == most_tokens(ledger, PLAN) < 12
        # Two queries began, one of them ended within its first block.
        settle(ledger, ticket, PLAN, blocks_started=[1, 3], tokens=[2, 12])
        block = PLAN.block_price(4)
        assert ledger.epsilon() == pytest.approx(block.times(4).epsilon(1e-5))
        again = reserve(ledger, PLAN, 4)
        settle(ledger, again, PLAN, blocks_started=[], tokens=[])
        assert ledger.epsilon() == pytest.approx(block.times(4).epsilon(1e-5))


def test_a_refusal_says_how_long_a_text_would_fit(path):
    plain = Plan(
        config=Config(n_slots=4), numbers=Numbers(eta=0.5, weight=0.25), n_demonstrations=4, max_tokens=400,
        sampler="none",
    )  # fmt: skip
    with Ledger(path, TERMS) as ledger:
        with pytest.raises(BudgetExceededError) as refused:
            reserve(ledger, plain, 2)
        most = refused.value.most_tokens
        assert 0 < most < 400
        assert f"Queries of up to {most} tokens would fit" in str(refused.value)
        with pytest.raises(BudgetExceededError):
            reserve(ledger, plain.replace(max_tokens=most + 1), 2)
        reserve(ledger, plain.replace(max_tokens=most), 2)
        with pytest.raises(BudgetExceededError, match="Not even one token") as empty:
            reserve(ledger, plain.replace(numbers=Numbers(eta=8.0, weight=0.25)), 2)
        assert empty.value.most_tokens == 0


def test_accounts_plans_and_reservations_must_be_of_one_kind(path):
    with Ledger(path, TERMS) as ledger:
        fixed = plan_for(n_demonstrations=5000, epsilon=1.0, delta=1e-5, sampler="without_replacement")  # fmt: skip
        with pytest.raises(AccountingMismatchError, match="replace_one"):
            reserve(ledger, fixed)
        hidden = PLAN.replace(neighbours="add_remove")
        with pytest.raises(AccountingMismatchError, match="priced for add_remove"):
            reserve(ledger, hidden)
        narrow = plan_for(n_demonstrations=5000, epsilon=0.5, delta=1e-5)
        with pytest.raises(PrivacyConfigError, match="account_epsilon"):
            reserve(ledger, narrow)
        reserve(ledger, plan_for(n_demonstrations=5000, epsilon=0.5, delta=1e-5, account_epsilon=2.0))  # fmt: skip
        with pytest.raises(PrivacyConfigError, match="showing one of them in full"):
            reserve(ledger, PLAN.replace(n_demonstrations=200_000, expected=0.001))
        ticket = reserve(ledger, PLAN, 1)
        with pytest.raises(LedgerRollbackError, match="another plan"):
            settle(ledger, ticket, PLAN.replace(max_tokens=4), blocks_started=[], tokens=[])
        with pytest.raises(ConfigError, match="reserve before the release"):
            settle(ledger, ticket, PLAN, blocks_started=[3, 1], tokens=[12, 4])
        with pytest.raises(ConfigError, match="n_queries"):
            reserve(ledger, PLAN, 0)
        assert ledger.open_tickets()[-1] == ticket


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["reserve", "settle", "crash", "copy", "restore"]), st.integers(0, 8)),
        max_size=20,
    )
)  # fmt: skip
def test_no_sequence_of_reservations_crashes_and_copies_exceeds_the_budget(tmp_path_factory, steps):
    """Against blocks counted by hand; a copy that is put back is refused by the witness."""
    folder = tmp_path_factory.mktemp("ledger")
    path, witness, copy = folder / "ledger.sqlite", folder / "witness", folder / "copy.sqlite"
    ledger = Ledger(path, TERMS, witness=witness)
    spent, copied = 0, None  # blocks
    for what, n in steps:
        tickets = ledger.open_tickets()
        held = sum(3 * ticket.details["n_queries"] for ticket in tickets)
        if what == "reserve" and n:
            try:
                reserve(ledger, PLAN, n)
            except BudgetExceededError:
                assert spent + held + 3 * n > 18
            else:
                assert spent + held + 3 * n <= 18
        elif what == "settle" and tickets:
            n_queries = tickets[0].details["n_queries"]
            started = [min(n, 3)] * n_queries
            settle(ledger, tickets[0], PLAN, blocks_started=started, tokens=started)
            spent += sum(started)
        elif what == "crash":
            ledger.close()  # what was reserved stays reserved
            ledger = Ledger(path, witness=witness)
            assert len(ledger.open_tickets()) == len(tickets)
        elif what == "copy":
            copied = ledger.head()
            shutil.copy(path, copy)
        elif what == "restore" and copied not in (None, ledger.head()):
            shutil.copy(path, folder / "latest.sqlite")
            ledger.close()
            shutil.copy(copy, path)
            with pytest.raises(LedgerRollbackError, match="older copy"):
                Ledger(path, witness=witness)
            shutil.copy(folder / "latest.sqlite", path)
            ledger = Ledger(path, witness=witness)
        now = PLAN.block_price(4).times(spent).epsilon(1e-5) if spent else 0.0
        assert ledger.report()["epsilon_spent"] == pytest.approx(now, abs=1e-9)
        assert now <= ledger.epsilon() + 1e-12 <= TERMS.epsilon + 1e-12
    ledger.close()


def test_records_of_one_owner_are_one_unit():
    owners = ["ann", None, "ben", "ann", None, "ann"]
    with pytest.raises(PrivacyUnitError, match="1 owners have several demonstrations, one of them 3") as refused:  # fmt: skip
        units(owners)
    assert "ann" not in str(refused.value)
    grouped = units(owners, policy="sample_owners")
    assert grouped.records == ((0, 3, 5), (1,), (2,), (4,))
    assert (len(grouped), grouped.records_per_owner) == (4, 1)
    rng = np.random.default_rng(0)
    shown = [grouped.choose([0, 2], rng) for _ in range(60)]
    assert all(record == 2 for _, record in shown)
    counts = np.bincount([first for first, _ in shown], minlength=6)
    assert set(np.flatnonzero(counts)) == {0, 3, 5}

    # The number that is paid for is the public one: no owner's own.
    for most in (5, 3):
        together = units(owners, policy="price_records", sampler="none", most_per_owner=most)
        assert together.records_per_owner == most
    with pytest.raises(PrivacyUnitError, match="more than most_per_owner=2"):
        units(owners, policy="price_records", sampler="none", most_per_owner=2)
    with pytest.raises(ConfigError, match="most_per_owner=None"):
        units(owners, policy="price_records", sampler="none")
    with pytest.raises(ConfigError, match="most_per_owner=3"):
        units(owners, policy="sample_owners", most_per_owner=3)
    with pytest.raises(ConfigError, match="most_per_owner=0"):
        units(owners, policy="price_records", sampler="none", most_per_owner=0)
    assert together.choose([0, 1], rng).tolist() == [0, 3, 5, 1]
    with pytest.raises(AccountingMismatchError, match="price_records"):
        units(owners, policy="price_records")
    with pytest.raises(ConfigError, match="policy='merge'"):
        units(owners, policy="merge")
    alone = units([None, "ann", None])
    assert (len(alone), alone.records_per_owner) == (3, 1)
    assert len(units([])) == 0
