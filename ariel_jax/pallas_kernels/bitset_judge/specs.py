"""Named shapes of `bitset_judge`, for tests (those that are not large), benchmarks and reports."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Shapes of one call.

    Attributes:
        n_requests, n_slots, n_rows, n_words: B, K, R and W.
        density: share of the bits that are set.
        is_apart: whether the kinds of premises lie side by side, as those of a `CompiledHistory`.
        is_large: too large for a test.
    """

    n_requests: int
    n_slots: int
    n_rows: int
    n_words: int
    density: float = 0.7
    is_apart: bool = False
    is_large: bool = False

    def abstract(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments (shape structs) and options of the call, as for `Op.explain`."""
        words = jax.ShapeDtypeStruct((self.n_words,), jnp.uint32)
        table = jax.ShapeDtypeStruct((self.n_slots, self.n_rows, self.n_words), jnp.uint32)
        rows = jax.ShapeDtypeStruct((self.n_requests, self.n_slots), jnp.int32)
        return (table, rows, words, words), {}

    def arrays(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns random bits, masks of two kinds, and rows of which a few do not exist."""
        rng = np.random.default_rng(seed)
        shape = (self.n_slots, self.n_rows, self.n_words)
        bits = rng.random((*shape, 32)) < self.density
        table = np.packbits(bits, axis=-1, bitorder="little").view("<u4")[..., 0]
        kind = rng.integers(0, 3, (self.n_words, 32))
        if self.is_apart:
            kind = np.sort(kind, axis=None).reshape(kind.shape)
        masks = [
            np.packbits(kind == i, axis=-1, bitorder="little").view("<u4")[..., 0] for i in (1, 2)
        ]
        rows = rng.integers(0, self.n_rows, (self.n_requests, self.n_slots), np.int32)
        rows[::7, -1] = (-1, self.n_rows)[seed % 2]
        return table, rows, masks[0], masks[1]


SPECS = {
    "one_word": Spec(n_requests=5, n_slots=1, n_rows=3, n_words=1),
    "odd_words": Spec(n_requests=33, n_slots=3, n_rows=7, n_words=5),
    "one_register": Spec(n_requests=20, n_slots=4, n_rows=9, n_words=16),
    "several_registers": Spec(n_requests=40, n_slots=6, n_rows=5, n_words=53, density=0.6),
    "kinds_apart": Spec(n_requests=40, n_slots=4, n_rows=5, n_words=31, is_apart=True),
    "kinds_apart_wide": Spec(n_requests=40, n_slots=3, n_rows=5, n_words=53, is_apart=True),
    "blocks": Spec(n_requests=4100, n_slots=2, n_rows=4, n_words=2, density=0.2),
    "thousand": Spec(
        n_requests=1 << 20, n_slots=4, n_rows=256, n_words=32, is_apart=True, is_large=True
    ),
}
