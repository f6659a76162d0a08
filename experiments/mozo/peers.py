"""Other private decoders on the task of `tiny_lm`, each within one budget for all queries."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import privacy
from ariel_jax.algorithms.mozo import Config, baselines
from experiments.mozo import answering, batched
from experiments.mozo.answering import DELTA, Scores, Sizes

TOP_K = 100


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A token by one of `mozo.baselines`, by its name."""

    name: str
    config: Config

    def __call__(self, logits: jax.Array, mask: jax.Array, key: jax.Array, numbers: Any) -> Any:
        """The token of one query's rows."""
        return getattr(baselines, self.name)(logits, mask, key, self.config, numbers)[0]


def ink_clip(n_slots: int, epsilon: float, max_tokens: int) -> float:
    """The largest clip C at temperature 1 with which one answer keeps to a budget.

    Groups of demonstrations are disjoint, so that all queries together cost what one does.
    """
    low, high = 1e-6, 64.0 * n_slots
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        price = baselines.invisible_ink_price(clip=middle, temperature=1.0, n_slots=n_slots)
        fits = price.times(max_tokens).epsilon(DELTA) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    return low


@functools.cache
def invisible_ink(n_slots: int, epsilon: float, sizes: Sizes) -> Scores:
    """InvisibleInk with a group of demonstrations of its own for every query, as many as `n_slots`."""
    config = Config(n_slots=n_slots, top_k=TOP_K)
    clip = ink_clip(n_slots, epsilon, sizes.max_tokens)
    traced = baselines.InkParameters(clip=jnp.float32(clip), temperature=jnp.float32(1))
    order = np.random.default_rng(0).permutation(sizes.n_demonstrations)

    def group(rng: np.random.Generator, query: int) -> np.ndarray:
        return order[query * n_slots : (query + 1) * n_slots]

    # A longer stride: nothing is drawn anew, and prompts of so many rows take long to read.
    schedule = batched.Schedule(
        max_tokens=sizes.max_tokens, redraw_every=None, slots=n_slots, stride=10
    )
    return answering.scored(sizes, Baseline("invisible_ink", config), traced, schedule, group)


def noise(subset: int, epsilon: float, sizes: Sizes) -> float:
    """The smallest noise multiplier with which all tokens of all queries keep to a budget."""
    plan = privacy.Plan(
        noise_multiplier=1.0,
        steps=sizes.n_queries * sizes.max_tokens,
        sampling_probability=subset / sizes.n_demonstrations,
    )
    return privacy.calibrate(plan, epsilon=epsilon, delta=DELTA).noise_multiplier


@functools.cache
def noisy_average(subset: int, epsilon: float, sizes: Sizes) -> Scores:
    """The noisy sum of rows' probabilities, from a Poisson draw anew for every token."""
    n, slots = sizes.n_demonstrations, answering.slots_for(answering.Setting(subset=subset), sizes)
    traced = baselines.NoiseParameters(noise_multiplier=jnp.float32(noise(subset, epsilon, sizes)))

    def draw(rng: np.random.Generator, query: int) -> np.ndarray:
        return rng.choice(n, min(int(rng.binomial(n, subset / n)), slots), replace=False)

    schedule = batched.Schedule(max_tokens=sizes.max_tokens, redraw_every=1, slots=slots)
    method = Baseline("noisy_average", Config(n_slots=slots, top_k=TOP_K))
    return answering.scored(sizes, method, traced, schedule, draw)


def pmixed_radii(subset: int, alpha: int, epsilon: float, sizes: Sizes) -> np.ndarray:
    """[slots + 1] radii beta alpha, by the number of rows that are drawn for a token."""
    slots = answering.slots_for(answering.Setting(subset=subset), sizes)
    betas = [
        baselines.pmixed_beta(
            alpha=alpha,
            epsilon=epsilon,
            delta=DELTA,
            n_tokens=sizes.n_queries * sizes.max_tokens,
            members=members,
            probability=subset / sizes.n_demonstrations,
        )
        for members in range(slots + 1)
    ]
    return alpha * np.asarray(betas)


@functools.cache
def pmixed(subset: int, alpha: int, epsilon: float, sizes: Sizes) -> Scores:
    """PMixED with a Poisson draw anew for every token, at the loss that its authors claim.

    Rows are drawn without replacement, where their code may draw one twice.
    """
    n, radii = sizes.n_demonstrations, pmixed_radii(subset, alpha, epsilon, sizes)
    slots = len(radii) - 1
    traced = baselines.MixedParameters(radius=jnp.asarray(radii, jnp.float32))

    def draw(rng: np.random.Generator, query: int) -> np.ndarray:
        return rng.choice(n, min(int(rng.binomial(n, subset / n)), slots), replace=False)

    config = Config(n_slots=slots, top_k=TOP_K, contract="renyi", pool="arithmetic", alpha=alpha)
    schedule = batched.Schedule(max_tokens=sizes.max_tokens, redraw_every=1, slots=slots)
    return answering.scored(sizes, Baseline("pmixed", config), traced, schedule, draw)
