"""`ariel-jax bench`, in this process; the workers themselves are tested in tests/bench."""

import json

import pytest

from ariel_jax import bench
from ariel_jax.bench import Row
from ariel_jax.cli import main as cli

ROWS = {
    "good": Row(case="tiny", metric="decode ms/token", ours=2.0, theirs=6.0, ratio=3.0, low=2.5,
                high=3.5, target=1.2),
    "bad": Row(case="tiny", metric="decode ms/token", ours=6.0, theirs=2.0, ratio=0.33, low=0.3,
               high=0.4, target=1.2),
}  # fmt: skip


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command with rows made up by the test; returns status, stdout, stderr, calls."""
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)

    def run(*arguments, row="good"):
        calls = []

        def compare(case, **options):
            calls.append((case.name, options))
            return [ROWS[row]]

        def memory_rows(case, **options):
            calls.append(("memory", options))
            return []

        monkeypatch.setattr(bench, "compare", compare)
        monkeypatch.setattr(bench, "memory_rows", memory_rows)
        status = cli.main(["bench", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err, calls

    return run


def test_the_table_holds_ratio_spread_target_and_verdict(call):
    status, out, _, calls = call("decode", "--against", "transformers", "--cases", "tiny")
    assert status == 0
    assert (
        "| tiny | decode ms/token | 2.00 | 6.00 | 3.00 (2.50..3.50) | at least 1.2 | PASS |" in out
    )
    assert calls[0][0] == "tiny"
    options = calls[0][1]
    assert (options["against"], options["pairs"], options["threads"]) == ("transformers", 5, 2)
    assert [name for name, _ in calls] == ["tiny", "memory"]


def test_growing_stands_for_its_cases(call):
    *_, calls = call("decode", "--growing", "--no-memory")
    assert [name for name, _ in calls] == ["growing-gpt2", "growing-gpt2-b8", "growing-nano"]
    status, _, err, calls = call("decode", "--growing", "--cases", "tiny")
    assert (status, calls) == (2, [])
    assert "--cases" in err


def test_a_missed_target_is_status_1(call):
    status, out, err, _ = call("decode", "--cases", "tiny", "--no-memory", row="bad")
    assert status == 1
    assert "FAIL" in out
    assert "1 of 1 rows missed" in err


def test_the_default_cases_are_the_whole_list_and_json_is_written(call, tmp_path):
    file = tmp_path / "out.json"
    status, _, _, calls = call("decode", "--json", str(file), "--pairs", "2", "--threads", "1")
    assert status == 0
    assert [name for name, _ in calls] == [*bench.SCALES["full"], "memory"]
    assert calls[0][1]["against"] is None
    found = json.loads(file.read_text())
    assert found["arguments"]["pairs"] == 2
    assert found["rows"][0]["verdict"] == "PASS"
    assert found["rows"][0]["low"] == 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("decode", "--cases", "nothing"), "gpt2-p128"),
        (("decode", "--pairs", "0"), "pairs=0"),
        (("decode", "--threads", "-1"), "threads=-1"),
        (("decode", "--json", "/does/not/exist/out.json", "--cases", "tiny"), "does not exist"),
        (("train",), "train"),
    ],
)
def test_bad_input_is_a_message_and_status_2(call, arguments, message):
    status, out, err, calls = call(*arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in out + err
    assert calls == []
