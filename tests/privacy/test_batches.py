"""Poisson draws at one shape: their law, their bound and their state."""

import math

import numpy as np
import pytest
from scipy import stats

from ariel_jax.errors import ConfigError
from ariel_jax.privacy import batches
from ariel_jax.privacy.batches import PoissonSource

N, Q = 200, 0.05
RECORDS = {"x": np.arange(1, N + 1, dtype=np.float32)[:, None] * np.ones(3, np.float32), "y": np.arange(N, dtype=np.int32)}  # fmt: skip


def source(**changes):
    return PoissonSource(**({"records": RECORDS, "probability": Q, "rows": 40} | changes))


def test_every_record_is_drawn_by_its_own_coin():
    made, state = source(), {"step": 0, "seed": "00" * 32, "n": N, "probability": Q, "rows": 40}
    counts, together, sizes, steps = np.zeros(N), np.zeros((N, N)), [], 4000
    for _ in range(steps):
        drawn = made.draw(state)
        here = np.zeros(N)
        here[drawn] = 1
        counts += here
        together += np.outer(here, here)
        sizes.append(len(drawn))
        state = {**state, "step": state["step"] + 1}
    # Chi-square over the records, false alarm 1e-4; and the law of the number drawn.
    square = np.sum((counts - steps * Q) ** 2) / (steps * Q * (1 - Q))
    assert square < stats.chi2.ppf(1 - 1e-4, N)
    observed = np.bincount(sizes, minlength=41)[2:20]
    wanted = steps * stats.binom.pmf(np.arange(2, 20), N, Q)
    assert np.sum((observed - wanted) ** 2 / wanted) < stats.chi2.ppf(1 - 1e-4, 18)
    pairs = together[np.triu_indices(N, 1)]
    assert pairs.mean() == pytest.approx(steps * Q * Q, rel=0.02)


def test_a_batch_has_its_shape_whatever_was_drawn():
    for probability in (1e-9, Q, 0.19):
        made = source(probability=probability)
        (batch, is_padding), after = made.next(made.init())
        assert batch["x"].shape == (40, 3)
        assert batch["y"].shape == is_padding.shape == (40,)
        drawn = batch["y"][~is_padding]
        np.testing.assert_array_equal(batch["x"][~is_padding][:, 0], drawn + 1)
        assert not batch["x"][is_padding].any()
        assert after["step"] == 1
        assert len(set(drawn.tolist())) == len(drawn)


def test_the_same_state_gives_the_same_batch_and_another_seed_another():
    made = source()
    state = made.init()
    (one, _), _ = made.next(state)
    (same, _), after = made.next(dict(state))
    np.testing.assert_array_equal(one["y"], same["y"])
    (following, _), _ = made.next(after)
    (other, _), _ = made.next(made.init())
    assert not np.array_equal(one["y"], following["y"])
    assert not np.array_equal(one["y"], other["y"])


@pytest.mark.parametrize("q", [0.001, 0.05, 0.5, 1.0])
def test_slots_hold_all_draws_but_for_the_probability_that_is_said(q):
    rows = batches.slots(N, q, failure=1e-6)
    assert stats.binom.sf(rows, N + 1, q) <= batches.overflow(N, q, rows) <= 1e-6
    assert rows <= N + 1
    if 2 < rows < N:
        assert batches.overflow(N, q, rows - 1) > 1e-6
    assert batches.slots(N, q, multiple=16) % 16 == 0


def test_a_draw_beyond_the_slots_keeps_some_and_its_price_says_so():
    made = source(rows=8)
    state = made.init()
    for _ in range(50):
        (_, is_padding), state = made.next(state)
        assert is_padding.shape == (8,)
    assert source(rows=N + 1).truncation(1.0, 1000) == 0
    assert source().truncation(1.0, 10) == pytest.approx(
        10 * (1 + math.e) * batches.overflow(N, Q, 40)
    )
    assert source(rows=12).truncation(1.0, 10) > 1


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="one length"):
        source(records={"x": np.zeros(3), "y": np.zeros(4)})
    with pytest.raises(ConfigError, match="one length"):
        source(records={})
    with pytest.raises(ConfigError, match="probability=0"):
        source(probability=0)
    with pytest.raises(ConfigError, match="rows=0"):
        source(rows=0)
    made = source()
    with pytest.raises(ConfigError, match="drew with n=199"):
        made.next(made.init() | {"n": 199})
    with pytest.raises(ConfigError, match="failure=0"):
        batches.slots(N, Q, failure=0)


def test_a_record_keeps_its_key_whoever_else_is_drawn():
    made = source()
    state = made.init()
    all_of_them = made.keys(state, np.asarray([3, 7, 150]), 2)
    np.testing.assert_array_equal(made.keys(state, np.asarray([7, 150]), 2)[:2], all_of_them[1:3])
    assert all_of_them.shape == (40, 2)
    assert all_of_them.dtype == np.uint32
    assert not all_of_them[3:].any()
    others = [
        made.keys(state | {"step": 1}, np.asarray([3, 7, 150]), 2),  # another step
        made.keys(made.init(), np.asarray([3, 7, 150]), 2),  # another seed
    ]
    rows = np.concatenate([all_of_them[:3], *(other[:3] for other in others)])
    assert len(np.unique(rows, axis=0)) == 9
