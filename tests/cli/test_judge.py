import json
import os
import subprocess
import sys

import pytest

from ariel_jax.algorithms.ariel import checker
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.cli import main as cli

BOOKING = ("--data", "phone number", "--recipient", "restaurant", "--purpose", "book a table")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)
    where = ("--db", str(tmp_path / "log.sqlite"), "--user", "ann")

    def run(*arguments, at=where):
        status = cli.main([*map(str, arguments), *at])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def test_the_restaurant_asks_for_a_phone_number(tmp_path):
    """From an empty database to a verified proof, each step a process of its own."""
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "LOGNAME": "ann"}

    def run(*arguments):
        command = [sys.executable, "-m", "ariel_jax.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.stderr == ""
        return done.returncode, done.stdout

    status, out = run("judge", *BOOKING)
    assert status == 20
    assert out.startswith("ask  (decision 1)")
    assert "May this be given out: Phone number to Restaurant for Book a table?" in out
    status, out = run(
        "privacy",
        "ask",
        "--answer",
        "appropriate",
        "--generalise",
        "purpose=dining",
        "principle=ANY",
    )
    assert (status, out) == (0, "share  (decision 1, answered: appropriate)\n")
    status, out = run("judge", *BOOKING, "--json")
    assert status == 0
    shared = json.loads(out)
    assert (shared["verdict"], shared["proof"]["rule"]) == ("share", "R1")
    assert shared["explanation"].startswith("Shared your Phone number for Restaurant")
    status, out = run("privacy", "verify", "--json")
    assert status == 0
    assert json.loads(out)["proofs"] == 2
    # The proof holds by the independent checker, too, against what the log exports.
    with Ariel.open(tmp_path / "ariel_jax" / "privacy.sqlite", user="ann", read_only=True) as ariel:
        checker.verify_proof(shared["proof"], ariel.ontology.edges, ariel.store.judgements("ann"))
    assert (tmp_path / "ariel_jax").stat().st_mode & 0o777 == 0o700


def test_each_verdict_has_its_exit_status(call):
    assert call("judge", *BOOKING)[0] == 20
    assert call("privacy", "record", "appropriate", *BOOKING)[0] == 0
    assert call("judge", *BOOKING)[0] == 0
    assert call("privacy", "record", "inappropriate", *BOOKING)[0] == 0
    status, out, _ = call("judge", *BOOKING)
    assert status == 10
    assert out.startswith("withhold  (decision 3)\nWithheld your Phone number")


BAD = [
    ((), "data is missing"),
    (("--data", "phone number"), "recipient is missing"),
    (("--recipient", "restaurant"), "data is missing"),
    (("--data", "", "--recipient", "restaurant"), "no text"),
    (("--data", "phone number", "--recipient", "ANY"), "recipient=ANY"),
    (("--data", "x" * 3000, "--recipient", "restaurant"), "3000 characters"),
    ((*BOOKING, "--profile", "brave"), "invalid choice"),
    ((*BOOKING, "--value", "appropriate"), "--value"),
]


def test_bad_input_is_status_2_and_never_a_share(call):
    for arguments, message in BAD:
        status, out, err = call("judge", *arguments)
        assert (status, out) == (2, ""), arguments
        assert message in err
    assert call("privacy", "log", "--json")[1] == "[]\n"


def test_what_is_not_understood_is_asked_with_candidates(call):
    status, out, _ = call("judge", "--data", "telephone", "--recipient", "qqqq zzzz")
    assert status == 20
    assert "not understood: recipient" in out
    status, out, _ = call("judge", "--data", "phone number", "--recipient", "qqqq zzzz", "--json")
    found = json.loads(out)
    assert (status, found["reason"]) == (20, "unmapped")
    assert [entry["slot"] for entry in found["question"]["unmapped"]] == ["recipient"]


def test_a_log_that_cannot_be_written_is_status_2(call, tmp_path):
    call("privacy", "record", "appropriate", *BOOKING)
    assert call("judge", *BOOKING)[0] == 0
    (tmp_path / "text").write_text("no database, but long enough to be taken for one" * 20)
    for where in (tmp_path / "absent" / "log", tmp_path, tmp_path / "text"):
        status, out, err = call("judge", *BOOKING, at=("--db", str(where), "--user", "ann"))
        assert (status, out) == (2, "")
        assert "ariel-jax: error" in err


def test_the_disk_is_full(tmp_path):
    """A share that cannot be logged is none, at the command line too."""
    code = f"""
import resource, sys
from ariel_jax.cli import main as cli
at = ["--db", {str(tmp_path / "log.sqlite")!r}, "--user", "ann"]
booking = {list(BOOKING)!r}
assert cli.main(["privacy", "record", "appropriate", *booking, *at]) == 0
assert cli.main(["judge", *booking, *at]) == 0
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
print("now", flush=True)
raise SystemExit(cli.main(["judge", *booking, *at]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "share" not in run.stdout.partition("now")[2]
    assert "Check that the disk is writable" in run.stderr


def test_the_judge_needs_no_jax(tmp_path):
    code = (
        "import sys\nfrom ariel_jax.cli import main as cli\n"
        f"status = cli.main(['judge', *{BOOKING!r}, '--db', {str(tmp_path / 'log')!r}, '--user', 'ann'])\n"
        "print(status, 'jax' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "20 False"
