"""`linear`: the one matrix product of the decoder, with weights `[out, in]`."""

from jax import lax
from jax.typing import DTypeLike

from ariel_jax._typing import Array, Float
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels.dispatch import Implementation, Op
from ariel_jax.pallas_kernels.linear import cpu, reference

OP = Op(
    "linear",
    (
        Implementation(
            name="native",
            fun=cpu.linear,
            platforms=("cpu",),
            why_not=cpu.why_not,
            why_not_auto=cpu.why_not_auto,
        ),
        Implementation(name="reference", fun=reference.linear),
    ),
)


# Not `@typed`: the checks below compare the same shapes and raise the documented error.
def linear(
    x: Float[Array, "*rows n_in"],
    w: Float[Array, "n_out n_in"],
    b: Float[Array, " n_out"] | None = None,
    *,
    precision: lax.PrecisionLike = None,
    out_dtype: DTypeLike | None = None,
    impl: str = "auto",
) -> Float[Array, "*rows n_out"]:
    """Returns `x @ w.T + b`.

    Args:
        x: [..., in] float activations.
        w: [out, in] weights, laid out as in Hugging Face files; a dtype other than that of `x` is
            cast to it (exact when `w` is the narrower one).
        b: [out] bias or None; any float dtype.
        precision: of the product, as in `jax.lax.dot_general`; None is jax's default.
        out_dtype: dtype of the result; None keeps that of `x`.
        impl: implementation name, or `"auto"`.

    Returns:
        [..., out] array of `out_dtype`.

    Guarantees:
        Sums and the bias addition are formed in at least float32 and rounded once.

    Raises:
        ConfigError: the shapes do not fit.
        KernelUnavailableError: `impl` cannot run here.
    """
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[1]:
        raise ConfigError(
            f"linear got x {list(x.shape)} and w {list(w.shape)}: w must be [out, in] and the last "
            "axis of x equal to in. Transpose a weight that is stored [in, out]."
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ConfigError(
            f"linear got a bias of shape {list(b.shape)} for w {list(w.shape)}: "
            f"pass [{w.shape[0]}] or None."
        )
    dtype = x.dtype if out_dtype is None else out_dtype
    fun = OP.select(impl, x, w, b, precision=precision, out_dtype=dtype)
    return fun(x, w, b, precision=precision, out_dtype=dtype)
