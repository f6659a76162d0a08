"""Times the implementations of the CPU operations on this machine: for the record, and for targets."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import measure
from ariel_jax.pallas_kernels import dispatch, programs, tune
from ariel_jax.pallas_kernels.decode_attention import cpu as attention_cpu
from ariel_jax.pallas_kernels.linear import cpu as linear_cpu
from ariel_jax.pallas_kernels.linear import pack_int4

# (in, out) of the layers of GPT-2 124M, of nano and of Llama 3.2 1B.
PRODUCTS = (
    (768, 768), (768, 2304), (768, 3072), (3072, 768), (768, 50257),
    (192, 192), (192, 512), (512, 192), (192, 4096),
    (2048, 2048), (2048, 512), (2048, 8192), (8192, 2048), (2048, 128256),
)  # fmt: skip
HEADS_OF_MODELS = ((768, 50257), (192, 4096), (2048, 128256))
WEIGHTS = ("float32", "bfloat16", "int8", "int4")
# (query heads, key heads, head size) of the same.
HEADS = ((12, 12, 64), (3, 3, 64), (32, 8, 64))
LAYERS = 12  # at most; fewer where the weights are large
GROUP = 64  # inputs that share a scale in 4-bit weights
SLOW_S = 0.5  # of one run, above which it is repeated less often
ENOUGH_S = 0.03  # of all runs of a short one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """One shape.

    Attributes:
        op: the operation.
        shape: as it is recorded.
        seconds: of one call, by implementation; the median of several runs, the least of many short ones.
        n_bytes: weights, or valid keys and values, that a call must read.
    """

    op: str
    shape: str
    seconds: dict[str, float]
    n_bytes: int


def _one_by_one(runs: dict[str, Callable[[], Any]], n_calls: int) -> dict[str, float]:
    """Seconds of a call by implementation: the median of several runs, the least of many short ones.

    All runs of one implementation come together: in turn they would disturb each other, because XLA's
    threads spin for a while after a long product, beside whatever comes next.
    """
    found: dict[str, float] = {}
    for name, run in runs.items():
        time.sleep(0.05)  # until the threads of the one before are asleep
        first = measure.timed(run, n_runs=1, n_warmup=1).median_s
        if first < ENOUGH_S / 10:
            # On a shared machine half of the short runs are disturbed; a wrong choice between two
            # such costs every layer of a small model.
            more = measure.timed(run, n_runs=int(min(ENOUGH_S / first, 300)), n_warmup=0).min_s
        else:
            more = measure.timed(run, n_runs=2 if first > SLOW_S else 5, n_warmup=0).median_s
        found[name] = more / n_calls
    return found


def _weights(n_in: int, n_out: int, kind: str) -> list[Any]:
    """Pairs of weights and scales, enough of them not to stay in a processor's cache."""
    n_bytes = _weight_bytes(n_in, n_out, kind)
    n_layers = int(np.clip(256e6 / n_bytes, 2, LAYERS))
    rng = np.random.default_rng(0)
    if kind in ("float32", "bfloat16"):
        block = rng.standard_normal((n_out, n_in), np.float32) * n_in**-0.5
        return [(jnp.asarray(block, kind), None) for _ in range(n_layers)]
    # Numbers and scales do not change the time.
    block = rng.integers(-8, 8, (n_out, n_in), np.int8)
    groups = 1 if kind == "int8" else n_in // GROUP
    scale = jnp.full((n_out, groups), n_in**-0.5 / 8, jnp.float32)
    stored = np.asarray(pack_int4(jnp.asarray(block)) if kind == "int4" else block)
    return [(jnp.array(stored), scale) for _ in range(n_layers)]


