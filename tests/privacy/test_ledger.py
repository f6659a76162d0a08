"""Budgets are never exceeded, whatever is reserved, settled, cut off or put back."""

import contextlib
import json
import math
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.durable import EventLog
from ariel_jax.errors import (
    ConfigError,
    EmptyLogError,
    IntegrityError,
    LedgerRollbackError,
    PrivacyBudgetError,
)
from ariel_jax.privacy import Ledger, Terms, gaussian, renyi
from ariel_jax.privacy.ledger import accounts

TERMS = Terms(account="visits by patient", relation="add_remove", epsilon=2.0, delta=1e-5)
ONE = gaussian(noise_multiplier=10.0, relation="add_remove")
MOST = max(n for n in range(1, 100) if ONE.times(n).epsilon(1e-5) <= 2.0)


@pytest.fixture
def path(tmp_path):
    """Where a ledger may be made."""
    return tmp_path / "ledger.sqlite"


def test_a_release_is_reserved_settled_and_refunded(path):
    with Ledger(path, TERMS) as ledger:
        assert ledger.epsilon() == 0
        assert ledger.most(ONE, at_most=1000) == MOST
        ticket = ledger.reserve(ONE.times(MOST), details={"run": 1})
        assert ledger.epsilon() == pytest.approx(ONE.times(MOST).epsilon(1e-5))
        assert not ledger.fits(ONE)
        with pytest.raises(PrivacyBudgetError, match="may spend 2 and stands at"):
            ledger.reserve(ONE)
        ledger.settle(ticket, ONE.times(4))
        assert ledger.epsilon() == pytest.approx(ONE.times(4).epsilon(1e-5))
        ledger.refund(ledger.reserve(ONE))
        assert ledger.epsilon() == pytest.approx(ONE.times(4).epsilon(1e-5))
        assert ledger.most(ONE, at_most=1000) == MOST - 4
        assert ledger.verify() == 5
    with Ledger(path) as again:
        assert again.terms == TERMS
        assert again.report()["epsilon_spent"] == pytest.approx(ONE.times(4).epsilon(1e-5))
        assert again.report()["open"] == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_not_settled_counts_in_full_and_can_be_found_again(path):
    with Ledger(path, TERMS) as ledger:
        made = ledger.reserve(ONE.times(10), details={"run": "a"})
    with Ledger(path) as again:
        assert again.open_tickets() == [made]
        assert again.epsilon() == pytest.approx(ONE.times(10).epsilon(1e-5))
        with pytest.raises(PrivacyBudgetError):
            again.reserve(ONE.times(MOST - 9))
        again.settle(made, ONE.times(3))
        assert again.open_tickets() == []
        with pytest.raises(ConfigError, match="settled once"):
            again.settle(made)
        with pytest.raises(ConfigError, match="settled once"):
            again.refund(made)


def test_a_refused_reservation_writes_nothing(path):
    with Ledger(path, TERMS) as ledger:
        before = ledger.head()
        with pytest.raises(PrivacyBudgetError):
            ledger.reserve(ONE.times(MOST + 1))
        with pytest.raises(ConfigError, match="for zero_out and the account"):
            ledger.reserve(gaussian(noise_multiplier=10.0, relation="zero_out"))
        with pytest.raises(ConfigError, match="JSON"):
            ledger.reserve(ONE, details={"x": math.nan})
        assert ledger.head() == before
        ticket = ledger.reserve(ONE)
        with pytest.raises(ConfigError, match="reserve before the release"):
            ledger.settle(ticket, ONE.times(2))
        assert ledger.open_tickets() == [ticket]


def test_an_account_keeps_its_terms_and_others_their_own_budget(path):
    other = Terms(account="letters", relation="zero_out", epsilon=1.0, delta=1e-6)
    with Ledger(path, TERMS) as ledger, Ledger(path, other) as second:
        ledger.reserve(ONE.times(MOST))
        assert second.epsilon() == 0
        ticket = second.reserve(gaussian(noise_multiplier=30.0, relation="zero_out"))
        with pytest.raises(ConfigError, match="settled once"):
            ledger.settle(ticket)
    with pytest.raises(ConfigError, match=r"accounts \['letters', 'visits by patient'\]"):
        Ledger(path)
    for change in ({"epsilon": 3.0}, {"delta": 1e-4}, {"relation": "zero_out"}):
        terms = Terms(**(TERMS.__dict__ | change))
        with pytest.raises(ConfigError, match="Terms never change"):
            Ledger(path, terms)


