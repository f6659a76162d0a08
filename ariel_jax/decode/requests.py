"""Checks of what a caller asks for, made before anything is computed."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import positive_int, whole_number
from ariel_jax.decode.sampling import SamplingParams
from ariel_jax.errors import ConfigError, MemoryLimitError
from ariel_jax.models.config import DecoderConfig


def check_prompts(
    cfg: DecoderConfig, prompts: Sequence[Sequence[int]], max_new: int | Sequence[int]
) -> list[int]:
    """The number of new tokens of each prompt.

    Raises:
        ConfigError: no prompts, one that is empty, no list of whole numbers or too long, a token
            outside the vocabulary, or a number of new tokens that is none.
    """
    if isinstance(prompts, str) or not all(_is_list(p) for p in prompts):
        raise ConfigError(
            f"prompts={_short(prompts)} is not understood: pass a list of prompts, each a list of "
            "token ids."
        )
    is_one = isinstance(max_new, numbers.Real)
    if not is_one and not _is_list(max_new):
        raise ConfigError(f"max_new={max_new!r} is not allowed: pass a whole number, or one each.")
    n_new: list[Any] = [max_new] * len(prompts) if is_one else list(max_new)  # pyright: ignore[reportArgumentType] told apart above
    if not len(prompts) or len(n_new) != len(prompts):
        raise ConfigError(
            f"got {len(prompts)} prompts and {len(n_new)} values of max_new; give at least one "
            "prompt, and one max_new or one each."
        )
    for row, (prompt, n) in enumerate(zip(prompts, n_new, strict=True)):
        positive_int(max_new=n)
        if not len(prompt):
            raise ConfigError(
                f"prompt {row} is empty; a decoder needs at least one token to start from: give "
                "some text, or the beginning-of-sequence token."
            )
        ids = np.asarray(prompt)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ConfigError(
                f"prompt {row} is {_short(prompt)}; pass token ids, which are whole numbers."
            )
        low, high = ids.min(), ids.max()
        if low < 0 or high >= cfg.vocab_size:
            raise ConfigError(
                f"prompt {row} holds token id {low if low < 0 else high}; the vocabulary is "
                f"0..{cfg.vocab_size - 1}. Encode it with this model's tokenizer."
            )
        if len(prompt) + n > cfg.max_positions:
            raise ConfigError(
                f"prompt {row} has {len(prompt)} tokens and max_new is {n}: together more than the "
                f"{cfg.max_positions} positions of the model. Shorten the prompt or ask for at most "
                f"{max(cfg.max_positions - len(prompt), 0)} new tokens."
            )
    return n_new


def one_each(
    sampling: SamplingParams | Sequence[SamplingParams] | None, n: int
) -> Sequence[SamplingParams]:
    """Sampling settings of n requests; one stands for all, None for greedy ones.

    Raises:
        ConfigError: another number of settings.
    """
    if sampling is None or isinstance(sampling, SamplingParams):
        return [sampling or SamplingParams()] * n
    if len(sampling) != n:
        raise ConfigError(
            f"{len(sampling)} sampling settings for {n} prompts; give one, or one each."
        )
    return sampling


def check_eos(cfg: DecoderConfig, eos: Sequence[int]) -> None:
    """Checks ids that end a text.

    Raises:
        ConfigError: one is no token of the model.
    """
    whole_number(0, cfg.vocab_size - 1, **{f"eos[{i}]": int_ for i, int_ in enumerate(eos)})


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """The strings that end a text.

    Raises:
        ConfigError: not a list of strings, or one of them is empty.
    """
    if isinstance(stop, str) or not all(isinstance(s, str) for s in stop):
        raise ConfigError(f"stop={stop!r} is not allowed: pass a list of strings.")
    if not all(stop):
        raise ConfigError("stop holds an empty string, which ends every text at once; remove it.")
    return tuple(stop)


def check_memory(
    cfg: DecoderConfig,
    n_bytes: int,
    capacity: int,
    new: int,
    mem_limit: int | None,
    *,
    row_bytes: int | None = None,
) -> None:
    """Checks what a cache takes while it is moved to another capacity, leaf by leaf.

    Args:
        cfg: the decoder.
        n_bytes: of the cache now; 0 for none.
        capacity: rows that it has now.
        new: rows that it shall have.
        mem_limit: bytes that are allowed, or None.
        row_bytes: bytes of one row, all layers and requests; None takes them from the cache.

    Raises:
        ConfigError: mem_limit is no whole number above 0.
        MemoryLimitError: more would be needed.
    """
    if mem_limit is None:
        return
    positive_int(mem_limit=mem_limit)
    per_row = n_bytes // capacity if row_bytes is None else row_bytes
    # The leaf that is being copied exists twice, at its smaller size.
    leaf = min(n_bytes, new * per_row) // (2 * cfg.n_layers)
    needed = max(new, capacity) * per_row + leaf
    if needed > mem_limit:
        raise MemoryLimitError(
            f"a cache of {new} rows takes {needed:,} bytes while it is made, and mem_limit is "
            f"{mem_limit:,}: at most {max(0, (mem_limit - leaf) // per_row)} rows fit. Allow more, "
            "grow by fewer rows, ask for fewer new tokens, or decode fewer requests at once."
        )


def check_key(key: Any) -> jax.Array:
    """A call's typed key; the key of seed 0 for None.

    Raises:
        ConfigError: it is none, or several.
    """
    if key is None:
        return jax.random.key(0)
    is_key = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_key or key.ndim:
        raise ConfigError(f"key={_short(key)} is not allowed: pass one jax.random.key(seed).")
    return key


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | range | np.ndarray | jax.Array)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
