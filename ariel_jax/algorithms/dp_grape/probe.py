"""What a private step must do, tried on examples that are nobody's before the first real one is read."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms.dp_grape.training import PrivateSource
from ariel_jax.errors import ConfigError
from ariel_jax.training import programs
from ariel_jax.training.step import GradFn

Records = Mapping[str, np.ndarray]
# Of the clip norm; sums in float32 differ by a thousandth of that.
_TOLERANCE = 1e-3


def made_up(records: Records, n: int = 3) -> dict[str, np.ndarray]:
    """Examples with the shapes and dtypes of records and none of their values.

    Args:
        records: arrays [N, ...].
        n: how many.

    Returns:
        Arrays [n, ...]: normal floats, and whole numbers that are 0 or 1, which any vocabulary has.
    """
    rng = np.random.default_rng(0)

    def draw(array: np.ndarray) -> np.ndarray:
        shape = (n, *array.shape[1:])
        if jnp.issubdtype(array.dtype, jnp.floating):
            return rng.standard_normal(shape).astype(array.dtype)
        return rng.integers(0, 2, shape).astype(array.dtype)

    return {name: draw(np.asarray(array)) for name, array in records.items()}


def check(
    grad_fn: GradFn,
    params: Any,
    source: PrivateSource,
    *,
    examples: Records | None = None,
    projected: tuple[str, ...] = (),
) -> None:
    """Refuses a step whose sum is not one of clipped gradients of single examples.

    The sum over examples i and j without that over j alone is what i contributes: it must have a norm of
    at most the clip norm and stay the same when k stands in the place of j. Nothing private is read.

    Args:
        grad_fn: of the run.
        params: what it differentiates.
        source: of the run; only shapes and public numbers are taken.
        examples: arrays [3, ...] to try it with; None makes some up.
        projected: names of gradients that must not be zero for all three.

    Raises:
        ConfigError: the examples are mixed, one counts more than the clip norm, or a projected weight
            has no gradient.
    """
    tried = dict(examples) if examples is not None else made_up(source.draws.records)
    _check_shapes(tried, source)
    if source.draws.rows < 2:
        return  # nothing to mix with
    i, j, k = 0, 1, 2
    both = [_total(grad_fn, params, source, tried, (i, other), first=True) for other in (j, k)]
    alone = [_total(grad_fn, params, source, tried, (i, other), first=False) for other in (j, k)]
    beside_j, beside_k = (
        {name: pair[name] - single[name] for name in pair}
        for pair, single in zip(both, alone, strict=True)
    )
    moved = _norm({name: beside_j[name] - beside_k[name] for name in beside_j})
    clip = source.clip_norm
    if not moved <= _TOLERANCE * clip:
        raise ConfigError(
            f"what one example adds to the sum moves by {moved:.3g} (clip norm {clip:g}) when another "
            "example is changed: the loss or the gradient mixes examples (batch statistics, negatives "
            "within the batch, a load loss), and no clipping bounds what a record does then. Make it a "
            "loss of one example."
        )
    found = max(_norm(beside_j), *map(_norm, alone))
    if not found <= (1 + _TOLERANCE) * clip:
        raise ConfigError(
            f"one example changes the sum by {found:.4g}, more than the clip norm {clip:g}: pass a "
            "gradient that clips each example."
        )
    idle = [name for name in projected if not any(tree[name].any() for tree in (beside_j, *alone))]
    if idle:
        raise ConfigError(
            f"{idle[:4]}{' and more' if len(idle) > 4 else ''} had no gradient for any of three "
            "examples: these layers do not use their tap (layers.linear.linear applies it), so they "
            "would not be trained. Use it there, put them into frozen=, or pass examples= of your own."
        )


def _total(
    grad_fn: GradFn,
    params: Any,
    source: PrivateSource,
    tried: Records,
    which: tuple[int, int],
    *,
    first: bool,
) -> dict[str, np.ndarray]:
    """The clipped sum over two examples, or with `first` False over the second alone, by path."""
    rows = source.draws.rows
    examples = {}
    for name, array in tried.items():
        examples[name] = np.zeros((rows, *array.shape[1:]), array.dtype)
        examples[name][:2] = array[list(which)]
    is_padding = np.ones(rows, bool)
    is_padding[:2] = [not first, False]
    beside = source.beside({"step": 0, "seed": ""}, np.asarray(which))
    batch, key = {"examples": examples, **beside}, jax.random.key(0)
    tree, _ = programs.grads(params, batch, is_padding, key, grad_fn=grad_fn)
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) * float(rows)
        for path, leaf in leaves
    }


def _check_shapes(tried: Records, source: PrivateSource) -> None:
    wanted = {
        name: [3, *array.shape[1:], str(array.dtype)]
        for name, array in source.draws.records.items()
    }
    given = {name: [*array.shape, str(array.dtype)] for name, array in tried.items()}
    if wanted != given:
        raise ConfigError(
            f"the examples to try a step with must be like the records, {wanted}; got {given}."
        )


def _norm(leaves: Records) -> float:
    return float(np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in leaves.values())))
