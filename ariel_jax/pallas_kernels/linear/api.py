"""`linear`: the one matrix product of the decoder, with weights `[out, in]`."""

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from ariel_jax._typing import Array, Float, Shaped
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels.dispatch import Implementation, Op
from ariel_jax.pallas_kernels.linear import cpu, reference
from ariel_jax.pallas_kernels.linear.packing import BLOCK, n_inputs

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
    w: Shaped[Array, "n_out _"],
    b: Float[Array, " n_out"] | None = None,
    *,
    scale: Float[Array, "n_out groups"] | None = None,
    precision: lax.PrecisionLike = None,
    out_dtype: DTypeLike | None = None,
    impl: str = "auto",
) -> Float[Array, "*rows n_out"]:
    """Returns `x @ w.T + b`.

    Args:
        x: [..., in] float activations.
        w: [out, in] weights, laid out as in Hugging Face files; a dtype other than that of `x` is
            cast to it (exact when `w` is the narrower one). With `scale`: int8 of that shape, or
            uint8 [out, in / 2], each with two 4-bit numbers (`packing.pack_int4`).
        b: [out] bias or None; any float dtype.
        scale: None, or [out, groups] float32 of quantised weights: what each number of a group of
            in / groups neighbouring inputs is multiplied with.
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
    check_weights("linear", x, w, b, scale)
    dtype = x.dtype if out_dtype is None else out_dtype
    options = {"scale": scale, "precision": precision, "out_dtype": dtype}
    return OP.select(impl, x, w, b, **options)(x, w, b, **options)


def check_weights(op: str, x: Array, w: Array, b: Array | None, scale: Array | None) -> None:
    """Raises ConfigError unless rows, weights, bias and scales belong together."""
    if scale is not None:
        _check_quantized(op, w, scale)
    elif not jnp.issubdtype(w.dtype, jnp.floating):
        raise ConfigError(
            f"{op} got w of {w.dtype} and no scales. Pass the scales of quantised weights, or "
            "weights of a float dtype."
        )
    n_in = w.shape[-1] if scale is None else n_inputs(w)
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != n_in:
        raise ConfigError(
            f"{op} got x {list(x.shape)} and w {list(w.shape)}: w must be [out, in] and the last "
            "axis of x equal to in. Transpose a weight that is stored [in, out]."
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ConfigError(
            f"{op} got a bias of shape {list(b.shape)} for w {list(w.shape)}: "
            f"pass [{w.shape[0]}] or None."
        )


def _check_quantized(op: str, w: Array, scale: Array) -> None:
    if w.dtype not in (jnp.int8, jnp.uint8):
        raise ConfigError(
            f"{op} got scales and w of {w.dtype}: quantised weights are int8, or uint8 with two "
            "4-bit numbers in each. Pass scale=None for weights that are not quantised."
        )
    n_in = n_inputs(w)
    is_packed = w.dtype == jnp.uint8
    fits = scale.ndim == 2 and scale.shape[0] == w.shape[0] and scale.shape[1] >= 1
    if not fits or n_in % scale.shape[1] or (is_packed and n_in % BLOCK):
        raise ConfigError(
            f"{op} got scales {list(scale.shape)} for {n_in} inputs and {w.shape[0]} outputs: "
            f"pass [{w.shape[0]}, groups], groups a divisor of the inputs"
            + (f", which must be a multiple of {BLOCK} for 4-bit numbers." if is_packed else ".")
        )
