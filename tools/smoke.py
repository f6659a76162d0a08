"""Runs every experiment at smoke scale, one process per system; fails if one fails or none is there.

An experiment is a module `experiments/<system>/<name>.py` that takes `--scale`, by itself or by
calling the shared runner. `python tools/smoke.py decode` runs those of one system.
"""

import os
import pathlib
import re
import runpy
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).parents[1]
LIMIT_S = 8.0  # what one script may take; above it a line says so
TAKES_SCALE = re.compile(r"--scale|\brunner\.main\(")


def find() -> dict[str, list[str]]:
    """Returns the experiments: system -> module names."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "experiments").glob("*/*.py")):
        text = path.read_text()
        if path.parent.name != "notebooks" and '"__main__"' in text and TAKES_SCALE.search(text):
            name = f"experiments.{path.parent.name}.{path.stem}"
            found.setdefault(path.parent.name, []).append(name)
    return found


def run_system(modules: list[str], out: pathlib.Path) -> int:
    """Runs the modules one after another in this process; returns how many failed."""
    failed = 0
    for module in modules:
        begin = time.perf_counter()
        sys.argv = [module, "--scale", "smoke", "--out", str(out / module)]
        status: object = 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            status = stop.code or 0
        except Exception:  # reported, and the other experiments still run
            traceback.print_exc()
            status = 1
        taken = time.perf_counter() - begin
        verdict = "ok" if status == 0 else f"FAILED ({status})"
        slow = f" (above {LIMIT_S:.0f} s)" if taken > LIMIT_S else ""
        print(f"{verdict:6s} {taken:6.1f} s{slow}  {module}", flush=True)
        failed += status != 0
    return failed


def main() -> int:
    """Runs the systems named on the command line, or all; returns the exit status."""
    found = find()
    systems = sys.argv[1:] or sorted(found)
    unknown = sorted(set(systems) - set(found))
    if unknown or not systems:
        print(f"no experiments for {unknown or 'any system'}; there are {sorted(found)}")
        return 1
    if len(sys.argv) == 2:
        with tempfile.TemporaryDirectory() as out:
            return min(run_system(found[systems[0]], pathlib.Path(out)), 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    environment.setdefault("JAX_PLATFORMS", "cpu")
    status = 0
    for system in systems:
        command = [sys.executable, __file__, system]
        status |= subprocess.run(command, cwd=ROOT, env=environment).returncode != 0
    return int(status)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
