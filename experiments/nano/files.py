"""Reading and writing the folder that `corpus.build` makes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array as `.npy`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    os.replace(partial, path)


def read_documents(out_dir: Path, split: str, domain: str) -> Iterator[tuple[str, str]]:
    """Documents of one split and domain, as `(path, text)`.

    Args:
        out_dir: Folder that `corpus.build` made.
        split: `train` or `heldout`.
        domain: `code`, `english` or `templates`.

    Yields:
        Path and text; a generated document has the path `templates/SEED#INDEX`.

    Raises:
        FileNotFoundError: If the corpus was not built there.
    """
    file = Path(out_dir) / split / f"{domain}.jsonl"
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file}: build the corpus with `python -m experiments.nano.corpus --out {out_dir}`"
        )
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            yield row["path"], row["text"]
