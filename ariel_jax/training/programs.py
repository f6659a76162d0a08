"""The two programs of a training step; the reduction between them is the host's."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ariel_jax._numerics import at_least_f32
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams
from ariel_jax.training import step
from ariel_jax.training.step import GradFn, Info, Tree

DATA = "data"


@functools.partial(jax.jit, static_argnames=("grad_fn", "microbatches", "mesh"))
def grads(
    params: Tree,
    batch: Any,
    is_padding: jax.Array,
    key: jax.Array,
    *,
    grad_fn: GradFn,
    microbatches: int = 1,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Tree, Info]:
    """`grad_fn` of a batch, spread over devices and in parts one after another.

    Static: grad_fn, microbatches, mesh. Traced: params, batch, is_padding, key. Donated: nothing.

    Args:
        params: the trained tree.
        batch: pytree whose leaves are [rows, ...]; scalar leaves go to every part.
        is_padding: [rows] bool.
        key: one typed key; part i of device d uses `fold_in(key, d * microbatches + i)`.
        grad_fn: see `step.GradFn`.
        microbatches: parts of the rows of each device.
        mesh: with an axis `data`, over which the rows are split; every device runs the program of
            a single one on its rows. None is one device.

    Returns:
        (tree, info): the means over parts weighted by `info["weight"]`, whose own entry is the sum.
        Sums over parts run in at least float32.
    """
    if mesh is None:
        return _in_parts(params, batch, is_padding, key, grad_fn, microbatches, jnp.int32(0))

    def local(params: Tree, batch: Any, is_padding: jax.Array, key: jax.Array):
        first = jax.lax.axis_index(DATA) * microbatches
        tree, info = _in_parts(params, batch, is_padding, key, grad_fn, microbatches, first)
        weight = info["weight"]
        total = jax.lax.psum(weight, DATA)
        share = weight / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)

        def mean(x: jax.Array) -> jax.Array:
            wide = x.astype(_widen(x.dtype))
            return jax.lax.psum(wide * share.astype(wide.dtype), DATA).astype(x.dtype)

        tree, info = jax.tree.map(mean, (tree, info))
        return tree, info | {"weight": total}

    everywhere, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(DATA)
    batch_specs = jax.tree.map(lambda leaf: rows if jnp.ndim(leaf) else everywhere, batch)
    spread = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(everywhere, batch_specs, rows, everywhere),
        out_specs=(everywhere, everywhere),
        axis_names={DATA},
        check_vma=False,
    )
    return spread(params, batch, is_padding, key)


def _widen(dtype: jnp.dtype) -> jnp.dtype:
    return at_least_f32(dtype) if jnp.issubdtype(dtype, jnp.floating) else jnp.dtype(jnp.float32)


def _in_parts(
    params: Tree,
    batch: Any,
    is_padding: jax.Array,
    key: jax.Array,
    grad_fn: GradFn,
    microbatches: int,
    first: jax.Array,
) -> tuple[Tree, Info]:
    if microbatches == 1:
        return grad_fn(params, batch, is_padding, jax.random.fold_in(key, first))

    def split(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(microbatches, leaf.shape[0] // microbatches, *leaf.shape[1:])

    leaves, treedef = jax.tree.flatten(batch)
    whole = [leaf if jnp.ndim(leaf) == 0 else None for leaf in leaves]
    parts = [split(leaf) for leaf in leaves if jnp.ndim(leaf)]

    def part(index: jax.Array, rows: list[jax.Array], padding: jax.Array) -> tuple[Tree, Info]:
        taken = iter(rows)
        here = treedef.unflatten([next(taken) if leaf is None else leaf for leaf in whole])
        return grad_fn(params, here, padding, jax.random.fold_in(key, index))

    def body(total: tuple[tuple[Tree, Info], jax.Array], item: tuple[Any, ...]):
        sums, weight_sum = total
        result = part(*item)
        weight = result[1]["weight"]
        sums = jax.tree.map(
            lambda a, x: a + x.astype(a.dtype) * weight.astype(a.dtype), sums, result
        )
        return (sums, weight_sum + weight), None

    items = (first + jnp.arange(microbatches, dtype=jnp.int32), parts, split(is_padding))
    shapes = jax.eval_shape(part, *jax.tree.map(lambda x: x[0], items))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, _widen(x.dtype)), shapes)
    (sums, weight), _ = jax.lax.scan(body, (zeros, jnp.float32(0)), items)
    safe = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
    tree, info = jax.tree.map(lambda a, x: (a / safe.astype(a.dtype)).astype(x.dtype), sums, shapes)
    return tree, info | {"weight": weight}


@functools.partial(jax.jit, static_argnames=("tx",), donate_argnames=("params", "opt_state"))
def apply(
    params: Tree, opt_state: Any, tree: Tree, *, tx: optax.GradientTransformation
) -> tuple[Tree, Any, Info]:
    """One optimiser step with an already reduced tree.

    Static: tx. Traced: params, opt_state, tree. Donated: params, opt_state.

    Returns:
        (params, opt_state, info) with `info["grad_norm"]`, the global norm of the tree.
    """
    # optax raises floats to integer powers, which a caller's strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = tx.update(tree, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, {"grad_norm": optax.tree.norm(tree)}


@functools.partial(jax.jit, static_argnames=("tx",))
def init_optimizer(params: Tree, *, tx: optax.GradientTransformation) -> Any:
    """The optimiser's first state.

    Static: tx. Traced: params. Donated: nothing.
    """
    return tx.init(params)


@functools.partial(jax.jit, static_argnames=("cfg", "exits"))
def exit_nll(
    params: DecoderParams,
    tokens: jax.Array,
    targets: jax.Array,
    *,
    cfg: DecoderConfig,
    exits: tuple[int, ...],
) -> jax.Array:
    """`step.exit_nll` as a program: [len(exits), B, T] float32 nats.

    Static: cfg, exits. Traced: params, tokens, targets. Donated: nothing.
    """
    return step.exit_nll(cfg, params, tokens, targets, exits=exits)
