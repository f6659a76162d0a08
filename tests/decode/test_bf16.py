"""bfloat16: what must not depend on how a text was cut up, and what stays in float32.

Every bound is in units of eps, the spacing of bfloat16 at 1, times the spread of what is compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax import testing
from ariel_jax.decode import Arithmetic, Upfront, oracle, start
from ariel_jax.decode import programs as decode_programs
from ariel_jax.layers.kv_cache import init_cache
from ariel_jax.models import decoder
from ariel_jax.models.config import Precision
from ariel_jax.training import programs
from ariel_jax.training.step import LMBatch, LMGrad

EPS = float(jnp.finfo(jnp.bfloat16).eps)
# Prefill and decoding round the same values at the same places; only the order of their float32
# sums differs. A sum beside the middle of two bfloat16 numbers may then go the other way: few
# values move, by one spacing, and two layers make no more than a few spacings of it.
FLIPS, FLIPS_RMS = 4 * EPS, 0.5 * EPS


@functools.partial(jax.jit, static_argnames=("cfg", "fresh"))
def read(cfg, params, cache, tokens, first, *, fresh):
    """Logits [B, T, V] of tokens [B, T] at positions first, first + 1..., and the cache with them."""
    B, T = tokens.shape
    positions = jnp.broadcast_to(first + jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    attend, carry = cache.attend(cfg.attention, positions, jnp.ones(B, bool), fresh=fresh)
    logits, carry = decoder.apply(cfg, params, tokens, positions, attend, carry)
    return logits, cache.commit(carry, jnp.full(B, T, jnp.int32))


def read_from(cfg, params, tokens, n_prefilled):
    """Logits of all positions: the first ones in one pass, the others one by one."""
    B, T = tokens.shape
    dtype = params.precision.dtype("cache")
    cache = init_cache(cfg.n_layers, B, cfg.n_kv_heads, 32, cfg.head_dim, dtype)
    start_at = jnp.int32(0)
    logits, cache = read(cfg, params, cache, tokens[:, :n_prefilled], start_at, fresh=True)
    parts = [logits]
    for t in range(n_prefilled, T):
        logits, cache = read(cfg, params, cache, tokens[:, t : t + 1], jnp.int32(t), fresh=False)
        parts.append(logits)
    assert all(part.dtype == jnp.float32 for part in parts)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in (*cache.k, *cache.v))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma2"])
def test_decoding_the_rest_of_a_prompt_gives_the_logits_of_prefilling_it(variant):
    cfg = testing.tiny_config(variant)
    params = testing.tiny_params(cfg, precision=Precision.bf16())
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (3, 20)).astype(np.int32)
    whole, parts = read_from(cfg, params, tokens, 20), read_from(cfg, params, tokens, 6)
    error = np.abs(whole - parts) / whole.std()
    assert error.max() <= FLIPS
    assert np.sqrt(np.mean(error**2)) <= FLIPS_RMS


def test_logits_are_not_rounded_to_bfloat16():
    cfg = testing.tiny_config("llama")
    params = testing.tiny_params(cfg, precision=Precision.bf16())
    tokens = np.arange(20, dtype=np.int32)[None]
    logits = read_from(cfg, params, tokens, 19)
    assert np.mean(logits == logits.astype(jnp.bfloat16).astype(np.float32)) < 0.1


PROMPTS = [[5, 6, 7], [8] * 9, [100, 7, 55], [17], [30, 31], [99], [4, 200], [250, 3, 3, 9]]
N_NEW = 20


def decode(model, prompts, capacity):
    run = start(model.cfg, model.params, prompts, max_new=N_NEW, capacity=capacity, top_logprobs=2)
    run.advance()
    assert all(leaf.dtype == jnp.bfloat16 for leaf in (*run.state.cache.k, *run.state.cache.v))
    assert run.state.logprobs.token.dtype == run.state.logprobs.top.dtype == jnp.float32
    return run


def test_where_the_choice_is_clear_neither_batch_nor_capacity_changes_a_token():
    model = testing.tiny_model(precision=Precision.bf16())
    both = decode(model, PROMPTS, Upfront())
    n_compared = 0
    for row, prompt in enumerate(PROMPTS):
        alone = decode(model, [prompt], Arithmetic(8, 8))
        at = slice(len(prompt), len(prompt) + N_NEW)
        kept, others = jax.device_get((alone.state.logprobs, both.state.logprobs))
        top = kept.top[0, at]
        # Each of the two logits may have moved; their spread is some 1.3.
        clear = top[:, 0] - top[:, 1] > 2 * 1.3 * FLIPS
        n = int(np.argmin(clear)) if not clear.all() else N_NEW
        assert alone.new_tokens(0)[:n] == both.new_tokens(row)[:n]
        ours, theirs = others.token[row, at][:n], kept.token[0, at][:n]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * 1.3 * FLIPS)
        n_compared += n
    assert n_compared > 40, "choose other prompts"


def test_log_probabilities_are_formed_in_float32():
    model = testing.tiny_model(precision=Precision.bf16())
    run = decode(model, PROMPTS[:1], Upfront())
    tokens, logprobs, _ = oracle.generate_one(model.cfg, model.params, PROMPTS[0], max_new=1)
    assert run.new_tokens(0)[:1] == tokens
    values = np.asarray(run.state.logprobs.top[0, 3 : 3 + N_NEW])
    np.testing.assert_allclose(
        run.state.logprobs.token[0, 3], logprobs[0], rtol=0, atol=2 * 1.3 * FLIPS
    )
    assert np.mean(values == values.astype(jnp.bfloat16).astype(np.float32)) < 0.1


def test_training_in_bfloat16_has_the_loss_of_float32_and_float32_gradients(key):
    cfg = testing.tiny_config("llama", vocab_size=64, tie_embed=True)
    tokens = np.random.default_rng(5).integers(0, 64, (8, 13)).astype(np.int32)
    batch = LMBatch(tokens=tokens[:, :-1], targets=tokens[:, 1:], step=np.int32(0))
    is_padding = np.zeros(8, bool)
    params = testing.tiny_params(cfg, seed=1)
    exact, info = programs.grads(params, batch, is_padding, key, grad_fn=LMGrad(cfg=cfg))
    narrow = params.replace(precision=Precision(compute="bfloat16"))
    tree, info_narrow = programs.grads(narrow, batch, is_padding, key, grad_fn=LMGrad(cfg=cfg))
    assert info_narrow["loss"].dtype == jnp.float32
    # A logit is off by some 2 eps either way, a mean over 96 targets by less.
    np.testing.assert_allclose(info_narrow["loss"], info["loss"], rtol=0, atol=2 * EPS)
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == jnp.float32
        assert np.isfinite(ours).all()
        # Some 20 roundings of up to half an eps lie on the way there and back.
        assert np.linalg.norm(ours - theirs) <= 10 * EPS * np.linalg.norm(theirs)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_native_kernels_write_a_row_without_widening_the_cache(native_kernels, batch):
    cfg = testing.tiny_config("gpt2", max_positions=2048, vocab_size=2000)
    params = testing.tiny_params(cfg, precision=Precision.bf16())
    run = start(cfg, params, [[1, 2]] * batch, max_new=8, capacity=Upfront(2048))
    segment = decode_programs.segment()
    compiled = segment.lower(
        cfg, params, None, run.state, strategy=run.strategy, max_steps=np.int32(9)
    ).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 0.05 * run.state.cache.nbytes
    assert memory.alias_size_in_bytes >= run.state.cache.nbytes
    assert "f32[2000," not in compiled.as_text().split("ENTRY")[1], "nor the embeddings"
