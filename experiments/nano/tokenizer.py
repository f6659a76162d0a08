"""Byte-level BPE tokenizer of nano, and the token files that training and evaluation read.

The vocabulary has exactly 4,096 entries: five special tokens, the 256 bytes, and merges. Any text
survives `decode(encode(text))` unchanged. Digits stand alone; a line break and the indentation
after it are one unit, so Python code costs about one token per line for its layout.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ariel_jax.errors import ConfigError
from experiments.nano.files import (
    DOMAINS,
    SPLITS,
    existing,
    read_documents,
    write_array,
    write_bytes,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
MODEL_MAX_LENGTH = 2048
ENCODE_BATCH = 256

# In order: contractions; a word with the one character before it (space, dot, underscore); one
# digit; other marks; line breaks with the indentation that follows, less the blank that belongs to
# the next word; other blanks likewise.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)(?!\p{L})"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s*[\r\n]+[ \t]*(?= \p{L})"
    r"|\s*[\r\n]+[ \t]*"
    r"|\s+(?!\S)"
    r"|\s+"
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role'] + "
    "': this model knows the roles user and assistant; put other text into a user message') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _training_text(out_dir: Path) -> Iterator[str]:
    for domain in DOMAINS:
        for _, text in read_documents(out_dir, "train", domain):
            yield text


def train_tokenizer(out_dir: Path, *, vocab_size: int = VOCAB_SIZE) -> str:
    """Trains the tokenizer on the training split and writes it as Hugging Face files.

    Args:
        out_dir: Folder that `corpus.build` made; `tokenizer/` is written below it.
        vocab_size: Number of entries, special tokens and bytes included.

    Returns:
        SHA-256 of `tokenizer.json`.

    Raises:
        ConfigError: If the texts are too few to learn that many entries.
    """
    texts = _training_text(out_dir)
    return learn(texts, Path(out_dir) / "tokenizer", vocab_size=vocab_size)


def learn(
    texts: Iterator[str], folder: Path, *, vocab_size: int, max_length: int = MODEL_MAX_LENGTH
) -> str:
    """Trains a tokenizer on texts and writes it as Hugging Face files.

    The result depends only on the texts. Special tokens get the first ids, in the order of
    `SPECIAL_TOKENS`; `<|endoftext|>` (id 0) begins and separates documents.

    Args:
        texts: What to learn merges from.
        folder: Gets `tokenizer.json` and the files beside it.
        vocab_size: Number of entries, special tokens and bytes included.
        max_length: What the files say of the longest text.

    Returns:
        SHA-256 of `tokenizer.json`.

    Raises:
        ConfigError: If the texts are too few to learn that many entries.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ConfigError(
            f"the training text yields only {tokenizer.get_vocab_size()} of {vocab_size} entries: "
            "give more text or a smaller vocabulary"
        )
    data = tokenizer.to_str(pretty=True).encode()
    write_bytes(folder / "tokenizer.json", data)
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": "<|pad|>"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "additional_special_tokens": list(SPECIAL_TOKENS[2:]),
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_bytes(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())
    write_bytes(folder / "special_tokens_map.json", (json.dumps(names, indent=2) + "\n").encode())
    return hashlib.sha256(data).hexdigest()


def _load(out_dir: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(existing(out_dir, "tokenizer", "tokenizer.json")))


def byte_lengths(out_dir: Path) -> np.ndarray:
    """UTF-8 bytes that each token stands for, to turn nats per token into bits per byte.

    `<|endoftext|>` and `<|pad|>` count zero bytes: they are no part of any text. The chat marks
    count their spelling, since the text files, xz and the 5-gram contain them spelled out.

    Args:
        out_dir: Folder that `corpus.build` made.

    Returns:
        int32 `[vocab]`.
    """
    tokenizer = _load(out_dir)
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int32)
    for text, index in tokenizer.get_vocab().items():
        # Every character of a byte-level entry stands for one byte; chat marks are ASCII.
        lengths[index] = len(text)
    lengths[[tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id("<|pad|>")]] = 0
    return lengths


def write_tokens(out_dir: Path) -> dict[str, dict[str, int]]:
    """Encodes both splits into `tokens/SPLIT_DOMAIN.npy` and writes `tokens/byte_lengths.npy`.

    Each file is uint16 `[n]`: `<|endoftext|>`, document, `<|endoftext|>`, ..., `<|endoftext|>`.

    Args:
        out_dir: Folder with the corpus and the tokenizer.

    Returns:
        Number of tokens as `{split: {domain: tokens}}`, separators included.
    """
    tokenizer = _load(out_dir)
    boundary = np.zeros(1, np.uint16)
    folder = Path(out_dir) / "tokens"
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        for domain in DOMAINS:
            texts = [text for _, text in read_documents(out_dir, split, domain)]
            pieces = [boundary]
            for start in range(0, len(texts), ENCODE_BATCH):
                for encoding in tokenizer.encode_batch_fast(texts[start : start + ENCODE_BATCH]):
                    pieces += [np.array(encoding.ids, np.uint16), boundary]
            array = np.concatenate(pieces)
            write_array(folder / f"{split}_{domain}.npy", array)
            counts.setdefault(split, {})[domain] = array.size
    write_array(folder / "byte_lengths.npy", byte_lengths(out_dir))
    return counts


def tokens(out_dir: Path, split: str, domain: str | None = None) -> np.ndarray:
    """Token ids of a split.

    Args:
        out_dir: Folder that `corpus.build` made.
        split: `train` or `heldout`.
        domain: One domain, memory-mapped; None for all of them one after another, in memory.

    Returns:
        uint16 `[n]`, read-only if mapped. Id 0 stands before, between and after the documents.

    Raises:
        ConfigError: If there are no token files.
    """
    if domain is not None:
        return np.load(existing(out_dir, "tokens", f"{split}_{domain}.npy"), mmap_mode="r")
    return np.concatenate([tokens(out_dir, split, name) for name in DOMAINS])
