"""`vocab_top1`: the final projection where only its largest logit and its log-sum-exp matter."""

from ariel_jax._checks import positive_int
from ariel_jax._typing import Array, Float, Int, Shaped
from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels.dispatch import Implementation, Op
from ariel_jax.pallas_kernels.linear.api import check_weights
from ariel_jax.pallas_kernels.vocab_top1 import chunked, cpu, reference

OP = Op(
    "vocab_top1",
    (
        Implementation(
            name="native",
            fun=cpu.vocab_top1,
            platforms=("cpu",),
            why_not=cpu.why_not,
            why_not_auto=cpu.why_not_auto,
        ),
        Implementation(
            name="chunked",
            fun=chunked.vocab_top1,
            why_not=chunked.why_not,
            why_not_auto=chunked.why_not_auto,
        ),
        Implementation(name="reference", fun=reference.vocab_top1),
    ),
)


# Not `@typed`, as `linear.api`.
def vocab_top1(
    x: Float[Array, "*rows D"],
    w: Shaped[Array, "V _"],
    b: Float[Array, " V"] | None = None,
    *,
    scale: Float[Array, "V groups"] | None = None,
    softcap: float | None = None,
    piece: int | None = None,
    impl: str = "auto",
) -> tuple[Int[Array, "*rows"], Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Returns the largest logit of each row, where it is, and the row's log-sum-exp.

    Args:
        x: [..., D] float: rows after the final norm.
        w: [V, D] weights of the output head, or quantised ones as for `linear`.
        b: [V] bias or None.
        scale: of quantised weights, as for `linear`.
        softcap: logits are `softcap * tanh(logit / softcap)`; None for none.
        piece: tokens whose logits may exist at once; None leaves it to the implementation.
        impl: implementation name, or `"auto"`.

    Returns:
        (index [...] int32, logit [...], lse [...]), both in at least float32: the probability of
        the token is `exp(logit - lse)`.

    Guarantees:
        With `piece`, `auto` takes nothing that keeps the logits of more tokens. Of equal logits the
        first index is returned. Where a logit is NaN, so are the returned logit and lse.

    Raises:
        ConfigError: the shapes do not fit, or a soft cap or piece that is not positive.
        KernelUnavailableError: `impl` cannot run here.
    """
    check_weights("vocab_top1", x, w, b, scale)
    if softcap is not None and not softcap > 0:
        raise ConfigError(f"vocab_top1 got softcap={softcap}: pass a positive number or None.")
    if piece is not None:
        positive_int(piece=piece)
    options = {"scale": scale, "softcap": softcap, "piece": piece}
    return OP.select(impl, x, w, b, **options)(x, w, b, **options)
