"""What whole documents cost under a model, token by token, for the last layer and earlier exits."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ariel_jax._checks import positive_int
from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams
from ariel_jax.training import programs

TOKENS_PER_BATCH = 8192
SMALLEST = 64  # tokens; shorter windows are padded to it


@dataclasses.dataclass(frozen=True)
class Score:
    """Costs of one document of n tokens.

    Attributes:
        nats: float32 [exits, n], -log of each token's probability.
        context: int32 [n], tokens that the model saw before each token, the start token included.
    """

    nats: np.ndarray
    context: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Window:
    document: int
    start: int  # index of the first input token, in the document with its start token
    skip: int  # leading targets that an earlier window has scored
    size: int


def score_documents(
    cfg: DecoderConfig,
    params: DecoderParams,
    documents: Sequence[Sequence[int] | np.ndarray],
    *,
    start_id: int,
    exits: Sequence[int] | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> list[Score]:
    """Scores every token of every document once.

    The model sees `start_id`, then the document. A document longer than a window is scored in
    windows that begin `stride` tokens apart, each of which scores only what no earlier one did: a
    token beyond the first window has between `window - stride` and `window` tokens before it.

    Args:
        cfg: the decoder.
        params: its weights, quantised or not.
        documents: token ids, without start or end tokens.
        start_id: the token before every document.
        exits: layers run before the head; None for the last layer only.
        window: inputs at one time; None for the model's positions.
        stride: None for half of a window.

    Raises:
        ConfigError: an exit, window or stride that the model cannot have.
    """
    exits = (cfg.n_layers,) if exits is None else tuple(exits)
    window = cfg.max_positions if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    positive_int(window=window, stride=stride)
    if list(exits) != sorted(set(exits)) or not exits or exits[0] < 1 or exits[-1] > cfg.n_layers:
        raise ConfigError(
            f"exits={exits} must rise and lie between 1 and the model's {cfg.n_layers} layers."
        )
    if window > cfg.max_positions or stride > window:
        raise ConfigError(
            f"window={window} and stride={stride}: the window may be at most the model's "
            f"{cfg.max_positions} positions and the stride at most the window."
        )
    texts = [
        np.concatenate([[start_id], np.asarray(d, np.int64)]).astype(np.int32) for d in documents
    ]
    scores = [
        Score(np.zeros((len(exits), t.size - 1), np.float32), np.zeros(t.size - 1, np.int32))
        for t in texts
    ]
    by_length: dict[int, list[_Window]] = {}
    for index, text in enumerate(texts):
        for piece in _windows(index, text.size - 1, window, stride):
            by_length.setdefault(_bucket(piece.size, window), []).append(piece)
    for length, pieces in sorted(by_length.items()):
        n_rows = max(1, TOKENS_PER_BATCH // length)
        for first in range(0, len(pieces), n_rows):
            group = pieces[first : first + n_rows]
            tokens, targets = np.zeros((2, n_rows, length), np.int32)
            for row, piece in enumerate(group):
                text = texts[piece.document][piece.start : piece.start + piece.size + 1]
                tokens[row, : piece.size], targets[row, : piece.size] = text[:-1], text[1:]
            found = np.asarray(programs.exit_nll(params, tokens, targets, cfg=cfg, exits=exits))
            for row, piece in enumerate(group):
                here = slice(piece.start + piece.skip, piece.start + piece.size)
                score = scores[piece.document]
                score.nats[:, here] = found[:, row, piece.skip : piece.size]
                score.context[here] = np.arange(piece.skip, piece.size) + 1
    return scores


def _windows(document: int, n_targets: int, window: int, stride: int) -> list[_Window]:
    pieces, start, done = [], 0, 0
    while done < n_targets:
        size = min(window, n_targets - start)
        pieces.append(_Window(document, start, done - start, size))
        done = start + size
        start += stride
    return pieces


def _bucket(size: int, window: int) -> int:
    length = SMALLEST
    while length < size:
        length *= 2
    return min(length, max(window, 1))
