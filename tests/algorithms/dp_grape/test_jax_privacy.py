"""DP-GRAPE between the parts of another library: jax-privacy clips and adds noise, the transformation is ours."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ariel_jax.algorithms import dp_grape
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.models.paths import flatten
from ariel_jax.privacy.clipping import ClippedSum

CFG = dp_grape.Config(rank=2, project=(r"up\.w$",), frozen=())
CLIP, B, DEVIATION = 0.5, 6, 0.25


def loss(params, example, key):
    hidden = jnp.tanh(linear(example["x"], params["up"]))
    return jnp.sum(jnp.square(linear(hidden, params["head"]) - example["y"]))


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    params = {"up": Linear(w=draw(12, 9), b=draw(12)), "head": Linear(w=draw(2, 12))}
    return params, {"x": draw(B, 9), "y": draw(B, 2)}


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated:DeprecationWarning")
def test_it_follows_the_clipping_and_the_noise_of_jax_privacy(made):
    from jax_privacy import clipped_grad, noise_addition

    params, batch = made
    specs = dp_grape.make_specs(params, CFG)
    key = jax.random.key(3)
    drawn = dp_grape.projections(key, 0, specs, CFG)
    tapped = dp_grape.tapped_loss(loss, specs)
    zero = dp_grape.trained_leaves(params, specs)
    is_padding = jnp.zeros(B, bool).at[5].set(True)
    theirs = clipped_grad(
        lambda trained, example: tapped(trained, (params, drawn), example, key),
        argnums=0, batch_argnums=1, keep_batch_dim=False, l2_clip_norm=CLIP,
    )  # fmt: skip
    total = theirs(zero, batch, is_padding_example=is_padding)
    summed = ClippedSum(loss=tapped)
    ours, _ = summed(zero, (params, drawn), batch, is_padding, key, jnp.float32(CLIP))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), total, ours)

    noise = noise_addition.gaussian_privatizer(stddev=DEVIATION, prng_key=jax.random.key(8))
    ends = [optax.scale(1 / B), dp_grape.transform(optax.sgd(0.1), CFG, specs, key=key)]
    with jax.numpy_dtype_promotion("standard"):  # jax-privacy and optax ask for it
        whole = optax.chain(noise, *ends)
        updates, _ = whole.update(total, whole.init(zero), params)
        noisy, _ = noise.update(total, noise.init(zero))
        after = optax.apply_updates(params, updates)
    for path, leaf in flatten(after).items():
        step = 0.1 * noisy[path] / B
        if path in specs.by_path():
            step = dp_grape.project_back(specs.by_path()[path], step, drawn[path])
        np.testing.assert_allclose(leaf, flatten(params)[path] - step, rtol=1e-5, atol=1e-6)
        assert float(jnp.max(jnp.abs(noisy[path] - total[path]))) > 0.1 * DEVIATION
