"""Tiny models whose exits are sometimes right, and decoding with choices that an adversary makes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import del_exit
from ariel_jax.algorithms.del_exit.controller import Plan
from ariel_jax.decode import Upfront, start
from ariel_jax.models.config import Precision
from ariel_jax.testing import tiny_config, tiny_params

EXITS, DRAFTS = (1, 2), 3


def agreeing(params, share):
    """The weights with what the layers behind the first one add scaled, so that exits agree more."""

    def calm(block):
        down = block.mlp.down.replace(w=block.mlp.down.w * share)
        out = block.attn.o.replace(w=block.attn.o.w * share)
        return block.replace(mlp=block.mlp.replace(down=down), attn=block.attn.replace(o=out))

    first, *rest = params.layers
    return params.replace(layers=(first, *map(calm, rest)))


@dataclasses.dataclass(frozen=True)
class Small:
    """Tiny models of one shape: what is compiled for one serves all."""

    cfg: object
    how: del_exit.Config

    def params(self, seed, share=0.4):
        made = tiny_params(self.cfg, seed=seed, precision=Precision.f64())
        return agreeing(made, share)

    def decode(self, params, prompts, strategy=None, choose=None, **options):
        """A finished run; `choose(aux, round)` replaces the plan of each round."""
        options = {"capacity": Upfront(64)} | options
        run = start(self.cfg, params, prompts, strategy=strategy, **options)
        number = 0
        while not run.done.all():
            if choose is not None:
                plan = choose(run.state.aux, number)
                run.state = run.state.replace(aux=run.state.aux.replace(plan=plan))
            run.advance(1 if choose is not None else 10_000)
            number += 1
        return run


def adversary(seed):
    """Random exits, lengths and thresholds, of each request and round."""
    rng = np.random.default_rng(seed)

    def choose(aux, number):
        batch = aux.plan.limit.shape[0]
        return Plan(
            exit=jnp.asarray(rng.integers(len(EXITS)), jnp.int32),
            limit=jnp.asarray(rng.integers(0, DRAFTS + 1, batch), jnp.int32),
            threshold=jnp.asarray(rng.random(batch) * rng.integers(0, 2), jnp.float32),
        )

    return choose


@pytest.fixture(scope="session")
def small():
    """Three layers, exits after the first two, up to three drafts, in float64."""
    with jax.enable_x64(True):
        cfg = tiny_config(
            "llama", n_layers=3, d_model=16, n_heads=2, n_kv_heads=1, d_ff=24, vocab_size=11,
            max_positions=64,
        )  # fmt: skip
    how = del_exit.Config(exits=EXITS, max_draft=DRAFTS, row_buckets=(2, 4), n_trace=32)
    return Small(cfg, how)
