"""A tiny training run as a program of its own, for tests that kill it or run several at once."""

import argparse
import os
import pathlib
import signal

import jax

from ariel_jax import backend
from ariel_jax.compat import auto_mesh
from ariel_jax.testing import tiny_config, tiny_params
from ariel_jax.training.data import TokenFileSource
from ariel_jax.training.loop import LoopConfig, identity, train
from ariel_jax.training.optimizer import OptimizerConfig, make_optimizer
from ariel_jax.training.placement import start_distributed
from ariel_jax.training.step import LayerSkip, LMGrad


def kill_in(call: str, number: int) -> None:
    """Kills this process instead of its `number`-th `os.<call>` from now on."""
    original, calls = getattr(os, call), []

    def killing(*arguments, **options):
        calls.append(call)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(os, call, killing)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--kill-at", type=int, help="SIGKILL before this step")
    parser.add_argument("--kill-saving", type=int, help="SIGKILL in the save of this step,")
    parser.add_argument("--kill-in", nargs=2, help="at this os function, called so many times")
    # Zero gives every step its checkpoint, so that a kill is always just after one.
    parser.add_argument("--checkpoint-every-s", type=float, default=0.0)
    parser.add_argument("--coordinator")
    parser.add_argument("--process-id", type=int)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 1)
    backend.enable_compile_cache(pathlib.Path(__file__).parents[2] / ".cache" / "xla-runs")
    if options.coordinator:
        start_distributed(options.coordinator, 2, options.process_id)

    def reduce(tree, step):
        if step == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step + 1 == options.kill_saving:
            kill_in(options.kill_in[0], int(options.kill_in[1]))
        return identity(tree, step)

    cfg = tiny_config("llama", n_layers=3, vocab_size=64, tie_embed=True)
    # Without dropout the result does not depend on how many devices share a batch.
    recipe = LayerSkip(max_dropout=0.0 if options.coordinator else 0.5)
    train(
        tiny_params(cfg, seed=1),
        grad_fn=LMGrad(cfg=cfg, layerskip=recipe),
        tx=make_optimizer(OptimizerConfig(lr=1e-2, steps=20, warmup_steps=2)),
        source=TokenFileSource(
            files=tuple(options.files),
            weights=(0.7, 0.3),
            tokens_per_batch=32,
            lengths=((0, 8), (5, 16)),
            seed=3,
            vocab_size=64,
        ),
        folder=options.folder,
        config=LoopConfig(
            steps=options.steps, checkpoint_every_s=options.checkpoint_every_s, log_every=1
        ),
        reduce=reduce,
        mesh=auto_mesh((2,), ("data",)) if options.coordinator else None,
    )


if __name__ == "__main__":
    main()
