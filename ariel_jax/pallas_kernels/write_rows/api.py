"""`write_rows`: how a cache takes in new keys or values."""

from ariel_jax._typing import Array, Float, Int
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels.dispatch import Implementation, Op
from ariel_jax.pallas_kernels.write_rows import cpu, reference

OP = Op(
    "write_rows",
    (
        Implementation(
            name="native",
            fun=cpu.write_rows,
            platforms=("cpu",),
            why_not=cpu.why_not,
            why_not_auto=cpu.why_not_auto,
        ),
        Implementation(name="reference", fun=reference.write_rows),
    ),
)


# Not `@typed`, as `linear.api`.
def write_rows(
    leaf: Float[Array, "B K C H"],
    new: Float[Array, "B T K H"],
    rows: Int[Array, "B T"],
    *,
    impl: str = "auto",
) -> Float[Array, "B K C H"]:
    """Returns `leaf` with `new` written at the given rows; a row index outside 0..C-1 is dropped.

    Args:
        leaf: [B, K, C, H] one layer's keys or values.
        new: [B, T, K, H], cast to the leaf's dtype.
        rows: [B, T] int32, of one request no two of 0..C-1 alike.
        impl: implementation name, or `"auto"`.

    Returns:
        [B, K, C, H]; in place when the leaf is donated.

    Raises:
        ConfigError: the shapes do not fit.
        KernelUnavailableError: `impl` cannot run here.
    """
    if leaf.ndim != 4 or new.ndim != 4:
        fits = False
    else:
        B, K, _, H = leaf.shape
        fits = new.shape == (B, new.shape[1], K, H) and rows.shape == new.shape[:2]
    if not fits:
        raise ConfigError(
            f"write_rows got a cache {list(leaf.shape)}, new rows {list(new.shape)} and row numbers "
            f"{list(rows.shape)}: pass [B, K, C, H], [B, T, K, H] and [B, T]."
        )
    return OP.select(impl, leaf, new, rows)(leaf, new, rows)
