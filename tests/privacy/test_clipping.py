"""Clipped sums, noise and draws: what one record can change, and nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ariel_jax.errors import ConfigError
from ariel_jax.privacy import audit, noise, secure_key
from ariel_jax.privacy.accounting import Plan
from ariel_jax.privacy.clipping import ClippedSum, Stacked, clip_and_sum

D, N = 5, 3


def example_loss(trained, fixed, example, key):
    """A linear layer behind a fixed one."""
    w, b = (trained[name].astype(jnp.float32) for name in ("w", "b"))
    out = jnp.tanh(example["x"] @ fixed) @ w.T + b
    return jnp.mean(jnp.square(out - example["y"]))


SUM = ClippedSum(loss=example_loss)


@pytest.fixture
def given():
    """Weights, a batch of eight with two rows of padding, and a key."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    trained, fixed = {"w": draw(N, D), "b": draw(N)}, draw(D, D)
    batch = {"x": draw(8, D), "y": draw(8, N)}
    return trained, fixed, batch, jnp.arange(8) >= 6, jax.random.key(0)


def by_hand(given, clip_norm):
    """One example after the other, in float64 NumPy."""
    trained, fixed, batch, is_padding, key = given
    total, norms = {"w": np.zeros((N, D)), "b": np.zeros(N)}, []
    for i in np.flatnonzero(~np.asarray(is_padding)):
        example = jax.tree.map(lambda a, i=i: a[i], batch)
        g = jax.tree.map(np.asarray, jax.grad(example_loss)(trained, fixed, example, key))
        norm = np.sqrt(sum(np.square(v, dtype=np.float64).sum() for v in g.values()))
        norms.append(norm)
        total = {k: total[k] + g[k] * min(1, clip_norm / norm) for k in total}
    return total, norms


@pytest.mark.parametrize("microbatch", [None, 1, 2, 4])
@pytest.mark.parametrize("clip_norm", [0.3, 1.5, 1e6])
def test_the_sum_is_that_of_one_example_after_the_other(given, microbatch, clip_norm):
    total, info = dataclasses.replace(SUM, microbatch=microbatch)(*given, jnp.float32(clip_norm))
    wanted, norms = by_hand(given, clip_norm)
    for name in wanted:
        np.testing.assert_allclose(total[name], wanted[name], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(info.norm[:6], norms, rtol=1e-5)
    np.testing.assert_array_equal(info.norm[6:], 0)
    np.testing.assert_array_equal(info.loss[6:], 0)


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated:DeprecationWarning")
def test_it_is_the_sum_of_jax_privacy(given):
    """An independent library."""
    from jax_privacy import clipped_grad

    trained, fixed, batch, is_padding, _ = given
    loss = lambda trained, example: example_loss(trained, fixed, example, None)
    theirs = clipped_grad(loss, argnums=0, batch_argnums=1, keep_batch_dim=False, l2_clip_norm=0.5)
    wanted = theirs(trained, batch, is_padding_example=is_padding)
    ours, _ = SUM(*given, jnp.float32(0.5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, wanted)


@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-30, 1e-3, 1.0, 1e18, 1e19, 5e37])
@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 50.0])
def test_no_example_counts_more_than_the_clip_norm(size, clip_norm):
    rng = np.random.default_rng(1)
    g = rng.standard_normal((4, 1000))
    tree = {"a": jnp.asarray(g[:, :999] * size, jnp.float32), "b": jnp.asarray(g[:, 999:] * size, jnp.float32)}  # fmt: skip
    for i in range(4):
        alone = jnp.arange(4) != i
        (total,), _ = clip_and_sum([Stacked(tree)], jnp.float32(clip_norm), alone)
        flat = np.concatenate([np.asarray(v, np.float64).ravel() for v in total.values()])
        assert np.linalg.norm(flat) <= clip_norm * (1 + 1e-6)


