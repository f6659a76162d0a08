"""One compiled step of a method: what it needs and how long it takes."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape import methods
from ariel_jax.algorithms.dp_grape.training import PrivateSource
from ariel_jax.privacy.batches import PoissonSource
from experiments.dp_grape import shapes


class Step:
    """One compiled step of one method over B examples: clipped sum, noise, optimiser."""

    def __init__(self, what: shapes.Shape, method: str, B: int):
        self.what, self.B = what, B
        self.examples = what.batch(B)
        draws = PoissonSource(records=self.examples, probability=0.5, rows=B)
        source = PrivateSource(draws=draws, clip_norm=1.0, expected_batch=float(B))

        public = jax.random.key(1)

        def build(noise_key: Any) -> methods.Method:
            return methods.build(
                method,
                params=jax.eval_shape(what.init),
                loss=what.loss,
                source=source,
                noise_multiplier=0.0 if method == "adam" else 1.0,
                learning_rate=1e-4,
                cfg=dp_grape.Config(rank=what.rank),
                projection_key=public,
                noise_key=noise_key,
            )

        self.init = lambda params, key: build(key).tx.init(params)
        built = build(jax.random.key(2))
        numbers = {"step": np.int32(0), "clip_norm": np.float32(1.0)}
        self.batch = {"examples": self.examples, **numbers}
        self.is_padding = np.zeros(B, bool)

        def step(params: Any, state: Any, batch: Any, is_padding: Any, key: Any) -> Any:
            tree, _ = built.grad_fn(params, batch, is_padding, key)
            updates, state = built.tx.update(tree, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.eval_shape(what.init)
        state = jax.eval_shape(self.init, params, jax.random.key(2))
        self.n_trained = built.n_trained
        program = jax.jit(step, donate_argnums=(0, 1))
        lowered = program.lower(params, state, self.batch, self.is_padding, jax.random.key(0))
        self.run = lowered.compile()

    @property
    def peak_bytes(self) -> int:
        """Arguments, results and temporaries, less what the results take from the arguments."""
        found = self.run.memory_analysis()
        whole = found.argument_size_in_bytes + found.output_size_in_bytes
        return whole + found.temp_size_in_bytes - found.alias_size_in_bytes

    def random(self) -> Any:
        """Weights: normal 0.02, norms 1. One draw for each leaf, so that it compiles soon."""
        leaves, tree = jax.tree_util.tree_flatten_with_path(jax.eval_shape(self.what.init))
        made = []
        for i, (path, leaf) in enumerate(leaves):
            key = jax.random.fold_in(jax.random.key(0), i)
            is_norm = jax.tree_util.keystr(path).endswith(".scale")
            drawn = jnp.ones if is_norm else lambda s, d, k=key: 0.02 * jax.random.normal(k, s, d)
            made.append(drawn(leaf.shape, leaf.dtype))
        return tree.unflatten(made)

    def seconds(self, n_rounds: int) -> Iterator[float]:
        """The time of each of some steps, behind one that is not counted."""
        params = jax.jit(self.random)()
        state = jax.jit(self.init)(params, jax.random.key(2))
        batch, is_padding = jax.device_put((self.batch, self.is_padding))
        for i in range(n_rounds + 1):
            jax.block_until_ready((params, state))
            begin = time.perf_counter()
            params, state = self.run(params, state, batch, is_padding, jax.random.key(i))
            jax.block_until_ready((params, state))
            if i:
                yield time.perf_counter() - begin
