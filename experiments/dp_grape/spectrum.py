"""What clipping and noise do to the singular values of a gradient, and so to a subspace found from them.

    python -m experiments.dp_grape.spectrum --scale cpu --out results

A decoder of two layers of width 64 after 200 ordinary steps on text of a Markov chain, and the gradient of
64 sequences with respect to three of its weights: as it is, clipped for each sequence at 0.1 and 1 times the
median norm, and with noise. The stable rank is the squared Frobenius norm over the squared largest singular
value. The share is how much of the clipped gradient's energy lies in the span of the noisy gradient's first
r = 16 singular vectors, along its shorter axis of 64: what GaLore would keep. Expected: with noise of
multiplier 5 the stable rank is at least three times the clean one, and the share is r / 64 to 0.1. About
20 seconds on two cores.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ariel_jax.layers.attention import causal
from ariel_jax.models import decoder
from ariel_jax.models.params import init_params
from ariel_jax.models.paths import flatten
from ariel_jax.privacy import clipping, noise
from ariel_jax.testing import tiny_config
from experiments import runner
from experiments.runner import Case, Figure, Settings

LAYERS = ("layers.0.attn.q.w", "layers.1.mlp.up.w", "layers.1.mlp.down.w")
CLIPS = (0.1, 1.0)
SIGMAS = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0)
RANK, VOCAB, N_DRAWS = 16, 64, 5


def cases(settings: Settings) -> Sequence[Case]:
    """One per weight and clip norm."""
    tiny = settings.is_tiny
    config = {
        "d_model": 16 if tiny else 64, "n_tokens": 8 if tiny else 64, "n_rows": 8 if tiny else 64,
        "n_steps": 2 if tiny else 200, "rank": 4 if tiny else RANK,
    }  # fmt: skip
    return [
        Case(
            name=f"{layer}, C {clip} of the median norm",
            config=config | {"layer": layer, "clip": clip},
        )
        for layer in LAYERS[: 1 if tiny else None]
        for clip in CLIPS[: 1 if tiny else None]
    ]


def text(rng: np.random.Generator, chain: np.ndarray, rows: int, n_tokens: int) -> np.ndarray:
    """[rows, n_tokens] int32 of a Markov chain with cumulative transitions [V, V]."""
    found = np.zeros((rows, n_tokens), np.int32)
    found[:, 0] = rng.integers(0, len(chain), rows)
    for i in range(1, n_tokens):
        drawn = rng.random((rows, 1))
        found[:, i] = np.minimum((chain[found[:, i - 1]] < drawn).sum(1), len(chain) - 1)
    return found


@functools.cache
def clipped(d: int, n_tokens: int, rows: int, n_steps: int, seed: int) -> Any:
    """`sums(multiple) -> (tree, C)`: the batch's clipped gradient at a multiple of the median norm."""
    cfg = tiny_config(
        "gpt2", vocab_size=VOCAB, d_model=d, n_heads=4, n_kv_heads=4, head_dim=d // 4, d_ff=4 * d,
        max_positions=n_tokens,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    chain = np.cumsum(rng.dirichlet(np.full(VOCAB, 0.1), VOCAB), axis=1)
    positions = jnp.arange(n_tokens - 1)[None]
    attend = causal(cfg.attention)

    def loss(params: Any, fixed: Any, tokens: jax.Array, key: jax.Array) -> jax.Array:
        logits, _ = decoder.apply(cfg, params, tokens[None, :-1], positions, attend, None)
        chances = jax.nn.log_softmax(logits[0])
        return -jnp.mean(jnp.take_along_axis(chances, tokens[1:, None], axis=1))

    key, tx = jax.random.key(seed), optax.adam(1e-3)

    @jax.jit
    def trained(params: Any, batches: jax.Array) -> Any:
        def mean(params: Any, batch: jax.Array) -> jax.Array:
            return jnp.mean(jax.vmap(lambda row: loss(params, None, row, key))(batch))

        def step(state: Any, batch: jax.Array) -> Any:
            updates, inner = tx.update(jax.grad(mean)(state[0], batch), state[1], state[0])
            return (optax.apply_updates(state[0], updates), inner), None

        return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]

    batches = text(rng, chain, rows * (n_steps + 1), n_tokens).reshape(-1, rows, n_tokens)
    params = trained(init_params(cfg, key=key), jnp.asarray(batches[:-1]))
    summed = jax.jit(clipping.ClippedSum(loss=loss, microbatch=rows))
    last, there = jnp.asarray(batches[-1]), jnp.zeros(rows, bool)
    _, info = summed(params, None, last, there, key, jnp.float32(1e9))
    median = float(np.median(info.norm))

    def sums(multiple: float) -> Any:
        bound = median * multiple
        return summed(params, None, last, there, key, jnp.float32(bound))[0], bound

    return sums


