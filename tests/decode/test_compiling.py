"""The compile clock unites nested intervals and sees what jax compiles."""

import jax
import jax.numpy as jnp
import pytest

from ariel_jax.decode.compiling import CompileClock, compile_seconds


def test_nested_and_overlapping_intervals_count_once():
    clock = CompileClock()
    for begin, duration in [(1.0, 0.5), (2.0, 0.5), (1.9, 1.0), (0.5, 3.0), (4.0, 0.25)]:
        clock.add(begin, duration)
    assert clock.seconds() == pytest.approx(3.25)  # 0.5..3.5 and 4..4.25


def test_other_events_are_ignored():
    clock = CompileClock()
    clock.record("/jax/compilation_cache/compile_time_saved_sec", 5.0)
    assert clock.seconds() == 0
    clock.record("/jax/core/compile/backend_compile_duration", 5.0, fun_name="f")
    assert clock.seconds() == pytest.approx(5.0)


def test_a_compilation_is_seen_and_a_second_call_is_not():
    before = compile_seconds()
    double = jax.jit(lambda x: x * 2 + 1)
    x = jnp.ones(3)
    double(x)
    compiled = compile_seconds()
    assert compiled > before
    double(x)
    assert compile_seconds() == compiled
