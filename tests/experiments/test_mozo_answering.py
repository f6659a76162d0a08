"""What the small model's settings cost: every private way to answer keeps to its budget, and barely."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np

from ariel_jax import privacy
from ariel_jax.algorithms.mozo import baselines
from experiments.mozo import answering, batched, peers, tiny_lm, whole_answers
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


def test_claims_and_aggregated_answers_keep_to_the_same_budget():
    small = dataclasses.replace(SIZES, n_queries=5, max_tokens=10)
    radii = peers.pmixed_radii(4, 8, 2.0, small)
    assert len(radii) == answering.slots_for(Setting(), small) + 1
    assert radii[0] == 0
    assert radii[1] > radii[2] < radii[4] < radii[8]
    fewer = dataclasses.replace(small, n_queries=4)
    assert (peers.pmixed_radii(4, 8, 2.0, fewer)[1:] > radii[1:]).all()
    noise = whole_answers.embedding_noise(16, 2.0, small)
    plan = privacy.Plan(noise_multiplier=noise, steps=5, sampling_probability=1.6e-3)
    assert plan.epsilon(DELTA) <= 2
    assert dataclasses.replace(plan, noise_multiplier=0.98 * noise).epsilon(DELTA) > 2


def test_whole_answers_are_aggregated_query_by_query(monkeypatch):
    """A planted model: members answer with their demonstration, candidates with their number."""
    V, seen = 40, {}

    def plainly(made, sizes, seed, bias=None):
        seen["bias"] = bias
        asked = [int(query[0]) for query in made.queries]
        return [[at, 30 + place % 3] for place, at in enumerate(asked)]

    made = batched.Subject(
        model=SimpleNamespace(
            cfg=SimpleNamespace(vocab_size=V),
            tokenizer=SimpleNamespace(eos_id=39, decode=lambda ids: " ".join(map(str, ids))),
        ),
        demonstrations=(np.array([20]), np.array([21])),
        queries=(np.array([1]), np.array([2])),
    )
    monkeypatch.setattr(whole_answers, "_plainly", plainly)
    monkeypatch.setattr(answering, "subject", lambda sizes, seed: (made, ("1 30", "2 31")))
    sizes = Sizes(n_demonstrations=2, n_queries=2, max_tokens=2, seeds=(0,))
    # Everybody is a member, and the budget is large enough to draw what was voted for.
    scores = whole_answers.keywords(2, 2, 400.0, sizes)
    assert scores.rouge.tolist() == [1.0]
    for query, row in enumerate(seen["bias"]):
        assert set(np.flatnonzero(row)) <= {20, 21, 30, 31, 32}, query
        assert (row[row > 0] == whole_answers.BIAS).all()
        assert row.astype(bool).sum() == 2
    assert whole_answers.embeddings(2, 3, 400.0, sizes).exact.shape == (1,)


def test_one_setting_is_changed_at_a_time():
    default = dataclasses.asdict(Setting())
    for label in ("k 16", "k V", "r 1", "r T", "N 1", "N 8", "clip", "linear"):
        setting = next(group[label] for group in tiny_lm.VARIED.values() if label in group)
        changed = {k for k, v in dataclasses.asdict(setting).items() if default[k] != v}
        assert len(changed) == 1, label
