"""Bad input to dps-mozo's step: the documented class, what was given, what to do instead."""

import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.mozo import Config, Numbers, audit, baselines, check, oracle, sampling
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.decode import sampling as decode_sampling
from ariel_jax.errors import (
    ArielError,
    ConfigError,
    ModelOutputError,
    PrivacyConfigError,
    UnprovenMechanismError,
    UnsafeTransformError,
)

BALL = {"contract": "renyi", "alpha": 2}


def _checked(numbers, **config):
    return lambda: check(Config(**config), Numbers(**{"eta": 0.0, "weight": 1.0} | numbers))


def _after_the_pool(link):
    def act():
        config = Config()
        held = parameters(config, Numbers(eta=1.0, weight=0.25))
        *before, draw = sampling.links(config, held, jnp.ones(4, bool))
        return decode_sampling.chain(*before, link, draw)

    return act


def _greedy():
    config = Config()
    held = parameters(config, Numbers(eta=1.0, weight=0.25))
    *before, _ = sampling.links(config, held, jnp.ones(4, bool))
    return decode_sampling.chain(*before, decode_sampling.draw)


def _uncontracted():
    held = parameters(Config(), Numbers(eta=1.0, weight=0.25))
    support, _, pool, draw = sampling.links(Config(), held, jnp.ones(4, bool))
    return decode_sampling.chain(support, pool, draw)


