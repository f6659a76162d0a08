"""The slow oracle of mixed decoding: no cache, no store, no blocks of tokens, one full pass per token."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms.mozo import sampling
from ariel_jax.algorithms.mozo.config import Config, Numbers
from ariel_jax.algorithms.mozo.decoding import end_tokens, suffix_tokens
from ariel_jax.algorithms.mozo.demos import Encoded
from ariel_jax.algorithms.mozo.draws import Draw
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.decode import programs
from ariel_jax.decode.stream import TextModel


def row_logits(model: TextModel, prompts: Sequence[Sequence[int]], *, pad_to: int) -> np.ndarray:
    """Logits [B, V] after each prompt, read whole and without a cache."""
    tokens = np.zeros((len(prompts), pad_to), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    positions = jnp.broadcast_to(jnp.arange(pad_to, dtype=jnp.int32)[None], tokens.shape)
    logits = programs.forward(model.cfg, model.params, jnp.asarray(tokens), positions)
    last = [len(prompt) - 1 for prompt in prompts]
    return np.asarray(logits)[np.arange(len(prompts)), last]


def answer(
    model: TextModel,
    encoded: Encoded,
    config: Config,
    numbers: Numbers,
    query: str | Sequence[int],
    draws: Callable[[int], Draw],
    key: jax.Array,
    *,
    max_tokens: int,
    redraw_every: int | None = None,
) -> list[int]:
    """The tokens that `MixedDecoder.answer` must draw, up to its first end; stop strings end nothing.

    Args:
        model: as for `MixedDecoder`.
        encoded: the demonstrations.
        config: the mixture.
        numbers: of the mixture.
        query: a text, or token ids.
        draws: the demonstrations of a block.
        key: of the query's tokens.
        max_tokens: most tokens.
        redraw_every: tokens of a block.
    """
    ids = suffix_tokens(model, encoded, query, max_tokens=max_tokens)
    ends = end_tokens(model, ())
    traced = parameters(config, numbers)
    pad_to = encoded.tokens.shape[1] + len(ids) + max_tokens
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        draw = draws(len(tokens) // (redraw_every or max_tokens))
        prompts = []
        for row in (encoded.zero_shot, *draw.rows.tolist()):
            row = encoded.zero_shot if row < 0 else row
            prefix = encoded.tokens[row, : encoded.lengths[row]].tolist()
            prompts.append([*prefix, *ids, *tokens])
        logits = jnp.asarray(row_logits(model, prompts, pad_to=pad_to))
        now = jax.random.fold_in(key, len(tokens))
        token, _ = sampling.step(logits, jnp.asarray(draw.mask), now, config, traced)
        tokens.append(int(token))
        if ends[tokens[-1]]:
            break
    return tokens
