"""Every family against transformers, through prefill, decode and ragged batches; planted faults."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.layers.kv_cache import init_cache
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models import decoder
from ariel_jax.models.config import DecoderConfig, Precision
from ariel_jax.models.hf import load_pretrained
from ariel_jax.models.params import DecoderParams

pytestmark = pytest.mark.hf

TOLERANCE = 1e-4  # of the standard deviation of the logits
MIN_MARGIN = 1e-3  # between the two likeliest tokens, where the first must be the same
PREFILL, LENGTHS = 28, (28, 17, 5)  # columns of the padded prompt batch, and real ones per row


def check(ours: Any, theirs: np.ndarray) -> None:
    """Raises AssertionError unless logits and greedy tokens agree."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * theirs.std())
    top = np.sort(theirs, -1)
    clear = top[..., -1] - top[..., -2] > MIN_MARGIN
    assert clear.any()
    np.testing.assert_array_equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear])


def prefill(
    cfg: DecoderConfig, params: DecoderParams, tokens: np.ndarray, lengths: tuple[int, ...]
) -> tuple[jax.Array, Any]:
    """Logits [B, T, V] of a right-padded batch through a fresh cache, and the cache after it."""
    B, T = tokens.shape
    cache = init_cache(
        cfg.n_layers, B, cfg.n_kv_heads, 48, cfg.head_dim, params.precision.dtype("cache")
    )
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    active = jnp.ones(B, bool)
    attend, carry = cache.attend(cfg.attention, positions, active, fresh=True)
    logits, carry = decoder.apply(cfg, params, jnp.asarray(tokens), positions, attend, carry)
    return logits, cache.commit(carry, jnp.asarray(lengths, jnp.int32))


def decode(
    cfg: DecoderConfig, params: DecoderParams, cache: Any, tokens: jax.Array
) -> tuple[jax.Array, Any]:
    """Logits [B, V] of one more token per row, each at its own position, and the cache."""
    positions = cache.length[:, None]
    active = positions[:, 0] < cache.capacity
    attend, carry = cache.attend(cfg.attention, positions, active)
    logits, carry = decoder.apply(cfg, params, tokens[:, None], positions, attend, carry)
    return logits[:, 0], cache.commit(carry, jnp.ones(len(tokens), jnp.int32))


def check_all(cfg: DecoderConfig, params: DecoderParams, reference: Any) -> None:
    """Prefill of a ragged batch, then each row goes on from its own length, one token at a time."""
    padded = reference.tokens[:, :PREFILL].copy()
    for row, length in enumerate(LENGTHS):
        padded[row, length:] = 0
    logits, cache = prefill(cfg, params, padded, LENGTHS)
    for row, length in enumerate(LENGTHS):
        check(logits[row, :length], reference.logits[row, :length])
    step = jax.jit(lambda p, c, t: decode(cfg, p, c, t))
    got = []
    n_steps = reference.tokens.shape[1] - max(LENGTHS)
    for i in range(n_steps):
        column = np.array([reference.tokens[row, n + i] for row, n in enumerate(LENGTHS)])
        out, cache = step(params, cache, jnp.asarray(column, jnp.int32))
        got.append(np.asarray(out))
    got = np.stack(got, 1)
    for row, length in enumerate(LENGTHS):
        check(got[row], reference.logits[row, length : length + n_steps])


def test_the_reference_is_not_degenerate(reference):
    assert reference.logits.std() >= 3
    assert 0.02 < reference.entropy_share <= 0.85


def test_logits_and_greedy_tokens_equal_transformers(reference):
    model = load_pretrained(reference.folder)
    assert model.params.precision == Precision.f32()
    check_all(model.cfg, model.params, reference)


def test_every_family_is_covered(references):
    found = {load_pretrained(r.folder).cfg.family for r in references.values()}
    assert found == {"gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2"}


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "other gelu, gpt2": ("gpt2", {"act": "gelu"}),
    "other gelu, gemma2": ("gemma2", {"act": "gelu"}),
    "attention cap off": ("gemma2", {"attn_softcap": None}),
    "logit cap off": ("gemma2", {"final_softcap": None}),
    **{
        f"window {delta:+d}, {case}": (case, {"window": 7 + delta})
        for case in ("mistral", "qwen2-sliding", "qwen3-sliding", "gemma2")
        for delta in (-1, 1)
    },
    "scaling off, linear": ("llama-linear", {"rope": RopeConfig(theta=500.0)}),
    "scaling off, llama3": ("llama-llama3", {"rope": RopeConfig(theta=500.0)}),
    **{
        f"epsilon x10, {case}": (case, {"norm_eps": eps})
        for case, eps in [
            ("gpt2", 1e-4),
            ("opt", 1e-4),
            ("opt-350m", 1e-4),
            ("llama", 1e-2),
            ("mistral", 1e-2),
            ("qwen2", 1e-2),
            ("qwen3", 1e-2),
            ("gemma2", 1e-2),
        ]
    },
    **{
        f"position offset {offset - 2:+d}, {case}": (case, {"pos_offset": offset})
        for case in ("opt", "opt-350m")
        for offset in (1, 3)
    },
    "position offset +1, gpt2": ("gpt2", {"pos_offset": 1}),
    "query scale, gemma2": ("gemma2", {"query_scale": 12**-0.5}),
    "embedding scale off": ("gemma2", {"embed_scale": None}),
    "windows on the other layers": ("gemma2", {"layer_kinds": ("global", "local")}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_breaks_the_check(references, fault):
    case, change = FAULTS[fault]
    reference = references[case]
    model = load_pretrained(reference.folder)
    tokens, theirs = reference.tokens[:1], reference.logits[:1]
    logits, _ = prefill(model.cfg, model.params, tokens, (tokens.shape[1],))
    check(logits, theirs)  # the same call passes without the fault
    wrong = dataclasses.replace(model.cfg, **change)
    assert wrong != model.cfg
    logits, _ = prefill(wrong, model.params, tokens, (tokens.shape[1],))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(logits, theirs)
