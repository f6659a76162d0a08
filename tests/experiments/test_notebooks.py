"""The notebooks' scripts run at smoke scale, and script and notebook hold the same cells."""

import pathlib
import runpy
import shutil

import jupytext
import nbformat
import pytest

from ariel_jax.models.hf import load
from ariel_jax.testing import write_toy_checkpoint

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "notebooks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


@pytest.fixture
def toy_assets(tmp_path, monkeypatch):
    """Puts a toy model in the place of the shipped one: what is tested is the script."""
    write_toy_checkpoint(tmp_path / "nano")
    monkeypatch.setattr(load, "ASSETS", tmp_path)


def test_the_decode_notebook_runs(toy_assets, monkeypatch, capsys):
    monkeypatch.setenv("ARIEL_JAX_SCALE", "smoke")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    runpy.run_path(str(FOLDER / "decode.py"))
    assert "and they are the same" in capsys.readouterr().out


def cells(notebook):
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_and_notebook_are_in_step(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert cells(notebook) == cells(jupytext.read(script))


def test_a_changed_script_is_noticed(tmp_path):
    for source in (FOLDER / "decode.py", FOLDER / "decode.ipynb"):
        shutil.copy(source, tmp_path)
    script = tmp_path / "decode.py"
    script.write_text(script.read_text() + "\nprint('new')\n")
    notebook = nbformat.read(tmp_path / "decode.ipynb", as_version=4)
    assert cells(notebook) != cells(jupytext.read(script))
