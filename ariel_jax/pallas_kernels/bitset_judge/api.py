"""`bitset_judge`: premises as bits, one table row per slot of a request."""

import jax.numpy as jnp

from ariel_jax._typing import Array, Int, UInt
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels.bitset_judge import cpu, reference
from ariel_jax.pallas_kernels.dispatch import Implementation, Op

OP = Op(
    "bitset_judge",
    (
        Implementation(
            name="native", fun=cpu.bitset_judge, platforms=("cpu",), why_not=cpu.why_not
        ),
        Implementation(name="reference", fun=reference.bitset_judge),
    ),
)


# Not `@typed`, as `linear.api`.
def bitset_judge(
    table: UInt[Array, "K R W"],
    rows: Int[Array, "B K"],
    approving: UInt[Array, " W"],
    denying: UInt[Array, " W"],
    *,
    impl: str = "auto",
) -> tuple[Int[Array, " B"], Int[Array, " B"], Int[Array, " B"], Int[Array, " B"]]:
    """Counts the premises of two kinds that cover each request in all of its K slots.

    Args:
        table: [K, R, W] uint32: bit n (bit n % 32 of word n // 32) of `table[k, r]` says that premise n
            covers row r in slot k.
        rows: [B, K] int32. A request with a row outside 0..R-1 is covered by nothing.
        approving: [W] uint32, the premises that approve and count.
        denying: [W] uint32, those that deny and count.
        impl: implementation name, or `"auto"`.

    Returns:
        (n approving, n denying, first approving, first denying), each [B] int32; the first is the bit
        with the lowest number, -1 where there is none.

    Raises:
        ConfigError: shapes or dtypes do not fit.
        KernelUnavailableError: `impl` cannot run here.
    """
    fits = table.ndim == 3 and rows.ndim == 2 and rows.shape[1] == table.shape[0] > 0
    words = (table.shape[-1],)
    fits = fits and approving.shape == denying.shape == words and table.shape[1] > 0 < words[0]
    dtypes = [a.dtype for a in (table, approving, denying)]
    if not fits or dtypes != [jnp.uint32] * 3 or rows.dtype != jnp.int32:
        raise ConfigError(
            f"bitset_judge got a table {list(table.shape)}, rows {list(rows.shape)} and masks "
            f"{list(approving.shape)} and {list(denying.shape)} of {[str(d) for d in dtypes]} and "
            f"{rows.dtype}: pass [K, R, W], [B, K], [W] and [W], uint32 but for int32 rows."
        )
    return OP.select(impl, table, rows, approving, denying)(table, rows, approving, denying)
