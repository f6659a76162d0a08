"""Reading and writing the folder that `corpus.build` makes."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ariel_jax import durable
from ariel_jax.errors import ConfigError

DOMAINS = ("code", "english", "templates")
SPLITS = ("train", "heldout")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, all or nothing, making its folder.

    Raises:
        StorageError: If it could not be written.
    """
    _make_folder(path.parent)
    durable.write_bytes(path, data)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array as `.npy`, all or nothing, making its folder.

    Raises:
        StorageError: If it could not be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise durable.storage_error(path, error) from error


def existing(out_dir: Path, *parts: str) -> Path:
    """Path of a file of the corpus.

    Args:
        out_dir: Folder that `corpus.build` made.
        *parts: Names below that folder.

    Raises:
        ConfigError: If there is no such file.
    """
    file = Path(out_dir).joinpath(*parts)
    if not file.is_file():
        raise ConfigError(
            f"no file {file}; splits are {', '.join(SPLITS)} and domains {', '.join(DOMAINS)}. "
            f"Build the corpus with: python -m experiments.nano.corpus --out {out_dir}"
        )
    return file


def read_documents(out_dir: Path, split: str, domain: str) -> Iterator[tuple[str, str]]:
    """Documents of one split and domain, as `(path, text)`.

    Args:
        out_dir: Folder that `corpus.build` made.
        split: `train` or `heldout`.
        domain: `code`, `english` or `templates`.

    Yields:
        Path and text; a generated document has the path `templates/SEED#INDEX`.

    Raises:
        ConfigError: If the corpus was not built there.
    """
    with existing(out_dir, split, f"{domain}.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            yield row["path"], row["text"]
