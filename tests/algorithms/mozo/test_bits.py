"""Bits of a draw are jax's own, and the draw is the arg-max of all noisy tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.mozo import bits, sampling


@functools.partial(jax.jit, static_argnums=1)
def pairs(key, n):
    return jnp.stack([bits.words(key, n, lambda a, b: a), bits.words(key, n, lambda a, b: b)])


fold_in = jax.jit(bits.fold_in)


@pytest.mark.parametrize("n", [1, 7, 100])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_words_are_the_bits_of_jax(n, impl):
    for seed in (0, 2**31 + 5):
        key = jax.random.key(seed, impl=impl)
        wanted = jax.random.bits(key, (2, n), jnp.uint32)
        found, other = pairs(key, n), pairs(jax.random.key(seed + 1, impl=impl), n)
        np.testing.assert_array_equal(found, wanted)
        assert (other != wanted).any()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_folded_key_is_that_of_jax(impl):
    key = jax.random.key(3, impl=impl)
    for number in (0, 1, 2**31 - 1):
        found, wanted = fold_in(key, jnp.int32(number)), jax.random.fold_in(key, number)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(wanted))


def test_a_draw_is_the_first_of_the_largest_noisy_tokens():
    """As `argmax` of the same noise finds it, ties and tokens that cannot be drawn included."""
    rng, draw = np.random.default_rng(0), jax.jit(jax.vmap(sampling.draw, in_axes=(None, 0)))

    @jax.jit
    def plainly(logp, keys):
        pairs = jax.vmap(lambda key: jax.random.bits(key, (2, 60), jnp.uint32))(keys)
        noise = sampling.gumbel(pairs[:, 0].ravel(), pairs[:, 1].ravel()).reshape(-1, 60)
        return logp[None, :] + noise

    keys = jax.random.split(jax.random.key(1), 2000)
    logp = rng.standard_normal(60).astype(np.float32) * 3
    logp[rng.random(60) < 0.3] = -np.inf
    for given in (logp, np.where(np.arange(60) % 20 == 7, 1e30, 0).astype(np.float32)):
        wanted = np.argmax(np.asarray(plainly(jnp.asarray(given), keys)), axis=-1)
        np.testing.assert_array_equal(draw(jnp.asarray(given), keys), wanted)
    assert set(np.asarray(draw(jnp.asarray(given), keys)).tolist()) == {7}  # noise is lost in 1e30
    nothing = jnp.full(60, jnp.nan)
    assert (np.asarray(draw(nothing, keys)) < 60).all()
