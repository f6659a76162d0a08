"""A user's flax model as a tree of `Linear` layers, and back: what is projected must pass `layers.linear`.

Dense layers are found by running the model once on shapes. Their weights, stored `[in, out]` by flax, stand in
the tree as `Linear` (`w` [out, in]); every other parameter stays where it was. `apply` runs the user's own model
with `layers.linear.linear` in the place of its dense layers.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear, linear

Tree = Any
Path = tuple[Any, ...]


class FlaxModel(NamedTuple):
    """A model of flax in this library's form."""

    params: Tree
    """Nested dictionaries with a `Linear` for every dense layer; paths such as `Dense_0.w`."""
    apply: Callable[..., Any]
    """`apply(params, *inputs)`: what the model computes, of such a tree."""
    restore: Callable[[Tree], Any]
    """Trained parameters as flax has them: linen's variables, or a new nnx model."""


def from_linen(module: linen.Module, variables: Mapping[str, Any], *inputs: Any) -> FlaxModel:
    """A linen module.

    Args:
        module: whose `__call__` takes the inputs of ONE example, or of a batch of one.
        variables: of `module.init`; parameters alone.
        *inputs: arrays or shapes of such inputs; nothing is computed.

    Raises:
        ConfigError: other collections than `params` (running statistics mix examples), no dense layer, or
            one that is stacked or has a product of its own.
    """
    if set(variables) != {"params"}:
        raise ConfigError(
            f"the variables hold the collections {sorted(variables)}: only `params` can be trained "
            "privately. Running statistics, as of batch norm, mix examples: use layer or group norm."
        )
    found: dict[Path, linen.Dense] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if type(context.module) is linen.Dense and context.method_name == "__call__":
            found[tuple(context.module.path)] = context.module
        return call(*args, **kwargs)

    with linen.intercept_methods(note):
        jax.eval_shape(module.apply, dict(variables), *inputs)
    kernels = {path: _at(variables["params"], path)["kernel"] for path in found}
    for path, layer in found.items():
        _check_kernel(path, kernels[path])
        if layer.dot_general is not None or layer.dot_general_cls is not None:
            raise ConfigError(
                f"{'.'.join(path)} multiplies in a way of its own: use a plain Dense."
            )
    paths = _some(found)

    def apply(params: Tree, *inputs: Any) -> Any:
        def through_ours(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path = tuple(context.module.path)
            if path not in paths or context.method_name != "__call__":
                return call(*args, **kwargs)
            return _dense(args[0], _at(params, path), context.module.dtype)

        with linen.intercept_methods(through_ours):
            return module.apply({"params": _to_flax(params, paths)}, *inputs)

    return FlaxModel(
        params=_from_flax(variables["params"], paths),
        apply=apply,
        restore=lambda params: {"params": _to_flax(params, paths)},
    )


def from_nnx(model: nnx.Module) -> FlaxModel:
    """An nnx module, as it is now; `apply` calls it and leaves it unchanged.

    Raises:
        ConfigError: no linear layer, batch norm, or dropout that is switched on (`model.eval()` first).
    """
    found: set[Path] = set()
    for path, layer in nnx.iter_modules(model):
        name = ".".join(map(str, path))
        if isinstance(layer, nnx.BatchNorm):
            raise ConfigError(f"{name} is a batch norm, which mixes examples: use another norm.")
        if isinstance(layer, nnx.Dropout) and not layer.deterministic:
            raise ConfigError(f"{name} draws from the model's own state: call model.eval() first.")
        if type(layer) is nnx.Linear:
            _check_kernel(path, layer.kernel[...])
            own = (layer.dot_general is jax.lax.dot_general, layer.preferred_element_type is None)
            if not all(own):
                raise ConfigError(f"{name} multiplies in a way of its own: use a plain Linear.")
            found.add(path)
    paths = _some(found)
    graph, trained, rest = nnx.split(model, nnx.Param, ...)

    def restore(params: Tree) -> Any:
        state = jax.tree.map(lambda leaf: leaf, trained)  # a copy of its structure
        nnx.replace_by_pure_dict(state, _to_flax(params, paths))
        return nnx.merge(graph, state, rest)

    def apply(params: Tree, *inputs: Any) -> Any:
        copy = restore(params)
        for path, layer in nnx.iter_modules(copy):
            if path in paths:
                _call_instead(
                    layer, functools.partial(_dense, p=_at(params, path), dtype=layer.dtype)
                )
        return copy(*inputs)

    return FlaxModel(_from_flax(nnx.to_pure_dict(trained), paths), apply, restore)


def _call_instead(layer: nnx.Linear, function: Callable[[jax.Array], jax.Array]) -> None:
    """Makes a call of this one layer a call of a function: Python looks `__call__` up on the class."""
    layer.__class__ = type("Linear", (nnx.Linear,), {"__call__": lambda self, x: function(x)})


def _dense(x: jax.Array, p: Linear, dtype: Any) -> jax.Array:
    return linear(x.astype(jnp.result_type(x, p.w) if dtype is None else dtype), p)


def _check_kernel(path: Path, kernel: Any) -> None:
    if len(kernel.shape) != 2:
        raise ConfigError(
            f"the kernel of {'.'.join(map(str, path))} has the shape {list(kernel.shape)}: layers stacked by "
            "scan or vmap are not supported; write the layers out one by one."
        )


def _some(found: Iterable[Path]) -> frozenset[Path]:
    paths = frozenset(found)
    if not paths:
        raise ConfigError(
            "the model calls no dense layer (linen.Dense, nnx.Linear): there is nothing to project."
        )
    return paths


def _at(tree: Tree, path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _from_flax(tree: Tree, paths: frozenset[Path], here: Path = ()) -> Tree:
    if here in paths:
        return Linear(w=tree["kernel"].T, b=tree.get("bias"))
    if not isinstance(tree, Mapping):
        return tree
    return {name: _from_flax(value, paths, (*here, name)) for name, value in tree.items()}


def _to_flax(tree: Tree, paths: frozenset[Path], here: Path = ()) -> Tree:
    if here in paths:
        return {"kernel": tree.w.T} | ({} if tree.b is None else {"bias": tree.b})
    if not isinstance(tree, Mapping):
        return tree
    return {name: _to_flax(value, paths, (*here, name)) for name, value in tree.items()}
