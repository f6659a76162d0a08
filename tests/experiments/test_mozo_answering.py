"""What the small model's settings cost: every private way to answer keeps to its budget, and barely."""

import dataclasses
import math

import numpy as np

from ariel_jax import privacy
from ariel_jax.algorithms.mozo import baselines
from experiments.mozo import answering, peers, tiny_lm
from experiments.mozo.answering import DELTA, Setting, Sizes

SIZES = Sizes()


def test_settings_keep_to_their_budgets_and_draws_fit_their_rows():
    for setting in (Setting(), Setting(subset=1), Setting(subset=8, redraw_every=1, epsilon=4.0)):
        plan = answering.plan(setting, SIZES)
        assert plan.price(setting.n_paid).epsilon(DELTA) <= setting.epsilon
        assert plan.price(setting.n_paid + 1).epsilon(DELTA) > setting.epsilon
        assert (plan.expected, plan.n_demonstrations) == (setting.subset, 10_000)
        slots = answering.slots_for(setting, SIZES)
        assert slots % answering.SLOTS == 0
        beyond = np.random.default_rng(0).binomial(10_000, setting.subset / 10_000, 100_000) > slots
        assert beyond.mean() < 1e-4
    assert answering.slots_for(Setting(sampler="without_replacement"), SIZES) == 4


def test_a_larger_weight_costs_the_same_and_allows_a_smaller_range():
    one, other = (answering.plan(Setting(weight=w), SIZES) for w in (None, 1.0))
    assert math.isclose(other.numbers.h, one.numbers.h)
    assert math.isclose(other.numbers.eta, one.numbers.eta / 4)
    assert math.isclose(other.price(200).epsilon(DELTA), one.price(200).epsilon(DELTA))
    assert answering.plan(Setting(epsilon=math.inf), SIZES).numbers.eta == math.inf


def test_more_draws_allow_more_influence():
    h = [answering.plan(Setting(redraw_every=r), SIZES).numbers.h for r in (1, 5, None)]
    assert h == sorted(h, reverse=True)


def test_peers_keep_to_the_same_budget():
    clip = peers.ink_clip(4, 2.0, SIZES.max_tokens)

    def epsilon(clip):
        price = baselines.invisible_ink_price(clip=clip, temperature=1.0, n_slots=4)
        return price.times(SIZES.max_tokens).epsilon(DELTA)

    assert epsilon(clip) <= 2 < epsilon(1.001 * clip)
    assert math.isclose(peers.ink_clip(8, 2.0, SIZES.max_tokens), 2 * clip, rel_tol=1e-5)

    small = dataclasses.replace(SIZES, n_queries=5, max_tokens=10)
    noise = peers.noise(4, 2.0, small)
    plan = privacy.Plan(noise_multiplier=noise, steps=50, sampling_probability=4e-4)
    assert plan.epsilon(DELTA) <= 2
    less = dataclasses.replace(plan, noise_multiplier=0.98 * noise)
    assert less.epsilon(DELTA) > 2


def test_one_setting_is_changed_at_a_time():
    default = dataclasses.asdict(Setting())
    for label in ("k 16", "k V", "r 1", "r T", "N 1", "N 8", "clip", "linear"):
        setting = next(group[label] for group in tiny_lm.VARIED.values() if label in group)
        changed = {k for k, v in dataclasses.asdict(setting).items() if default[k] != v}
        assert len(changed) == 1, label
