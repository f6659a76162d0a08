import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.algorithms.bmc import Auto, Profile, Table, Times, predicted_s, schedule, simulate
from ariel_jax.decode.capacity import Arithmetic, Geometric, Sqrt, Upfront
from ariel_jax.errors import ConfigError


def linear(copy=2.0, redundant=1.0, fixed=0.0, base=0.0, **more):
    """A profile of straight lines."""
    ends = (1, 100_000)
    return Profile(
        growth=Times(ends, tuple(fixed + copy * c for c in ends)),
        step=Times(ends, tuple(base + redundant * c for c in ends)),
        **more,
    )


REFERENCE = linear()
USEFUL = sum(range(129, 2049))  # row-steps that every schedule of the reference case needs


def test_the_reference_case_on_a_grid_of_16_rows():
    plan = schedule(REFERENCE, prompt=128, steps=1920, granularity=16)
    assert plan.seconds - USEFUL == pytest.approx(118_912)
    at = {"prompt": 128, "steps": 1920}
    assert predicted_s(REFERENCE, plan.capacities, **at) == pytest.approx(plan.seconds)
    work = simulate(Table(plan.capacities), **at)
    assert work.capacities == plan.capacities
    assert work.overhead_s(REFERENCE.costs()) == pytest.approx(118_912)


PROFILES = st.builds(
    lambda growth, step: Profile(
        growth=Times((8, 16, 64), tuple(growth)), step=Times((8, 16, 64), tuple(step))
    ),
    st.lists(st.floats(0, 30), min_size=3, max_size=3),
    st.lists(st.floats(0, 5), min_size=3, max_size=3),
)


@given(PROFILES, st.integers(1, 12), st.integers(1, 40), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_no_schedule_on_the_grid_is_cheaper(profile, prompt, steps, rows):
    grid = 8
    plan = schedule(profile, prompt=prompt, steps=steps, rows=rows, granularity=grid)
    first = -(-(prompt + rows) // grid) * grid
    last = -(-(prompt + steps - 1 + rows) // grid) * grid
    middle = range(first, last, grid)
    at = {"prompt": prompt, "steps": steps, "rows": rows}
    every = [
        predicted_s(profile, (*chosen, last), **at)
        for n in range(len(middle) + 1)
        for chosen in itertools.combinations(middle, n)
    ]
    assert plan.seconds == pytest.approx(min(every), rel=1e-9, abs=1e-9)


@given(PROFILES, st.integers(1, 60), st.integers(1, 300), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_predictions_add_up_what_the_simulator_counts(profile, prompt, steps, rows):
    for policy in (Arithmetic(24, 8), Geometric(1.5, 8), Sqrt(3, granularity=8), Upfront()):
        work = simulate(policy, prompt=prompt, steps=steps, rows=rows)
        length, seconds, capacity = prompt, 0.0, iter(work.capacities)
        here = next(capacity)
        for _ in range(steps):
            if length + rows > here:
                seconds += profile.growth_s(here)
                here = next(capacity)
            seconds += profile.step.at(here)
            length += 1
        given_ = predicted_s(profile, work.capacities, prompt=prompt, steps=steps, rows=rows)
        assert given_ == pytest.approx(seconds, rel=1e-9, abs=1e-9)


@given(
    st.integers(1, 500),
    st.integers(1, 2000),
    st.integers(1, 9),
    st.sampled_from([linear(), linear(copy=50), linear(redundant=0), linear(fixed=1e4)]),
)
@settings(deadline=None)
def test_auto_gives_room_shares_shapes_and_stops_at_the_limit(prompt, steps, rows, profile):
    policy = Auto(profile)
    limit = prompt + steps - 1 + rows
    work = simulate(policy, prompt=prompt, steps=steps, rows=rows)
    assert all(c % 64 == 0 for c in work.capacities)
    assert work.capacities[-1] < limit + 64
    for other in range(prompt // 64 * 64 or 1, prompt):  # prompts of one bucket share their shapes
        if -(-(other + rows) // 64) == -(-(prompt + rows) // 64):
            assert policy.initial(other, rows, limit) == work.capacities[0]


def test_auto_is_near_the_best_policy_of_a_sweep_though_it_knows_no_length():
    profile, costs = linear(base=1000.0), linear(base=1000.0).costs()
    rivals = [Arithmetic(r) for r in (64, 128, 256, 512)] + [Geometric(2), Sqrt(2), Upfront(4096)]
    for steps in (100, 400, 1000, 3000):
        at = {"prompt": 64, "steps": steps, "limit": 4096}
        ours = simulate(Auto(profile), **at).overhead_s(costs)
        best = min(simulate(policy, **at).overhead_s(costs) for policy in rivals)
        useful = steps * 1000.0 + sum(range(65, 65 + steps))
        assert (useful + ours) / (useful + best) < 1.03


def test_auto_reserves_everything_where_spare_rows_are_free():
    work = simulate(Auto(linear(redundant=0.0)), prompt=64, steps=900)
    assert work.capacities == (1024,)


def test_cold_programs_want_few_capacities():
    cold = linear(compile_s=1e6, reuse=1.0)
    warm = schedule(linear(), prompt=64, steps=900)
    assert len(schedule(cold, prompt=64, steps=900).capacities) == 1
    assert len(warm.capacities) > 4


def test_times_are_lines_between_points_and_fitted_by_one():
    times = Times((10, 20, 40), (1.0, 2.0, 6.0))
    assert [times.at(c) for c in (10, 15, 20, 30, 50)] == [1.0, 1.5, 2.0, 4.0, 8.0]
    fixed, slope, residual = Times((100, 200, 400), (0.3, 0.5, 0.9)).line()
    assert (fixed, slope, residual) == pytest.approx((0.1, 0.002, 0.0), abs=1e-12)
    assert Times((1, 2), (0.0, 1.0)).line()[0] == 0


def test_impossible_tables_are_refused():
    with pytest.raises(ConfigError, match="rising"):
        Table((128, 64))
    with pytest.raises(ConfigError, match="at least two"):
        Times((5,), (1.0,))
    with pytest.raises(ConfigError, match="hold 64 rows"):
        predicted_s(REFERENCE, (64,), prompt=60, steps=30)
    with pytest.raises(ConfigError, match="reuse"):
        linear(reuse=0)


def test_a_table_goes_on_beyond_its_end():
    table = Table((64, 192))
    assert table.initial(10, 1, 500) == 64
    assert table.next(64, 65, 500) == 192
    assert table.next(192, 193, 500) == 256
