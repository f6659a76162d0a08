"""The mechanisms that are tested, and rows to test them on."""

import functools

import jax
import numpy as np

from ariel_jax.algorithms.mozo import Config, Numbers, audit

V, K, N = 24, 12, 4

RANGE = {
    "scale": (Config(top_k=K), Numbers(eta=2.0, weight=0.25)),
    "scale, small h": (Config(top_k=K), Numbers(eta=0.28, weight=0.25, tau0=0.7)),
    "clip": (Config(top_k=K, contract="clip"), Numbers(eta=2.0, weight=0.25, tau0=1.3)),
    "linear": (
        Config(top_k=K, contract="linear"),
        Numbers(eta=2.0, weight=0.25, pool_temperature=0.8),
    ),
    "linear, product of experts": (
        Config(top_k=None, contract="linear"),
        Numbers(eta=0.5, weight=1.0),
    ),
}
BALL = {
    "renyi, product": (
        Config(top_k=K, contract="renyi", alpha=8),
        Numbers(eta=0, weight=0.25, renyi_c=0.4, kl_cap=0.05, tau0=1.2),
    ),
    "renyi, arithmetic": (
        Config(top_k=K, contract="renyi", pool="arithmetic", alpha=4),
        Numbers(eta=0, weight=0.25, renyi_c=0.4),
    ),
    "renyi, arithmetic, small": (
        Config(top_k=None, contract="renyi", pool="arithmetic", alpha=2),
        Numbers(eta=0, weight=0.25, renyi_c=0.02),
    ),
}
CASES = RANGE | BALL


@functools.cache
def laws(name):
    """The compiled laws of a case."""
    return jax.jit(audit.laws_of(*CASES[name]))


def rows(rng):
    """Logits [N + 1, V] of a random kind, from nearly alike to far apart."""
    spread = rng.choice([0.01, 0.3, 3.0, 30.0])
    shared = rng.standard_normal(V) * rng.choice([0.1, 3.0, 20.0])
    return (rng.standard_normal((N + 1, V)) * spread + shared).astype(np.float32)


def present(rng):
    """A mask [N] with at least one demonstration."""
    mask = rng.random(N) < 0.7
    mask[rng.integers(N)] = True
    return mask
