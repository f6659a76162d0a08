"""The jitted programs of DEL beside the segment program: the phases of a round one by one.

For study: what a phase takes can be timed only where the host sees its end.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from ariel_jax.algorithms.del_exit import rounds, shadow
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams


def likeliest(cfg: DecoderConfig, params: DecoderParams, hidden: jax.Array) -> Any:
    """`shadow.likeliest`, jitted.

    Static: cfg. Traced: params, hidden [K, B, W, D]. Donated: nothing.
    """
    return _likeliest()(cfg, params, hidden)


@functools.cache
def _likeliest() -> Callable[..., Any]:
    def run(cfg, params, hidden):
        with params.precision.scope():
            return shadow.likeliest(cfg, params, hidden)

    return jax.jit(run, static_argnames=("cfg",))


@functools.cache
def phase(name: str) -> Callable[..., Any]:
    """A phase of a round, `rounds.<name>`, jitted: `run(cfg, strategy, params, extra, state, *rest)`.

    Static: cfg, strategy. Traced: params, extra, state, rest. Donated: state, by the phases that
    return it (`draft`, `verify`, `settle`, `plain_step`); so none of the rest may share its arrays.
    """
    fun = getattr(rounds, name)

    def run(cfg, strategy, params, extra, state, *rest):
        with params.precision.scope(), jax.named_scope(name):
            return fun(strategy.job(cfg, params, extra), state, *rest)

    changes_state = name in ("draft", "verify", "settle", "plain_step")
    return jax.jit(
        run,
        static_argnames=("cfg", "strategy"),
        donate_argnames=("state",) if changes_state else (),
    )
