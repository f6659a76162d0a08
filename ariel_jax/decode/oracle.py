"""The slow oracle of decoding: no cache, no batch, NumPy sampling, one full forward per token."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ariel_jax.decode import programs
from ariel_jax.decode.sampling import SamplingParams, gumbel_noise
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


def process_logits(
    logits: np.ndarray,
    history: Sequence[int],
    n_new: int,
    params: SamplingParams,
    eos: Sequence[int],
) -> np.ndarray:
    """Logits [V] of one token after penalty, minimum length, temperature, top-k, top-p and min-p.

    Written as the definitions read, with sorts, in float64.
    """
    x = np.asarray(logits, np.float64).copy()
    if params.repetition_penalty != 1:
        seen = sorted(set(history))
        x[seen] = np.where(
            x[seen] < 0, x[seen] * params.repetition_penalty, x[seen] / params.repetition_penalty
        )
    if n_new < params.min_new:
        x[list(eos)] = -np.inf
    if params.temperature == 0:
        return x
    x = x / np.float64(np.float32(params.temperature))
    if params.top_k:
        kth = np.sort(x)[-min(params.top_k, len(x))]
        x[x < kth] = -np.inf
    if params.top_p < 1:
        order = np.argsort(-x, kind="stable")
        p = np.exp(x[order] - x.max())
        mass = np.cumsum(p / p.sum())
        n_keep = int(np.searchsorted(mass, np.float64(np.float32(params.top_p)))) + 1
        x[order[n_keep:]] = -np.inf
    if params.min_p > 0:
        x[x < x.max() + np.log(np.float64(np.float32(params.min_p)))] = -np.inf
    return x


def generate_one(
    cfg: DecoderConfig,
    params: DecoderParams,
    prompt: Sequence[int],
    *,
    max_new: int,
    sampling: SamplingParams | None = None,
    key: object = None,
    eos: Sequence[int] = (),
    pad_to: int = 64,
) -> tuple[list[int], list[float], list[float]]:
    """What a request must produce, token by token.

    Args:
        cfg: the decoder.
        params: its weights.
        prompt: token ids, at least one.
        max_new: tokens to generate at most.
        sampling: settings; None is greedy.
        key: the request's typed key; may be None for greedy.
        eos: ids that end the request.
        pad_to: length that every forward is padded to (causality makes padding invisible).

    Returns:
        (new tokens, their log-probabilities, top-2 margin of the perturbed logits at each step).
    """
    sampling = sampling or SamplingParams()
    known = list(prompt)
    logprobs: list[float] = []
    margins: list[float] = []
    positions = jnp.arange(pad_to, dtype=jnp.int32)[None]
    while len(known) < len(prompt) + max_new:
        padded = np.zeros((1, pad_to), np.int32)
        padded[0, : len(known)] = known
        out = programs.forward(cfg, params, jnp.asarray(padded), positions)
        raw = np.asarray(out[0, len(known) - 1], np.float64)
        x = process_logits(raw, known, len(known) - len(prompt), sampling, eos)
        if sampling.temperature > 0:
            keys = jnp.stack([key])  # pyright: ignore[reportArgumentType] typed key
            noise = gumbel_noise(keys, jnp.asarray([len(known)], jnp.int32), len(x))
            x = x + np.asarray(noise[0], np.float64)
        token = int(np.argmax(x))
        best, second = np.sort(x)[::-1][:2]
        margins.append(float(best - second))
        logprobs.append(float(raw[token] - raw.max() - np.log(np.exp(raw - raw.max()).sum())))
        known.append(token)
        if token in set(eos):
            break
    return known[len(prompt) :], logprobs, margins
