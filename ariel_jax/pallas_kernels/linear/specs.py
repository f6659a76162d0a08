"""Named shapes of `linear`, for tests (those that are not large), benchmarks and reports."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Shapes and dtypes of one call.

    Attributes:
        rows: shape of x before its last axis.
        n_in, n_out: of the weights.
        dtype: of x, the bias, and the weights where they are not quantised.
        weights: "int8" or "int4" for quantised weights, or None.
        group: inputs that share a scale; None for all.
        has_bias: whether there is one.
        is_large: too large for a test.
    """

    rows: tuple[int, ...]
    n_in: int
    n_out: int
    dtype: str = "float32"
    weights: str | None = None
    group: int | None = None
    has_bias: bool = False
    is_large: bool = False

    def abstract(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments (shape structs) and options of the call, as for `Op.explain`."""
        dtype = jnp.dtype(self.dtype)
        x = jax.ShapeDtypeStruct((*self.rows, self.n_in), dtype)
        w = jax.ShapeDtypeStruct(*self._stored(dtype))
        b = jax.ShapeDtypeStruct((self.n_out,), dtype) if self.has_bias else None
        scale = None
        if self.weights is not None:
            scale = jax.ShapeDtypeStruct((self.n_out, self._groups), jnp.dtype(jnp.float32))
        return (x, w, b), {"scale": scale, "precision": None, "out_dtype": dtype}

    @property
    def _groups(self) -> int:
        return 1 if self.group is None else self.n_in // self.group

    def _stored(self, dtype: Any) -> tuple[tuple[int, int], Any]:
        if self.weights is None:
            return (self.n_out, self.n_in), dtype
        if self.weights == "int8":
            return (self.n_out, self.n_in), jnp.dtype(jnp.int8)
        return (self.n_out, self.n_in // 2), jnp.dtype(jnp.uint8)

    def arrays(self, seed: int) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns standard normal `x`, `w` scaled by `n_in ** -0.5` or random, and `b` or None."""
        # NumPy draws them: XLA:CPU takes seconds to compile jax.random.normal for an odd shape.
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((*self.rows, self.n_in))
        w = rng.standard_normal((self.n_out, self.n_in))
        b = jnp.asarray(rng.standard_normal(self.n_out), self.dtype) if self.has_bias else None
        x = jnp.asarray(x, self.dtype)
        if self.weights is None:
            return x, jnp.asarray(w * self.n_in**-0.5, self.dtype), b
        shape, dtype = self._stored(None)
        low, high = (-127, 128) if self.weights == "int8" else (0, 256)
        return x, jnp.asarray(rng.integers(low, high, shape), dtype), b

    def scales(self, seed: int) -> jax.Array | None:
        """Returns the scales of quantised weights: random, such that products are about 1."""
        if self.weights is None:
            return None
        largest = 127 if self.weights == "int8" else 8
        drawn = np.random.default_rng(seed + 1).uniform(0.5, 1.5, (self.n_out, self._groups))
        return jnp.asarray(drawn / largest * self.n_in**-0.5, jnp.float32)


SPECS = {
    "one_row": Spec(rows=(1, 1), n_in=64, n_out=96),
    "odd": Spec(rows=(3, 5), n_in=37, n_out=51, has_bias=True),
    "single_axis": Spec(rows=(), n_in=16, n_out=8, has_bias=True),
    "one_output": Spec(rows=(2, 3), n_in=24, n_out=1),
    "bfloat16": Spec(rows=(2, 4), n_in=128, n_out=48, dtype="bfloat16", has_bias=True),
    "int8": Spec(rows=(3,), n_in=37, n_out=21, weights="int8", has_bias=True),
    "int8_groups": Spec(rows=(1, 9), n_in=96, n_out=18, weights="int8", group=32),
    "int4": Spec(rows=(1, 2), n_in=128, n_out=19, weights="int4", group=64),
    "int4_bfloat16": Spec(rows=(5,), n_in=64, n_out=33, weights="int4", dtype="bfloat16"),
    "nano_decode": Spec(rows=(1, 1), n_in=192, n_out=512, is_large=True),
    "gpt2_mlp_decode": Spec(rows=(1, 1), n_in=768, n_out=3072, has_bias=True, is_large=True),
    "gpt2_mlp_prefill": Spec(rows=(1, 512), n_in=768, n_out=3072, has_bias=True, is_large=True),
    "llama_1b_mlp_decode": Spec(rows=(1, 1), n_in=2048, n_out=8192, is_large=True),
}
