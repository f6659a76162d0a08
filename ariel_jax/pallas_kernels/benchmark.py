"""Times the implementations of `linear` and `decode_attention` on this machine, for the record."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ariel_jax import measure
from ariel_jax.pallas_kernels import dispatch, programs, tune
from ariel_jax.pallas_kernels.decode_attention import cpu as attention_cpu
from ariel_jax.pallas_kernels.linear import cpu as linear_cpu

# (in, out) of the layers of GPT-2 124M, of nano and of Llama 3.2 1B.
PRODUCTS = (
    (768, 768), (768, 3072), (3072, 768), (768, 50257),
    (192, 192), (192, 512), (512, 192), (192, 4096),
    (2048, 2048), (2048, 512), (2048, 8192), (8192, 2048), (2048, 128256),
)  # fmt: skip
# (query heads, key heads, head size) of the same, and capacities.
HEADS = ((12, 12, 64), (3, 3, 64), (32, 8, 64))
CAPACITIES = (256, 1024, 4096)
LAYERS = 12  # at most; fewer where the weights are large


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """One shape.

    Attributes:
        op: the operation.
        shape: as it is recorded.
        seconds: of one call, by implementation; the median of runs in turn.
        n_bytes: weights or valid keys and values that a call must read.
    """

    op: str
    shape: str
    seconds: dict[str, float]
    n_bytes: int


def _in_turn(op: str, runs: dict[str, Callable[[], Any]], n_calls: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(5):
        for name, run in runs.items():
            times[name].append(measure.timed(run, n_runs=1, n_warmup=1).median_s / n_calls)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def products(
    shapes: Sequence[tuple[int, int]] = PRODUCTS,
    rows: Sequence[int] = tune.ROWS,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
) -> Iterator[Timed]:
    """Times of `linear` with float32 rows and weights of each dtype.

    Args:
        shapes: (in, out) of each product.
        rows: how many rows at once.
        dtypes: of the weights; both rows and weights are of it.
    """
    rng = np.random.default_rng(0)
    for n_in, n_out in shapes:
        for dtype in dtypes:
            n_bytes = n_in * n_out * jnp.dtype(dtype).itemsize
            n_layers = int(np.clip(256e6 / n_bytes, 2, LAYERS))
            block = rng.standard_normal((n_out, n_in), np.float32) * n_in**-0.5
            weights = [jnp.asarray(block, dtype) for _ in range(n_layers)]
            for m in rows:
                x = jnp.asarray(rng.standard_normal((m, n_in), np.float32), dtype)
                runs = {
                    name: functools.partial(programs.linears(name), x, weights)
                    for name in _names("linear")
                }
                yield Timed(
                    op="linear",
                    shape=linear_cpu.shape_key(x, weights[0], x.dtype),
                    seconds=_in_turn("linear", runs, n_layers),
                    n_bytes=n_bytes,
                )


def attentions(
    heads: Sequence[tuple[int, int, int]] = HEADS,
    capacities: Sequence[int] = CAPACITIES,
    batches: Sequence[int] = (1, 8),
    queries: Sequence[int] = (1, 8),
) -> Iterator[Timed]:
    """Times of `decode_attention` over float32 caches of which 7/8 are valid.

    Args:
        heads: (query heads, key heads, head size).
        capacities: rows of the cache.
        batches: requests at once.
        queries: rows of a step.
    """
    rng = np.random.default_rng(0)
    for N, K, H in heads:
        for C in capacities:
            for B in batches:
                size = (B, K, C, H)
                block = jnp.asarray(rng.standard_normal(size, np.float32))
                caches = [(block + i, block - i) for i in range(4)]
                length = jnp.full(B, C * 7 // 8, jnp.int32)
                for T in queries:
                    q = jnp.asarray(rng.standard_normal((B, T, N, H), np.float32))
                    runs = {
                        name: functools.partial(
                            programs.attentions(name, H**-0.5), q, caches, length
                        )
                        for name in _names("decode_attention")
                    }
                    yield Timed(
                        op="decode_attention",
                        shape=attention_cpu.shape_key(q, block),
                        seconds=_in_turn("decode_attention", runs, len(caches)),
                        n_bytes=2 * B * K * (C * 7 // 8) * H * 4,
                    )


def _names(op: str) -> list[str]:
    return [implementation.name for implementation in dispatch.op(op).implementations]
