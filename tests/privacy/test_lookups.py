"""The part of a table against its gradients written out."""

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.privacy.clipping import Stacked, clip_and_sum
from ariel_jax.privacy.lookups import LookedUp

B, T, D, V = 4, 7, 3, 9


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, V, (B, T)).astype(np.int32)
    ids[0] = 5  # one row, again and again
    return jnp.asarray(ids), jnp.asarray(rng.standard_normal((B, T, D)), jnp.float32)


def written_out(ids, gradients):
    """[B, V, D]."""
    tables = np.zeros((B, V, D), np.float64)
    for b in range(B):
        np.add.at(tables[b], np.asarray(ids[b]), np.asarray(gradients[b], np.float64))
    return jnp.asarray(tables, jnp.float32)


def test_it_is_the_table_s_gradient_clipped_and_summed():
    ids, gradients = drawn()
    gradients = gradients.at[2].set(jnp.nan)
    padding = jnp.asarray([False, False, False, True])
    slow = Stacked({"embed": written_out(ids, gradients)})
    fast = LookedUp.of("embed", ids, gradients, V)
    np.testing.assert_allclose(fast.square_norms()[:2], slow.square_norms()[:2], rtol=1e-6)
    for clip_norm in (0.5, 100.0):
        (ours,), _ = clip_and_sum([fast], jnp.float32(clip_norm), padding)
        (theirs,), _ = clip_and_sum([slow], jnp.float32(clip_norm), padding)
        np.testing.assert_allclose(ours["embed"], theirs["embed"], rtol=1e-5, atol=1e-6)
        assert float(jnp.linalg.norm(ours["embed"])) <= 2 * clip_norm * (1 + 1e-6)


def test_squares_before_merging_would_be_noticed():
    """The fault that the class is there to avoid: rows looked up twice count too little."""
    ids, gradients = drawn()
    unmerged = Stacked(gradients).square_norms()
    merged = LookedUp.of("embed", ids, gradients, V).square_norms()
    assert np.abs(np.asarray(unmerged - merged)).max() > 0.1


def test_two_names_of_one_row_are_one():
    """A lookup takes -1 for the last row."""
    ids = jnp.asarray([[-1, V - 1]], jnp.int32)
    part = LookedUp.of("embed", ids, jnp.ones((1, 2, 1), jnp.float32), V)
    (total,), norms = clip_and_sum([part], jnp.float32(1.0), jnp.zeros(1, bool))
    assert float(norms[0]) == 2
    assert float(jnp.linalg.norm(total["embed"])) <= 1 + 1e-6


def test_opposite_gradients_of_one_row_stay_within_the_bound():
    """Scaled one by one, 1e8 and its like with a weight of 1 would leave rounding of about 8."""
    ids = jnp.zeros((1, 3), jnp.int32)
    gradients = jnp.asarray([[[1e8], [3.0], [-1e8]]], jnp.float32)
    (total,), norms = clip_and_sum(
        [LookedUp.of("embed", ids, gradients, V)], jnp.float32(1.0), jnp.zeros(1, bool)
    )
    assert float(jnp.linalg.norm(total["embed"])) <= 1 + 1e-6
    assert float(norms[0]) <= 8.0


def test_no_example_has_a_table():
    ids, gradients = drawn()

    def run(gradients):
        part = LookedUp.of("embed", ids, gradients, V)
        return clip_and_sum([part], jnp.float32(1.0), jnp.zeros(B, bool))[0]

    text = jax.jit(run).lower(gradients).as_text()
    assert f"tensor<{B}x{V}x{D}xf32>" not in text
    assert f"tensor<{V}x{D}xf32>" in text