def test_deltas_of_prices_take_from_the_accounts(path):
    price = renyi.Price(rdp=ONE.rdp, relation="add_remove", delta=4e-6)
    with Ledger(path, TERMS) as ledger:
        ledger.settle(ledger.reserve(price))
        ledger.reserve(price)
        with pytest.raises(PrivacyBudgetError, match="epsilon inf"):
            ledger.reserve(price)
        assert ledger.epsilon() == pytest.approx(renyi.epsilon(ONE.curve * 2, 2e-6)[0])


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["reserve", "settle", "part", "refund", "reopen"]), st.integers(0, 20)),
        max_size=25,
    )
)  # fmt: skip
def test_no_sequence_exceeds_the_budget(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    ledger, spent = Ledger(path, TERMS), 0
    for what, n in steps:
        tickets = ledger.open_tickets()
        if what == "reserve":
            try:
                ledger.reserve(ONE.times(n))
            except PrivacyBudgetError:
                held = sum(round(t.price.rdp[0] / ONE.rdp[0]) for t in tickets)
                assert spent + held + n > MOST
        elif what == "reopen":
            ledger.close()
            ledger = Ledger(path)
        elif tickets:
            ticket = tickets[n % len(tickets)]
            reserved = round(ticket.price.rdp[0] / ONE.rdp[0])
            used = {"settle": reserved, "part": min(n, reserved), "refund": 0}[what]
            ledger.settle(ticket, ONE.times(used))
            spent += used
        assert ledger.epsilon() <= TERMS.epsilon
        assert ledger.report()["epsilon_spent"] == pytest.approx(
            ONE.times(spent).epsilon(1e-5), abs=1e-9
        )
    ledger.close()


CHILD = """
import os, signal, sys
from ariel_jax import durable
from ariel_jax.durable import event_log
from ariel_jax.privacy import Ledger, gaussian
assert "jax" not in sys.modules, "a ledger needs no JAX"
one = gaussian(noise_multiplier=10.0, relation="add_remove")
ledger = Ledger(sys.argv[1])
where, countdown = sys.argv[2], int(sys.argv[3])
real = event_log.EventLog._append
def append(self, kind, body):
    global countdown
    countdown -= 1
    if where == "before" and not countdown:
        os.kill(os.getpid(), signal.SIGKILL)
    event = real(self, kind, body)
    if where == "inside" and not countdown:
        os.kill(os.getpid(), signal.SIGKILL)
    return event
event_log.EventLog._append = append
for _ in range(3):
    ticket = ledger.reserve(one)
    print("reserved", flush=True)
    if where == "after" and countdown == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ledger.settle(ticket)
    print("settled", flush=True)
"""


@pytest.mark.parametrize(("where", "countdown"), [("before", 2), ("inside", 3), ("inside", 4), ("after", 2)])  # fmt: skip
def test_a_killed_process_has_spent_what_it_may_have_released(path, where, countdown):
    Ledger(path, TERMS).close()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), where, str(countdown)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    said = done.stdout.split()
    with Ledger(path) as ledger:
        ledger.verify()
        at_least = ONE.times(said.count("reserved")).epsilon(1e-5)
        assert ledger.epsilon() == pytest.approx(at_least)
        assert len(ledger.open_tickets()) == said.count("reserved") - said.count("settled")


