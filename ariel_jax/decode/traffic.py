"""How many bytes a decoding step must read: the floor that memory bandwidth puts under its time."""

import jax
import numpy as np

from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


def weight_bytes(cfg: DecoderConfig, params: DecoderParams) -> int:
    """Bytes of weights that every step reads: all but tables of which it looks up single rows.

    Args:
        cfg: the decoder.
        params: its weights, or their shapes (`jax.eval_shape`).

    Returns:
        Whole matrices and norms. The token embedding counts where it is also the output head.
    """
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    tables = [params.pos_embed]
    if params.unembed is not None:
        tables += [params.embed, params.embed_quant_scale]
    return total - sum(t.size * t.dtype.itemsize for t in tables if t is not None)


def bytes_per_step(
    cfg: DecoderConfig,
    params: DecoderParams,
    lengths: np.ndarray,
    *,
    share: np.ndarray | float = 1.0,
) -> float:
    """Bytes that one step of a batch must read: the weights once, each row's valid keys and values.

    Args:
        cfg: the decoder.
        params: its weights, or their shapes.
        lengths: [B] known positions of each row, averaged over the steps that it took part in.
        share: [B] the share of the steps that each row took part in.

    Returns:
        Bytes. Activations, logits and what the unused part of the cache costs are not in it, so a
        bandwidth computed from it is a lower bound of what really went over the bus.
    """
    item = params.precision.dtype("cache").itemsize
    seen, lengths = 0.0, np.asarray(lengths)
    for layer in range(cfg.n_layers):
        window = cfg.attention(layer).window
        seen += float(np.sum(share * (lengths if window is None else np.minimum(lengths, window))))
    return weight_bytes(cfg, params) + 2 * cfg.n_kv_heads * cfg.head_dim * item * seen
