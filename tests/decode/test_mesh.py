"""Decoding spread over devices gives the tokens of one device, growth and stop strings included."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from ariel_jax import backend, testing
from ariel_jax.decode import Arithmetic, SamplingParams, generate, oracle, start
from ariel_jax.models import sharding

SHAPES = [{"data": 1, "tensor": 2}, {"data": 2, "tensor": 1}]
PROMPTS = [[5, 6, 7], [8] * 9, [100, 7, 55], [17]]
SAMPLING = [
    SamplingParams(),
    SamplingParams(temperature=1.2, top_p=0.9, seed=1),
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(temperature=0.7, top_k=30, seed=2),
]
N_NEW = 20
SAFE_MARGIN = 1e-3  # sums over devices are formed in another order: some 1e-6 of a logit


@pytest.fixture(scope="module")
def model():
    return testing.tiny_model()


def from_oracle(model, sampling):
    """Tokens and log-probabilities of each request on one device, without cache or batch."""
    rows = [
        oracle.generate_one(
            model.cfg,
            model.params,
            prompt,
            max_new=N_NEW,
            sampling=settings,
            key=jax.random.key(settings.seed or 0),
        )
        for prompt, settings in zip(PROMPTS, sampling, strict=True)
    ]
    assert min(min(margins) for _, _, margins in rows) > SAFE_MARGIN, "choose other prompts"
    return [tokens for tokens, _, _ in rows], [logprobs for _, logprobs, _ in rows]


@pytest.fixture(scope="module")
def expected(model):
    return from_oracle(model, SAMPLING)


def spread(model, mesh):
    params = jax.device_put(model.params, sharding.param_shardings(model.cfg, mesh))
    return dataclasses.replace(model, params=params)


def ask(model, **options):
    """The text of every prompt, from a cache that grows."""
    options = {"sampling": SAMPLING, "logprobs": 0, "capacity": Arithmetic(8, 8)} | options
    return generate(model, PROMPTS, max_new=N_NEW, ignore_eos=True, stream_every=4, **options)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_growing_cache_on_a_mesh_gives_the_tokens_of_one_device(model, expected, shape):
    mesh = backend.make_mesh(**shape)
    run = start(
        model.cfg,
        spread(model, mesh).params,
        PROMPTS,
        max_new=N_NEW,
        sampling=SAMPLING,
        capacity=Arithmetic(8, 8),
        top_logprobs=0,
        mesh=mesh,
    )
    while run.advance(7):
        pass
    for row, (tokens, logprobs) in enumerate(zip(*expected, strict=True)):
        assert run.new_tokens(row) == tokens
        ours = run.state.logprobs.token[row, len(PROMPTS[row]) :][: len(tokens)]
        np.testing.assert_allclose(ours, logprobs, atol=2e-4)
    assert run.report.growths > 0
    for leaf in (*run.state.cache.k, *run.state.cache.v):
        B, K, C, H = leaf.shape
        local = leaf.addressable_shards[0].data.shape
        assert len(leaf.sharding.device_set) == 2
        assert local == (B // shape["data"], K // shape["tensor"], C, H)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stop_string_on_a_mesh_ends_the_texts_that_it_ends_on_one_device(model, expected, shape):
    stop = model.tokenizer.decode(expected[0][3])[8:10]
    alone = ask(model, stop=[stop])
    reasons = [completion.finish_reason for completion in alone.completions]
    assert reasons[3] == "stop"
    assert reasons[1] == "length", "choose other prompts: the longest row shall grow"
    mesh = backend.make_mesh(**shape)
    model = spread(model, mesh)
    assert [list(c.tokens) for c in ask(model, mesh=mesh).completions] == expected[0]
    both = ask(model, mesh=mesh, stop=[stop])
    assert both.report.compile_s == 0, "to stop a row compiled a program"
    for ours, theirs in zip(both.completions, alone.completions, strict=True):
        assert (ours.text, ours.tokens) == (theirs.text, theirs.tokens)
        assert ours.finish_reason == theirs.finish_reason
    assert both.report.growths > 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_and_heads_that_do_not_divide_lie_on_every_device(shape):
    mesh = backend.make_mesh(**shape)
    model = testing.tiny_model(n_kv_heads=1)
    alone = generate(model, PROMPTS[:3], max_new=9, ignore_eos=True)
    both = generate(spread(model, mesh), PROMPTS[:3], max_new=9, ignore_eos=True, mesh=mesh)
    assert [c.tokens for c in both.completions] == [c.tokens for c in alone.completions]


EIGHT = """
import json, pathlib, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")
from ariel_jax import backend
from ariel_jax.decode import Arithmetic, generate
from ariel_jax.models.hf import load_pretrained
folder, cache, prompts, n_new, stop = sys.argv[1:]
backend.enable_compile_cache(pathlib.Path(cache))
mesh = backend.make_mesh(data=2, tensor=4)
model = load_pretrained(folder, mesh=mesh)
out = generate(model, json.loads(prompts), max_new=int(n_new), stop=[stop], ignore_eos=True,
               stream_every=4, capacity=Arithmetic(8, 8), mesh=mesh)
leaf = model.params.layers[0].attn.k.w
print(json.dumps({
    "tokens": [c.tokens for c in out.completions],
    "texts": out.texts,
    "reasons": [c.finish_reason for c in out.completions],
    "growths": out.report.growths,
    "devices": len(leaf.sharding.device_set),
    "share": leaf.addressable_shards[0].data.size / leaf.size,
}))
"""


def test_eight_devices_give_the_tokens_of_one(tmp_path, root):
    model = testing.write_toy_checkpoint(tmp_path / "m", n_heads=8, n_kv_heads=4, head_dim=8)
    tokens, _ = from_oracle(model, [SamplingParams()] * len(PROMPTS))
    stop = model.tokenizer.decode(tokens[3])[8:10]
    alone = ask(model, sampling=None, stop=[stop])
    given = (tmp_path / "m", root / ".cache" / "xla-runs", json.dumps(PROMPTS), N_NEW, stop)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EIGHT, *map(str, given)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["texts"] == alone.texts
    assert found["tokens"] == [list(c.tokens) for c in alone.completions]
    assert found["reasons"] == [c.finish_reason for c in alone.completions]
    assert {"stop", "length"} == set(found["reasons"]), "choose other prompts"
    assert (found["devices"], found["share"]) == (8, 1 / 4)
    assert found["growths"] == alone.report.growths > 0
