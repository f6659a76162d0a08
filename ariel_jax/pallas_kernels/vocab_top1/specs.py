"""Named shapes of `vocab_top1`, for tests (those that are not large), benchmarks and reports."""

import dataclasses
from typing import Any

from ariel_jax.pallas_kernels.linear.specs import Spec as ProductSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Shapes and dtypes of one call.

    Attributes:
        product: rows and weights, as for `linear`.
        softcap: of the logits, or None.
        piece: tokens whose logits may exist at once, or None.
        is_large: too large for a test.
    """

    product: ProductSpec
    softcap: float | None = None
    piece: int | None = None
    is_large: bool = False

    def abstract(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments (shape structs) and options of the call, as for `Op.explain`."""
        arguments, options = self.product.abstract()
        more = {"softcap": self.softcap, "piece": self.piece}
        return arguments, {"scale": options["scale"]} | more


SPECS = {
    "one_row": Spec(product=ProductSpec(rows=(1, 1), n_in=24, n_out=130)),
    "many_rows": Spec(
        product=ProductSpec(rows=(35,), n_in=37, n_out=67, has_bias=True), softcap=3.0
    ),
    "two_pieces": Spec(product=ProductSpec(rows=(2, 3), n_in=8, n_out=4200)),
    "small_pieces": Spec(
        product=ProductSpec(rows=(2, 2), n_in=16, n_out=67, has_bias=True), softcap=2.0, piece=10
    ),
    "bfloat16": Spec(product=ProductSpec(rows=(2, 2), n_in=40, n_out=70, dtype="bfloat16")),
    "int8": Spec(product=ProductSpec(rows=(3,), n_in=64, n_out=70, weights="int8")),
    "nano": Spec(product=ProductSpec(rows=(1, 1), n_in=192, n_out=4096), is_large=True),
    "llama_1b": Spec(product=ProductSpec(rows=(1, 1), n_in=2048, n_out=128256), is_large=True),
}