def test_long_gradients_keep_the_bound_too():
    """A plain sum of so many equal squares would be off by more than the margin."""
    tree = jnp.full((1, 3_000_001), 0.1, jnp.float32)
    (total,), _ = clip_and_sum([Stacked(tree)], jnp.float32(1.0), jnp.zeros(1, bool))
    size = np.linalg.norm(np.asarray(total, np.float64))
    assert 1 - 2e-6 <= size <= 1 + 1e-6


def test_the_sum_is_asked_for_at_full_precision():
    """Whatever the caller's default is: on GPU and TPU that has fewer bits."""
    with jax.default_matmul_precision("bfloat16"):
        run = lambda t, w: Stacked(t).weighted_sum(w)
        text = jax.jit(run).lower(jnp.ones((3, 4)), jnp.ones(3)).as_text()
    assert "HIGHEST" in text


def test_parts_are_clipped_jointly():
    rng = np.random.default_rng(2)
    a, b = (jnp.asarray(rng.standard_normal((3, n)), jnp.float32) for n in (4, 7))
    none = jnp.zeros(3, bool)
    (one,), norms = clip_and_sum([Stacked({"a": a, "b": b})], jnp.float32(0.7), none)
    (first, second), same = clip_and_sum([Stacked(a), Stacked(b)], jnp.float32(0.7), none)
    np.testing.assert_allclose(first, one["a"], rtol=1e-6)
    np.testing.assert_allclose(second, one["b"], rtol=1e-6)
    np.testing.assert_allclose(norms, same, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_an_example_whose_gradient_is_no_number_counts_nothing(given, bad):
    trained, fixed, batch, is_padding, key = given
    broken = batch | {"y": batch["y"].at[2].set(bad)}
    ours, info = SUM(trained, fixed, broken, is_padding, key, jnp.float32(0.5))
    without, _ = SUM(trained, fixed, batch, is_padding.at[2].set(True), key, jnp.float32(0.5))
    jax.tree.map(np.testing.assert_array_equal, ours, without)
    assert not np.isfinite(info.norm[2])


def test_padding_and_an_empty_draw_add_exactly_nothing(given):
    trained, fixed, batch, is_padding, key = given
    other = jax.tree.map(lambda a: a.at[6:].set(1e4), batch)
    ours, _ = SUM(*given, jnp.float32(0.5))
    same, _ = SUM(trained, fixed, other, is_padding, key, jnp.float32(0.5))
    jax.tree.map(np.testing.assert_array_equal, ours, same)
    nothing, info = SUM(trained, fixed, batch, jnp.ones(8, bool), key, jnp.float32(0.5))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves((nothing, info)))


def test_sums_of_bfloat16_are_formed_in_float32(given):
    trained, fixed, batch, is_padding, key = given
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), trained)
    total, info = SUM(narrow, fixed, batch, is_padding, key, jnp.float32(1e6))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((total, info))} == {"float32"}


def test_every_example_has_a_key_of_its_own(given):
    def loss(trained, fixed, example, key):
        return jnp.sum(trained["w"]) * jax.random.uniform(key)

    for microbatch in (None, 4):
        _, info = ClippedSum(loss=loss, microbatch=microbatch)(*given, jnp.float32(1.0))
        assert len(np.unique(info.norm[:6])) == 6


def test_a_record_that_goes_moves_the_sum_by_its_own_share_also_under_dropout(given):
    """Every other record keeps its key; by row, as for one key, those behind it would not."""

    def loss(trained, fixed, example, key):
        kept = jnp.where(jax.random.bernoulli(key, 0.5, (D,)), example["x"] * 2, 0.0)
        return example_loss(trained, fixed, example | {"x": kept}, key)

    trained, fixed, batch, is_padding, key = given
    keys, summed = jax.random.split(jax.random.key(4), 8), ClippedSum(loss=loss, microbatch=2)
    left = jnp.asarray([1, 2, 3, 4, 5, 6, 7, 0])  # the first one went, all move up by a row

    def moved(keys, others):
        before, _ = summed(trained, fixed, batch, is_padding, keys, jnp.float32(0.5))
        rest = jax.tree.map(lambda leaf: leaf[left], batch)
        after, _ = summed(trained, fixed, rest, jnp.arange(8) >= 5, others, jnp.float32(0.5))
        flat = [np.asarray(after[n], np.float64) - np.asarray(before[n]) for n in before]
        return np.linalg.norm(np.concatenate([leaf.ravel() for leaf in flat]))

    assert moved(keys, keys[left]) <= 0.5 * (1 + 1e-6)
    assert moved(key, key) > 0.6
    with pytest.raises(ConfigError, match=r"for each of 8 rows; got \[5\]"):
        moved(keys[:5], keys)


