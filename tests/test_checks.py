import math

import numpy as np
import pytest

from ariel_jax import _checks, errors
from ariel_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (_checks.positive, [1, 0.5, np.float32(2), np.int32(3)], [0, -1, math.nan, math.inf, "1", True, None]),
        (_checks.non_negative, [0, 0.0, 3], [-1e-9, math.nan, -math.inf, False, []]),
        (_checks.positive_int, [1, np.int64(7)], [0, 1.0, "3", True, None]),
        (_checks.non_negative_int, [0, 2], [-1, 0.0, False]),
        (lambda **v: _checks.whole_number(-2, 3, **v), [-2, np.int64(3)], [-3, 4, 1.0, True]),
        (_checks.seed, [None, 0, 2**32 - 1], [-1, 2**32, 1.5]),
        (lambda **v: _checks.in_range(0, 1, **v), [0, 0.5, 1], [-0.1, 1.1, math.nan, "0"]),
        (lambda **v: _checks.in_range(0, 1, ends="(]", **v), [1e-9, 1], [0, 1.5]),
        (lambda **v: _checks.in_range(0, 1, ends="[)", **v), [0, 0.999], [1]),
        (lambda **v: _checks.in_range(0, math.inf, ends="()", **v), [1e300], [0, math.inf]),
        (lambda **v: _checks.one_of(("cpu", "gpu"), **v), ["cpu"], ["tpu", None]),
    ],
)  # fmt: skip
def test_a_check_passes_the_good_and_names_the_bad(check, good, bad):
    for value in good:
        check(top_p=value)
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            check(top_p=value)
        message = str(caught.value)
        assert message.startswith(f"top_p={value!r} is not allowed: pass ")


def test_one_of_lists_what_is_allowed():
    with pytest.raises(ConfigError, match="one of 'cpu', 'gpu'"):
        _checks.one_of(["cpu", "gpu"], platform="abacus")


def test_known_keys_lists_the_unknown_and_the_allowed():
    _checks.known_keys("config", {"a", "b"}, ["a"])
    with pytest.raises(
        ConfigError, match=r"config has unknown keys \['c'\]: allowed are \['a', 'b'\]"
    ):
        _checks.known_keys("config", {"a", "b"}, ["a", "c"])


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.CheckpointError, ValueError),
        (errors.CapacityError, RuntimeError),
        (errors.MemoryLimitError, MemoryError),
        (errors.KernelUnavailableError, NotImplementedError),
        (errors.BackendError, RuntimeError),
        (errors.MissingExtraError, ImportError),
        (errors.StorageError, OSError),
        (errors.IntegrityError, RuntimeError),
        (errors.PrivacyBudgetError, RuntimeError),
        (errors.DisclosureDenied, PermissionError),
    ],
)
def test_every_error_is_an_ariel_error_and_the_builtin_a_caller_expects(error, builtin):
    raised = error("what was given, what is allowed, what to do")
    assert isinstance(raised, errors.ArielError)
    assert isinstance(raised, builtin)
    assert str(raised) == "what was given, what is allowed, what to do"


def test_a_missing_extra_is_named_with_its_command():
    raised = errors.missing_extra("matplotlib", "plot", "the picture")
    assert 'pip install "ariel-jax[plot]"' in str(raised)
    assert "the picture needs the package 'matplotlib'" in str(raised)
