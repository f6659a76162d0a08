"""`decode_attention`: a few query rows against the rows that a cache holds."""

import jax.numpy as jnp

from ariel_jax._typing import Array, Float, Int
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels.decode_attention import cpu, reference
from ariel_jax.pallas_kernels.decode_attention.tree import check_parents
from ariel_jax.pallas_kernels.dispatch import Implementation, Op

OP = Op(
    "decode_attention",
    (
        Implementation(
            name="native",
            fun=cpu.decode_attention,
            platforms=("cpu",),
            why_not=cpu.why_not,
            why_not_auto=cpu.why_not_auto,
        ),
        Implementation(name="reference", fun=reference.decode_attention),
    ),
)


# Not `@typed`: the checks below compare the same shapes and raise the documented error.
def decode_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K C H"],
    v: Float[Array, "B K C H"],
    *,
    length: Int[Array, " B"],
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    q_positions: Int[Array, "B T"] | None = None,
    parents: tuple[int, ...] | None = None,
    impl: str = "auto",
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T"]]:
    """Returns attention over cache rows below `length`, and its log-sum-exp.

    Row j of the cache holds position j. A query sees row j if j < length[b] and j is not in its
    future (j <= its position); with `window` only if also j > its position - window. Rows written
    before the call are seen by the queries that follow them, so a step may write its new rows and
    then attend; rows held elsewhere are attended to apart and merged by their `lse`.

    Args:
        q: [B, T, N, H] queries.
        k: [B, K, C, H] cached keys, of the dtype of `q`; N is a multiple of K, and query head n
            reads key head n // (N / K).
        v: [B, K, C, H] cached values, of the dtype of `q`.
        length: [B] int32, valid rows of each batch row. Rows at and beyond it have no influence,
            provided that they are finite.
        scale: factor on the scores.
        softcap: c of `c * tanh(score / c)`, or None.
        window: how many positions back a query sees, itself included, or None for all.
        q_positions: [B, T] int32 position of each query; None means length + 0, 1, ... T-1.
        parents: static; the last T rows below `length` are nodes of a tree, one per query, and a
            query sees of them itself and its ancestors. Each names its parent by its index, the
            root (node 0) has -1; at most 32 nodes. `q_positions` must be those of the nodes, the
            root's plus their depths. None means that the new rows follow each other.
        impl: implementation name, or `"auto"`.

    Returns:
        (out, lse): [B, T, N, H] of the dtype of `q`, and [B, N, T] in at least float32. A query
        that sees no row has out 0 and lse -1e30, so it vanishes from a merge.

    Guarantees:
        Scores, softmax and sums are formed in at least float32.

    Raises:
        ConfigError: shapes or dtypes do not fit, an option is out of range, or `parents` is no tree.
        KernelUnavailableError: `impl` cannot run here.
    """
    _check(q, k, v, length)
    if window is not None and window < 1:
        raise ConfigError(f"window={window} is not allowed: pass a whole number above 0 or None.")
    if softcap is not None and not softcap > 0:
        raise ConfigError(f"softcap={softcap} is not allowed: pass a number above 0 or None.")
    if parents is not None:
        check_parents(parents)
        if len(parents) != q.shape[1] or q_positions is None:
            raise ConfigError(
                f"decode_attention got {len(parents)} parents for {q.shape[1]} queries, with "
                f"q_positions {'missing' if q_positions is None else 'given'}: pass one parent per "
                "query, and the positions of the nodes."
            )
    if q_positions is None:
        q_positions = length[:, None] + jnp.arange(q.shape[1], dtype=length.dtype)[None, :]
    options = {
        "length": length,
        "scale": scale,
        "softcap": softcap,
        "window": window,
        "q_positions": q_positions,
        "parents": parents,
    }
    return OP.select(impl, q, k, v, **options)(q, k, v, **options)


def _check(q: Array, k: Array, v: Array, length: Array) -> None:
    fits = (
        q.ndim == 4
        and k.ndim == 4
        and k.shape == v.shape
        and k.shape[0] == q.shape[0]
        and k.shape[3] == q.shape[3]
        and q.shape[2] % k.shape[1] == 0
        and length.shape == q.shape[:1]
        and q.dtype == k.dtype == v.dtype
    )
    if not fits:
        raise ConfigError(
            f"decode_attention got q {q.dtype}{list(q.shape)}, k {k.dtype}{list(k.shape)}, "
            f"v {v.dtype}{list(v.shape)}, length {list(length.shape)}: pass q [B, T, N, H], "
            "k and v [B, K, C, H] and length [B] with N a multiple of K and one dtype for all three."
        )
