"""Array aliases for annotations, and the decorator `typed` that checks them when asked.

With `ARIEL_JAX_TYPECHECK=1` in the environment `typed` checks shapes and dtypes of arguments and
results at call time (under `jit`: at trace time); without it `typed` returns its argument, so
there is nothing to pay.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import Array, Bool, Float, Int, Key, Num, PRNGKeyArray, PyTree, Shaped, UInt

from ariel_jax import errors

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "Key",
    "Num",
    "PRNGKeyArray",
    "PyTree",
    "Shaped",
    "UInt",
    "typed",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _checking(fun: _Function) -> _Function:
    """Returns `fun` with its jaxtyping annotations checked by beartype."""
    try:
        import beartype
    except ImportError as error:
        raise errors.missing_extra("beartype", "test", "ARIEL_JAX_TYPECHECK=1") from error
    import jaxtyping

    checked: Any = jaxtyping.jaxtyped(fun, typechecker=beartype.beartype)
    return checked


def _unchanged(fun: _Function) -> _Function:
    """Returns `fun` itself."""
    return fun


typed = _checking if os.environ.get("ARIEL_JAX_TYPECHECK") == "1" else _unchanged
