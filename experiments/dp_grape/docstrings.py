"""Docstrings of standard-library modules that nano never saw, as JSONL: a private text task without downloads.

    python -m experiments.dp_grape.docstrings --out docstrings.jsonl
    python -m experiments.dp_grape.docstrings --out texts.jsonl --language-model

The first writes `{"text", "label"}`, the label a module of `MODULES`; the second `{"text"}` of all modules
in `experiments/nano/reserved_modules.txt`. What goes into FILE.jsonl is for training; FILE.test.jsonl gets
one docstring in five, chosen by the hash of its file's path and its object's name. The licence's notice
stands next to them in FILE.NOTICE. One Python version always gives the same bytes; another one has other
docstrings, and the notice says whose they are.
"""

import argparse
import ast
import dataclasses
import hashlib
import json
import pathlib
import platform
import re
import sys
import sysconfig
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ariel_jax import durable
from ariel_jax.errors import ArielError, ConfigError
from experiments.nano.sources import SKIPPED, read_reserved

# With at least twenty docstrings each in Python 3.11; `labelled` refuses a library that lacks one.
MODULES = (
    "asyncio.base_events", "asyncio.events", "asyncio.locks", "asyncio.tasks", "asyncio.transports",
    "asyncio.unix_events", "email._header_value_parser", "email.message", "tkinter", "tkinter.ttk",
    "turtle", "wsgiref.handlers",
)  # fmt: skip
TEST_SHARE = 0.2
SHORTEST = 20
NOTICE = """\
The texts of {name} are docstrings of the standard library of Python {version}.

Copyright (c) 2001 Python Software Foundation. All Rights Reserved.

They are used under the Python Software Foundation License Version 2, whose text is at
https://docs.python.org/3/license.html and printed by `license()` in Python. Changes: docstrings were taken
out of their files, cleaned of indentation, and repeated ones left out.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Docstring:
    """One docstring.

    Attributes:
        name: path of its file, `#`, and the qualified name of its object.
        module: as it is imported.
        split: `train` or `test`.
        text: cleaned of indentation.
    """

    name: str
    module: str
    split: str
    text: str


def share(name: str, salt: str) -> float:
    """A number in [0, 1) that depends on a name alone."""
    digest = hashlib.sha256(f"{salt}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def hashed_words(text: str, dim: int) -> np.ndarray:
    """[dim] float32 of length 1: how often words fall into each bin. No vocabulary is learnt from data."""
    counts = np.zeros(dim, np.float32)
    for word in re.findall(r"[a-z]{2,}", text.lower()):
        counts[zlib.crc32(word.encode()) % dim] += 1
    counts = np.sqrt(counts)
    return counts / max(float(np.linalg.norm(counts)), 1e-6) * np.float32(dim**0.5)


def collect(root: pathlib.Path | None = None) -> list[Docstring]:
    """All docstrings of the reserved modules, in path and file order, each text once.

    Args:
        root: folder of a standard library; None means that of the running Python.

    Raises:
        ConfigError: there are none.
    """
    root = pathlib.Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    reserved, seen, found = read_reserved(), set(), []
    for file in sorted(root.rglob("*.py"), key=lambda item: item.relative_to(root).as_posix()):
        path = file.relative_to(root).as_posix()
        if SKIPPED.search(path) or path.removesuffix(".py").split("/")[0] not in reserved:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name, text in _of(tree, ""):
            if len(text) < SHORTEST or text in seen:
                continue
            seen.add(text)
            full = f"{path}#{name}"
            split = "test" if share(full, "docstrings") < TEST_SHARE else "train"
            found.append(Docstring(name=full, module=module, split=split, text=text))
    if not found:
        raise ConfigError(
            f"{root} holds no docstrings of {', '.join(sorted(reserved))}: run with a Python that brings "
            "its standard library as source files."
        )
    return found


def _of(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Qualified names and docstrings below a node."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = (ast.get_docstring(node) or "").strip()
        # An escape can make half of a surrogate pair, which UTF-8 cannot write.
        if text and not any("\ud800" <= c <= "\udfff" for c in text):
            yield name, text
    for child in ast.iter_child_nodes(node):
        below = getattr(child, "name", None)
        yield from _of(child, f"{name}.{below}".lstrip(".") if isinstance(below, str) else name)


def labelled(rows: Iterable[Docstring]) -> list[Docstring]:
    """Those of `MODULES`.

    Raises:
        ConfigError: a module has none in one of the splits.
    """
    rows = [row for row in rows if row.module in MODULES]
    there = {(row.module, row.split) for row in rows}
    if gone := [m for m in MODULES if not {(m, "train"), (m, "test")} <= there]:
        raise ConfigError(f"this standard library has no docstrings of {gone} to train or test on.")
    return rows


def write(out: pathlib.Path, *, language_model: bool = False) -> dict[str, int]:
    """Writes both files and the notice.

    Args:
        out: of the training part; its name ends in `.jsonl`.
        language_model: texts of all reserved modules, without labels.

    Returns:
        Lines by split.

    Raises:
        ConfigError: another ending, or no docstrings.
        StorageError: a file cannot be written.
    """
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out}: the name must end in .jsonl.")
    rows = collect() if language_model else labelled(collect())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise durable.storage_error(out, error) from error
    counts = {}
    for split, file in (("train", out), ("test", out.with_suffix(".test.jsonl"))):
        part = [row for row in rows if row.split == split]
        lines = [
            json.dumps({"text": row.text} | ({} if language_model else {"label": row.module}))
            for row in part
        ]
        durable.write_bytes(file, ("\n".join(lines) + "\n").encode())
        counts[split] = len(part)
    notice = NOTICE.format(name=out.name, version=platform.python_version())
    durable.write_bytes(out.with_suffix(".NOTICE"), notice.encode())
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after an error of the caller."""
    parser = argparse.ArgumentParser(description="Write the docstring task.")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--language-model", action="store_true")
    args = parser.parse_args(argv)
    try:
        counts = write(args.out, language_model=args.language_model)
    except ArielError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
