"""Argument checks in keyword style: `positive(n_layers=n_layers)` names the argument in its error.

All raise `ConfigError` with the given value, the allowed ones and what to do. They are for
configuration and host arguments; no array that lives on a device goes through them.
"""

import math
import numbers
from collections.abc import Collection, Iterable
from typing import Any

from ariel_jax.errors import ConfigError


def _refuse(name: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(f"{name}={value!r} is not allowed: pass {allowed}.")


def _is_number(value: Any) -> bool:
    """Returns whether `value` is a real, finite number; a bool is not one."""
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def positive(**values: Any) -> None:
    """Checks that each value is a finite number above zero.

    Raises:
        ConfigError: a value is not.
    """
    for name, value in values.items():
        if not (_is_number(value) and value > 0):
            raise _refuse(name, value, "a finite number above 0")


def non_negative(**values: Any) -> None:
    """Checks that each value is a finite number of at least zero.

    Raises:
        ConfigError: a value is not.
    """
    for name, value in values.items():
        if not (_is_number(value) and value >= 0):
            raise _refuse(name, value, "a finite number of at least 0")


def positive_int(**values: Any) -> None:
    """Checks that each value is a whole number of at least one.

    Raises:
        ConfigError: a value is not.
    """
    for name, value in values.items():
        if not (_is_integer(value) and value > 0):
            raise _refuse(name, value, "a whole number of at least 1")


def non_negative_int(**values: Any) -> None:
    """Checks that each value is a whole number of at least zero.

    Raises:
        ConfigError: a value is not.
    """
    for name, value in values.items():
        if not (_is_integer(value) and value >= 0):
            raise _refuse(name, value, "a whole number of at least 0")


def whole_number(low: int, high: int, /, **values: Any) -> None:
    """Checks that each value is a whole number from `low` to `high`, both included.

    Raises:
        ConfigError: a value is not.
    """
    for name, value in values.items():
        if not (_is_integer(value) and low <= value <= high):
            raise _refuse(name, value, f"a whole number from {low} to {high}")


def seed(**values: Any) -> None:
    """Checks that each value can seed a jax key without losing bits, or is None.

    Raises:
        ConfigError: a value cannot.
    """
    whole_number(0, 2**32 - 1, **{name: v for name, v in values.items() if v is not None})


def in_range(low: float, high: float, /, *, ends: str = "[]", **values: Any) -> None:
    """Checks that each value lies between `low` and `high`.

    Args:
        low: lower end; minus infinity for none.
        high: upper end; infinity for none.
        ends: `"[]"`, `"(]"`, `"[)"` or `"()"`; a square bracket includes its end.
        **values: the arguments to check, by name.

    Raises:
        ConfigError: a value is not a finite number in the interval.
    """
    for name, value in values.items():
        inside = (
            _is_number(value)
            and (value >= low if ends[0] == "[" else value > low)
            and (value <= high if ends[1] == "]" else value < high)
        )
        if not inside:
            raise _refuse(name, value, f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}")


def one_of(allowed: Iterable[Any], /, **values: Any) -> None:
    """Checks that each value is one of `allowed`.

    Raises:
        ConfigError: a value is not; the message lists the allowed ones.
    """
    choices = list(allowed)
    for name, value in values.items():
        if value not in choices:
            raise _refuse(name, value, "one of " + ", ".join(repr(c) for c in choices))


def known_keys(what: str, allowed: Collection[str], given: Iterable[str]) -> None:
    """Checks that every given key is an allowed one.

    Args:
        what: the thing the keys belong to, as it should read in the message.
        allowed: the keys that are understood.
        given: the keys that were found.

    Raises:
        ConfigError: a key is unknown; the message lists the unknown and the allowed ones.
    """
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise ConfigError(
            f"{what} has unknown keys {unknown}: allowed are {sorted(allowed)}. "
            "Remove the unknown keys or correct their spelling."
        )
