"""Trains a small model over bytes, with LayerSkip or without: a model whose head costs next to nothing.

    taskset -c 0 python -m experiments.del_exit.byte_model --out RUNS --recipe layerskip
    taskset -c 1 python -m experiments.del_exit.byte_model --out RUNS --recipe plain

nano's corpus, trainer, optimiser and recipe with a vocabulary of 256 bytes and 5 special tokens: 3.9
million parameters in 12 layers of width 160, 7.7 MB in bfloat16. RUNS must lie outside the checkout; it gets
the corpus (about 130 MB, built by whichever of the two comes first), RECIPE/checkpoints and the finished
RECIPE/model. The same command continues a run that was stopped. The experiments of this folder measure it
with `--model RUNS/layerskip/model --twin RUNS/plain/model`.

On a GPU a step is mostly waiting for the next kernel, so that larger batches cost next to nothing:
`--steps 5000 --tokens-per-batch 16384 --smallest-microbatch 16384` sees ten times as much text.
"""

import argparse
import fcntl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ariel_jax.durable import storage_error
from ariel_jax.errors import ArielError, ConfigError
from experiments.nano import corpus, train
from experiments.nano.tokenizer import SPECIAL_TOKENS

VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # a tokenizer of so many entries has learned no merge
STEPS = 2000
TOKENS_PER_BATCH = 4096
MIXTURE = {"code": 0.4, "english": 0.3, "templates": 0.3}
LENGTHS = ((0.0, 256), (0.8, 512), (0.95, 1024))  # from this share of the steps on
MOST_BYTES = 8_000_000
CHECKOUT = Path(__file__).resolve().parents[2]


def byte_config() -> Any:
    """The decoder."""
    from ariel_jax.layers.rope import RopeConfig
    from ariel_jax.models.config import DecoderConfig

    return DecoderConfig.create(
        family="llama",
        n_layers=12,
        d_model=160,
        n_heads=5,
        n_kv_heads=5,
        head_dim=32,
        d_ff=448,
        vocab_size=VOCAB_SIZE,
        max_positions=1024,
        rope=RopeConfig(theta=10000.0),
    )


def subject(
    steps: int = STEPS,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    smallest_microbatch: int = train.SMALLEST_MICROBATCH,
) -> train.Subject:
    """The decoder, its share of each domain, and the sizes of a run of `steps`."""
    lengths = {round(share * steps): length for share, length in LENGTHS}
    return train.Subject(
        cfg=byte_config(),
        mixture=MIXTURE,
        lengths=tuple(lengths.items()),
        tokens_per_batch=tokens_per_batch,
        smallest_microbatch=smallest_microbatch,
    )


def build_corpus(out: Path, documents: Sequence[corpus.Document] | None = None) -> Path:
    """The corpus as bytes, built once, however many runs ask for it at the same time.

    Args:
        out: folder of the runs.
        documents: other ones than nano's.

    Raises:
        ConfigError: the folder lies in the checkout.
        StorageError: it cannot be written.
    """
    if out.resolve().is_relative_to(CHECKOUT):
        raise ConfigError(
            f"--out {out} lies in the checkout: pass a folder outside of {CHECKOUT}, for corpus and "
            "checkpoints are no part of it."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "corpus.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (out / "corpus" / "manifest.json").is_file():  # written last
                corpus.build(out / "corpus", documents, vocab_size=VOCAB_SIZE)
    except OSError as error:
        raise storage_error(out, error) from error
    return out / "corpus"


def run(
    out: Path,
    *,
    recipe: str,
    steps: int = STEPS,
    documents: Sequence[corpus.Document] | None = None,
    what: train.Subject | None = None,
) -> bool:
    """Trains until the last step or a signal; returns whether the last step was reached.

    Args:
        out: Gets `corpus`, `RECIPE/checkpoints`, `RECIPE/metrics.jsonl` and at the end `RECIPE/model`.
        recipe: `layerskip` or `plain`.
        steps: In all; those of earlier calls count.
        documents: Other ones than nano's.
        what: Another decoder and mixture.

    Raises:
        ConfigError: The folder lies in the checkout.
        StorageError: It cannot be written.
    """
    return train.run(
        build_corpus(out, documents),
        out,
        recipe=recipe,
        steps=steps,
        export=out / recipe / "model",
        subject=what or subject(steps),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 2 for an error, or 130 when a signal ended the run."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.del_exit.byte_model", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="folder outside the checkout")
    parser.add_argument("--recipe", choices=("layerskip", "plain"), default="layerskip")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tokens-per-batch", type=int, default=TOKENS_PER_BATCH)
    parser.add_argument("--smallest-microbatch", type=int, default=train.SMALLEST_MICROBATCH)
    options = parser.parse_args(arguments)
    try:
        what = subject(options.steps, options.tokens_per_batch, options.smallest_microbatch)
        finished = run(options.out, recipe=options.recipe, steps=options.steps, what=what)
    except ArielError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if finished else 130


if __name__ == "__main__":
    sys.exit(main())
