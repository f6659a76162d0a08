"""The number of drafts follows what they cost and how many hold; tokens never change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ariel_jax.decode import (
    Adaptive,
    Autoregressive,
    DraftModel,
    NGram,
    Speculative,
    adaptive,
    generate,
)
from ariel_jax.decode.adaptive import Outlook, _chance
from ariel_jax.errors import ConfigError
from ariel_jax.testing import tiny_model

PROPOSERS = (NGram(k=2), NGram(k=4), NGram(k=8))
DRAFTS = (0, 2, 4, 8)


def segment(strategy, rng, *, held, found):
    """What a segment of 16 steps of one request would have counted."""
    k, steps = strategy.rows - 1, 16
    runs = rng.random(steps) < found if k else np.zeros(steps, bool)
    accepted = [int(np.argmin([*(rng.random(k) < held), False])) for r in runs if r]
    return {
        "emitted": np.array([steps + sum(accepted)]),
        "steps": np.array([steps]),
        "proposed": np.array([k * int(runs.sum())]),
        "accepted": np.array([sum(accepted)]),
    }


def settle(strategy, *, held, found, n=60, seed=0):
    """Choices and the tokens per unit of time of a long text."""
    rng, taken, tokens, time = np.random.default_rng(seed), [], 0, 0.0
    for _ in range(n):
        stats = segment(strategy, rng, held=held, found=found)
        taken.append(DRAFTS[strategy.at])
        tokens += int(stats["emitted"].sum())
        time += 16 * strategy.costs[strategy.at]
        strategy = strategy.choose(stats)
    return taken, tokens / time


@given(st.floats(0, 1), st.integers(1, 9))
def test_the_chance_is_that_of_the_mean(a, k):
    assert _chance(sum(a**i for i in range(1, k + 1)), k) == pytest.approx(a, abs=1e-6)
    got = Outlook(found=1.0, held=a).tokens_per_step(k)
    assert got == pytest.approx(1 + sum(a**i for i in range(1, k + 1)), rel=1e-2)


@pytest.mark.parametrize(
    ("costs", "held", "found", "best"),
    [
        ((1.0, 1.05, 1.1, 1.2), 0.95, 1.0, 8),
        ((1.0, 1.2, 2.2, 4.0), 0.8, 1.0, 2),
        ((1.0, 3.0, 5.0, 9.0), 0.9, 1.0, 0),
        ((1.0, 1.05, 1.1, 1.2), 0.01, 1.0, 0),
        ((1.0, 1.05, 1.1, 1.2), 0.95, 0.0, 0),
    ],
)
def test_it_settles_on_the_number_of_drafts_that_pays_most(costs, held, found, best):
    taken, _ = settle(adaptive(PROPOSERS, costs), held=held, found=found)
    late = taken[20:]
    assert late.count(best) > 0.85 * len(late)


def test_where_drafts_cannot_win_trying_them_costs_little():
    _, speed = settle(adaptive(PROPOSERS, (1.0, 1.3, 1.6, 2.5)), held=0.02, found=1.0, n=400)
    assert speed > 0.97


def test_drafts_are_tried_again_when_the_text_changes():
    strategy = adaptive(PROPOSERS, (1.0, 1.05, 1.1, 1.2))
    rng = np.random.default_rng(1)
    taken = []
    for _ in range(30):
        strategy = strategy.choose(segment(strategy, rng, held=0.0, found=1.0))
        taken.append(strategy.at)
    assert taken.count(0) > 20
    for _ in range(20):
        strategy = strategy.choose(segment(strategy, rng, held=0.97, found=1.0))
    assert DRAFTS[strategy.at] >= 4


def test_requests_that_are_done_do_not_count_against_drafts():
    """One of eight still goes on, and all its drafts hold: worth twice their cost."""
    strategy = adaptive((NGram(k=4),), (1.0, 2.0))
    one = lambda value: np.array([value] + [0] * 7)
    for _ in range(5):
        stats = {"emitted": one(80), "steps": one(16), "proposed": one(64), "accepted": one(64)}
        strategy = strategy.choose(stats)
    assert strategy.now.rows == 5


def test_what_was_seen_compiles_nothing():
    one = adaptive(PROPOSERS, (1.0, 1.1, 1.2, 1.3))
    other = Adaptive(one.choices, one.costs, outlook=Outlook(held=0.9))
    assert one == other
    assert hash(one) == hash(other)


def test_tokens_are_those_of_plain_decoding():
    model = tiny_model("llama", max_positions=512)
    prompts = [[5, 6, 7] * 6]
    strategy = adaptive((NGram(k=2), NGram(k=5)), (1.0, 1.1, 1.2), segment_steps=4, patience=2)
    plain = generate(model, prompts, max_new=120, ignore_eos=True)
    ours = generate(model, prompts, max_new=120, ignore_eos=True, strategy=strategy)
    assert [c.tokens for c in ours.completions] == [c.tokens for c in plain.completions]
    assert ours.report.proposed > 0
    assert ours.report.decode_steps + ours.report.accepted >= plain.report.decode_steps


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="rising rows"):
        Adaptive((Autoregressive(), Autoregressive()), (1.0, 1.0))
    with pytest.raises(ConfigError, match="one cost each"):
        adaptive(PROPOSERS, (1.0, 1.0))
    with pytest.raises(ConfigError, match="must be plain decoding"):
        Adaptive((Speculative(NGram(2)), Speculative(NGram(3))), (1.0, 1.1))
    with pytest.raises(ConfigError, match="costs"):
        adaptive(PROPOSERS, (1.0, 0.0, 1.0, 1.0))


def test_a_fixed_capacity_holds_for_every_later_choice():
    model = tiny_model("llama", max_positions=512)
    strategy = adaptive((NGram(k=2), NGram(k=8)), (1.0, 1.0, 1.0), segment_steps=2, patience=1)
    out = generate(model, [[5, 6, 7] * 6], max_new=150, ignore_eos=True, strategy=strategy)
    assert out.report.growths == 0


def test_a_review_waits_for_its_steps():
    strategy = adaptive(PROPOSERS, (1.0, 1.1, 1.2, 1.3))
    one = {name: np.array([value]) for name, value in
           {"emitted": 1, "steps": 1, "proposed": 2, "accepted": 0}.items()}  # fmt: skip
    for _ in range(15):
        strategy = strategy.choose(one)
        assert (strategy.at, strategy.outlook.held) == (1, 0.5)
    assert strategy.choose(one).outlook.held < 0.5


def test_drafts_that_keep_arrays_are_refused():
    cfg = tiny_model("llama").cfg
    with pytest.raises(ConfigError, match="cache would miss"):
        adaptive((DraftModel(cfg, k=2), DraftModel(cfg, k=4)), (1.0, 1.1, 1.2))