def test_threads_and_processes_share_one_budget(path):
    Ledger(path, TERMS).close()
    small = gaussian(noise_multiplier=30.0, relation="add_remove")
    most = max(n for n in range(1, 1000) if small.times(n).epsilon(1e-5) <= 2.0)
    go = path.with_name("go")
    script = (
        "import os, sys, time; from ariel_jax.privacy import Ledger, gaussian\n"
        "ledger, n = Ledger(sys.argv[1]), 1\n"
        "price = gaussian(noise_multiplier=30.0, relation='add_remove')\n"
        "ledger.settle(ledger.reserve(price)); print('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.001)\n"
        "try:\n"
        "    while True: ledger.settle(ledger.reserve(price)); n += 1\n"
        "except Exception as error: print(n, type(error).__name__)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(path), str(go)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    taken = []
    with Ledger(path) as ledger:

        def take():
            while True:
                try:
                    ledger.settle(ledger.reserve(small))
                    taken.append(1)
                except PrivacyBudgetError:
                    return

        assert [child.stdout.readline().strip() for child in children] == ["ready"] * 2
        go.touch()
        threads = [threading.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said = [child.communicate()[0].split() for child in children]
        assert [words[1] for words in said] == ["PrivacyBudgetError"] * 2
        assert len(taken) + sum(int(words[0]) for words in said) == most
        assert ledger.verify() == 1 + 2 * most


def test_a_ledger_that_was_put_back_is_noticed(path, tmp_path):
    witness, copy = tmp_path / "witness.json", tmp_path / "copy.sqlite"
    with Ledger(path, TERMS, witness=witness) as ledger:
        ledger.settle(ledger.reserve(ONE))
        shutil.copy(path, copy)
        head = ledger.head()
        ledger.settle(ledger.reserve(ONE))
        ledger.verify(head=head)
        latest = ledger.head()
    shutil.copy(copy, path)
    with pytest.raises(LedgerRollbackError, match="older copy"):
        Ledger(path, witness=witness)
    with Ledger(path) as ledger, pytest.raises(LedgerRollbackError, match="lacks event"):
        ledger.verify(head=latest)
    witness.write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        Ledger(path, witness=witness)


def test_a_witness_that_is_gone_is_not_made_anew_in_silence(path, tmp_path):
    witness = tmp_path / "witness.json"
    with Ledger(path, TERMS, witness=witness):
        pass
    witness.unlink()
    with Ledger(path, witness=witness) as ledger:  # nothing could have been spent twice
        assert witness.exists()
        ledger.reserve(ONE)
    witness.unlink()
    for options in ({}, {"new_witness": False}):
        with pytest.raises(
            IntegrityError, match=r"has 1 events that it should have seen.*new_witness"
        ):
            Ledger(path, witness=witness, **options)
        assert not witness.exists()
    with Ledger(path, witness=witness, new_witness=True) as ledger:
        ledger.reserve(ONE)
        head = list(ledger.head())

    seen = json.loads(witness.read_text())
    assert [seen["number"], seen["digest"]] == head
    # It does not forgive a ledger that was put back.
    Ledger(path, witness=witness, new_witness=True).close()
    with Ledger(tmp_path / "other.sqlite", TERMS):
        pass
    with pytest.raises(LedgerRollbackError):
        Ledger(tmp_path / "other.sqlite", witness=witness, new_witness=True)


def test_the_accounts_of_a_file_are_listed(path):
    assert accounts(path) == {}
    assert not path.exists()
    Ledger(path, TERMS).close()
    assert accounts(path) == {TERMS.account: TERMS}


def test_a_file_without_tables_has_no_accounts_and_is_taken_as_new(path):
    def made_by_sqlite():
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("VACUUM")
        assert path.stat().st_size > 0

    for make in (path.touch, made_by_sqlite):
        make()
        before = path.read_bytes()
        assert accounts(path) == {}
        assert path.read_bytes() == before
        with pytest.raises(EmptyLogError, match="is empty"):
            Ledger(path, TERMS, read_only=True)
        with Ledger(path, TERMS) as ledger:
            assert ledger.epsilon() == 0
        assert accounts(path) == {TERMS.account: TERMS}
        path.unlink()
    path.write_bytes(b"something else " * 99)
    with pytest.raises(IntegrityError, match="no intact event log"):
        accounts(path)
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(IntegrityError, match=r"no event log: it has \['other'\]"):
        accounts(path)


def test_a_ledger_of_another_grid_of_orders_is_not_opened(path):
    log = EventLog(path)
    log.append("opened", TERMS.__dict__ | {"orders": "others"})
    log.close()
    with pytest.raises(IntegrityError, match="Rényi orders others"):
        Ledger(path)


def test_a_changed_ledger_is_not_opened(path):
    with Ledger(path, TERMS) as ledger:
        ledger.settle(ledger.reserve(ONE.times(5)))
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER events_stay")
        connection.execute("UPDATE events SET body = replace(body, '5 x', '1 x')")
    with pytest.raises(IntegrityError, match="event 2"):
        Ledger(path)


def test_a_voided_account_says_so_for_good(path):
    with Ledger(path, TERMS) as ledger:
        ledger.void("a seed was given: the noise can be taken away")
    with Ledger(path) as again:
        assert again.report()["void"] == ["a seed was given: the noise can be taken away"]


def test_what_opens_no_account_is_refused(path, tmp_path):
    with pytest.raises(ConfigError, match="pass terms= to make one"):
        Ledger(path)
    assert not path.exists()
    EventLog(path).close()
    with pytest.raises(ConfigError, match=r"has the accounts \[\]"):
        Ledger(path)
    for change in ({"epsilon": 0.0}, {"epsilon": math.inf}, {"delta": 0.0}, {"account": ""}):
        with pytest.raises(ConfigError):
            Terms(**(TERMS.__dict__ | change))


def test_infinite_prices_are_never_covered(path):
    endless = renyi.Price(rdp=(math.inf,) * len(renyi.ORDERS), relation="add_remove")
    with Ledger(path, TERMS) as ledger:
        with pytest.raises(PrivacyBudgetError):
            ledger.reserve(endless)
        assert np.isfinite(ledger.epsilon())
    assert os.path.getsize(path) > 0
