"""GaLore behind the noise: an optimiser in the subspace of the noisy gradient's largest singular vectors.

Zhao et al. 2024, arXiv 2403.03507; behind the noise of DP-Adam it is "naive DP-GaLore". What is decomposed
here has its noise already, so the subspace is post-processing and costs nothing; singular vectors of the
gradient *before* noise are released by every update and void the guarantee.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ariel_jax.algorithms.dp_grape.config import Spec, Specs
from ariel_jax.algorithms.dp_grape.taps import Leaves, project, project_back


class GaloreState(NamedTuple):
    """The state of `galore`."""

    step: jax.Array  # [] int32
    basis: Leaves  # by path [in, r] or [out, r], orthonormal columns
    inner: Any  # of the inner transformation


def galore(
    inner: optax.GradientTransformation, specs: Specs, *, refresh_every: int
) -> optax.GradientTransformation:
    """Runs an optimiser on gradients in their own leading subspace.

    Its updates and parameters are `{path: array}` of all trained leaves: the noisy mean of *whole* gradients.

    Args:
        inner: such as `optax.adam(1e-3)`. For projected weights it sees zeros as parameters.
        specs: which weights have a subspace, of which rank and on which side; the others go through whole.
        refresh_every: steps between two decompositions, the first one at the first step; 0 makes no other.

    Guarantees:
        With `side="larger"` it is `optax.contrib.scale_by_galore` (test); `smaller` is the rule of GaLore's
        own code. Moments are kept at a refresh, as in both.
    """
    by_path = specs.by_path()

    def small(params: Any) -> Leaves:
        at = lambda path, leaf: (
            jnp.zeros(by_path[path].projected_shape, jnp.float32) if path in by_path else leaf
        )
        return {path: at(path, leaf) for path, leaf in params.items()}

    def init(params: Any) -> GaloreState:
        basis = {p: jnp.zeros(spec.projection_shape, jnp.float32) for p, spec in by_path.items()}
        return GaloreState(jnp.zeros((), jnp.int32), basis, inner.init(small(params)))

    def update(updates: Any, state: GaloreState, params: Any = None) -> tuple[Any, GaloreState]:
        whole = {path: updates[path].astype(jnp.float32) for path in by_path}
        turn = state.step % refresh_every if refresh_every else state.step
        drawn = lambda: {path: leading(by_path[path], whole[path]) for path in by_path}
        basis = jax.lax.cond(turn == 0, drawn, lambda: state.basis)
        inside = {path: project(spec, whole[path], basis[path]) for path, spec in by_path.items()}
        seen = None if params is None else small(params)
        moved, after = inner.update({**updates, **inside}, state.inner, seen)
        back = lambda path, leaf: (
            project_back(by_path[path], leaf, basis[path]) if path in by_path else leaf
        )
        grown = {path: back(path, leaf) for path, leaf in moved.items()}  # pyright: ignore[reportAttributeAccessIssue] a dictionary, as it was given
        return grown, GaloreState(state.step + 1, basis, after)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType] optax's own types are wider


def leading(spec: Spec, gradient: jax.Array) -> jax.Array:
    """The singular vectors of the largest singular values on a weight's projected side.

    Args:
        spec: of the weight.
        gradient: [..., out, in] float32, with its noise.

    Returns:
        [..., in, r] or [..., out, r] with orthonormal columns.
    """
    left, _, right = jnp.linalg.svd(gradient, full_matrices=False)
    vectors = jnp.swapaxes(right, -1, -2) if spec.side == "in" else left
    return vectors[..., : spec.rank]
