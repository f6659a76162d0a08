import pytest
from hypothesis import given
from hypothesis import strategies as st

from ariel_jax.decode.capacity import Arithmetic, Upfront, check_choice, round_up
from ariel_jax.errors import CapacityError, ConfigError

sizes = st.integers(1, 5000)


@given(value=sizes, g=st.integers(1, 512))
def test_round_up_is_the_smallest_multiple_not_below(value, g):
    up = round_up(value, g)
    assert up % g == 0
    assert value <= up < value + g


@given(prompt=sizes, rows=st.integers(1, 16), new=sizes, r=st.integers(1, 600), g=sizes)
def test_arithmetic_always_gives_room_and_stops_at_the_limit(prompt, rows, new, r, g):
    policy = Arithmetic(r, g)
    limit = prompt + new - 2 + rows
    capacity = policy.initial(prompt, rows, limit)
    assert capacity >= prompt + rows
    assert capacity % g == 0
    assert capacity <= round_up(prompt + max(r, rows), g)
    assert capacity <= round_up(max(limit, prompt + rows), g)
    need = capacity + 1
    grown = policy.next(capacity, need, max(limit, need))
    assert grown >= need
    assert grown % g == 0
    assert grown <= round_up(max(capacity + r, need), g)
    assert grown <= round_up(max(limit, need), g)


@given(prompt=sizes, rows=st.integers(1, 16), new=sizes)
def test_upfront_reserves_the_limit(prompt, rows, new):
    limit = prompt + new - 2 + rows
    assert limit <= Upfront(granularity=64).initial(prompt, rows, limit) < limit + 64


def test_refusals_say_what_to_do():
    with pytest.raises(CapacityError, match=r"Upfront\(100\).*Arithmetic"):
        Upfront(100).initial(50, 1, 200)
    with pytest.raises(CapacityError, match="next step needs 12"):
        check_choice(8, need=12, policy=Arithmetic(8, 8))
    with pytest.raises(ConfigError, match="r="):
        Arithmetic(0)
    with pytest.raises(ConfigError, match="granularity"):
        Upfront(granularity=0)
