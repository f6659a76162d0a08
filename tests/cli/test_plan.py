"""`ariel-jax plan capacity`, in this process, on a toy checkpoint."""

import json

import pytest

from ariel_jax.cli import main as cli
from ariel_jax.testing import write_toy_checkpoint


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_toy_checkpoint(tmp_path / "toy", max_positions=512)

    def run(*arguments):
        status = cli.main(["plan", "capacity", "--model", str(tmp_path / "toy"), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_the_table_ends_with_the_reason_and_the_profile_is_kept(call):
    request = ("--prompt-len", "20", "--max-new", "300", "--no-measured")
    status, out, err = call(*request)
    assert status == 0
    assert "| upfront |" in out
    assert "| planned |" in out
    *_, why, fit = out.rstrip().splitlines()
    assert "the closed form wants r =" in why
    assert "worst residual" in fit
    assert err.count("measuring at") >= 2
    status, again, err = call(*request, "--json")
    assert status == 0
    assert "measuring" not in err
    found = json.loads(again)
    assert found["choice"] in {row["name"] for row in found["rows"]}
    assert found["why"] in out


def test_every_policy_is_decoded_with_unless_it_compiles_for_every_token(call):
    request = ("--prompt-len", "20", "--max-new", "90", "--json")
    _, out, _ = call(*request)
    rows = {row["name"]: row["measured_tokens_per_s"] for row in json.loads(out)["rows"]}
    assert rows.pop("iterative (predicted only)") is None
    assert all(value > 0 for value in rows.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt-len", "400", "--max-new", "200"), "512 positions"),
        (("--max-new", "1"), "at least 2"),
        (("--batch", "0"), "batch=0"),
        (("--model", "/does/not/exist"), "nano"),
    ],
)
def test_bad_input_is_a_message_and_status_2(call, arguments, message):
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
