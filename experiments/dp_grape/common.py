"""What the training experiments share: noise for a budget, Poisson batches, and a plain loop over steps.

A step is the library's: its clipped sums, noise, projections and optimisers. Only the loop is not that of
`ariel_jax.training`, which saves and reports: all steps between two looks at the scores are one program.
Batches come from `PoissonSource` with a fixed seed, so that runs can be repeated; such runs protect nobody.
"""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape.training import PrivateSource
from ariel_jax.privacy import Plan, calibrate
from ariel_jax.privacy.batches import PoissonSource, slots
from experiments.dp_grape.tasks import Records, Task

DELTA = 1e-5
Score = Callable[[Any], Mapping[str, jax.Array]]


@functools.cache
def noise_for(epsilon: float, probability: float, steps: int) -> float:
    """The noise multiplier of a Poisson-sampled run, under add/remove-one at `DELTA`."""
    plan = Plan(noise_multiplier=1.0, steps=steps, sampling_probability=probability)
    return calibrate(plan, epsilon=epsilon, delta=DELTA).noise_multiplier


def source(
    records: Records, *, probability: float, clip_norm: float, multiple: int = 8
) -> PrivateSource:
    """Poisson draws of records, with rows that a draw exceeds once in 10^12."""
    n = len(records["y"])
    draws = PoissonSource(
        records=records, probability=probability, rows=slots(n, probability, multiple=multiple)
    )
    return PrivateSource(draws=draws, clip_norm=clip_norm, expected_batch=probability * n)


def secret(seed: int) -> str:
    """The seed of the draws of a run that can be repeated."""
    return hashlib.sha256(f"experiment {seed}".encode()).hexdigest()


def drawn(draws: PoissonSource, *, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [S, rows] int32 of the records of each batch, and its padding [S, rows] bool."""
    state = draws.init() | {"seed": secret(seed)}
    index = np.zeros((steps, draws.rows), np.int32)
    is_padding = np.ones((steps, draws.rows), bool)
    for step in range(steps):
        batch = draws.draw(state | {"step": step})
        index[step, : len(batch)] = batch
        is_padding[step, : len(batch)] = False
    return index, is_padding


def in_parts(task: Task, params: Any, *, size: int = 64) -> jax.Array:
    """[] float32, the accuracy on the test part, so many records at once."""
    n = len(task.test["y"])
    x = np.zeros((-(-n // size) * size, *task.test["x"].shape[1:]), task.test["x"].dtype)
    x[:n] = task.test["x"]
    parts = jnp.asarray(x.reshape(-1, size, *x.shape[1:]))
    found = jax.lax.map(lambda part: jax.vmap(task.logits, in_axes=(None, 0))(params, part), parts)
    named = jnp.argmax(found.reshape(len(x), -1), -1)[:n]
    return jnp.mean((named == jnp.asarray(task.test["y"])).astype(jnp.float32))


def keys(seed: int) -> dict[str, jax.Array]:
    """Keys of projections and noise of a run of an experiment: nothing here is secret."""
    return {
        "projection_key": jax.random.key(1000 + seed), "noise_key": jax.random.key(2000 + seed),
    }  # fmt: skip


def grape_config(task: Task, rank: int | None, **changes: Any) -> dp_grape.Config:
    """DP-GRAPE of a task.

    Args:
        task: whose weights are projected.
        rank: r; a weight whose axis is no longer than that is trained in full. None gives every weight a
            quarter of its axis.
        **changes: fields of `Config`.
    """
    kept = {path: d for path, d in task.widths.items() if rank is None or d > rank}
    exact = {path: rf"^{path.replace('.', r'[.]')}$" for path in task.widths}
    ranks = {path: rank or max(1, d // 4) for path, d in kept.items()}
    given: dict[str, Any] = {
        "rank": rank or min(ranks.values()), "refresh_every": 50, "frozen": task.frozen,
        "project": tuple(exact[path] for path in kept),
        "overrides": tuple((exact[path], r) for path, r in ranks.items()),
    }  # fmt: skip
    return dp_grape.Config(**(given | changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """What a run found.

    Attributes:
        steps: [looks] how many had been made.
        scores: name -> [learning rates, looks].
        step_s: seconds a step, without compiling and scoring; the mean over all learning rates.
    """

    steps: np.ndarray
    scores: Mapping[str, np.ndarray]
    step_s: float


def train(
    method: Any,
    src: PrivateSource,
    score: Score,
    *,
    seed: int,
    steps: int,
    rates: Sequence[float],
    looks: int = 1,
) -> Curve:
    """Trains with several learning rates, one after another, which share batches, projections and noise.

    Args:
        method: `params`, `grad_fn` and `tx`, as `algorithms.dp_grape.methods.Method`; the `tx` of learning
            rate 1, whose updates are multiplied by each rate: all optimisers here are linear in it.
        src: of the batches; the one that the method was built with.
        score: numbers by name from parameters.
        seed: of the batches.
        steps: to make, a multiple of `looks`.
        rates: learning rates.
        looks: how often scores are taken, at equal distances.
    """
    index, is_padding = drawn(src.draws, seed=seed, steps=steps)
    # Rows of zeros stand for padding, as in the batches of the source itself.
    table = {
        name: jnp.asarray(np.concatenate([array, np.zeros_like(array[:1])]))
        for name, array in src.draws.records.items()
    }
    index[is_padding] = src.draws.n
    key, clip = jax.random.key(3000 + seed), jnp.float32(src.clip_norm)

    @jax.jit
    def some(rate: jax.Array, state: Any, rows: Any) -> Any:
        def step(state: Any, rows: Any) -> Any:
            (params, inner), (number, picked, padding) = state, rows
            examples = {name: array[picked] for name, array in table.items()}
            batch = {"examples": examples, "step": number, "clip_norm": clip}
            grads, _ = method.grad_fn(params, batch, padding, jax.random.fold_in(key, number))
            updates, inner = method.tx.update(grads, inner, params)
            updates = jax.tree.map(lambda leaf: leaf * rate.astype(leaf.dtype), updates)
            return (optax.apply_updates(params, updates), inner), None

        return jax.lax.scan(step, state, rows)[0]

    rows = (jnp.arange(steps, dtype=jnp.int32), jnp.asarray(index), jnp.asarray(is_padding))
    size = steps // looks
    parts = [
        jax.tree.map(lambda leaf, i=i: leaf[i * size : (i + 1) * size], rows) for i in range(looks)
    ]
    begin_state = (method.params, method.tx.init(method.params))
    compiled = some.lower(jnp.float32(1), begin_state, parts[0]).compile()
    scored = jax.jit(score)
    found, spent = [], 0.0
    for rate in rates:
        state, looked = begin_state, []
        for part in parts:
            begin = time.perf_counter()
            state = jax.block_until_ready(compiled(jnp.float32(rate), state, part))
            spent += time.perf_counter() - begin
            looked.append(jax.tree.map(np.asarray, scored(state[0])))
        found.append(looked)
    return Curve(
        steps=size * np.arange(1, looks + 1),
        scores={
            name: np.array([[look[name] for look in looked] for looked in found])
            for name in found[0][0]
        },
        step_s=spent / steps / len(rates),
    )