def test_a_clipped_sum_that_is_not_one_is_refused(given):
    trained, fixed, batch, is_padding, key = given
    call = lambda how=SUM, batch=batch, mask=is_padding: how(trained, fixed, batch, mask, key, 1.0)
    with pytest.raises(ConfigError, match="float scalar"):
        call(ClippedSum(loss=lambda trained, fixed, example, key: trained["w"]))
    with pytest.raises(ConfigError, match=r"bool \[8\]"):
        call(mask=jnp.zeros(8))
    with pytest.raises(ConfigError, match=r"bool \[8\]"):
        call(mask=jnp.zeros(7, bool))
    with pytest.raises(ConfigError, match="of one B"):
        call(batch=batch | {"y": batch["y"][:4]})
    with pytest.raises(ConfigError, match="no multiple of microbatch=3"):
        call(ClippedSum(loss=example_loss, microbatch=3))
    with pytest.raises(ConfigError, match="microbatch=0"):
        ClippedSum(loss=example_loss, microbatch=0)
    with pytest.raises(ConfigError, match="relation"):
        ClippedSum.sensitivity(1.0, "near")
    assert ClippedSum.sensitivity(2.0, "replace_one") == 4.0
    assert (
        ClippedSum.sensitivity(2.0, "zero_out") == ClippedSum.sensitivity(2.0, "add_remove") == 2.0
    )


def test_noise_has_the_size_that_it_says_and_no_two_leaves_or_steps_share_it():
    tree = {"a": jnp.zeros((300, 300)), "b": jnp.zeros((300, 300), jnp.bfloat16)}
    adding = noise.add_gaussian(0.7, jax.random.key(3))
    first, state = adding.update(tree, adding.init(tree))
    second, state = adding.update(tree, state)
    drawn = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves((first, second))]
    n = drawn[0].size
    for one in drawn:
        assert one.dtype == np.float32
        assert np.std(one) == pytest.approx(0.7, rel=0.01)
    correlation = np.corrcoef(drawn) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(n)
    assert state.step == 2
    with pytest.raises(ConfigError, match="stddev=-1"):
        noise.add_gaussian(-1, jax.random.key(0))


def test_noise_of_a_leaf_does_not_depend_on_the_others_nor_on_devices():
    key, a = jax.random.key(1), jnp.ones((8, 4))
    alone = noise.gaussian({"a": a}, key, 1.0)["a"]
    beside = noise.gaussian({"0": jnp.ones(3), "a": a}, key, 1.0)["a"]
    np.testing.assert_array_equal(alone, beside)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = jax.jit(noise.gaussian)({"a": jax.device_put(a, rows)}, key, 1.0)["a"]
    np.testing.assert_allclose(spread, alone, rtol=1e-6)


def test_it_composes_as_an_optax_transformation():
    tree = {"a": jnp.ones(4)}
    chain = optax.chain(noise.add_gaussian(0.0, jax.random.key(0)), optax.scale(0.5))
    updates, _ = chain.update(tree, chain.init(tree))
    np.testing.assert_array_equal(updates["a"], 0.5)


def test_secure_keys_differ():
    assert len({jax.random.key_data(secure_key()).tobytes() for _ in range(20)}) == 20


# ---- the same pieces, attacked ----

SIGMA, CLIP, RUNS, DELTA = 1.0, 0.5, 18_000, 1e-5
CLAIM = Plan(noise_multiplier=SIGMA, steps=1, sampler="none").epsilon(DELTA)