def _weight_bytes(n_in: int, n_out: int, kind: str) -> int:
    halves = {"float32": 8, "bfloat16": 4, "int8": 2, "int4": 1}[kind]
    scales = {"int8": 4 * n_out, "int4": 4 * n_out * n_in // GROUP}.get(kind, 0)
    return n_in * n_out * halves // 2 + scales


def _rows_of(m: int, n_in: int, kind: str) -> jax.Array:
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    return jnp.asarray(np.random.default_rng(m).standard_normal((m, n_in), np.float32), dtype)


def products(
    shapes: Sequence[tuple[int, int]] = PRODUCTS,
    rows: Sequence[int] = tune.ROWS,
    kinds: Sequence[str] = WEIGHTS,
) -> Iterator[Timed]:
    """Times of `linear`; bfloat16 weights with bfloat16 rows, others with float32 rows.

    Args:
        shapes: (in, out) of each product.
        rows: how many rows at once; more than 32 for bfloat16 only.
        kinds: of the weights: a dtype, int8 with a scale a row, or int4 with a scale for 64 inputs.
    """
    for n_in, n_out in shapes:
        for kind in kinds:
            weights = _weights(n_in, n_out, kind)
            for m in rows:
                x = _rows_of(m, n_in, kind)
                if m > linear_cpu.MOST_ROWS and (kind != "bfloat16" or n_out > 50_000):
                    continue  # the head reads one row a prompt
                if m > linear_cpu.MOST_ROWS and not _can("linear", x, weights[0]):
                    continue
                runs = {
                    name: functools.partial(programs.linears(name), x, weights)
                    for name in _names("linear")
                }
                yield Timed(
                    op="linear",
                    shape=linear_cpu.shape_key(x, weights[0][0], x.dtype),
                    seconds=_one_by_one(runs, len(weights)),
                    n_bytes=_weight_bytes(n_in, n_out, kind),
                )


def top_tokens(
    shapes: Sequence[tuple[int, int]] = HEADS_OF_MODELS,
    rows: Sequence[int] = (1, 8),
    kinds: Sequence[str] = ("float32", "bfloat16", "int8"),
) -> Iterator[Timed]:
    """Times of `vocab_top1`; arguments as for `products`."""
    for n_in, n_out in shapes:
        for kind in kinds:
            weights = _weights(n_in, n_out, kind)
            for m in rows:
                x = _rows_of(m, n_in, kind)
                runs = {
                    name: functools.partial(programs.heads(name), x, weights)
                    for name in ("native", "reference")
                }
                yield Timed(
                    op="vocab_top1",
                    shape=linear_cpu.shape_key(x, weights[0][0], jnp.float32),
                    seconds=_one_by_one(runs, len(weights)),
                    n_bytes=_weight_bytes(n_in, n_out, kind),
                )


def attentions(
    heads: Sequence[tuple[int, int, int]] = HEADS,
    capacities: Sequence[int] = tune.CAPACITIES,
    batches: Sequence[int] = (1, 8),
    queries: Sequence[int] = (1, 8),
    valid: int | None = None,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
) -> Iterator[Timed]:
    """Times of `decode_attention`.

    Args:
        heads: (query heads, key heads, head size).
        capacities: rows of the cache.
        batches: requests at once.
        queries: rows of a step.
        valid: rows of the cache that count; None for 7/8 of them.
        dtypes: of queries and cache.
    """
    rng = np.random.default_rng(0)
    for (N, K, H), C, B, dtype in itertools.product(heads, capacities, batches, dtypes):
        block = jnp.asarray(rng.standard_normal((B, K, C, H), np.float32), dtype)
        caches = [(block + i, block - i) for i in np.arange(4).astype(block.dtype)]
        n = C * 7 // 8 if valid is None else valid
        for T in queries:
            q = jnp.asarray(rng.standard_normal((B, T, N, H), np.float32), dtype)
            runs = {
                name: functools.partial(
                    programs.attentions(name, H**-0.5), q, caches, jnp.full(B, n, jnp.int32)
                )
                for name in _names("decode_attention")
            }
            yield Timed(
                op="decode_attention",
                shape=attention_cpu.shape_key(q, block),
                seconds=_one_by_one(runs, len(caches)),
                n_bytes=2 * B * K * n * H * block.dtype.itemsize,
            )


def _can(op: str, x: jax.Array, weights: Any) -> bool:
    w, scale = weights
    options = {"scale": scale, "precision": None, "out_dtype": x.dtype}
    return dispatch.op(op).implementations[0].why_not(x, w, None, **options) is None


def _names(op: str) -> list[str]:
    return [implementation.name for implementation in dispatch.op(op).implementations]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was aimed at and what came.

    Attributes:
        what: a figure, in words.
        value: what was measured.
        target: what it should reach.
        at_least: whether the target is a lower bound; else it is an upper one.
    """

    what: str
    value: float
    target: float
    at_least: bool = True

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.at_least else self.value <= self.target


# Least share of the measured read bandwidth, by kind of weights and rows, for Llama's large layers.
SHARES = {
    "float32": {1: 0.90, 4: 0.85, 8: 0.75},
    "bfloat16": {1: 0.85, 2: 0.85, 4: 0.85},
    "int8": {1: 0.80},
    "int4": {1: 0.60},
}


LARGE = ((2048, 8192), (8192, 2048))


def shares(shapes: Sequence[tuple[int, int]] = LARGE, n_repeats: int = 3) -> Iterator[Verdict]:
    """Shares of the read bandwidth of the native products, where one was aimed at.

    The bandwidth of a shared machine drifts: it is measured right before and after each product, and
    no other implementation runs beside. The median of the repeats counts.

    Args:
        shapes: (in, out) of each product.
        n_repeats: how often each is measured.
    """
    for n_in, n_out in shapes:
        for kind, targets in SHARES.items():
            weights = _weights(n_in, n_out, kind)
            n_bytes = _weight_bytes(n_in, n_out, kind) * len(weights)
            for rows, target in targets.items():
                x = _rows_of(rows, n_in, kind)
                run = functools.partial(programs.linears("native"), x, weights)
                found = []
                for _ in range(n_repeats):
                    before = measure.ceilings(remeasure=True).read_bytes_per_s
                    seconds = measure.timed(run, n_runs=5, n_warmup=2).median_s
                    after = measure.ceilings(remeasure=True).read_bytes_per_s
                    found.append(n_bytes / seconds / ((before + after) / 2))
                shape = linear_cpu.shape_key(x, weights[0][0], x.dtype)
                yield Verdict(
                    what=f"{shape}: share of read bandwidth",
                    value=float(np.median(found)),
                    target=target,
                )


def unused_capacity() -> Verdict:
    """What the rows of a cache that hold nothing cost: 300 valid ones of 4,096 against of 320."""
    options: dict[str, Any] = {"heads": ((12, 12, 64),), "batches": (1,), "queries": (1,)}
    seconds = [
        next(attentions(capacities=(C,), valid=300, dtypes=("float32",), **options)).seconds
        for C in (4096, 320)
    ]
    return Verdict(
        what="attention over 300 rows, capacity 4,096 over 320",
        value=seconds[0]["native"] / seconds[1]["native"],
        target=1.3,
        at_least=False,
    )
