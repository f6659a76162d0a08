"""Segment programs of capacities that are not reached yet, compiled beside the decoding.

A cache that grows needs a program for each capacity. Compiling the next one while the present one
runs hides its time, where there is a processor to spare.
"""

import concurrent.futures
import functools
import time
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from ariel_jax.decode import programs
from ariel_jax.decode.state import DecodeState
from ariel_jax.decode.strategy import Strategy
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

Segment = Callable[..., Any]
"""`segment(params, extra, state, *, max_steps)`: a compiled program, its static arguments fixed."""

MOST_KEPT = 64  # programs; the oldest goes first

_made: dict[Hashable, "concurrent.futures.Future[Segment]"] = {}
_jitted: set[Hashable] = set()  # what the jitted function has compiled by itself


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="compile-ahead")


def _struct(new: Any, old: jax.Array) -> jax.ShapeDtypeStruct:
    _, dtype, where, weak = _kind(old)
    return jax.ShapeDtypeStruct(new.shape, dtype, sharding=where, weak_type=bool(weak))


def _kind(x: Any) -> tuple[Any, ...]:
    """What a compiled program depends on in an argument: shape, dtype, placement, weakness."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.shape, x.dtype, x.sharding, x.weak_type
    if isinstance(x, jax.Array):
        return x.shape, x.dtype, x.sharding if x.committed else None, x.aval.weak_type
    return np.shape(x), np.result_type(x), None, not isinstance(x, np.ndarray | np.generic)


def at_capacity(strategy: Strategy, state: DecodeState, capacity: int) -> DecodeState:
    """The state with a cache (and drafts) of another capacity, as shapes; placed as `state` is."""

    def moved(cache: Any, aux: Any) -> tuple[Any, Any]:
        return cache.grow(capacity), strategy.grow(aux, capacity)

    cache, aux = jax.eval_shape(moved, state.cache, state.aux)
    return jax.tree.map(_struct, state.replace(cache=cache, aux=aux), state)


def submit(
    cfg: DecoderConfig,
    params: DecoderParams,
    extra: Any,
    state: DecodeState,
    strategy: Strategy,
    capacity: int,
) -> bool:
    """Starts to compile the segment program of another capacity, unless it is known already.

    Tracing happens here, compiling in a thread of its own: one program at a time.

    Returns:
        Whether a compilation was started.
    """
    abstract = at_capacity(strategy, state, capacity)
    key = _key(cfg, params, extra, abstract, strategy)
    if key in _made or key in _jitted:
        return False
    segment: Any = programs.segment()
    lowered = segment.lower(cfg, params, extra, abstract, strategy=strategy, max_steps=np.int32(1))
    _made[key] = _pool().submit(lowered.compile)
    while len(_made) > MOST_KEPT:
        del _made[next(iter(_made))]
    return True


def _key(
    cfg: DecoderConfig, params: Any, extra: Any, state: DecodeState, strategy: Strategy
) -> Hashable:
    leaves, tree = jax.tree.flatten((params, extra, state))
    return cfg, strategy, tree, tuple(map(_kind, leaves))


def program(
    cfg: DecoderConfig, params: DecoderParams, extra: Any, state: DecodeState, strategy: Strategy
) -> tuple[Segment, float]:
    """The segment program for these arguments, and seconds spent waiting for it.

    It is the one compiled ahead if there is one, else the jitted one.
    """
    key = _key(cfg, params, extra, state, strategy)
    if key in _made:
        begin, is_ready = time.perf_counter(), _made[key].done()
        try:
            segment = _made[key].result()
            return segment, 0.0 if is_ready else time.perf_counter() - begin
        except jax.errors.JaxRuntimeError as error:
            del _made[key]  # the jitted program below fails alike, or does it
            warnings.warn(f"compiling ahead failed: {error}", stacklevel=3)
    _jitted.add(key)
    jitted: Any = programs.segment()

    def segment(params: Any, extra: Any, state: DecodeState, *, max_steps: Any) -> Any:
        return jitted(cfg, params, extra, state, strategy=strategy, max_steps=max_steps)

    return segment, 0.0
