import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.decode import SamplingParams, Stage, chain, oracle, sampling
from ariel_jax.errors import ConfigError, UnsafeTransformError

V = 37


def context(params: list[SamplingParams], history: list[list[int]], n_new: int, eos=(5,)):
    rows = sampling.make_rows(params, eos)
    n = max(map(len, history))
    tokens = np.zeros((len(history), n), np.int32)
    for i, h in enumerate(history):
        tokens[i, : len(h)] = h
    known = jnp.asarray([len(h) for h in history], jnp.int32)
    return sampling.SamplingContext(
        rows=rows,
        keys=jnp.stack([jax.random.key(i) for i in range(len(params))]),
        position=known,
        n_new=jnp.full(len(params), n_new, jnp.int32),
        seen=sampling.seen_tokens(jnp.asarray(tokens), known, V),
    )


def processed(logits: np.ndarray, ctx: sampling.SamplingContext) -> np.ndarray:
    """The standard chain without its draw."""
    values = jnp.asarray(logits)
    names = ("repetition_penalty", "min_new", "temperature", "top_k", "top_p", "min_p")
    for name in names:
        link = getattr(sampling, name)
        values, _ = link.update(values, link.init(len(logits)), ctx)
    return np.asarray(values)


SETTINGS = [
    SamplingParams(temperature=0.7, top_k=5),
    SamplingParams(temperature=1.4, top_p=0.6),
    SamplingParams(temperature=1.0, min_p=0.2),
    SamplingParams(temperature=0.8, repetition_penalty=1.7, min_new=9),
    SamplingParams(
        temperature=1.1, top_k=12, top_p=0.8, min_p=0.05, repetition_penalty=1.3, min_new=2
    ),
    SamplingParams(temperature=1.0, top_p=1e-6),
    SamplingParams(temperature=1.0, top_k=1000, top_p=1.0),
]


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(SETTINGS), V)).astype(np.float32) * 3


@pytest.mark.hf
def test_the_chain_equals_transformers_processors_in_its_order(logits):
    import torch
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as hf

    history = [[1, 2, 30 + i % 5, 4, 5] for i in range(len(SETTINGS))]
    ours = processed(logits, context(SETTINGS, history, n_new=4))
    for i, p in enumerate(SETTINGS):
        links = LogitsProcessorList()
        if p.repetition_penalty != 1:
            links.append(hf.RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
        links.append(hf.MinNewTokensLengthLogitsProcessor(1, p.min_new, [5]))
        links.append(hf.TemperatureLogitsWarper(p.temperature))
        if p.top_k:
            links.append(hf.TopKLogitsWarper(p.top_k))
        if p.top_p < 1:
            links.append(hf.TopPLogitsWarper(p.top_p))
        if p.min_p:
            links.append(hf.MinPLogitsWarper(p.min_p))
        theirs = links(torch.tensor([history[i]]), torch.tensor(logits[i : i + 1]))[0].numpy()
        np.testing.assert_array_equal(np.isfinite(ours[i]), np.isfinite(theirs))
        kept = np.isfinite(theirs)
        np.testing.assert_allclose(ours[i][kept], theirs[kept], rtol=1e-6)


def test_the_chain_equals_the_oracle(logits):
    history = [[i, i + 1, 7] for i in range(len(SETTINGS))]
    ours = processed(logits, context(SETTINGS, history, n_new=1))
    for i, p in enumerate(SETTINGS):
        theirs = oracle.process_logits(logits[i], history[i], 1, p, [5])
        np.testing.assert_array_equal(np.isfinite(ours[i]), np.isfinite(theirs))
        kept = np.isfinite(theirs)
        np.testing.assert_allclose(ours[i][kept], theirs[kept], rtol=1e-5)


def test_top_p_before_temperature_would_be_noticed(logits):
    """Control: the order of the links matters on these very logits."""
    p = SETTINGS[1]
    ctx = context([p], [[1]], 0)
    right = processed(logits[1:2], ctx)
    wrong, _ = sampling.top_p.update(jnp.asarray(logits[1:2]), (), ctx)
    wrong, _ = sampling.temperature.update(wrong, (), ctx)
    assert (np.isfinite(right) != np.isfinite(np.asarray(wrong))).any()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, -np.inf]),
        min_size=V,
        max_size=V,
    ),
    k=st.integers(1, V),
)
def test_threshold_is_the_kth_largest(values, k):
    x = np.array(values, np.float32)
    found = sampling._threshold(
        jnp.asarray(x[None]), jnp.ones((1, V), jnp.float32), jnp.full((1,), k, jnp.float32)
    )
    assert float(found[0]) == np.sort(x)[-k]


