"""Runs every notebook's script at smoke scale and compares it with its .ipynb file.

The percent script is the source; `jupytext --to ipynb` makes the notebook from it, and outputs are
added at release. `ARIEL_JAX_SCALE=smoke` tells a script to stay small. Fails if a script fails, if
the two differ, or if there is none. `--compare` runs nothing; `--write` makes the notebooks anew,
without outputs.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jupytext
import nbformat

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "notebooks"


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Returns kind and text of every cell."""
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def run(script: pathlib.Path) -> bool:
    """Runs a script in an empty folder; returns whether it succeeded."""
    environment = {
        **os.environ,
        "ARIEL_JAX_SCALE": "smoke",
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(ROOT),
    }
    environment.setdefault("JAX_PLATFORMS", "cpu")
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
    is_good = done.returncode == 0
    print(f"{'ok' if is_good else 'FAILED':6s} {time.perf_counter() - begin:6.1f} s  {script.name}")
    if not is_good:
        print(done.stdout + done.stderr)
    return is_good


def is_paired(script: pathlib.Path) -> bool:
    """Returns whether the .ipynb beside `script` has the same cells."""
    notebook = script.with_suffix(".ipynb")
    there = notebook.is_file()
    same = there and cells(nbformat.read(notebook, as_version=4)) == cells(jupytext.read(script))
    if not same:
        print(f"FAILED {notebook.name} differs from {script.name}: run tools/notebooks.py --write")
    return same


def main() -> int:
    """Returns the exit status."""
    scripts = sorted(p for p in FOLDER.glob("*.py") if p.name != "__init__.py")
    if not scripts:
        print(f"no notebook in {FOLDER.relative_to(ROOT)}")
        return 1
    if sys.argv[1:] == ["--write"]:
        for script in scripts:
            jupytext.write(jupytext.read(script), script.with_suffix(".ipynb"))
        return 0
    compare_only = sys.argv[1:] == ["--compare"]
    good = [is_paired(script) and (compare_only or run(script)) for script in scripts]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
