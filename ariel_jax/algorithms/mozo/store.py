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


def choose(
    cfg: DecoderConfig,
    params: DecoderParams,
    encoded: Encoded,
    *,
    n_reads: int | None = None,
    n_planned: int = 0,
    most_bytes: int = 2 << 30,
) -> Literal["device", "none"]:
    """Where demonstrations are kept with `place="auto"`, by public numbers alone.

    On the device, where that takes at most `most_bytes` and no more rows are read for it than without.

    Args:
        cfg: the decoder.
        params: its weights.
        encoded: the demonstrations; their number is taken as public where it exceeds `n_planned`.
        n_reads: rows that are read at most without a store: queries x blocks x (slots + 1). None where
            nobody knows; then a store is taken to pay.
        n_planned: demonstrations that the plan allows for.
        most_bytes: of the store.
    """
    n = max(n_planned, encoded.n)
    pays = n_reads is None or n <= n_reads
    size = (n + 1) * row_bytes(cfg, params, encoded.tokens.shape[1])
    return "device" if size and size <= most_bytes and pays else "none"


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
        place: where they are kept; `none` reads them again in every block, `auto` is `choose`.
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
        place = choose(cfg, params, encoded, most_bytes=most_bytes)
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
