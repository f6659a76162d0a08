"""Embeddings trained by the rows that examples look up."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape.training import PrivateGrad, key_words
from ariel_jax.errors import ConfigError
from ariel_jax.testing import tiny_config, tiny_params
from ariel_jax.training.step import LMBatch, lm_loss

CFG = dp_grape.Config(rank=3, lookups=("^embed$",), frozen=("^unembed", "^pos_embed"))
B, T = 4, 8


def loss_of(cfg, params, example, key):
    batch = LMBatch(tokens=example["tokens"][None], targets=example["targets"][None], step=jnp.int32(0))  # fmt: skip
    return lm_loss(cfg, params, batch, jnp.zeros(1, bool), key=key)[0]


def ids_of(example):
    return {"embed": example["tokens"]}


@pytest.fixture(scope="module")
def made():
    cfg = tiny_config("llama", tie_embed=False)
    tokens = np.random.default_rng(0).integers(0, 9, (B, T + 1)).astype(np.int32)  # many twice
    examples = {"tokens": jnp.asarray(tokens[:, :-1]), "targets": jnp.asarray(tokens[:, 1:])}
    batch = {"examples": examples, "step": jnp.int32(0), "clip_norm": jnp.float32(0.3)}
    return cfg, tiny_params(cfg), functools.partial(loss_of, cfg), batch


def gradient(made, how, **options):
    _, params, loss, batch = made
    specs = dp_grape.make_specs(params, how)
    words = key_words(jax.random.key(1))
    grad = PrivateGrad(loss=loss, specs=specs, cfg=how, key_data=words, **options)
    run = lambda params, batch: grad(params, batch, jnp.arange(B) == 2, jax.random.key(0))[0]
    return jax.jit(run), (params, batch)


@pytest.mark.parametrize("microbatch", [None, 2])
def test_it_is_the_gradient_of_the_whole_table_without_one_for_each_example(made, microbatch):
    ours, given = gradient(made, CFG, ids=ids_of, microbatch=microbatch)
    whole = dataclasses.replace(CFG, lookups=())
    theirs, _ = gradient(made, whole)
    found, wanted = ours(*given), theirs(*given)
    assert found.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_allclose(found[path], wanted[path], rtol=1e-4, atol=1e-7)
    assert np.count_nonzero(np.abs(found["embed"]).sum(1)) <= 9
    if microbatch is None:
        V, D = found["embed"].shape
        assert f"tensor<{B}x{V}x{D}xf32>" not in ours.lower(*given).as_text()
        assert f"tensor<{B}x{V}x{D}xf32>" in theirs.lower(*given).as_text()


def test_its_bound_is_that_of_the_whole_example(made):
    ours, (params, batch) = gradient(made, CFG, ids=ids_of)
    for clip_norm in (1e-3, 0.3):
        total = ours(params, batch | {"clip_norm": jnp.float32(clip_norm)})
        size = np.sqrt(sum(float(np.square(np.asarray(v, np.float64)).sum()) for v in total.values()))  # fmt: skip
        assert size * B <= 3 * clip_norm * (1 + 1e-6)


def test_what_cannot_be_looked_up_is_refused(made):
    cfg, params, _, batch = made
    tied = tiny_config("llama", tie_embed=True)
    run, _ = gradient((tied, tiny_params(tied), functools.partial(loss_of, tied), batch), CFG, ids=ids_of)  # fmt: skip
    with pytest.raises(ConfigError, match="head too"):
        run(tiny_params(tied), batch)
    run, given = gradient(made, CFG)
    with pytest.raises(ConfigError, match=r"rows of \[\] and looked up are \['embed'\]"):
        run(*given)
    with pytest.raises(ConfigError, match=r"frozen=.* wins over it"):
        dp_grape.make_specs(params, dataclasses.replace(CFG, frozen=("^embed",)))
    with pytest.raises(ConfigError, match="is no table"):
        dp_grape.make_specs(params, dataclasses.replace(CFG, lookups=(r"final_norm\.scale$",)))
    assert cfg.vocab_size > 9
