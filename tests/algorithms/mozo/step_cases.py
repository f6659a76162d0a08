"""The mechanisms that are tested, and rows to test them on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms.mozo import Config, Numbers, sampling
from ariel_jax.algorithms.mozo.contract import contract_rows
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.algorithms.mozo.pool import pool

V, K, N = 24, 12, 4

RANGE = {
    "scale": (Config(top_k=K), Numbers(eta=2.0, weight=0.25, tau0=0.7)),
    "clip": (Config(top_k=K, contract="clip"), Numbers(eta=0.28, weight=0.25)),
    "linear": (
        Config(top_k=None, contract="linear"),
        Numbers(eta=1.0, weight=1.0, pool_temperature=0.8),
    ),
}
BALL = {
    "renyi, product": (
        Config(top_k=K, contract="renyi", alpha=8),
        Numbers(eta=0, weight=0.25, renyi_c=0.4, kl_cap=0.05, tau0=1.2),
    ),
    "renyi, arithmetic": (
        Config(top_k=None, contract="renyi", pool="arithmetic", alpha=3),
        Numbers(eta=0, weight=0.25, renyi_c=0.1),
    ),
    "renyi_linear, product": (
        Config(top_k=None, contract="renyi_linear", alpha=8),
        Numbers(eta=0, weight=0.25, renyi_c=0.4, kl_cap=0.05),
    ),
    "renyi_linear, arithmetic": (
        Config(top_k=K, contract="renyi_linear", pool="arithmetic", alpha=3),
        Numbers(eta=0, weight=0.25, renyi_c=0.1, tau0=0.8),
    ),
}
CASES = RANGE | BALL
WHOLE = np.ones(N, bool)


@functools.partial(jax.jit, static_argnames="config")
def _parts(logits, masks, bias, config, held):
    found = sampling.support(logits, config, held, bias)
    log_r = contract_rows(found.logp0, found.logits0, found.logits, config, held)
    logp = jax.vmap(lambda mask: pool(found.logp0, log_r, mask, config, held))(masks)
    return found.ids, found.logp0, log_r, logp


def parts(name, logits, masks=WHOLE, bias=None, numbers=None):
    """(ids [k], anchor [k], log r [N, k], log-probabilities [M, k]) in float64, from one program a case."""
    config, own = CASES[name]
    bias = np.zeros(V, np.float32) if bias is None else bias
    masks = np.atleast_2d(np.asarray(masks))
    filled = np.concatenate([masks, np.zeros((N + 1 - len(masks), N), bool)])
    arrays = (jnp.asarray(np.asarray(a)) for a in (logits, filled, bias))
    ids, *found = _parts(*arrays, config, parameters(config, numbers or own))
    anchor, log_r, logp = (np.asarray(a, np.float64) for a in found)
    return np.asarray(ids), anchor, log_r, logp[: len(masks)]


def laws(name):
    """The laws of a case as audits take them."""
    return lambda logits, masks: parts(name, logits, masks)[3]


def rows(rng, spread=None):
    """Logits [N + 1, V] of a random kind, from nearly alike to far apart."""
    if spread is None:
        spread = rng.choice([0.01, 0.3, 3.0, 30.0])
    shared = rng.standard_normal(V) * (spread if spread < 1 else rng.choice([1.0, 3.0, 20.0]))
    return (rng.standard_normal((N + 1, V)) * spread + shared).astype(np.float32)


def present(rng):
    """A mask [N] with at least one demonstration."""
    mask = rng.random(N) < 0.7
    mask[rng.integers(N)] = True
    return mask
