"""The engine grows when and by what the simulator says."""

import pytest

from ariel_jax.algorithms import bmc
from ariel_jax.decode import Arithmetic, Geometric, NGram, Speculative, Sqrt, Upfront, start
from ariel_jax.testing import tiny_config, tiny_params


@pytest.fixture(scope="module")
def model():
    cfg = tiny_config("llama", max_positions=512)
    return cfg, tiny_params(cfg)


@pytest.mark.parametrize(
    ("policy", "prompt", "new"),
    [
        (Arithmetic(16, 8), 5, 70),
        (Arithmetic(24, 8), 31, 33),
        (Geometric(2.0, 8), 6, 90),
        (Sqrt(2.0, granularity=8), 9, 80),
        (Upfront(granularity=8), 9, 40),
        (bmc.Table((24, 56, 96), 8), 4, 90),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_growths_rows_copied_and_capacities_are_those_simulated(model, policy, prompt, new):
    run = start(*model, [[1] * prompt] * 2, max_new=new, capacity=policy)
    seen, spare, goes_on = [run.state.cache.capacity], 0, True
    while goes_on:
        goes_on = run.advance(1)
        spare += run.state.cache.capacity - int(run.length[0])
        if run.state.cache.capacity != seen[-1]:
            seen.append(run.state.cache.capacity)
    work = bmc.simulate(policy, prompt=prompt, steps=new - 1)
    assert run.report.growths == work.growths
    assert run.report.rows_copied == work.rows_copied
    assert spare == work.redundant_row_steps
    assert tuple(seen) == work.capacities
    assert run.report.decode_steps == work.steps
    cfg = model[0]
    row_bytes = 2 * 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * 4
    assert run.report.cache_bytes == work.capacities[-1] * row_bytes


def test_drafts_that_never_hold_need_what_the_simulator_says(model):
    strategy = Speculative(NGram(k=3, shortest=9, longest=9))  # finds nothing in this text
    prompt = list(range(1, 12))
    run = start(*model, [prompt], max_new=30, strategy=strategy, capacity=Arithmetic(8, 8))
    run.advance()
    work = bmc.simulate(Arithmetic(8, 8), prompt=len(prompt), steps=29, rows=4)
    assert run.report.accepted == 0
    assert (run.report.growths, run.report.rows_copied) == (work.growths, work.rows_copied)
