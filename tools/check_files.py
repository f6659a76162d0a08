"""Checks files as text: end of file, trailing blanks, merge markers, size, TOML and YAML syntax.

`python tools/check_files.py FILE ...` checks those; without arguments, every tracked file.
"""

import pathlib
import subprocess
import sys
import tomllib

import yaml

LIMIT_BYTES = 20 * 1024 * 1024
BINARY = {".safetensors", ".png", ".npz", ".gz"}
MARKERS = ("<<<<<<< ", ">>>>>>> ")


def problems(path: pathlib.Path) -> list[str]:
    """Returns what is wrong with one file."""
    if path.stat().st_size > LIMIT_BYTES:
        return [f"{path}: above {LIMIT_BYTES >> 20} MiB"]
    if path.suffix in BINARY:
        return []
    text = path.read_text()
    found = []
    if text and not text.endswith("\n"):
        found.append(f"{path}: no newline at the end")
    if text.endswith("\n\n"):
        found.append(f"{path}: blank lines at the end")
    for number, line in enumerate(text.split("\n"), start=1):
        if line != line.rstrip() and path.suffix != ".ipynb":
            found.append(f"{path}:{number}: trailing blanks")
        if line.startswith(MARKERS):
            found.append(f"{path}:{number}: merge marker")
    try:
        if path.suffix == ".toml":
            tomllib.loads(text)
        elif path.suffix in {".yaml", ".yml", ".cff"}:
            yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        found.append(f"{path}: {error}")
    return found


def main() -> int:
    """Returns the exit status."""
    names = sys.argv[1:]
    if not names:
        run = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
        names = run.stdout.splitlines()
    paths = [path for path in map(pathlib.Path, names) if path.is_file()]
    found = [problem for path in paths for problem in problems(path)]
    print("\n".join(found) or f"{len(paths)} files: nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
