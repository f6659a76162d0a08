"""Trains nano, the model that ships with the package, or its plain twin.

    python -m experiments.nano.corpus --out CORPUS
    python -m experiments.nano.train --corpus CORPUS --out RUN --recipe layerskip --export MODEL

The same command continues a run that was stopped, and only exports one that is finished. Two runs
side by side, each pinned to one core (`taskset -c 0 ...`), train both recipes sooner than one after
the other on two cores: products this small leave half of a second core idle.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.nano.tokenizer import DOMAINS

STEPS = 2450
TOKENS_PER_BATCH = 4096
SMALLEST_MICROBATCH = 512  # tokens; what fits the cores' caches trains fastest
MIXTURE = {"code": 0.6, "english": 0.2, "templates": 0.2}
LENGTHS = ((0, 256), (2000, 512), (2300, 2048))
SEED = 20


def nano_config():
    """The decoder of nano: about 6.1 million parameters in 12 layers."""
    from ariel_jax.layers.rope import RopeConfig
    from ariel_jax.models.config import DecoderConfig

    return DecoderConfig.create(
        family="llama",
        n_layers=12,
        d_model=192,
        n_heads=3,
        n_kv_heads=3,
        head_dim=64,
        d_ff=512,
        vocab_size=4096,
        max_positions=2048,
        rope=RopeConfig(theta=10000.0),
    )


def optimizer_config(steps: int):
    """AdamW, constant learning rate after a warm-up, a straight line to zero at the end."""
    from ariel_jax.training.optimizer import OptimizerConfig

    return OptimizerConfig(
        lr=2.5e-3,
        steps=steps,
        warmup_steps=min(120, steps // 4),
        schedule="wsd",
        decay_steps=steps // 4,
        b2=0.98,
        weight_decay=0.1,
        clip=1.0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What is trained, and on what.

    Attributes:
        cfg: the decoder; None for nano.
        mixture: share of each domain.
        lengths: `((first_step, sequence length), ...)`.
        tokens_per_batch: of a step.
        smallest_microbatch: tokens; what trains fastest depends on the device.
    """

    cfg: Any = None
    mixture: Mapping[str, float] = dataclasses.field(default_factory=lambda: MIXTURE)
    lengths: tuple[tuple[int, int], ...] = LENGTHS
    tokens_per_batch: int = TOKENS_PER_BATCH
    smallest_microbatch: int = SMALLEST_MICROBATCH


def _stages(steps: int, lengths: tuple[tuple[int, int], ...] = LENGTHS) -> list[tuple[int, int]]:
    """`(last step, sequence length)` of each part of a run in which the length stays the same."""
    starts = [first for first, _ in lengths[1:]] + [steps]
    return [
        (min(end, steps), length)
        for end, (first, length) in zip(starts, lengths, strict=True)
        if first < steps
    ]


def run(
    corpus: Path,
    out: Path,
    *,
    recipe: str,
    steps: int = STEPS,
    export: Path | None = None,
    subject: Subject | None = None,
) -> bool:
    """Trains until the last step or a signal; returns whether the last step was reached.

    Args:
        corpus: Folder that `nano.corpus` made.
        out: Gets `RECIPE/checkpoints` and `RECIPE/metrics.jsonl`.
        recipe: `layerskip` or `plain`.
        steps: In all; those of earlier calls count.
        export: Folder for the finished model in Hugging Face form, weights in bfloat16.
        subject: What is trained; None for nano on its own mixture.
    """
    import jax

    from ariel_jax.models.hf import Tokenizer
    from ariel_jax.models.params import init_params
    from ariel_jax.training.data import TokenFileSource
    from ariel_jax.training.export import export_model
    from ariel_jax.training.loop import LoopConfig, train
    from ariel_jax.training.optimizer import make_optimizer
    from ariel_jax.training.step import LayerSkip, LMGrad

    subject = subject or Subject()
    cfg = nano_config() if subject.cfg is None else subject.cfg
    per_batch = subject.tokens_per_batch
    source = TokenFileSource(
        files=tuple(str(corpus / "tokens" / f"train_{name}.npy") for name in DOMAINS),
        weights=tuple(subject.mixture[name] for name in DOMAINS),
        tokens_per_batch=per_batch,
        lengths=subject.lengths,
        seed=SEED,
        vocab_size=cfg.vocab_size,
    )
    layerskip = LayerSkip(curriculum_steps=steps) if recipe == "layerskip" else None
    for last, length in _stages(steps, subject.lengths):
        # A stage goes on from the checkpoint of the one before: only the microbatches change.
        result = train(
            init_params(cfg, key=jax.random.key(SEED)),
            grad_fn=LMGrad(cfg=cfg, layerskip=layerskip),
            tx=make_optimizer(optimizer_config(steps)),
            source=source,
            folder=out / recipe,
            config=LoopConfig(
                steps=last,
                microbatches=max(1, per_batch // max(length, subject.smallest_microbatch)),
                seed=SEED,
            ),
        )
        if result.interrupted:
            break
    if export is not None and not result.interrupted:
        tokenizer = Tokenizer.from_folder(corpus / "tokenizer")
        export_model(cfg, result.params, tokenizer, export, stop_tokens=("<|end|>",))
    print(json.dumps({"recipe": recipe, "step": result.step, "done": not result.interrupted}))
    return not result.interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 130 when a signal ended the run (continue it the same way)."""
    parser = argparse.ArgumentParser(prog="python -m experiments.nano.train", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of nano.corpus")
    parser.add_argument("--out", type=Path, required=True, help="gets RECIPE/checkpoints")
    parser.add_argument("--recipe", choices=("layerskip", "plain"), default="layerskip")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--export", type=Path, help="folder for the finished model")
    options = parser.parse_args(arguments)
    finished = run(
        options.corpus,
        options.out,
        recipe=options.recipe,
        steps=options.steps,
        export=options.export,
    )
    return 0 if finished else 130


if __name__ == "__main__":
    sys.exit(main())
