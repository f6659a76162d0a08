import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax import testing
from ariel_jax.errors import ConfigError
from ariel_jax.models.presets import PRESETS, preset


def test_assert_no_retrace_sees_new_shapes_and_nothing_else():
    double = jax.jit(lambda x: 2 * x)
    three, four = jnp.ones(3), jnp.ones(4)
    double(three)
    with testing.assert_no_retrace():
        double(three)
    with pytest.raises(AssertionError, match="traced again"), testing.assert_no_retrace():
        double(four)
    with testing.assert_no_retrace():
        double(four)


def test_an_error_inside_is_not_hidden():
    def traces_and_fails():
        jax.jit(lambda x: x - 7)(jnp.ones(2))
        raise KeyError

    with pytest.raises(KeyError), testing.assert_no_retrace():
        traces_and_fails()


def test_tiny_models_are_reproducible_and_differ_by_seed():
    one, same, other = (testing.tiny_params(testing.tiny_config(), seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.embed, same.embed)
    assert (np.asarray(one.embed) != np.asarray(other.embed)).any()


def test_bad_names():
    with pytest.raises(ConfigError, match="variant='bert'"):
        testing.tiny_config("bert")
    with pytest.raises(ConfigError, match=r"no preset 'gpt5'.*gpt2-124m"):
        preset("gpt5")
    assert preset("gpt2-124m") is PRESETS["gpt2-124m"]
