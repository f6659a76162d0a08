import pytest

from ariel_jax.algorithms import bmc
from ariel_jax.decode import Autoregressive, NGram, Speculative
from ariel_jax.decode.workload import workload_key
from ariel_jax.errors import ConfigError
from ariel_jax.measure import ProfileStore
from ariel_jax.testing import tiny_config, tiny_params


def lines(copy, redundant, base):
    ends = (1, 100_000)
    return bmc.Profile(
        growth=bmc.Times(ends, tuple(copy * c for c in ends)),
        step=bmc.Times(ends, tuple(base + redundant * c for c in ends)),
    )


def test_growing_is_chosen_where_spare_rows_cost_and_the_reason_has_the_numbers():
    plan = bmc.plan(lines(2e-6, 1e-6, 1e-4), prompt=64, steps=2000)
    chosen = next(row for row in plan.rows if row.name == plan.choice)
    upfront = next(row for row in plan.rows if row.name == "upfront")
    assert chosen.predicted_s < 0.7 * upfront.predicted_s
    assert plan.best_r == pytest.approx((2 * (2000 + 128)) ** 0.5)
    assert f"{upfront.redundant_row_steps:,}" in plan.why
    assert "r = 65" in plan.why
    best = min(row.predicted_s for row in plan.rows)
    assert next(row for row in plan.rows if row.name == "planned").predicted_s == best


def test_upfront_is_chosen_where_spare_rows_are_free_and_growths_are_dear():
    plan = bmc.plan(lines(1e-3, 1e-9, 1e-2), prompt=64, steps=900)
    assert plan.choice == "upfront"
    assert plan.why.startswith("upfront: all 1024 rows together are 0.0 % of a step")


def test_of_equal_times_the_fewest_allocations_win():
    plan = bmc.plan(lines(0.0, 0.0, 1.0), prompt=64, steps=900)
    assert plan.choice == "upfront"
    assert {row.predicted_s for row in plan.rows} == {900.0}


def test_a_planned_choice_says_how_to_take_it():
    cliff = bmc.Times((1, 960, 1024, 100_000), (1e-4, 1.01e-4, 1e-3, 1e-2))
    profile = bmc.Profile(growth=bmc.Times((1, 4096), (5e-3, 1e-2)), step=cliff)
    plan = bmc.plan(profile, prompt=64, steps=1500)
    planned = next(row for row in plan.rows if row.name == "planned")
    assert plan.choice in ("planned", "auto (length unknown)")  # no constant growth stops at 960
    chosen = next(row for row in plan.rows if row.name == plan.choice)
    assert 960 in chosen.capacities
    assert f"--capacity table:{','.join(map(str, chosen.capacities))}" in plan.why
    assert planned.overhead_s < planned.predicted_s
    assert "do not lie on a line" in plan.fit


def test_straight_lines_are_said_to_fit():
    plan = bmc.plan(lines(2e-6, 1e-6, 1e-4), prompt=64, steps=2000)
    assert "growths R2 1.00, worst residual 0 %; steps R2 1.00" in plan.fit
    assert "do not lie" not in plan.fit
    upfront = next(row for row in plan.rows if row.name == "upfront")
    assert upfront.overhead_s == pytest.approx(1e-6 * upfront.redundant_row_steps, rel=1e-3)


@pytest.fixture(scope="module")
def model():
    cfg = tiny_config("llama", max_positions=512)
    return cfg, tiny_params(cfg)


def test_a_profile_is_measured_once_and_kept_by_model_batch_and_capacities(model, tmp_path):
    store = ProfileStore(tmp_path / "profiles.json")
    said = []
    options = {"capacities": (128, 256), "n_runs": 2, "store": store, "say": said.append}
    first = bmc.profile(*model, **options)
    assert first.growth.capacities == first.step.capacities == (128, 256)
    assert min(first.growth.seconds + first.step.seconds) > 0
    assert len(said) == 2
    assert bmc.profile(*model, **options) == first
    assert len(said) == 2
    bmc.profile(*model, **{**options, "batch": 2})
    assert len(said) == 4
    again = bmc.profile(*model, **options, remeasure=True)
    assert len(said) == 6
    assert bmc.profile(*model, **options) == again


def test_a_profile_is_kept_under_the_attention_it_was_measured_with(model):
    key = workload_key(*model, batch=1, capacity=128, rows=1)
    assert key["attention"] == "reference"
    assert key["batch"] == 1


def test_impossible_profiles_are_refused(model):
    for capacities in ((128,), (256, 128), (16, 128)):
        with pytest.raises(ConfigError, match="capacities="):
            bmc.profile(*model, capacities=capacities, n_runs=2)
    with pytest.raises(ConfigError, match="512"):
        bmc.profile(*model, capacities=(4096, 8192), n_runs=40)
    assert bmc.default_capacities(2048) == (192, 320, 640, 1152, 2048)


def test_costs_of_steps_are_those_over_plain_decoding(model):
    strategies = (Autoregressive(), Speculative(NGram(k=4)))
    costs = bmc.step_costs(*model, strategies, capacity=320, n_runs=2)
    assert costs[0] == 1.0
    assert 0 < costs[1] < 100
    with pytest.raises(ConfigError, match="capacity=128"):
        bmc.step_costs(*model, strategies, capacity=128, n_runs=2)
