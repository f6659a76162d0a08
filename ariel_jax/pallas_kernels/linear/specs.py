"""Named shapes of `linear`, for tests (those that are not large), benchmarks and reports."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Shapes and dtype of one call."""

    rows: tuple[int, ...]
    n_in: int
    n_out: int
    dtype: str = "float32"
    has_bias: bool = False
    is_large: bool = False

    def abstract(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments (shape structs) and options of the call, as for `Op.explain`."""
        dtype = jnp.dtype(self.dtype)
        x = jax.ShapeDtypeStruct((*self.rows, self.n_in), dtype)
        w = jax.ShapeDtypeStruct((self.n_out, self.n_in), dtype)
        b = jax.ShapeDtypeStruct((self.n_out,), dtype) if self.has_bias else None
        return (x, w, b), {"precision": None, "out_dtype": dtype}

    def arrays(self, seed: int) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns standard normal `x`, `w` scaled by `n_in ** -0.5`, and `b` or None."""
        # NumPy draws them: XLA:CPU takes seconds to compile jax.random.normal for an odd shape.
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((*self.rows, self.n_in))
        w = rng.standard_normal((self.n_out, self.n_in))
        b = jnp.asarray(rng.standard_normal(self.n_out), self.dtype) if self.has_bias else None
        return jnp.asarray(x, self.dtype), jnp.asarray(w * self.n_in**-0.5, self.dtype), b


SPECS = {
    "one_row": Spec(rows=(1, 1), n_in=64, n_out=96),
    "odd": Spec(rows=(3, 5), n_in=37, n_out=51, has_bias=True),
    "single_axis": Spec(rows=(), n_in=16, n_out=8, has_bias=True),
    "one_output": Spec(rows=(2, 3), n_in=24, n_out=1),
    "bfloat16": Spec(rows=(2, 4), n_in=128, n_out=48, dtype="bfloat16", has_bias=True),
    "nano_decode": Spec(rows=(1, 1), n_in=192, n_out=512, is_large=True),
    "gpt2_mlp_decode": Spec(rows=(1, 1), n_in=768, n_out=3072, has_bias=True, is_large=True),
    "gpt2_mlp_prefill": Spec(rows=(1, 512), n_in=768, n_out=3072, has_bias=True, is_large=True),
    "llama_1b_mlp_decode": Spec(rows=(1, 1), n_in=2048, n_out=8192, is_large=True),
}
