import json
import os
import subprocess
import sys

import pytest

import ariel_jax
from ariel_jax.cli import main as cli
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels import dispatch


def call(*arguments, env=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "ariel_jax.cli.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        **options,
    )


@pytest.fixture
def quiet_start(monkeypatch):
    """Keeps the command line from changing the settings of the test process."""
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)


def test_help_lists_every_command_and_does_not_import_jax():
    code = "import sys; from ariel_jax.cli.main import main; main(['--help']); print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *usage, loaded = out.stdout.split("\n")[:-1]
    assert loaded == "False"
    for name in cli.COMMANDS:
        assert any(line.strip().startswith(name) for line in usage)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ariel-jax {ariel_jax.__version__}\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"ariel-jax {name}" in out
    assert "--backend" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inof"], "Did you mean 'info'?"),
        (["info", "--jsn"], "--jsn"),
        (["--backend", "cuda", "info"], "'cpu', 'gpu', 'tpu'"),
        (["info", "--backend"], "--backend ''"),
    ],
)
def test_bad_input_exits_with_2_and_one_message(arguments, message, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_no_command_prints_the_usage_and_exits_with_2(capsys):
    assert cli.main([]) == 2
    assert "usage: ariel-jax" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (ConfigError("top_p=2 is not allowed"), 2, "ariel-jax: error: top_p=2 is not allowed\n"),
        (KeyboardInterrupt(), 130, "ariel-jax: interrupted\n"),
    ],
)
def test_errors_become_messages(quiet_start, monkeypatch, capsys, raised, status, message):
    def fail(args):
        raise raised

    monkeypatch.setattr("ariel_jax.cli.info.run", fail)
    assert cli.main(["info"]) == status
    assert capsys.readouterr().err == message


def test_an_absent_backend_is_reported_without_a_traceback(tmp_path):
    run = call("--backend", "tpu", "info", env={"XDG_CACHE_HOME": str(tmp_path)})
    assert run.returncode == 2
    assert run.stderr.startswith("ariel-jax: error: platform 'tpu' is not available")
    assert run.stdout == ""
    assert "Traceback" not in run.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        run = subprocess.run(
            [sys.executable, "-m", "ariel_jax.cli.main", "--help"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 141
    assert run.stderr == ""


def test_info_reports_as_json_with_a_cache_that_others_may_not_write(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    run = call("info", "--json", "--backend=cpu", env=cache)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    report = json.loads(run.stdout)
    assert report["backend"]["platform"] == "cpu"
    assert report["ceilings"]["read_bytes_per_s"] > 1e8
    assert report["compile_cache"].startswith(str(tmp_path / "ariel_jax" / "xla-"))
    # Which one is chosen depends on the processor and on what is recorded for it.
    assert {row["op"] for row in report["kernels"]} == set(dispatch.OP_NAMES)
    assert {row["chosen"] for row in report["kernels"]} <= {"native", "chunked", "reference"}
    # The second run finds the ceilings, and refuses a folder that has been opened to others.
    (tmp_path / "ariel_jax").chmod(0o777)
    again = call("info", env=cache)
    assert again.returncode == 0
    assert "ariel-jax: warning: programs are compiled anew: others can write" in again.stderr
    assert "ariel-jax: warning: measured ceilings are not kept" in again.stderr
    assert "read " in again.stdout
    assert "reference" in again.stdout
