"""What a round costs: in layers, with the head, and as measured here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import del_exit
from ariel_jax.algorithms.del_exit import phases, profiling
from ariel_jax.decode import SamplingParams
from ariel_jax.errors import ConfigError
from ariel_jax.measure import ProfileStore
from ariel_jax.models.presets import preset
from ariel_jax.testing import tiny_config, tiny_params

from .conftest import DRAFTS, EXITS

# Published for LayerSkip by Entezari Zarch et al. 2025, table 1 of version 2: tokens per layer load
# and speed over plain decoding. Llama-3-8B: exit 3 of 32, 6 drafts; Llama-2-70B: exit 9 of 80, 6.
PUBLISHED = {
    "8b": (32, 3, [(0.084, 2.17), (0.087, 2.29), (0.089, 2.30), (0.077, 2.08)]),
    "70b": (80, 9, [(0.033, 2.51), (0.026, 1.98), (0.028, 2.11), (0.026, 1.99)]),
}
SHAPES = {
    "8b": {"d_model": 4096, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128, "d_ff": 14336,
           "vocab_size": 128256},
    "70b": {"d_model": 8192, "n_heads": 64, "n_kv_heads": 8, "head_dim": 128, "d_ff": 28672,
            "vocab_size": 32000},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_and_head_explain_the_published_speeds_within_6_percent(name):
    n_layers, exit, cells = PUBLISHED[name]
    cfg = preset("llama-3.2-1b").replace(n_layers=n_layers, tie_embed=False, **SHAPES[name])
    how = del_exit.named("fixed", exits=(exit,), max_draft=6)
    head = del_exit.head_in_layers(cfg)
    assert head == pytest.approx({"8b": 2.4, "70b": 0.31}[name], rel=0.02)
    costs = del_exit.layer_costs(how, n_layers, head=head)
    bare = del_exit.layer_costs(how, n_layers)
    for tokens_per_load, published in cells:
        tokens_per_round = tokens_per_load * (n_layers + 6 * exit)
        predicted = del_exit.speedup(costs, 0, 6, tokens_per_round)
        assert predicted == pytest.approx(published, rel=0.06)
        assert del_exit.speedup(bare, 0, 6, tokens_per_round) > predicted
    assert del_exit.speedup(costs, 0, 0, 1.0) == 1


def test_a_round_costs_what_was_measured():
    how = del_exit.Config(exits=(1, 3), max_draft=5, row_buckets=(2, 4, 6))
    rng = np.random.default_rng(0)
    rounds_s = 1 + np.cumsum(rng.random((2, 6)), axis=1)
    rounds_s[:, 0] = 1.0
    costs = profiling._parts(how, rounds_s, 0.25)
    drafts = np.arange(6)[None]
    again = drafts * np.asarray(costs.draft)[:, None] + np.asarray(costs.verify)
    np.testing.assert_allclose(again, rounds_s, rtol=1e-5)
    assert (float(costs.plain), float(costs.shadow)) == (1.0, 0.25)
    assert del_exit.look_every(costs) == 3
    assert del_exit.look_every(costs.replace(shadow=jnp.float32(0))) == 1
    assert del_exit.look_every(costs.replace(shadow=jnp.float32(9))) == 16
    assert del_exit.idle_every(costs) == 32
    assert del_exit.idle_every(costs.replace(shadow=jnp.float32(0.7))) == 70
    assert del_exit.idle_every(costs.replace(shadow=jnp.float32(9))) == 512


def test_costs_are_measured_once_and_kept(tmp_path, monkeypatch):
    cfg = tiny_config("llama")
    params = tiny_params(cfg)
    how = del_exit.Config(exits=(1,), max_draft=2)
    options = {"capacity": 64, "n_runs": 1, "store": ProfileStore(tmp_path / "p.json")}
    said = []
    costs = del_exit.measured_costs(cfg, params, how, say=said.append, **options)
    assert costs.draft.shape == (1,)
    assert costs.verify.shape == (1, 3)
    assert float(costs.plain) > 0
    assert float(costs.shadow) > 0
    rounds_s = np.arange(3) * np.asarray(costs.draft)[:, None] + np.asarray(costs.verify)
    assert (rounds_s > 0).all()
    assert len(said) == 1
    monkeypatch.setattr(profiling, "_rounds_s", lambda *a: pytest.fail("measured again"))
    again = del_exit.measured_costs(cfg, params, how, **options)
    jax.tree.map(np.testing.assert_array_equal, costs, again)
    del_exit.tuning(how, 2, costs=again)
    with pytest.raises(ConfigError, match="capacity=8"):
        del_exit.measured_costs(cfg, params, how, capacity=8)
    with pytest.raises(ConfigError, match="2 layers"):
        del_exit.measured_costs(cfg, params, del_exit.Config(exits=(2,)), capacity=128)


def test_exits_by_default_lie_in_every_model_that_has_any():
    for n_layers in range(2, 100):
        exits = del_exit.default_exits(n_layers)
        del_exit.Config(exits=exits).check(n_layers)
        assert len(exits) <= 5
    assert del_exit.default_exits(12) == (1, 2, 4, 6, 8)
    with pytest.raises(ConfigError, match="1 layer"):
        del_exit.default_exits(1)


def test_a_round_in_phases_finds_the_tokens_of_the_segment_program(small):
    """And every phase is timed."""
    prompts = [[1, 2, 3, 4, 5], [7, 8]]
    options = {
        "max_new": 14,
        "sampling": [SamplingParams(), SamplingParams(temperature=1.0, seed=3)],
    }
    with jax.enable_x64(True):
        params = small.params(4, share=0.1)
        strategy = del_exit.SelfSpeculative(small.how)
        study = phases.by_phases(small.cfg, params, prompts, strategy=strategy, **options)
        run = small.decode(params, prompts, strategy, **options)
    assert study.tokens == [run.new_tokens(0), run.new_tokens(1)]
    assert len(study.rounds) == run.report.decode_steps
    drafting = [r for r in study.rounds if r.drafts]
    assert drafting
    for each in drafting:
        assert each.exit in EXITS
        assert each.drafts <= DRAFTS
        assert set(each.seconds) == set(phases.PHASES) - {"plain_step"}
    assert all(seconds >= 0 for seconds in study.seconds().values())