def test_draws_follow_the_distribution_and_a_wrong_temperature_is_noticed():
    """Chi-square over 4,000 draws, 7 degrees of freedom, three seeds.

    A right sampler exceeds 33.0 with probability 2.6e-5 per seed; the control must exceed it.
    """
    n, logits = 4000, np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5], np.float32)
    p = np.exp(logits / 0.9)
    p /= p.sum()
    params = [SamplingParams(temperature=0.9)] * n

    def statistic(seed: int, temperature: float) -> float:
        rows = sampling.make_rows(params, ())
        rows = rows.replace(temperature=jnp.full(n, temperature, jnp.float32))
        ctx = sampling.SamplingContext(
            rows=rows,
            keys=jax.random.split(jax.random.key(seed), n),
            position=jnp.arange(n, dtype=jnp.int32),
            n_new=jnp.zeros(n, jnp.int32),
            seen=None,
        )
        links = sampling.standard_chain(rows.kind)
        tokens, _ = links.update(jnp.broadcast_to(jnp.asarray(logits), (n, 8)), links.init(n), ctx)
        counts = np.bincount(np.asarray(tokens), minlength=8)
        return float(((counts - n * p) ** 2 / (n * p)).sum())

    for seed in range(3):
        assert statistic(seed, 0.9) < 33.0
        assert statistic(seed, 1.2) > 33.0


def test_noise_depends_on_request_and_position_only():
    keys = jnp.stack([jax.random.key(1), jax.random.key(2)])
    both = sampling.gumbel_noise(keys, jnp.asarray([4, 9], jnp.int32), V)
    swapped = sampling.gumbel_noise(keys[::-1], jnp.asarray([9, 4], jnp.int32), V)
    np.testing.assert_array_equal(both, swapped[::-1])
    other = sampling.gumbel_noise(keys, jnp.asarray([5, 9], jnp.int32), V)
    assert (np.asarray(other[0]) != np.asarray(both[0])).all()


def test_a_chain_refuses_a_wrong_order():
    with pytest.raises(ConfigError, match="stages must not decrease"):
        chain(sampling.draw, sampling.temperature)
    with pytest.raises(ConfigError, match="exactly one DRAW"):
        chain(sampling.temperature)
    assert chain(sampling.temperature, sampling.draw).stage is Stage.DRAW


def test_only_a_fresh_draw_may_follow_a_pool_and_a_contract_must_precede_it():
    contract, pool = (
        sampling.stateless(stage.name.lower(), stage, lambda values, context: values)
        for stage in (Stage.CONTRACT, Stage.POOL)
    )
    fresh = dataclasses.replace(sampling.draw, is_fresh_draw=True)
    assert chain(sampling.temperature, contract, pool, fresh).stage is Stage.DRAW
    for late in (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, contract):
        with pytest.raises(UnsafeTransformError, match="tau0"):
            chain(contract, pool, late, fresh)
    with pytest.raises(UnsafeTransformError, match="greedy"):
        chain(contract, pool, sampling.draw)
    with pytest.raises(UnsafeTransformError, match="no CONTRACT"):
        chain(pool, fresh)
    with pytest.raises(UnsafeTransformError, match="no POOL"):
        chain(contract, fresh)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -1.0},
        {"top_k": -3},
        {"repetition_penalty": 0.0},
        {"min_new": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        sampling.make_rows([SamplingParams(**bad)], ())
