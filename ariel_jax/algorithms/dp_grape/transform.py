"""DP-GRAPE as an optax transformation: from noisy projected gradients to updates of whole weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ariel_jax._numerics import at_least_f32
from ariel_jax.algorithms.dp_grape import taps
from ariel_jax.algorithms.dp_grape.config import Config, Specs


class Apart(NamedTuple):
    """States of the inner transformation, one for each kind of leaves: those of one can begin anew."""

    projected: Any
    full: Any


class GrapeState(NamedTuple):
    """The state of `transform`."""

    step: jax.Array  # [] int32
    key: jax.Array  # [] typed key of the projections; public
    # Of the inner transformation, over `taps.trained_leaves` in at least float32; with moments that are reset
    # it is `Apart`.
    inner: Any


def transform(
    inner: optax.GradientTransformation, cfg: Config, specs: Specs, *, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimiser in the projected space and gives updates for the parameters.

    Its updates come in as `{path: array}` (`taps.trained_leaves`): the clipped, noisy and averaged sum of
    projected gradients. They leave with the shapes of the parameters, zero for frozen leaves, so that
    whatever follows in an `optax.chain` sees an ordinary tree.

    Args:
        inner: such as `optax.scale_by_adam()` or a whole `optax.adam(1e-3)`. It sees parameters in at least
            float32, and zeros for projected weights: put weight decay behind this transformation, not into it.
        cfg: when projections are drawn anew, and what becomes of moments then. With `reset` those of
            projected weights begin anew with whatever number lies beside them (Adam's count, so its bias
            correction too), schedules go on, and `inner` runs twice: projected weights know nothing of the
            others, nor a clip by global norm.
        specs: which weights are projected.
        key: [] typed key of the projections. Public; it must be another one than that of the noise.

    Guarantees:
        The projections are those of `taps.projections(key, step // refresh_every, ...)`: the ones with
        which the gradients of this step were projected, if they were taken at the same step.
    """
    runs: Any = optax.with_extra_args_support(inner)
    if _is_reset(cfg) and specs.projected:
        runs = _apart(runs, specs)

    def init(params: Any) -> GrapeState:
        return GrapeState(
            step=jnp.zeros((), jnp.int32),
            key=jax.random.clone(key),  # a step gives its state up
            inner=runs.init(_seen(params, specs)),
        )

    def update(
        updates: Any, state: GrapeState, params: Any = None, **extra: Any
    ) -> tuple[Any, GrapeState]:
        if params is None:
            raise ValueError(
                "dp_grape.transform needs the parameters: call update(updates, state, params)."
            )
        drawn = taps.projections(state.key, taps.epoch_of(state.step, cfg), specs, cfg)
        state = _refreshed(state, drawn, params, cfg, specs, runs)
        small, after = runs.update(updates, state.inner, _seen(params, specs), **extra)
        by_path, full = specs.by_path(), set(specs.full)

        def whole(path: Any, leaf: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if name in by_path:
                return taps.project_back(by_path[name], small[name], drawn[name]).astype(leaf.dtype)
            return small[name].astype(leaf.dtype) if name in full else jnp.zeros_like(leaf)

        grown = jax.tree_util.tree_map_with_path(whole, params)
        return grown, GrapeState(step=state.step + 1, key=state.key, inner=after)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType] optax's own types are wider


def _seen(params: Any, specs: Specs) -> taps.Leaves:
    """The parameters that the inner optimiser sees, in the dtypes of its updates.

    From narrower ones it would make moments that are wider after a step, and a checkpoint of those does not
    fit into the first state.
    """
    leaves = taps.trained_leaves(params, specs)
    return {path: leaf.astype(at_least_f32(leaf.dtype)) for path, leaf in leaves.items()}


def _is_reset(cfg: Config) -> bool:
    return cfg.moments == "reset" and bool(cfg.refresh_every)


def _apart(inner: Any, specs: Specs) -> optax.GradientTransformationExtraArgs:
    """A transformation that runs for projected weights and for leaves trained in full by itself."""
    by_path = specs.by_path()

    def split(leaves: Any) -> tuple[taps.Leaves, taps.Leaves]:
        some = {path: leaf for path, leaf in leaves.items() if path in by_path}
        return some, {path: leaf for path, leaf in leaves.items() if path not in by_path}

    def init(leaves: Any) -> Apart:
        return Apart(*map(inner.init, split(leaves)))

    def update(updates: Any, state: Any, leaves: Any = None, **extra: Any) -> tuple[Any, Apart]:
        parts = zip(split(updates), state, split(leaves), strict=True)
        (some, first), (rest, second) = (inner.update(*part, **extra) for part in parts)
        return some | rest, Apart(first, second)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType] optax's own types are wider


def _refreshed(
    state: GrapeState,
    drawn: taps.Leaves,
    params: Any,
    cfg: Config,
    specs: Specs,
    runs: Any,
) -> GrapeState:
    """The state with its moments as `cfg.moments` wants them at the first step of an epoch."""
    if cfg.moments == "keep" or not cfg.refresh_every:
        return state
    is_new = (state.step % cfg.refresh_every == 0) & (state.step > 0)

    def reset(old: Any) -> Any:
        fresh = runs.init(_seen(params, specs))
        by_path = specs.by_path()
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(old)]
        # Where moments lie, as (..., "mu", name); what is (..., "count") there belongs to them.
        places = {path[:-2] for path in paths if _projected_name(path, by_path)}

        def leaf(path: Any, old: jax.Array, new: jax.Array) -> jax.Array:
            return new if _projected_name(path, by_path) or path[:-1] in places else old

        return jax.tree_util.tree_map_with_path(leaf, old, fresh)

    def transfer(old: Any) -> Any:
        epoch = taps.epoch_of(state.step, cfg)
        before = taps.projections(state.key, epoch - 1, specs, cfg)
        by_path = specs.by_path()

        def moved(path: Any, leaf: jax.Array) -> jax.Array:
            name = _projected_name(path, by_path)
            if not name or not _is_first_moment(path):
                return leaf
            turn = jnp.einsum("...dr,...ds->...rs", before[name], drawn[name])
            if by_path[name].side == "in":
                return jnp.einsum("...or,...rs->...os", leaf, turn.astype(leaf.dtype))
            return jnp.einsum("...ri,...rs->...si", leaf, turn.astype(leaf.dtype))

        return jax.tree_util.tree_map_with_path(moved, old)

    change = reset if cfg.moments == "reset" else transfer
    return state._replace(inner=jax.lax.cond(is_new, change, lambda old: old, state.inner))


def _projected_name(path: Any, by_path: Any) -> str | None:
    """The weight that a leaf of the inner state belongs to, if it is a projected one."""
    last = path[-1] if path else None
    name = getattr(last, "key", None)
    return name if name in by_path else None


def _is_first_moment(path: Any) -> bool:
    return any(getattr(part, "name", None) in ("mu", "trace") for part in path)
