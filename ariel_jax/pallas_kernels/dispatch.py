"""Chooses, at trace time, which implementation of an operation a program will contain.

An operation has an ordered tuple of implementations that ends with `reference`, the plain jnp code
that defines the meaning. `impl="auto"` takes the first that can run for the platform and the
arguments at hand; a named one runs or raises `KernelUnavailableError` with every reason.
`override` and the environment variable `ARIEL_JAX_KERNELS` replace `"auto"`; they are read while a
program is traced, so a program that is already compiled keeps what it was traced with.

ARIEL_JAX_KERNELS: `reference` (every operation), or `linear=reference,decode_attention=auto`.
"""

import contextlib
import contextvars
import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ariel_jax import backend
from ariel_jax.errors import ConfigError, KernelUnavailableError

OP_NAMES = ("linear", "decode_attention", "vocab_top1", "write_rows", "bitset_judge")

_overrides: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("kernel_overrides")


def _always(*args: Any, **options: Any) -> None:
    """Answers `why_not` for an implementation that takes any arguments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implementation:
    """One way to compute an operation."""

    name: str
    fun: Callable[..., Any]
    platforms: tuple[str, ...] | None = None  # None: every platform
    why_not: Callable[..., str | None] = _always  # same arguments as fun; None: it can run
    why_not_auto: Callable[..., str | None] = _always  # the same, for `auto` only: does it pay


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which implementation an operation takes, and why not the others."""

    op: str
    platform: str
    requested: str
    chosen: str | None
    reasons: dict[str, str]  # implementation passed over -> why


@dataclasses.dataclass(frozen=True)
class Op:
    """An operation and its implementations, best first."""

    name: str
    implementations: tuple[Implementation, ...]

    def select(self, impl: str, *args: Any, **options: Any) -> Callable[..., Any]:
        """Returns the function to call for these arguments (arrays, tracers or shapes).

        Raises:
            KernelUnavailableError: nothing that was asked for can run here.
            ConfigError: `impl` is no implementation of this operation.
        """
        choice, fun = self._choose(impl, args, options)
        if fun is None:
            reasons = "; ".join(f"{name}: {why}" for name, why in choice.reasons.items())
            raise KernelUnavailableError(
                f"{self.name} with impl={choice.requested!r} cannot run on {choice.platform!r}: "
                f"{reasons}. Pass impl='auto' to take what can run."
            )
        return fun

    def explain(self, *args: Any, impl: str = "auto", **options: Any) -> Choice:
        """Returns which implementation these arguments would take, with the others' reasons."""
        return self._choose(impl, args, options)[0]

    def _choose(
        self, impl: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Choice, Callable[..., Any] | None]:
        requested = _requested(self.name) if impl == "auto" else impl
        names = ["auto", *(candidate.name for candidate in self.implementations)]
        if requested not in names:
            raise ConfigError(
                f"{self.name} has no implementation {requested!r}: pass one of {names} "
                "(as impl=, in dispatch.override(...) or in ARIEL_JAX_KERNELS)."
            )
        platform = backend.platform()
        chosen: Implementation | None = None
        reasons: dict[str, str] = {}
        for candidate in self.implementations:
            if requested not in ("auto", candidate.name):
                why = f"impl={requested!r} was asked for"
            elif chosen is not None:
                why = f"{chosen.name} comes first"
            elif candidate.platforms is not None and platform not in candidate.platforms:
                why = f"runs on {' and '.join(candidate.platforms)} only"
            else:
                why = candidate.why_not(*args, **options)
                if why is None and requested == "auto":
                    why = candidate.why_not_auto(*args, **options)
            if why is None:
                chosen = candidate
            else:
                reasons[candidate.name] = why
        name = chosen.name if chosen else None
        return Choice(self.name, platform, requested, name, reasons), chosen and chosen.fun


@contextlib.contextmanager
def override(**impls: str) -> Iterator[None]:
    """Replaces `impl="auto"` while the context is open, as in `override(linear="reference")`.

    Raises:
        ConfigError: a name is no operation.
    """
    _check_names(impls, "override")
    token = _overrides.set({**_overrides.get({}), **impls})
    try:
        yield
    finally:
        _overrides.reset(token)


def op(name: str) -> Op:
    """Returns the operation called `name`, importing its folder."""
    _check_names((name,), "op")
    return importlib.import_module(f"ariel_jax.pallas_kernels.{name}.api").OP


def _requested(name: str) -> str:
    chosen = _overrides.get({}).get(name)
    return chosen or _from_environment(os.environ.get("ARIEL_JAX_KERNELS", "")).get(name, "auto")


@functools.lru_cache(maxsize=8)
def _from_environment(text: str) -> dict[str, str]:
    if text and "=" not in text:
        return dict.fromkeys(OP_NAMES, text.strip())
    pairs = [item.strip().partition("=") for item in text.split(",") if item.strip()]
    _check_names([name for name, _, _ in pairs], "ARIEL_JAX_KERNELS")
    return {name: impl for name, _, impl in pairs}


def _check_names(names: Iterable[str], where: str) -> None:
    unknown = sorted(set(names) - set(OP_NAMES))
    if unknown:
        raise ConfigError(f"{where} names unknown operations {unknown}: known are {OP_NAMES}.")
