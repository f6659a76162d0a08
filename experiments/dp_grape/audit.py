"""What an attacker can show of one private step: the right code, and four planted faults.

    python -m experiments.dp_grape.audit --scale cpu --out results

One step of DP-GRAPE on a linear layer, 18,000 releases with a canary and 18,000 without it. The attacker
knows the weights, the projection and all other examples; the canary's gradient is huge and lies along the
projection's largest singular vector. Expected: the lower bound of the right code is at most the claimed
epsilon and its estimate 0.8 to 1 of it; every fault's estimate lies above the claim. About a minute on two
cores.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms import dp_grape
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.privacy import Plan, audit, clipping, noise
from experiments import runner
from experiments.runner import Case, Figure, Settings

SIGMA, CLIP, DELTA, RANK, N_IN, N_OUT, BATCH = 1.0, 1.0, 1e-5, 4, 48, 64, 6
CFG = dp_grape.Config(rank=RANK, refresh_every=0, side="in", project=(r"\.w$",), frozen=())


def loss(params: Any, example: Any, key: jax.Array) -> jax.Array:
    """Linear in the weight, so that the canary's gradient is what the attacker chose."""
    return jnp.sum(linear(example["x"], params["layer"]) * example["y"])


PARAMS = {"layer": Linear(w=jnp.zeros((N_OUT, N_IN)), b=jnp.zeros(N_OUT))}
SPECS = dp_grape.make_specs(PARAMS, CFG)


def batch(drawn: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Five ordinary examples, and the canary in the first row."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((BATCH, N_IN)), rng.standard_normal((BATCH, N_OUT))
    along = np.linalg.svd(np.asarray(drawn["layer.w"]))[0][:, 0]
    x[0], y[0] = 100 * along, np.eye(N_OUT)[0]
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}


def projected_sum(mask: jax.Array, drawn: Any) -> Any:
    """The right code: clipped after projecting."""
    summed = clipping.ClippedSum(loss=dp_grape.tapped_loss(loss, SPECS))
    trained = dp_grape.trained_leaves(PARAMS, SPECS)
    key = jax.random.key(0)
    return summed(trained, (PARAMS, drawn), batch(drawn), mask, key, jnp.float32(CLIP))[0]


def clipped_then_projected(mask: jax.Array, drawn: Any) -> Any:
    """The fault of clipping whole gradients: a projection can make them longer."""
    grads = jax.vmap(jax.grad(loss), in_axes=(None, 0, None))(
        PARAMS, batch(drawn), jax.random.key(0)
    )
    parts = [clipping.Stacked({"w": grads["layer"].w, "b": grads["layer"].b})]
    (total,), _ = clipping.clip_and_sum(parts, jnp.float32(CLIP), mask)
    spec = SPECS.projected[0]
    projected = dp_grape.project(spec, total["w"], drawn["layer.w"])
    return {"layer.w": projected, "layer.b": total["b"]}


def by_leaf(mask: jax.Array, drawn: Any) -> Any:
    """Each of L leaves clipped to C / sqrt(L); right with noise sigma C, a fault with sigma C / sqrt(L)."""
    grads = jax.vmap(jax.grad(dp_grape.tapped_loss(loss, SPECS)), in_axes=(None, None, 0, None))(
        dp_grape.trained_leaves(PARAMS, SPECS), (PARAMS, drawn), batch(drawn), jax.random.key(0)
    )
    share = jnp.float32(CLIP / len(grads) ** 0.5)
    return {
        name: clipping.clip_and_sum([clipping.Stacked(leaf)], share, mask)[0][0]
        for name, leaf in grads.items()
    }


Way = tuple[Callable[..., Any], float, bool]
WAYS: dict[str, Way] = {
    "right": (projected_sum, 1.0, True),
    "half the noise": (projected_sum, 0.5, False),
    "noise divided by the batch": (projected_sum, 1 / BATCH, False),
    "clipped, then projected": (clipped_then_projected, 1.0, False),
    "by leaf, noise of one leaf": (by_leaf, 0.5**0.5, False),
}


def cases(settings: Settings) -> Sequence[Case]:
    """The right code and each fault."""
    names = list(WAYS)[: 2 if settings.is_tiny else None]
    n = 2000 if settings.is_tiny else 18_000
    return [Case(name=name, config={"n": n}, expected_s=10.0) for name in names]


@functools.partial(jax.jit, static_argnames=("n", "scale"))
def releases(total: Any, key: jax.Array, *, n: int, scale: float) -> jax.Array:
    """[n, d] noisy sums."""

    def one(key: jax.Array) -> jax.Array:
        noisy = noise.gaussian(total, key, SIGMA * CLIP * scale)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(noisy)])

    return jax.vmap(one)(jax.random.split(key, n))


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Lower bound and estimate beside the claim."""
    claim = Plan(noise_multiplier=SIGMA, steps=1, sampler="none").tight_epsilon(DELTA)
    summed, scale, is_right = WAYS[case.name]
    drawn = dp_grape.projections(jax.random.key(settings.seed + 7), 0, SPECS, CFG)
    sums = [summed(jnp.arange(BATCH) < first, drawn) for first in (0, 1)]
    inside, outside = (
        releases(total, jax.random.key(settings.seed + i), n=case.config["n"], scale=scale)
        for i, total in enumerate(sums)
    )
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(total)]) for total in sums]
    found = audit.of_releases(
        inside, outside, epsilon=claim, delta=DELTA, direction=flat[0] - flat[1]
    )
    due = not settings.is_tiny
    yield Figure(metric="epsilon claimed", value=round(claim, 4), unit="1", kind="simulated")
    yield Figure(
        metric="lower bound on epsilon, 95 %", value=round(found.lower_bound, 4), unit="1",
        kind="measured",
        **runner.judge(not found.refutes, "at most the claim", due=is_right),
    )  # fmt: skip
    estimate = found.estimate or 0.0
    good = 0.8 * claim <= estimate <= claim if is_right else estimate > claim
    yield Figure(
        metric="epsilon that the scores stand for", value=round(estimate, 4), unit="1", kind="measured",
        **runner.judge(good, "0.8 to 1 of the claim" if is_right else "above the claim", due=due),
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Bound and estimate of each way beside the claim."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    names = list(dict.fromkeys(row["case"] for row in rows))
    for metric, label in (
        ("lower bound on epsilon, 95 %", "lower bound (measured)"),
        ("epsilon that the scores stand for", "estimate (measured)"),
    ):
        values = [
            next(r["value"] for r in rows if r["case"] == n and r["metric"] == metric)
            for n in names
        ]
        axis.plot(names, values, "o", label=label)
    axis.axhline(rows[0]["value"], color="gray", label="claimed")
    axis.set_yscale("log")
    axis.tick_params(axis="x", labelrotation=15)
    axis.set_ylabel("epsilon")
    axis.legend(fontsize=7)
    return figure


EXPERIMENT = runner.Experiment(
    name="dp_grape.audit",
    title="One private step, attacked",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