def correct(total, key):
    return noise.gaussian(total, key, SIGMA * CLIP)


def half_the_noise(total, key):
    return noise.gaussian(total, key, SIGMA * CLIP / 2)


def noise_over_the_batch(total, key):
    return noise.gaussian(total, key, SIGMA * CLIP / 4)


def no_clipping(given, mask):
    return SUM(*given[:3], mask, given[4], jnp.float32(1e6))[0]


def clipped(given, mask):
    return SUM(*given[:3], mask, given[4], jnp.float32(CLIP))[0]


def clipped_leaf_by_leaf(given, mask):
    """Each leaf to C, with the noise of C: two leaves move by sqrt(2) C."""
    trained, fixed, batch, _, key = given
    sums = {}
    for name in trained:
        rest = {k: v for k, v in trained.items() if k != name}
        of_leaf = lambda t, f, e, k, rest=rest: example_loss({**rest, **t}, f, e, k)
        alone = {name: trained[name]}
        sums |= ClippedSum(loss=of_leaf)(alone, fixed, batch, mask, key, jnp.float32(CLIP))[0]
    return sums


@pytest.mark.parametrize(
    ("summed", "noised", "is_right"),
    [
        (clipped, correct, True),
        (clipped, half_the_noise, False),
        (clipped, noise_over_the_batch, False),
        (no_clipping, correct, False),
        (clipped_leaf_by_leaf, correct, False),
    ],
)
def test_an_audit_passes_the_right_code_and_flags_planted_faults(given, summed, noised, is_right):
    """False alarm of the bound: 5 % at most; seen on the right code: half the claim."""
    trained, fixed, batch, is_padding, key = given
    given = trained, fixed, batch | {"y": batch["y"].at[0].set(30.0)}, is_padding, key

    @functools.partial(jax.jit, static_argnames="n")
    def releases(mask, key, n):
        total = summed(given, mask)
        flat = lambda key: jnp.concatenate([v.ravel() for v in jax.tree.leaves(noised(total, key))])
        return jax.vmap(flat)(jax.random.split(key, n))

    inside = releases(is_padding, jax.random.key(11), RUNS)
    outside = releases(is_padding.at[0].set(True), jax.random.key(12), RUNS)
    found = audit.of_releases(inside, outside, epsilon=CLAIM, delta=DELTA)
    assert found.lower_bound <= found.estimate
    if is_right:
        assert not found.refutes
        assert 0.8 * CLAIM <= found.estimate <= CLAIM
    else:
        assert found.estimate > CLAIM


def test_one_run_with_canaries_tells_a_leak_from_none():
    rng = np.random.default_rng(5)
    out = rng.standard_normal(500)
    leaking = audit.of_one_run(rng.standard_normal(500) + 4, out, epsilon=1.0, delta=DELTA)
    quiet = audit.of_one_run(rng.standard_normal(500), out, epsilon=1.0, delta=DELTA)
    assert leaking.refutes
    assert leaking.auroc > 0.99
    assert not quiet.refutes
    assert abs(quiet.auroc - 0.5) < 0.06


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(ConfigError, match="finite numbers"):
        audit.of_scores([1.0, np.nan], [1.0], epsilon=1.0, delta=DELTA)
    with pytest.raises(ConfigError, match="100 rows"):
        audit.of_releases(np.zeros((5, 2)), np.zeros((500, 2)), epsilon=1.0, delta=DELTA)
    with pytest.raises(ConfigError, match=r"direction is \[3\]"):
        audit.of_releases(
            np.zeros((500, 2)), np.zeros((500, 2)), epsilon=1.0, delta=DELTA, direction=np.ones(3)
        )
    with pytest.raises(ConfigError, match="significance"):
        audit.of_scores([1.0], [1.0], epsilon=1.0, delta=DELTA, significance=0.6)
    with pytest.raises(ConfigError, match="epsilon=0"):
        audit.of_scores([1.0], [1.0], epsilon=0, delta=DELTA)
