"""How a traced loss uses the weights whose gradients' norms are taken: once each, or the norms are wrong.

The norm of a weight's gradient follows from its layer's input and output only if nothing else depends on
the weight. Where it does not, an example would count more than the clip norm, silently.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ariel_jax.errors import ConfigError
from ariel_jax.layers.ghost import mark

# What may stand around the use of a weight: its arguments are those of one function, called once.
_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"})
_Tag = tuple[str, str]


def check_uses(jaxpr: Jaxpr, paths: Sequence[str]) -> None:
    """Refuses a loss whose norms would be wrong.

    Args:
        jaxpr: of the loss of one example; its first arguments are the weights, then their probes.
        paths: of the weights.

    Raises:
        ConfigError: a weight is used more than once, in a loop that does not run over its leading axis, or
            otherwise than by `layers.linear.linear`.
    """
    n = len(paths)
    tags = {var: ("weight", path) for var, path in zip(jaxpr.invars[:n], paths, strict=True)}
    tags |= {var: ("probe", path) for var, path in zip(jaxpr.invars[n : 2 * n], paths, strict=True)}
    _walk(jaxpr, tags, only_mark=False)


def _walk(jaxpr: Jaxpr, tags: dict[Any, _Tag], *, only_mark: bool) -> None:
    seen: set[_Tag] = set()
    for tag in _tagged(jaxpr.outvars, tags).values():
        raise _refused(tag, "is handed out of a function unchanged")
    for equation in jaxpr.eqns:
        here = _tagged(equation.invars, tags)
        for tag in here.values():
            if tag in seen:
                raise _refused(tag, "is used more than once")
            seen.add(tag)
        if not here:
            continue
        if equation.primitive is mark:
            weight, probe = here.get(1), here.get(2)
            if len(here) != 2 or weight is None or probe != ("probe", weight[1]):
                raise _refused(next(iter(here.values())), "is used as what it is not")
        elif only_mark:
            raise _refused(next(iter(here.values())), f"is read by {equation.primitive.name}")
        else:
            for inner, inner_tags, is_rule in _inside(equation, here):
                _walk(inner, inner_tags, only_mark=is_rule)


def _inside(equation: Any, here: dict[int, _Tag]) -> Iterator[tuple[Jaxpr, dict[Any, _Tag], bool]]:
    """The functions that an equation calls with tagged arguments: (function, tags, has its own rule)."""
    name, params = equation.primitive.name, equation.params
    first = 0
    if name == "scan":
        fixed = params["num_consts"] + params["num_carry"]
        if outside := [tag for place, tag in here.items() if place < fixed]:
            raise _refused(outside[0], "is used in every turn of a loop")
        inner = [params["jaxpr"]]
    elif name == "cond":
        inner, first = list(params["branches"]), 1
    elif name in _CALLS or name.startswith("custom_vjp_call"):
        inner = [p for p in params.values() if isinstance(p, Jaxpr | ClosedJaxpr)]
    else:
        inner = []
    bodies = [j.jaxpr if isinstance(j, ClosedJaxpr) else j for j in inner]
    if not bodies or any(len(b.invars) + first != len(equation.invars) for b in bodies):
        raise _refused(next(iter(here.values())), f"is read by {name}")
    for body in bodies:
        tags = {body.invars[place - first]: tag for place, tag in here.items()}
        yield body, tags, name.startswith("custom_vjp_call")


def _tagged(variables: Sequence[Any], tags: dict[Any, _Tag]) -> dict[int, _Tag]:
    known = {i: v for i, v in enumerate(variables) if not isinstance(v, Literal)}
    return {i: tags[v] for i, v in known.items() if v in tags}


def _refused(tag: _Tag, what: str) -> ConfigError:
    return ConfigError(
        f"the {tag[0]} of {tag[1]!r} {what}: the norm of its gradient cannot be taken without forming it. "
        "Each ghosted weight must be used once, by layers.linear.linear (stacked layers in a scan). Leave it "
        "out of ghosted= to form its gradients, or use clipping.ClippedSum."
    )
