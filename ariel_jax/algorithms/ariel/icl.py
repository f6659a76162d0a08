"""`icl_jax`: a small decoder that is trained here to judge from the examples in its context.

An offline stand-in for asking a language model with the user's earlier judgements in the prompt: in-context
learning in the exact sense, by a model that has seen nothing but made-up (or other) users. It is no large
language model and is not called one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import positive_int
from ariel_jax.algorithms.ariel import programs
from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS
from ariel_jax.errors import ConfigError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams, init_params
from ariel_jax.training.loop import LoopConfig, train
from ariel_jax.training.optimizer import OptimizerConfig, make_optimizer
from ariel_jax.training.step import IGNORE, LMBatch, LMGrad

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""From a generator and a number of users n: requests [n, L, K] and labels [n, L] of `importers`."""
_ROWS = 64  # requests that are scored at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How judgements become tokens: one for each slot's node, then one for the label.

    Attributes:
        sizes: nodes of each slot.
        most_priors: how many judgements fit beside a request.
    """

    sizes: tuple[int, ...]
    most_priors: int

    def __post_init__(self) -> None:
        positive_int(most_priors=self.most_priors)

    @property
    def vocab_size(self) -> int:
        """One token for each node, and two labels."""
        return sum(self.sizes) + 2

    @property
    def width(self) -> int:
        """Tokens of a judgement."""
        return len(self.sizes) + 1

    def tokens(self, nodes: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Judgements [..., n, K] and [..., n] as token ids [..., n (K + 1)].

        Raises:
            ConfigError: a node outside its slot, or a label that is neither yes nor no.
        """
        nodes, label = np.asarray(nodes), np.asarray(label)
        if not ((nodes >= 0) & (nodes < np.array(self.sizes))).all() or (label == ASKS).any():
            raise ConfigError(
                f"a node is outside its slot (sizes {list(self.sizes)}) or a label is neither yes nor no: "
                "leave such judgements out."
            )
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        said = sum(self.sizes) + (label == APPROPRIATE)
        found = np.concatenate([nodes + starts, said[..., None]], -1)
        return found.reshape(*label.shape[:-1], -1).astype(np.int32)

    def config(self, *, n_layers: int = 4, d_model: int = 128) -> DecoderConfig:
        """A decoder for such tokens, with heads of 32."""
        return DecoderConfig.create(
            family="llama",
            n_layers=n_layers,
            d_model=d_model,
            n_heads=d_model // 32,
            n_kv_heads=d_model // 32,
            head_dim=32,
            d_ff=-(-d_model * 8 // 3 // 32) * 32,
            vocab_size=self.vocab_size,
            max_positions=(self.most_priors + 1) * self.width,
            rope=RopeConfig(theta=10000.0),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeSource:
    """Batches of users that never repeat; every label of a user is learned from those before it.

    Attributes:
        draw: the users.
        layout: of the tokens.
        n_rows: users a batch.
        seed: of the draws.
    """

    draw: Draw
    layout: Layout
    n_rows: int
    seed: int = 0

    def init(self) -> dict[str, Any]:
        """The state before the first batch."""
        return {"step": 0}

    def next(self, state: dict[str, Any]) -> tuple[tuple[LMBatch, np.ndarray], dict[str, Any]]:
        """`((batch, is_padding), state)` after a state; no row is padding."""
        step = state["step"]
        nodes, label = self.draw(np.random.default_rng([self.seed, step]), self.n_rows)
        tokens = self.layout.tokens(nodes, label)
        targets = np.full_like(tokens, IGNORE)
        width = self.layout.width
        targets[:, width - 2 :: width] = tokens[:, width - 1 :: width]
        arrays: Any = {"tokens": tokens, "targets": targets, "step": np.int32(step)}
        return (LMBatch(**arrays), np.zeros(len(tokens), bool)), {"step": step + 1}


def learn(
    folder: str,
    draw: Draw,
    layout: Layout,
    cfg: DecoderConfig,
    *,
    steps: int,
    n_rows: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
) -> DecoderParams:
    """Trains from nothing, on the package's trainer; a run that was stopped goes on.

    Args:
        folder: of the run, with its checkpoints.
        draw: the users.
        layout: of the tokens.
        cfg: from `Layout.config`.
        steps: in all.
        n_rows: users a step.
        lr: of AdamW, after a warm-up; it falls to 0 at the end.
        seed: of weights and users.
    """
    optimizer = OptimizerConfig(
        lr=lr, steps=steps, warmup_steps=min(100, steps // 4), schedule="wsd",
        decay_steps=max(steps // 3, 1), b2=0.98, weight_decay=0.01, clip=1.0,
    )  # fmt: skip
    result = train(
        init_params(cfg, key=jax.random.key(seed)),
        grad_fn=LMGrad(cfg=cfg),
        tx=make_optimizer(optimizer),
        source=EpisodeSource(draw=draw, layout=layout, n_rows=n_rows, seed=seed),
        folder=folder,
        config=LoopConfig(steps=steps, microbatches=1, seed=seed, log_every=max(steps // 10, 1)),
    )
    return result.params


def log_odds(
    cfg: DecoderConfig,
    params: DecoderParams,
    layout: Layout,
    history: np.ndarray,
    label: np.ndarray,
    asked: np.ndarray,
) -> np.ndarray:
    """The model's log-odds [n] that requests [n, K] are appropriate, after judgements of their users.

    Args:
        cfg: the decoder.
        params: its weights.
        layout: of the tokens.
        history: [m, K], oldest first, of all requests; or [n, m, K], of each. The latest
            `layout.most_priors` count.
        label: [m] or [n, m].
        asked: [n, K].

    Raises:
        ConfigError: as `Layout.tokens`; or shapes that do not fit.
    """
    n, K = np.shape(asked)
    fits = np.shape(label) == np.shape(history)[:-1] and np.shape(label)[:-1] in ((), (n,))
    if not fits or np.shape(history)[-1:] != (K,):
        raise ConfigError(
            f"judgements {list(np.shape(history))} with labels {list(np.shape(label))} beside requests "
            f"{[n, K]}: pass [m, K] and [m] for all, or [n, m, K] and [n, m]."
        )
    told = layout.tokens(history[..., -layout.most_priors :, :], label[..., -layout.most_priors :])
    told = np.broadcast_to(told, (n, told.shape[-1]))
    query = layout.tokens(asked[:, None], np.zeros((n, 1), np.int8))[:, :-1]
    rows = np.concatenate([told, query], 1)
    length = rows.shape[1]
    room = min(1 << (length - 1).bit_length(), cfg.max_positions)  # few programs
    found = []
    for first in range(0, n, _ROWS):
        part = rows[first : first + _ROWS]
        padded = np.zeros((_ROWS, room), np.int32)
        padded[: len(part), :length] = part
        at = jnp.full(_ROWS, length - 1, jnp.int32)
        logits = np.asarray(programs.read(params, jnp.asarray(padded), at, cfg=cfg), np.float64)
        found.append((logits[:, -1] - logits[:, -2])[: len(part)])
    return np.concatenate(found) if found else np.zeros(0)


def nearest_first(asked: np.ndarray, history: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k priors that share most slots with one request [K], the nearest last."""
    distance = (history != asked).sum(1)
    return np.lexsort((-np.arange(len(history)), distance))[:k][::-1]


def mixture(draws: Sequence[Draw]) -> Draw:
    """Users of several kinds in equal shares."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        counts = [n // len(draws) + (i < n % len(draws)) for i in range(len(draws))]
        parts = [one(rng, count) for one, count in zip(draws, counts, strict=True) if count]
        nodes, label = zip(*parts, strict=True)
        return np.concatenate(nodes), np.concatenate(label)

    return draw
