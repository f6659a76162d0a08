"""Text files as training data: encoded once into the run's folder, then memory-mapped."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

from ariel_jax.durable import storage_error, write_json
from ariel_jax.errors import ConfigError
from ariel_jax.models.hf import Tokenizer
from ariel_jax.models.hf.safetensors_io import read_json
from ariel_jax.training.data import TokenFileSource, save_tokens


def text_file_source(
    files: Sequence[str | os.PathLike[str]],
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    tokens_per_batch: int,
    lengths: tuple[tuple[int, int], ...],
    seed: int,
    vocab_size: int,
) -> TokenFileSource:
    """A source of batches from UTF-8 text files, each one document, weighted by its length.

    Args:
        files: the texts.
        tokenizer: its end-of-sequence token separates documents.
        folder: gets `tokens.npy` and `tokens.json` (hashes of what it was made from). Files that
            are there already are used if they were made from the same texts and tokenizer.
        tokens_per_batch: rows x length of every batch.
        lengths: `((first_step, length), ...)`.
        seed: of the order.
        vocab_size: of the model.

    Raises:
        ConfigError: a file is missing, empty or no text, the tokenizer has no end token, or the
            folder holds tokens of other texts.
        StorageError: the folder cannot be written.
    """
    if not files:
        raise ConfigError("no text files were given: name at least one UTF-8 text file.")
    if tokenizer.eos_id is None:
        raise ConfigError(
            "the tokenizer names no eos_token to put between documents: add it to "
            "tokenizer_config.json."
        )
    texts = [read_text(pathlib.Path(file)) for file in files]
    made_from = {
        "files": [
            [str(f), hashlib.sha256(t.encode()).hexdigest()]
            for f, t in zip(files, texts, strict=True)
        ],
        "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest(),
    }
    folder = pathlib.Path(folder)
    stored, note = folder / "tokens.npy", folder / "tokens.json"
    if not note.exists():
        documents = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_tokens(stored, documents, tokenizer.eos_id)
        except OSError as error:
            raise storage_error(stored, error) from error
        write_json(note, made_from)
    if read_json(note) != made_from:
        raise ConfigError(
            f"{folder} holds tokens of other texts or of another tokenizer: continue with the same "
            "files in the same order, or choose another output folder."
        )
    return TokenFileSource(
        files=(str(stored),),
        weights=(1.0,),
        tokens_per_batch=tokens_per_batch,
        lengths=lengths,
        seed=seed,
        vocab_size=vocab_size,
    )


def read_text(path: pathlib.Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or holds nothing.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path} as text: {error}. Name UTF-8 text files that exist."
        ) from error
    if not text:
        raise ConfigError(f"{path} is empty: name files that hold text.")
    return text
