"""A tiny private run, for tests; as a program of its own for those that kill it."""

import argparse
import json
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import backend
from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape.trainer import Settings, fit, prepare
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.privacy import Ledger, Plan, Terms, batches

CFG = dp_grape.Config(rank=2, refresh_every=3, project=(r"\.w$",), frozen=())
N, STEPS = 40, 6
PLAN = Plan(
    noise_multiplier=2.0, steps=STEPS, sampling_probability=0.2, relation="zero_out"
)  # fmt: skip
TERMS = Terms(account="visits", relation="zero_out", epsilon=4.0, delta=1e-5)
SETTINGS = Settings(clip_norm=0.7, expected_batch=8.0, rows=N + 2, learning_rate=0.05, cfg=CFG)
WORDS = (0x9E3779B9, 0x7F4A7C15)  # of the noise key, where two runs shall be compared


def example_loss(params, example, key):
    """Of a regression through two layers."""
    y = linear(jnp.tanh(linear(example["x"], params["a"])), params["b"])
    return jnp.mean(jnp.square(y - example["y"]))


def weights():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) * 0.3, jnp.float32)
    return {"a": Linear(w=draw(6, 8), b=draw(6)), "b": Linear(w=draw(3, 6), b=draw(3))}


def records(seed=3):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((N, 8)).astype(np.float32),
        "y": rng.standard_normal((N, 3)).astype(np.float32),
    }


def known_key():
    return jax.random.wrap_key_data(jnp.asarray(np.asarray(WORDS, np.uint32)))


def prepared(*, plan=PLAN, settings=SETTINGS, data=None, noise_key=None, loss=example_loss):
    return prepare(
        weights(),
        loss=loss,
        records=records() if data is None else data,
        plan=plan,
        settings=settings,
        noise_key=noise_key,
    )


class KnownSeeds:
    """In the place of `secrets` in `privacy.batches`: the draws of two runs are the same."""

    @staticmethod
    def token_hex(n):
        return "5a" * n


class Logged(batches.PoissonSource):
    """Draws that leave a line: step and records."""

    path: pathlib.Path

    def draw(self, state):
        drawn = super().draw(state)
        with open(self.path, "a") as file:
            file.write(json.dumps([state["step"], drawn.tolist()]) + "\n")
        if state["step"] == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return drawn

    kill_at: int | None = None


def logged(run, path, kill_at=None):
    """The run with its draws logged."""
    object.__setattr__(run.source.draws, "__class__", Logged)
    object.__setattr__(run.source.draws, "path", path)
    object.__setattr__(run.source.draws, "kill_at", kill_at)
    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("where", choices=["after-reserve", "step", "before-settle"])
    parser.add_argument("--secure", action="store_true", help="with keys that nobody knows")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 1)
    backend.enable_compile_cache(pathlib.Path(__file__).parents[3] / ".cache" / "xla-runs")

    def kill(*arguments, **more):
        os.kill(os.getpid(), signal.SIGKILL)

    ledger = Ledger(options.folder.with_suffix(".sqlite"), TERMS)
    reserve = ledger.reserve
    if options.where == "after-reserve":
        ledger.reserve = lambda *arguments, **more: (reserve(*arguments, **more), kill())
    if options.where == "before-settle":
        ledger.settle = kill
    if not options.secure:
        batches.secrets = KnownSeeds
    run = prepared(noise_key=None if options.secure else known_key())
    kill_at = 4 if options.where == "step" else None
    logged(run, options.folder.with_suffix(".draws"), kill_at)
    fit(run, ledger, options.folder, checkpoint_every_s=1e9, log_every=1)


if __name__ == "__main__":
    main()
