"""Programs compiled beside the decoding: the same tokens, nothing compiled twice."""

import threading

import jax
import pytest

from ariel_jax import backend
from ariel_jax.decode import (
    Arithmetic,
    DraftModel,
    NGram,
    Run,
    Speculative,
    ahead,
    fork,
    programs,
    rollback,
    start,
)
from ariel_jax.errors import ConfigError
from ariel_jax.models import sharding
from ariel_jax.testing import tiny_config, tiny_params

PROMPTS = [[3, 4, 5], [7] * 5]


def model(eps):
    """A model for which no other test has compiled anything."""
    cfg = tiny_config("llama", max_positions=256, norm_eps=eps)
    return cfg, tiny_params(cfg)


def decode(cfg, params, **options):
    run = start(cfg, params, PROMPTS, max_new=58, capacity=Arithmetic(16, 16), **options)
    while run.advance(7):
        pass
    return run


def test_the_next_capacity_is_compiled_by_another_thread_and_used(monkeypatch):
    cfg, params = model(3e-5)
    seen, jitted = [], []
    given = programs.segment()

    class Lowered:
        def __init__(self, lowered):
            self.lowered = lowered

        def compile(self):
            seen.append(threading.current_thread().name)
            return self.lowered.compile()

    class Segment:
        def __call__(self, *arguments, **options):
            jitted.append(arguments[3].cache.capacity)
            return given(*arguments, **options)

        def lower(self, *arguments, **options):
            return Lowered(given.lower(*arguments, **options))

    monkeypatch.setattr(programs, "segment", Segment)
    run = decode(cfg, params, compile_ahead=True)
    assert run.report.growths == 2
    assert len(seen) == 2
    assert set(jitted) == {32}, "what was compiled ahead was not used"
    assert all(name.startswith("compile-ahead") for name in seen)
    # Prefill, the first segment, two ahead, and a growth for each of these.
    assert run.report.compiles == 1 + 1 + 2 + 2
    # A second run finds all of them, whether it compiles ahead or not.
    for options in ({"compile_ahead": True}, {}):
        again = decode(cfg, params, **options)
        assert again.report.compiles == 0
        assert [again.new_tokens(i) for i in (0, 1)] == [run.new_tokens(i) for i in (0, 1)]
    plain = decode(*model(3.1e-5))
    assert [plain.new_tokens(i) for i in (0, 1)] == [run.new_tokens(i) for i in (0, 1)]


def test_what_was_compiled_when_needed_is_not_compiled_again():
    cfg, params = model(4e-5)
    decode(cfg, params)
    assert decode(cfg, params, compile_ahead=True).report.compiles == 0


def test_capacities_are_prepared_ahead_of_time():
    cfg, params = model(5e-5)
    strategy = Speculative(DraftModel(cfg, k=2, alternatives=1))
    options = {"strategy": strategy, "extra": params}
    run = start(cfg, params, PROMPTS, max_new=40, capacity=Arithmetic(16, 16), **options)
    run.prepare([32, 48])
    before = programs.TRACES["segment"]
    while run.advance(7):
        pass
    assert run.report.growths > 0
    assert programs.TRACES["segment"] == before
    with pytest.raises(ConfigError, match=r"capacities\[0\]=0"):
        run.prepare([0])


def test_on_a_mesh_the_program_fits_the_placement(monkeypatch):
    cfg, params = model(6e-5)
    mesh = backend.make_mesh(data=2)
    spread = jax.device_put(params, sharding.param_shardings(cfg, mesh))
    strategy = Speculative(NGram(k=2, branches=2))
    found = []
    real = ahead.program
    monkeypatch.setattr(ahead, "program", lambda *a: found.append(real(*a)) or found[-1])
    run = decode(cfg, spread, mesh=mesh, compile_ahead=True, strategy=strategy)
    assert run.report.growths > 0
    assert len(found) == 1 + run.report.growths
    assert all(isinstance(segment, jax.stages.Compiled) for segment, _ in found[1:])
    plain = decode(cfg, params)
    assert [run.new_tokens(i) for i in (0, 1)] == [plain.new_tokens(i) for i in (0, 1)]


def test_a_state_that_was_given_away_is_refused_by_name():
    cfg, params = model(7e-5)
    run = start(cfg, params, PROMPTS, max_new=9)
    state = run.state
    run.advance(2)
    for use in (
        lambda: Run(cfg, params, state),
        lambda: fork(state, [0]),
        lambda: rollback(state, [3, 5]),
    ):
        with pytest.raises(ConfigError, match="given to a run"):
            use()


def test_a_failure_ahead_is_said_and_not_kept(monkeypatch):
    cfg, params = model(8e-5)

    def fails(self):
        raise jax.errors.JaxRuntimeError("no memory")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fails)
    with pytest.warns(UserWarning, match="ahead failed: no memory"):
        run = decode(cfg, params, compile_ahead=True)
    assert run.report.growths == 2
    assert len(run.new_tokens(0)) == 58
