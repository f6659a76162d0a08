import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ariel_jax.algorithms.bmc.model import Costs, best_rows, overhead_s, simulate
from ariel_jax.decode.capacity import Arithmetic, Geometric, Iterative, Sqrt, Upfront
from ariel_jax.errors import CapacityError, ConfigError

# Prompt of 128, 1,920 tokens, copying a row twice as dear as a spare row in a step.
COSTS = Costs(copy_s=2, redundant_s=1)
CASE = {"prompt": 128, "steps": 1920, "first": 128}


@pytest.mark.parametrize(
    ("policy", "growths", "cost"),
    [
        (Iterative(), 1920, 4_176_000),
        (Upfront(2048), 1, 1_842_496),
        (Arithmetic(64, 1), 30, 123_840),
        (Geometric(2, 1), 4, 699_200),
        (Sqrt(2, granularity=1), 35, 121_533),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_the_reference_case_is_counted_exactly(policy, growths, cost):
    limit = 4096 if isinstance(policy, Sqrt) else None  # its last growth goes past the end
    work = simulate(policy, **CASE, limit=limit)
    assert (work.growths, work.overhead_s(COSTS)) == (growths, cost)


def test_the_best_constant_growth_of_the_reference_case_is_64_rows():
    every = {r: simulate(Arithmetic(r, 1), **CASE).overhead_s(COSTS) for r in range(1, 1921)}
    assert min(every, key=every.__getitem__) == 64
    assert best_rows(COSTS, prompt=128, steps=1920) == pytest.approx(65.97, abs=0.01)


@given(
    prompt=st.integers(1, 200),
    r=st.integers(1, 40),
    n=st.integers(1, 12),
    a=st.floats(0, 50),
    c=st.floats(0, 9),
    x=st.floats(0, 9),
)
def test_the_closed_form_is_exact_for_whole_allocations(prompt, r, n, a, c, x):
    costs = Costs(copy_s=c, redundant_s=x, growth_s=a)
    work = simulate(Arithmetic(r, 1), prompt=prompt, steps=r * n)
    assert work.capacities == tuple(prompt + r * i for i in range(1, n + 1))
    form = overhead_s(costs, prompt=prompt, steps=r * n, n_allocations=n)
    assert form - a == pytest.approx(work.overhead_s(costs), rel=1e-9, abs=1e-6)


@given(prompt=st.integers(1, 300), steps=st.integers(2, 4000), ratio=st.floats(0.1, 50))
def test_the_optimum_is_flat(prompt, steps, ratio):
    costs = Costs(copy_s=ratio, redundant_s=1)
    r = best_rows(costs, prompt=prompt, steps=steps)

    def varying(rows):  # the part of the overhead that depends on r
        return costs.copy_s * steps / rows * (steps + 2 * prompt) / 2 + steps * rows / 2

    if r < steps:
        for factor in (0.5, 2.0):
            assert varying(factor * r) / varying(r) == pytest.approx(1.25, rel=1e-9)


@given(n=st.integers(4, 12))
def test_the_best_number_of_allocations_grows_as_the_root_of_the_length(n):
    def allocations(length):
        return length / best_rows(COSTS, prompt=1, steps=length)

    growth = allocations(4**n) / allocations(4 ** (n - 1))
    assert growth == pytest.approx(2, rel=0.02)


def test_bandwidth_bound_copies_and_steps_cancel_the_model():
    for row_bytes in (1e3, 1e6):
        costs = Costs(copy_s=2 * row_bytes / 20e9, redundant_s=row_bytes / 20e9)
        assert best_rows(costs, prompt=1, steps=2046) == pytest.approx(math.sqrt(2 * 2048))


def test_rows_that_cost_nothing_want_one_allocation():
    assert best_rows(Costs(copy_s=1, redundant_s=0), prompt=5, steps=700) == 700


def test_drafts_need_room_before_a_step():
    work = simulate(Arithmetic(8, 1), prompt=10, steps=20, rows=5)
    assert work.capacities[0] == 18
    assert all(b - a >= 5 for a, b in zip(work.capacities, work.capacities[1:], strict=False))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="copy_s"):
        Costs(copy_s=-1, redundant_s=1)
    with pytest.raises(ConfigError, match="gamma"):
        Geometric(1.0)
    with pytest.raises(ConfigError, match="ratio"):
        Sqrt(0)
    with pytest.raises(CapacityError, match="below"):
        simulate(Upfront(100), prompt=50, steps=80)
