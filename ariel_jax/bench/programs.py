"""Programs that time a decoding step's products and its attention alone: where its time goes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ariel_jax import measure
from ariel_jax.decode import Upfront, start
from ariel_jax.layers.kv_cache import KVCache, init_cache
from ariel_jax.layers.linear import linear
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams, head

N_STEPS = 16
N_RUNS = 5


def split(cfg: DecoderConfig, params: DecoderParams, *, batch: int, length: int) -> dict[str, Any]:
    """Seconds of one plain step, of its linear products and of its attention.

    Each is a compiled loop of 16 passes, timed five times; the fastest counts, so that the parts
    can be compared. Norms, activations, sampling and bookkeeping are what is left over.

    Args:
        cfg: the decoder.
        params: its weights.
        batch: requests at once.
        length: rows that are known; the cache has 64 rows more, rounded up to 64.

    Returns:
        `whole_s`, `linear_s`, `attention_s`, `length` and `capacity`.
    """
    capacity = (length + 127) // 64 * 64
    x = jnp.ones((batch, 1, cfg.d_model), params.precision.dtype("compute"))
    shape = (cfg.n_layers, batch, cfg.n_kv_heads, capacity, cfg.head_dim)
    cache = init_cache(*shape, params.precision.dtype("cache"))
    cache = cache.replace(length=jnp.full(batch, length, jnp.int32))
    return {
        "whole_s": _whole(cfg, params, batch, length, capacity),
        "linear_s": _fastest(lambda: _linears(cfg)(params, x)),
        "attention_s": _attention_s(cfg, params, cache),
        "length": length,
        "capacity": capacity,
    }


def _fastest(run: Callable[[], Any]) -> float:
    return measure.timed(run, n_runs=N_RUNS).min_s / N_STEPS


def _whole(
    cfg: DecoderConfig, params: DecoderParams, batch: int, length: int, capacity: int
) -> float:
    prompt = [[1] * 4] * batch
    run = start(cfg, params, prompt, max_new=length + 60, capacity=Upfront(capacity))

    def again() -> None:
        # Only the time is of interest: the rows in between hold zeros.
        at = jnp.full(batch, length, jnp.int32)
        cache: Any = run.state.cache
        run.state = run.state.replace(cache=cache.replace(length=at))
        run.advance(N_STEPS)  # and waits for it

    return _fastest(again)


@functools.cache
def _linears(cfg: DecoderConfig) -> Any:
    """All products of a step with weights, one after the other as in the model.

    Static: cfg. Traced: params, x [B, 1, D]. Donated: nothing.
    """

    def step(_: int, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        params, x = carry
        for p in params.layers:
            q, k, v = (linear(x, w) for w in (p.attn.q, p.attn.k, p.attn.v))
            kept = jnp.mean(k, axis=-1, keepdims=True) + jnp.mean(v, axis=-1, keepdims=True)
            x = x + (linear(q, p.attn.o) + decoder.mlp(cfg, p, x) + kept) * 1e-3
        logits = linear(x, head(params), out_dtype=params.precision.dtype("logits"))
        return params, x + (jnp.mean(logits, axis=-1, keepdims=True) * 1e-3).astype(x.dtype)

    def run(params: DecoderParams, x: jax.Array) -> jax.Array:
        with params.precision.scope():
            return jax.lax.fori_loop(0, N_STEPS, step, (params, x))[1]

    return jax.jit(run)


def _attention_s(cfg: DecoderConfig, params: DecoderParams, cache: KVCache) -> float:
    """Seconds of a step's attention; its program: static cfg, traced cache and q, donated cache."""
    batch = cache.length.shape[0]
    dtype = params.precision.dtype("compute")
    kv = jnp.ones((batch, 1, cfg.n_kv_heads, cfg.head_dim), dtype)
    q = jnp.ones((batch, 1, cfg.n_heads, cfg.head_dim), dtype)

    def step(_: int, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        cache, q = carry
        attend, leaves = cache.attend(cfg.attention, cache.length[:, None], cache.length >= 0)
        for layer in range(cfg.n_layers):
            out, leaves = attend(layer, q, kv, kv, leaves)
            q = q + out * 1e-3
        return cache.commit(leaves, jnp.zeros_like(cache.length)), q

    def run(cache: KVCache, q: jax.Array) -> tuple[KVCache, jax.Array]:
        with params.precision.scope():
            return jax.lax.fori_loop(0, N_STEPS, step, (cache, q))

    program = jax.jit(run, donate_argnums=0)

    def again() -> jax.Array:
        nonlocal cache
        cache, out = program(cache, q)
        return out

    return _fastest(again)