LATE = ("pool_temperature", "priced", "tau0")
ROWS = {
    "temperature after the pool": (
        UnsafeTransformError,
        LATE,
        _after_the_pool(decode_sampling.temperature),
    ),
    "top-k after the pool": (UnsafeTransformError, LATE, _after_the_pool(decode_sampling.top_k)),
    "top-p after the pool": (UnsafeTransformError, LATE, _after_the_pool(decode_sampling.top_p)),
    "min-p after the pool": (UnsafeTransformError, LATE, _after_the_pool(decode_sampling.min_p)),
    "greedy draw": (UnsafeTransformError, ("greedy", *LATE), _greedy),
    "pool of rows without a contract": (UnsafeTransformError, ("CONTRACT",), _uncontracted),
    "renyi in a product of experts": (
        UnprovenMechanismError,
        ("325", "weight=1/4", "1 * 4 = 4"),
        _checked({"renyi_c": 0.01, "kl_cap": 0.01}, **BALL),
    ),
    "renyi with a pool temperature": (
        UnprovenMechanismError,
        ("pool_temperature=0.5", "tau0"),
        _checked({"weight": 0.25, "renyi_c": 0.1, "kl_cap": 0.1, "pool_temperature": 0.5}, **BALL),
    ),
    "range contract in a mean": (
        UnprovenMechanismError,
        ("'scale'", "'arithmetic'", "renyi"),
        lambda: Config(pool="arithmetic"),
    ),
    "mean with too much weight": (
        PrivacyConfigError,
        ("0.3 * 4 = 1.2", "weight=1/4"),
        _checked({"weight": 0.3, "renyi_c": 0.1}, pool="arithmetic", **BALL),
    ),
    "order 1": (
        PrivacyConfigError,
        ("alpha=1", "above 1"),
        lambda: Config(contract="renyi", alpha=1),
    ),
    "no order": (PrivacyConfigError, ("alpha=None", "above 1"), lambda: Config(contract="renyi")),
    "broken order": (
        PrivacyConfigError,
        ("alpha=2.5", "whole"),
        lambda: Config(contract="renyi", alpha=2.5),
    ),
    "order of a range contract": (
        PrivacyConfigError,
        ("alpha=4", "pass None"),
        lambda: Config(alpha=4),
    ),
    "negative eta": (PrivacyConfigError, ("eta=-1",), lambda: Numbers(eta=-1, weight=1)),
    "eta that is no number": (
        PrivacyConfigError,
        ("eta=nan",),
        lambda: Numbers(eta=float("nan"), weight=1),
    ),
    "endless radius": (
        PrivacyConfigError,
        ("renyi_c=inf",),
        lambda: Numbers(eta=0, weight=1, renyi_c=float("inf")),
    ),
    "no weight": (PrivacyConfigError, ("weight=0", "above 0"), lambda: Numbers(eta=1, weight=0)),
    "no anchor temperature": (ConfigError, ("tau0=0",), lambda: Numbers(eta=1, weight=1, tau0=0)),
    "no pool temperature": (
        ConfigError,
        ("pool_temperature=0",),
        lambda: Numbers(eta=1, weight=1, pool_temperature=0),
    ),
    "radius of a range contract": (
        PrivacyConfigError,
        ("renyi_c=0.1", "renyi"),
        _checked({"renyi_c": 0.1}),
    ),
    "cap of a range contract": (PrivacyConfigError, ("kl_cap=0.1",), _checked({"kl_cap": 0.1})),
    "eta of renyi": (
        PrivacyConfigError,
        ("eta=1", "eta=0"),
        _checked({"eta": 1.0, "weight": 0.25, "renyi_c": 0.1, "kl_cap": 0.1}, **BALL),
    ),
    "renyi without a radius": (PrivacyConfigError, ("renyi_c=0",), _checked({"weight": 0.25}, **BALL)),
    "huge radius": (
        PrivacyConfigError,
        ("renyi_c=13", "12"),
        _checked({"weight": 0.25, "renyi_c": 13.0, "kl_cap": 0.1}, **BALL),
    ),
    "renyi product without a cap": (
        PrivacyConfigError,
        ("kl_cap=0", "beta"),
        _checked({"weight": 0.25, "renyi_c": 0.1}, **BALL),
    ),
    "cap of a mean": (
        PrivacyConfigError,
        ("kl_cap=0.1", "arithmetic"),
        _checked({"weight": 0.25, "renyi_c": 0.1, "kl_cap": 0.1}, pool="arithmetic", **BALL),
    ),
    "unknown contract": (ConfigError, ("'clamp'", "'scale'"), lambda: Config(contract="clamp")),
    "unknown pool": (ConfigError, ("'median'", "'product'"), lambda: Config(pool="median")),
    "no slots": (ConfigError, ("n_slots=0",), lambda: Config(n_slots=0)),
    "no tokens": (ConfigError, ("top_k=0",), lambda: Config(top_k=0)),
    "no halvings": (ConfigError, ("solver_steps=0",), lambda: Config(solver_steps=0)),
    "NaN in the zero-shot row": (
        ModelOutputError,
        ("NaN", "dtype"),
        lambda: sampling.raise_for(sampling.NOTHING_TO_DRAW),
    ),
    "audit of nobody": (
        ConfigError,
        ("mask",),
        lambda: audit.audit_step(
            np.zeros((5, 8)), np.zeros(4, bool), Config(), Numbers(eta=1, weight=0.25)
        ),
    ),
    "audit of one text": (
        ConfigError,
        ("two",),
        lambda: audit.audit_likelihood([0.1], [0.1, 0.2], epsilon=1.0, delta=0.1),
    ),
    "bound at order 1": (
        ConfigError,
        ("alpha=1",),
        lambda: oracle.bound(Config(), Numbers(eta=1, weight=0.25), 1),
    ),
    "price of endless ink": (
        ConfigError,
        ("clip",),
        lambda: baselines.invisible_ink_price(clip=float("inf"), temperature=1.0, n_slots=4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_bad_input(name):
    error, words, act = ROWS[name]
    assert issubclass(error, ArielError)
    with pytest.raises(error) as caught:
        act()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_classes_are_what_a_caller_would_expect():
    for error in (UnsafeTransformError, UnprovenMechanismError, PrivacyConfigError):
        assert issubclass(error, ConfigError)
        assert issubclass(error, ValueError)
    assert issubclass(ModelOutputError, RuntimeError)
