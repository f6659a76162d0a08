"""`ariel-jax ledger`: what budgets have paid for, in words and as JSON, and files that were changed."""

import json
import shutil
import sqlite3

import pytest

from ariel_jax.cli import main as cli
from ariel_jax.durable import EventLog
from ariel_jax.errors import ConfigError, StorageError
from ariel_jax.privacy import Ledger, Terms, gaussian

TERMS = Terms(account="visits by patient", relation="add_remove", epsilon=2.0, delta=1e-5)
OTHER = Terms(account="letters", relation="replace_one", epsilon=1.0, delta=1e-6)
ONE = gaussian(noise_multiplier=10.0, relation="add_remove")


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process: status, standard output, standard error."""
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)

    def run(*arguments):
        status = cli.main(["ledger", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def files(tmp_path):
    """A ledger with two accounts, its witness and an older copy."""
    path, witness = tmp_path / "ledger.sqlite", tmp_path / "elsewhere.json"
    with Ledger(path, TERMS, witness=witness) as ledger:
        ledger.settle(ledger.reserve(ONE.times(4), details={"run": "a"}), ONE.times(3))
        shutil.copy(path, tmp_path / "older.sqlite")
        ledger.reserve(ONE.times(2))
        Ledger(path, OTHER, witness=witness).close()
    return path, witness


def everything(folder):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_accounts_are_shown_in_words_and_nothing_is_written(call, files, tmp_path):
    path, _ = files
    before = everything(tmp_path)
    status, out, err = call("show", path)
    assert (status, err) == (0, "")
    first, second = out.split("\n\n")
    spent, stands = (ONE.times(n).epsilon(1e-5) for n in (3, 5))
    for words in (
        "account   visits by patient", "neighbours by add_remove; epsilon 2 at delta 1e-05",
        f"epsilon {spent:.4f}; {stands:.4f} with 1 open reservations", f"left      epsilon {2 - stands:.4f}",
        "reserved: 4 x (Gaussian noise of 10 times the sensitivity)",
        f"settled reservation 2: 3 x (Gaussian noise of 10 times the sensitivity) (epsilon {spent:.4f} alone)",
    ):  # fmt: skip
        assert words in first
    assert "letters" in second
    assert "epsilon 0.0000; nothing is reserved" in second
    assert "1  20" in first
    assert call("verify", path)[0] == 0
    assert everything(tmp_path) == before


def test_one_account_as_json(call, files):
    path, _ = files
    status, out, _ = call("show", path, "--account", TERMS.account, "--json")
    (found,) = json.loads(out)["accounts"]
    assert status == 0
    assert found["epsilon_left"] == pytest.approx(2 - ONE.times(5).epsilon(1e-5))
    assert [event["kind"] for event in found["events"]] == ["opened", "reserved", "settled", "reserved"]  # fmt: skip
    assert found["events"][1]["details"] == {"run": "a"}
    assert found["events"][2]["reservation"] == 2
    assert found["open"] == [4]


def test_what_is_void_says_so_and_infinity_is_null(call, tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, TERMS) as ledger:
        ledger.void("a seed was given")
        ticket = ledger.reserve(ONE)
        ledger.settle(ticket, gaussian(noise_multiplier=1e6, relation="add_remove"))
    _, out, _ = call("show", path)
    assert "VOID      not private any more: a seed was given" in out
    assert "voided: a seed was given" in out
    from ariel_jax.cli import ledger as command

    assert command._finite({"a": [float("inf"), 1.0]}) == {"a": [None, 1.0]}


def test_an_intact_ledger_is_verified_with_and_without_its_witness(call, files):
    path, witness = files
    status, out, _ = call("verify", path)
    assert status == 0
    assert "5 events, none changed" in out
    assert "only --witness FILE tells" in out
    status, out, _ = call("verify", path, "--witness", witness)
    assert status == 0
    assert "latest event" in out
    status, out, _ = call("verify", path, "--witness", witness, "--json")
    head = json.loads(witness.read_text())
    assert json.loads(out)["head"] == [head["number"], head["digest"]]


def test_a_ledger_that_was_changed_or_put_back_is_status_2(call, files, tmp_path):
    path, witness = files
    status, out, err = call("verify", tmp_path / "older.sqlite", "--witness", witness)
    assert (status, out) == (2, "")
    assert "older copy" in err
    assert call("verify", tmp_path / "older.sqlite")[0] == 0
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER events_stay")
        connection.execute("UPDATE events SET body = replace(body, '3 x', '1 x')")
    for what in ("verify", "show"):
        status, out, err = call(what, path)
        assert (status, out) == (2, "")
        assert "event 3 was changed" in err
        assert "Traceback" not in err


def test_bad_input_is_a_message_and_status_2(call, files, tmp_path):
    path, witness = files
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be taken for one" * 9)
    (tmp_path / "empty.sqlite").touch()
    EventLog(tmp_path / "new.sqlite").close()
    for arguments, message in (
        (("show", tmp_path / "none.sqlite"), "there is no ledger"),
        (("show", tmp_path), "there is no ledger"),
        (("show", path, "--account", "nobody's"), "it has ['letters', 'visits by patient']"),
        (("show", path, "--witness", witness), "ledger verify"),
        (("verify", path, "--account", "letters"), "ledger show"),
        (("verify", path, "--witness", tmp_path / "gone"), "there is no witness"),
        (("verify", path, "--witness", path), "cannot be read"),
        (("show", tmp_path / "text.sqlite"), "no intact event log"),
        (("verify", tmp_path / "empty.sqlite"), "nothing to check"),
        (("verify", tmp_path / "new.sqlite"), "nothing to check"),
        (("look", path), "invalid choice"),
    ):
        status, out, err = call(*arguments)
        assert (status, out) == (2, ""), arguments
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "none.sqlite").exists()
    assert (tmp_path / "empty.sqlite").read_bytes() == b""
    assert call("show", tmp_path / "new.sqlite")[1].endswith("has no account yet.\n")


def test_a_ledger_that_is_only_read_cannot_be_spent_from(files):
    path, witness = files
    seen = witness.read_bytes()
    with Ledger(path, TERMS, witness=witness, read_only=True) as ledger:
        (ticket,) = ledger.open_tickets()
        for attempt in (lambda: ledger.reserve(ONE), lambda: ledger.settle(ticket), lambda: ledger.void("x")):  # fmt: skip
            with pytest.raises(StorageError, match="readonly"):
                attempt()
    assert witness.read_bytes() == seen
    unknown = Terms(**(TERMS.__dict__ | {"account": "others"}))
    with pytest.raises(ConfigError, match="has no account 'others' to read"):
        Ledger(path, unknown, read_only=True)
