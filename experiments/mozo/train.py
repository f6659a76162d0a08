"""Trains the small model on which demonstrations help: record to sentence, a style to every episode.

    python -m experiments.mozo.train --out RUN --export MODEL

RUN must lie outside the checkout; it gets the tokenizer, checkpoints and metrics, and the same command
continues a run that was stopped. Episodes are drawn anew at every step and never repeat. Each sequence is a
row of demonstrations in one style, laid out as a prompt; what is learned is every sentence and its end, so
that one sequence teaches answers after 0, 1, 2, ... demonstrations. Sequences are short at first: to copy
from the right record is learned soonest where there are few.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ariel_jax.errors import ArielError, ConfigError
from experiments.mozo import records

STEPS = 2000
TOKENS_PER_BATCH = 4224
LENGTHS = ((0.0, 88), (0.25, 176), (0.5, 352))  # from a share of the steps on, tokens of an episode
MICROBATCHES = 6
VOCAB_SIZE = 768
MAX_POSITIONS = 512
SEED = 41
TOKENIZER_EPISODES = 1500
CHECKOUT = Path(__file__).resolve().parents[2]


def before(text: str) -> str:
    """What a prompt says of a record before its sentence; the sentence follows after a blank."""
    return f"Input: {text}\nOutput:"


BETWEEN = "\n\n"  # demonstrations


def decoder_config(vocab_size: int = VOCAB_SIZE) -> Any:
    """The decoder: 4 layers of width 128."""
    from ariel_jax.layers.rope import RopeConfig
    from ariel_jax.models.config import DecoderConfig

    return DecoderConfig.create(
        family="llama",
        n_layers=4,
        d_model=128,
        n_heads=4,
        n_kv_heads=4,
        head_dim=32,
        d_ff=352,
        vocab_size=vocab_size,
        max_positions=MAX_POSITIONS,
        rope=RopeConfig(theta=10000.0),
    )


def learn_tokenizer(folder: Path, *, vocab_size: int, episodes: int = TOKENIZER_EPISODES) -> Any:
    """The tokenizer of a run, learned from episodes once and read afterwards."""
    from ariel_jax.models.hf import Tokenizer
    from experiments.nano import tokenizer

    if not (folder / "special_tokens_map.json").is_file():  # written last
        rng = np.random.default_rng([SEED, 0])
        texts = (
            before(d.input) + " " + d.output + BETWEEN
            for _ in range(episodes)
            for d in records.episode(rng, 4)
        )
        tokenizer.learn(texts, folder, vocab_size=vocab_size, max_length=MAX_POSITIONS)
    return Tokenizer.from_folder(folder)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeSource:
    """Batches of episodes that never repeat.

    Attributes:
        tokenizer: of the run.
        tokens_per_batch: episodes times their length.
        lengths: `((first_step, tokens of an episode), ...)`, rising from step 0; the last demonstration
            is cut off there.
        seed: of the episodes.
    """

    tokenizer: Any
    tokens_per_batch: int
    lengths: tuple[tuple[int, int], ...]
    seed: int = SEED

    def init(self) -> dict[str, Any]:
        """The state before the first batch."""
        return {"step": 0}

    def next(self, state: dict[str, Any]) -> tuple[tuple[Any, np.ndarray], dict[str, Any]]:
        """`((batch, is_padding), state)` after a state; no row is padding."""
        from ariel_jax.training.step import LMBatch

        step = state["step"]
        rng = np.random.default_rng([self.seed, 1, step])
        length = next(n for first, n in reversed(self.lengths) if first <= step)
        rows = [self._row(rng, length) for _ in range(self.tokens_per_batch // length)]
        tokens, targets = (np.stack(part) for part in zip(*rows, strict=True))
        arrays: Any = {"tokens": tokens, "targets": targets, "step": np.int32(step)}
        return (LMBatch(**arrays), np.zeros(len(rows), bool)), {"step": step + 1}

    def _row(self, rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of an episode, as many as `length`, and what to learn after each of them."""
        from ariel_jax.training.step import IGNORE

        between, end = self._ids(BETWEEN), self.tokenizer.eos_id
        tokens: list[int] = []
        targets: list[int] = []
        shortest = 30  # tokens of a demonstration; more are drawn than fit
        for demonstration in records.episode(rng, 1 + length // shortest):
            if len(tokens) >= length:
                break
            prompt, answer = (
                self._ids(before(demonstration.input)),
                self._ids(" " + demonstration.output),
            )
            tokens += [*prompt, *answer, *between]
            # What follows the last word of a sentence is its end, whatever the prompt goes on with.
            targets += [IGNORE] * (len(prompt) - 1) + [*answer, end] + [IGNORE] * len(between)
        cut = slice(0, length)
        return np.asarray(tokens[cut], np.int32), np.asarray(targets[cut], np.int32)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def optimizer_config(steps: int) -> Any:
    """AdamW, constant learning rate after a warm-up, a straight line to zero at the end."""
    from ariel_jax.training.optimizer import OptimizerConfig

    return OptimizerConfig(
        lr=3e-3,
        steps=steps,
        warmup_steps=min(100, steps // 4),
        schedule="wsd",
        decay_steps=steps // 3,
        b2=0.98,
        weight_decay=0.1,
        clip=1.0,
    )


def run(
    out: Path,
    *,
    steps: int = STEPS,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    lengths: tuple[tuple[float, int], ...] = LENGTHS,
    cfg: Any = None,
    episodes: int = TOKENIZER_EPISODES,
    export: Path | None = None,
) -> bool:
    """Trains until the last step or a signal; returns whether the last step was reached.

    Args:
        out: Gets `tokenizer`, `checkpoints` and `metrics.jsonl`.
        steps: In all; those of earlier calls count.
        tokens_per_batch: Episodes times their length.
        lengths: Tokens of an episode, each from a share of the steps on.
        cfg: Another decoder.
        episodes: From which the tokenizer is learned.
        export: Folder for the finished model in Hugging Face form, weights in bfloat16.

    Raises:
        ConfigError: `out` lies in the checkout.
        StorageError: It cannot be written.
    """
    import jax

    from ariel_jax.models.params import init_params
    from ariel_jax.training.export import export_model
    from ariel_jax.training.loop import LoopConfig, train
    from ariel_jax.training.optimizer import make_optimizer
    from ariel_jax.training.step import LMGrad

    if out.resolve().is_relative_to(CHECKOUT):
        raise ConfigError(
            f"--out {out} lies in the checkout: pass a folder outside of {CHECKOUT}, for checkpoints "
            "are no part of it."
        )
    cfg = decoder_config() if cfg is None else cfg
    tokenizer = learn_tokenizer(out / "tokenizer", vocab_size=cfg.vocab_size, episodes=episodes)
    result = train(
        init_params(cfg, key=jax.random.key(SEED)),
        grad_fn=LMGrad(cfg=cfg),
        tx=make_optimizer(optimizer_config(steps)),
        source=EpisodeSource(
            tokenizer=tokenizer,
            tokens_per_batch=tokens_per_batch,
            lengths=tuple((round(share * steps), length) for share, length in lengths),
        ),
        folder=out,
        config=LoopConfig(steps=steps, microbatches=MICROBATCHES, seed=SEED),
    )
    if export is not None and not result.interrupted:
        export_model(cfg, result.params, tokenizer, export)
    print(json.dumps({"step": result.step, "done": not result.interrupted}))
    return not result.interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 2 for an error, or 130 when a signal ended the run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mozo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder outside the checkout")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--export", type=Path, help="folder for the finished model")
    options = parser.parse_args(arguments)
    try:
        finished = run(options.out, steps=options.steps, export=options.export)
    except ArielError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if finished else 130


if __name__ == "__main__":
    sys.exit(main())