def describe(
    gradient: np.ndarray, signal: np.ndarray, rank: int
) -> tuple[np.ndarray, float, float]:
    """Singular values over the first, stable rank, and the share of the signal's energy that is kept."""
    wide = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
    other = signal if signal.shape[0] <= signal.shape[1] else signal.T
    u, s, _ = np.linalg.svd(wide, full_matrices=False)
    kept = np.linalg.norm(u[:, :rank].T @ other) ** 2 / np.linalg.norm(other) ** 2
    return s / s[0], float((s**2).sum() / s[0] ** 2), float(kept)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Stable rank, kept energy and the spectrum: clean, clipped, and by noise."""
    c = case.config
    sums = clipped(c["d_model"], c["n_tokens"], c["n_rows"], c["n_steps"], settings.seed)
    (clean, _), (tree, bound) = sums(1e6), sums(c["clip"])
    signal = np.asarray(flatten(tree)[c["layer"]], np.float64)
    whole = np.asarray(flatten(clean)[c["layer"]], np.float64)
    plain = describe(whole, whole, c["rank"])
    before = plain[1]
    yield from figures("clean", *plain)
    share = c["rank"] / min(signal.shape)
    for sigma in SIGMAS:
        draws = [describe(signal, signal, c["rank"])]
        if sigma:
            keys = [jax.random.key(settings.seed + 1 + i) for i in range(N_DRAWS)]
            noisy = [noise.gaussian(tree, key, sigma * bound) for key in keys]
            draws = [
                describe(np.asarray(flatten(leaves)[c["layer"]], np.float64), signal, c["rank"])
                for leaves in noisy
            ]
        spectrum, stable, kept = (np.mean([draw[i] for draw in draws], axis=0) for i in range(3))
        due = sigma == SIGMAS[-1] and not settings.is_tiny
        label = f"noise {sigma}" if sigma else "clipped"
        yield from figures(
            label, spectrum, float(stable), float(kept),
            runner.judge(stable >= 3 * before, f"at least 3 x clean ({3 * before:.3g})", due=due),
            runner.judge(abs(kept - share) <= 0.1, f"{share:.3g} to 0.1", due=due),
        )  # fmt: skip


def figures(
    label: str, spectrum: np.ndarray, stable: float, kept: float, *verdicts: dict[str, Any]
) -> Iterator[Figure]:
    """Rows of one gradient."""
    found = {"stable rank": stable, "energy kept": kept}
    for i in (1, 3, 7, 15, 31, 63):
        if i < len(spectrum):
            found[f"singular value {i + 1} over the first"] = float(spectrum[i])
    judged = dict(zip(found, verdicts, strict=False))  # the first rows only
    for name, value in found.items():
        more = judged.get(name, {})
        yield Figure(
            metric=f"{label}: {name}", value=round(value, 5), unit="1", kind="measured", **more
        )


def plot(rows: list[dict[str, Any]]) -> Any:
    """Singular values of the first weight of the table at the larger clip norm, by noise."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 3.5), layout="constrained")
    case = rows[-1]["case"]
    found = [r for r in rows if r["case"] == case and ": singular value" in r["metric"]]
    for label in dict.fromkeys(row["metric"].split(":")[0] for row in found):
        shown = [row for row in found if row["metric"].split(":")[0] == label]
        at = [int(row["metric"].split("value ")[1].split()[0]) for row in shown]
        axis.plot(
            [1, *at], [1.0] + [row["value"] for row in shown], "o-", label=label, markersize=3
        )
    axis.set(xscale="log", yscale="log", xlabel="i", ylabel="s_i / s_1 (measured)", title=case)
    axis.title.set_fontsize(8)
    axis.legend(fontsize=7)
    return figure


EXPERIMENT = runner.Experiment(
    name="dp_grape.spectrum",
    title="Singular values of a gradient under clipping and noise",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
