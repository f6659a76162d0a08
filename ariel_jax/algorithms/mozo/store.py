"""What the model has read of every demonstration, kept: it depends on no query."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import one_of, positive_int
from ariel_jax.algorithms.mozo import programs
from ariel_jax.algorithms.mozo.demos import Encoded
from ariel_jax.algorithms.mozo.programs import Prefixes
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

PLACES = ("auto", "device", "host", "none")
Place = Literal["auto", "device", "host", "none"]


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """Keys and values of `instruction | demonstration`, one row for each demonstration.

    The last row is the instruction alone: the zero-shot row, which also stands in slots without a
    demonstration.

    Attributes:
        prefixes: of all demonstrations, on the device or (NumPy arrays) on the host; None where they are
            read again for every block.
        place: `device`, `host` or `none`.
        encoded: the demonstrations.
    """

    prefixes: Prefixes | None
    place: Literal["device", "host", "none"]
    encoded: Encoded

    def gather(
        self, cfg: DecoderConfig, params: DecoderParams, rows: np.ndarray
    ) -> tuple[Prefixes, jax.Array]:
        """Prefixes and an index [B] int32 into them, for the rows [B] of a draw.

        Cost:
            `device`: nothing, the program that reads the query copies B rows. `host`: a copy of B rows to
            the device. `none`: a pass of the model over B prefixes. The same for every draw of B rows.
        """
        rows = rows.astype(np.int32)
        if self.place == "device":
            assert self.prefixes is not None
            return self.prefixes, jnp.asarray(rows)
        if self.place == "host":
            found = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), self.prefixes)
        else:
            tokens, lengths = self.encoded.tokens[rows], self.encoded.lengths[rows]
            found = programs.read_prefixes()(cfg, params, jnp.asarray(tokens), jnp.asarray(lengths))
        return found, jnp.arange(len(rows), dtype=jnp.int32)


def row_bytes(cfg: DecoderConfig, params: DecoderParams, n_tokens: int) -> int:
    """Bytes of one stored prefix of `n_tokens` tokens."""
    per_token = 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim
    return per_token * n_tokens * params.precision.dtype("cache").itemsize


def build(
    cfg: DecoderConfig,
    params: DecoderParams,
    encoded: Encoded,
    *,
    place: Place = "auto",
    batch: int = 8,
    most_bytes: int = 2 << 30,
) -> Store:
    """Reads every demonstration once.

    Args:
        cfg: the decoder.
        params: its weights.
        encoded: the demonstrations.
        place: where they are kept; `none` reads them again in every block, `auto` keeps them on the
            device where that takes at most `most_bytes`.
        batch: demonstrations read by one call, one after the other; a public number.
        most_bytes: of `auto`.

    Guarantees:
        All demonstrations are read, whichever are drawn later, in batches of one shape, and what is
        stored of one depends to the bit on nothing but itself.
    """
    one_of(PLACES, place=place)
    positive_int(batch=batch, most_bytes=most_bytes)
    n, S = encoded.tokens.shape
    if place == "auto":
        fits = n * row_bytes(cfg, params, S) <= most_bytes
        place = "device" if fits and S else "none"
    if place == "none":
        return Store(None, "none", encoded)
    padded = -(-n // batch) * batch
    tokens = np.zeros((padded, S), np.int32)
    lengths = np.zeros(padded, np.int32)
    tokens[:n], lengths[:n] = encoded.tokens, encoded.lengths
    shape = (padded, cfg.n_kv_heads, S, cfg.head_dim)
    dtype = params.precision.dtype("cache")
    parts = [slice(at, at + batch) for at in range(0, padded, batch)]
    if place == "device":

        def empty() -> tuple[jax.Array, ...]:
            return tuple(jnp.zeros(shape, dtype) for _ in range(cfg.n_layers))

        store = Prefixes(k=empty(), v=empty(), length=jnp.zeros(padded, jnp.int32))
        for part in parts:
            new = jnp.asarray(tokens[part]), jnp.asarray(lengths[part])
            store = programs.fill_store()(cfg, params, store, *new, jnp.int32(part.start))
        return Store(store, "device", encoded)
    held = Prefixes(
        k=tuple(np.zeros(shape, dtype) for _ in range(cfg.n_layers)),  # pyright: ignore[reportArgumentType] on the host
        v=tuple(np.zeros(shape, dtype) for _ in range(cfg.n_layers)),  # pyright: ignore[reportArgumentType]
        length=lengths,  # pyright: ignore[reportArgumentType]
    )
    for part in parts:
        new = jnp.asarray(tokens[part]), jnp.asarray(lengths[part])
        found = jax.device_get(programs.read_batch()(cfg, params, *new))
        for ours, theirs in zip((*held.k, *held.v), (*found.k, *found.v), strict=True):
            np.asarray(ours)[part] = theirs
    return Store(held, "host", encoded)
