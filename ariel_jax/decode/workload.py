"""What the time of a decoding step depends on, as the key of a stored measurement."""

from typing import Any

import jax
import numpy as np

from ariel_jax import measure
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams
from ariel_jax.pallas_kernels import dispatch


def workload_key(
    cfg: DecoderConfig, params: DecoderParams, *, batch: int, capacity: int, rows: int
) -> dict[str, Any]:
    """The machine, the model's shapes and dtypes, and which attention its steps take here.

    Args:
        cfg: the decoder.
        params: its weights.
        batch: requests decoded at once.
        capacity: rows of the cache at which the attention is looked up.
        rows: of a step.
    """
    shapes = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size")
    dtypes = ("param", "compute", "cache", "logits")
    return {
        **measure.fingerprint(),
        "shapes": {name: getattr(cfg, name) for name in shapes},
        "gated": cfg.gated,
        "windows": [cfg.attention(layer).window for layer in range(cfg.n_layers)],
        "dtypes": [params.precision.dtype(name).name for name in dtypes],
        "batch": batch,
        "attention": _attention(cfg, params, batch, capacity, rows),
    }


def _attention(
    cfg: DecoderConfig, params: DecoderParams, batch: int, capacity: int, rows: int
) -> str | None:
    """Which implementation of `decode_attention` a step takes here."""
    dtype = params.precision.dtype("compute")
    q = jax.ShapeDtypeStruct((batch, rows, cfg.n_heads, cfg.head_dim), dtype)
    kv = jax.ShapeDtypeStruct((batch, cfg.n_kv_heads, capacity, cfg.head_dim), dtype)
    options = cfg.attention(0)
    choice = dispatch.op("decode_attention").explain(
        q,
        kv,
        kv,
        length=jax.ShapeDtypeStruct((batch,), np.int32),
        scale=options.scale,
        softcap=options.softcap,
        window=options.window,
        q_positions=jax.ShapeDtypeStruct((batch, rows), np.int32),
        parents=None,
    )
    return choice.chosen
