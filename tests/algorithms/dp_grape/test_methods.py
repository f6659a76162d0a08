"""The baselines: one contract for all methods, and an oracle for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape import adapters, galore, methods, zeroth
from ariel_jax.algorithms.dp_grape.training import PrivateSource, key_words
from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.models.paths import flatten, replaced
from ariel_jax.privacy import noise
from ariel_jax.privacy.batches import PoissonSource
from ariel_jax.training import LoopConfig, programs, train

PRIVATE = tuple(name for name in methods.METHODS if name != "adam")
CFG = dp_grape.Config(rank=2, refresh_every=2, project=(r"^a\.w$",), frozen=(r"^embed",))
N, ROWS, CLIP, SIGMA, EXPECTED, RATE = 64, 16, 0.7, 0.8, 8.0, 0.02
PUBLIC, SECRET = jax.random.key(1), jax.random.key(2)
NOTHING = 1e-9  # noise that no test sees


def example_loss(params, example, key):
    """Of a regression through two layers; the embedding is frozen."""
    hidden = jnp.tanh(linear(example["x"] * params["embed"], params["a"]))
    y = linear(hidden, params["classifier"])
    return jnp.mean(jnp.square(y - example["y"]))


def weights():
    """Few leaves: compiling the noise of each takes half a second."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) * 0.4, jnp.float32)
    return {
        "embed": draw(8) + 1,
        "a": Linear(w=draw(6, 8), b=draw(6)),
        "classifier": Linear(w=draw(3, 6)),
    }


def source(*, clip_norm=CLIP, everybody=False):
    """Draws of an eighth of 64 records; or all of 16, whatever the coins."""
    rng = np.random.default_rng(3)
    n = ROWS if everybody else N
    records = {"x": rng.standard_normal((n, 8)), "y": rng.standard_normal((n, 3))}
    records = {name: array.astype(np.float32) for name, array in records.items()}
    draws = PoissonSource(records=records, probability=1.0 if everybody else 1 / 8, rows=ROWS)
    expected = float(ROWS) if everybody else EXPECTED
    return PrivateSource(draws=draws, clip_norm=clip_norm, expected_batch=expected)


def built(name, **changes):
    options = {
        "params": weights(),
        "loss": example_loss,
        "source": source(),
        "noise_multiplier": None if name == "adam" else SIGMA,
        "learning_rate": RATE,
        "cfg": CFG,
        "projection_key": PUBLIC,
        "noise_key": SECRET,
    }
    return methods.build(name, **(options | changes))


def fresh(tree):
    """A copy, because a run gives its parameters up."""
    return jax.tree.map(jnp.copy, tree)


def update(tx, *arguments):
    """An optimiser's update; optax raises floats to integer powers, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        return tx.update(*arguments)


def batch_of(made, step=1):
    (batch, is_padding), _ = made.next(Fixed(made).init() | {"step": step})
    return jax.tree.map(jnp.asarray, batch), jnp.asarray(is_padding)


def grads(method, batch, is_padding):
    return programs.grads(
        method.params, batch, is_padding, jax.random.key(0), grad_fn=method.grad_fn
    )


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A source whose secret seed is known, so that two runs can be compared."""

    inner: PrivateSource

    def init(self):
        return self.inner.init() | {"seed": "33" * 32}

    def next(self, state):
        return self.inner.next(state)


def run(method, folder, steps):
    config = LoopConfig(steps=steps, log_every=1, checkpoint_every_s=0)
    return train(
        fresh(method.params), grad_fn=method.grad_fn, tx=method.tx, source=Fixed(source()),
        folder=folder, config=config,
    )  # fmt: skip


def test_a_source_that_the_noise_was_not_made_for_is_refused(tmp_path):
    """Half the rows would halve the noise on the sum, another clip norm change what it is relative to."""
    method, ours = built("dp-bitfit"), source()

    def trained_with(made, folder):
        config = LoopConfig(steps=1)
        whole = {"grad_fn": method.grad_fn, "tx": method.tx, "folder": tmp_path / folder}
        return train(fresh(method.params), source=Fixed(made), config=config, **whole)

    fewer = dataclasses.replace(ours, draws=dataclasses.replace(ours.draws, rows=ROWS // 2))
    with pytest.raises(ConfigError, match="batches of 16 rows and this one has 8"):
        trained_with(fewer, "rows")
    with pytest.raises(ConfigError, match=r"clipped at 0\.7 and this batch is clipped at 1\.4"):
        trained_with(source(clip_norm=2 * CLIP), "clip")
    assert trained_with(ours, "ours").step == 1
    untied = dataclasses.replace(method.grad_fn, rows=None, clip_norm=None)
    assert untied == method.grad_fn  # they share a program
    for name in ("ghost", "dpzero", "dp-grape"):
        assert built(name).grad_fn.rows == ROWS
        assert built(name).grad_fn.clip_norm == CLIP
        assert built(name).grad_fn.is_private


MOVES = {
    "dp-lora": {"a.w", "classifier.w"},
    "dp-bitfit": {"a.b", "classifier.w"},
}


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_run_on_the_loop_trains_what_it_should_and_can_be_stopped(name, tmp_path):
    """Finite, nothing frozen moves, and a run that was stopped goes on to the same bits."""
    method = built(name)
    whole = run(method, tmp_path / "whole", 3)
    run(method, tmp_path / "parts", 1)
    parts = run(method, tmp_path / "parts", 3)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    before, after = weights(), method.merged(whole.params)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    moved = set()
    for path, leaf in flatten(after).items():
        assert np.isfinite(leaf).all()
        if not np.array_equal(leaf, flatten(before)[path]):
            moved.add(path)
    assert moved == MOVES.get(name, set(flatten(before)) - {"embed"})
    assert method.is_private == (name != "adam")


@pytest.mark.parametrize("name", methods.METHODS)
def test_padding_adds_nothing(name):
    method = built(name)
    batch, _ = batch_of(source())
    nothing, info = grads(method, batch, jnp.ones(ROWS, bool))
    assert sum(leaf.size for leaf in nothing.values()) == method.n_trained
    assert info["loss"] == 0
    assert all(not np.asarray(leaf).any() for leaf in nothing.values())
    updates, _ = update(method.tx, nothing, method.tx.init(method.params), method.params)
    flat = [np.asarray(leaf) for leaf in jax.tree.leaves(updates)]
    assert all(np.isfinite(leaf).all() for leaf in flat)
    assert any(leaf.any() for leaf in flat) == method.is_private  # pure noise, or nothing


# One for each way to sum; the others are `PrivateGrad` over other leaves.
@pytest.mark.parametrize("name", ["dp-adam", "ghost", "dpzero", "adam"])
def test_a_step_does_not_depend_on_microbatches(name):
    batch, is_padding = batch_of(source())
    wanted, info = grads(built(name), batch, is_padding)
    found, same = grads(built(name, microbatch=4), batch, is_padding)
    assert is_padding.any()
    for path, leaf in wanted.items():
        # DPZero divides differences of losses by 2e-3: their rounding is 500 times as large.
        close = 2e-4 if name == "dpzero" else 2e-6
        np.testing.assert_allclose(found[path], leaf, rtol=1e-5, atol=close)
    assert same["loss"] == pytest.approx(float(info["loss"]), rel=1e-5)


def dropout_loss(params, example, key):
    kept = jnp.where(jax.random.bernoulli(key, 0.5, (8,)), example["x"] * 2, 0.0)
    return example_loss(params, example | {"x": kept}, key)


@pytest.mark.parametrize("name", ["dp-grape", "ghost", "dpzero"])
def test_one_record_less_moves_a_sum_by_the_clip_norm_at_most_also_under_dropout(name):
    """In parts, from one to the next of which the records behind it move."""
    method, made = built(name, loss=dropout_loss), source()
    state = Fixed(made).init() | {"step": 1}
    drawn = made.draws.draw(state)
    assert 4 < len(drawn) < ROWS  # more than one part

    def total(drawn, keyed):
        batch, is_padding = made.draws.batch(drawn)
        batch = {"examples": batch, **made.beside(state, drawn)}
        if not keyed:
            del batch["keys"]
        batch, is_padding = jax.tree.map(jnp.asarray, (batch, is_padding))
        options = {"grad_fn": method.grad_fn, "microbatches": 4}
        tree, _ = programs.grads(method.params, batch, is_padding, jax.random.key(0), **options)
        return (
            np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in tree.values()]) * ROWS
        )

    moved = lambda keyed: np.linalg.norm(total(drawn, keyed) - total(drawn[1:], keyed))
    assert 0.5 * CLIP < moved(True) <= CLIP * (1 + 1e-5)  # the sums themselves are rounded
    if name == "dp-grape":  # the planted fault: keys of rows
        assert moved(False) > 1.2 * CLIP


def releases(name):
    """Releases of an empty batch, as numbers: the noise on the sum, whatever follows it."""
    wide = {"embed": jnp.ones(8), "a": Linear(w=jnp.zeros((2000, 8)), b=jnp.zeros(2000))}
    wide["classifier"] = Linear(w=jnp.zeros((3, 2000)))
    options = {} if name == "dpzero" else {"inner": lambda rate: optax.identity()}
    method = built(name, params=weights() if name == "dpzero" else wide, **options)
    (added, *rest), params = method.tx.init(method.params), method.params
    shapes, _ = jax.eval_shape(method.grad_fn, params, *batch_of(source()), jax.random.key(0))
    zeros = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}

    def one(step):
        state = (added._replace(step=step), *rest)
        return flatten(update(method.tx, zeros, state, params)[0])

    if name == "dpzero":
        along = jax.jit(jax.vmap(lambda step: one(step)["a.b"][0]))(jnp.arange(8000))
        u = zeroth.direction(key_words(PUBLIC), jnp.int32(0), {"a.b": params["a"].b})["a.b"]
        return -np.asarray(along) / (RATE * float(u[0])) * EXPECTED
    # What comes out as it went in: projected weights come out multiplied.
    path = "a.tap" if name == "dp-lora" else "a.b"
    drawn = [np.asarray(one(jnp.int32(step))[path]).ravel() for step in range(4)]
    return np.concatenate(drawn) * EXPECTED


def has_right_noise(name):
    """Whether the standard deviation is sigma C within 3 %, almost four times its own deviation."""
    drawn = releases(name)
    assert drawn.size >= 8000
    return abs(np.std(drawn) / (SIGMA * CLIP) - 1) < 0.03


@pytest.mark.parametrize("name", PRIVATE)
def test_every_private_method_adds_noise_of_sigma_times_the_clip_norm_to_its_sum(name):
    assert has_right_noise(name)


@pytest.mark.parametrize(
    ("name", "factor"),
    [("ghost", 0.0), ("ghost", 1 / EXPECTED), ("ghost", EXPECTED), ("ghost", 0.9), ("dpzero", 0.9)],
)
def test_forgotten_noise_and_noise_of_another_size_is_noticed(name, factor, monkeypatch):
    """Planted faults: none; divided by the batch; added to the mean; a tenth too little."""
    right = noise.add_gaussian
    monkeypatch.setattr(noise, "add_gaussian", lambda std, key: right(std * factor, key))
    assert not has_right_noise(name)


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated:DeprecationWarning")
def test_a_step_of_dp_adam_is_that_of_jax_privacy_and_of_optax():
    """Two libraries, one with a mask and one that divides by the batch."""
    from jax_privacy import clipped_grad

    batch, is_padding = batch_of(source())
    method = built("dp-adam")
    found, info = grads(method, batch, is_padding)
    assert 0 < info["clipped"] <= 1
    params = weights()
    trained = {p: leaf for p, leaf in flatten(params).items() if p != "embed"}
    loss = lambda leaves, example: example_loss(replaced(params, leaves), example, None)
    theirs = clipped_grad(loss, argnums=0, batch_argnums=1, keep_batch_dim=False, l2_clip_norm=CLIP)
    wanted = theirs(trained, batch["examples"], is_padding_example=is_padding)
    real = jax.tree.map(lambda leaf: leaf[~np.asarray(is_padding)], batch["examples"])
    each = jax.vmap(jax.grad(loss), in_axes=(None, 0))(trained, real)
    aggregate = optax.contrib.differentially_private_aggregate(CLIP, 0.0, key=0)
    mean, _ = update(aggregate, each, aggregate.init(trained), trained)
    n = int((~is_padding).sum())
    for path in trained:
        np.testing.assert_allclose(found[path] * ROWS, wanted[path], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[path] * ROWS / n, mean[path], rtol=1e-5, atol=1e-5)


def test_a_step_of_ghost_is_that_of_dp_adam():
    batch, is_padding = batch_of(source())
    wanted, info = grads(built("dp-adam"), batch, is_padding)
    for options in ({}, {"materialized": (r"^classifier",)}):
        found, same = grads(built("ghost", **options), batch, is_padding)
        for path, leaf in wanted.items():
            # Norms by products carry 8 eps; the second pass adds in another order.
            np.testing.assert_allclose(found[path], leaf, rtol=2e-5, atol=1e-6)
        assert info["clipped"] == same["clipped"]


def after_three(name, **changes):
    made = source(clip_norm=1e3, everybody=True)
    quiet = None if name == "adam" else NOTHING
    options = {"source": made, "noise_multiplier": quiet, "learning_rate": 0.3}
    method = built(name, **(options | {"inner": optax.sgd} | changes))
    params, state = method.params, method.tx.init(method.params)
    for step in range(3):
        tree, _ = programs.grads(
            params, *batch_of(made, step), jax.random.key(0), grad_fn=method.grad_fn
        )
        updates, state = update(method.tx, tree, state, params)
        params = optax.apply_updates(params, updates)
    return flatten(method.merged(params))


def test_without_clip_and_noise_dp_adam_and_ghost_are_plain_descent():
    """Three steps with every record."""
    plain = after_three("adam")
    assert np.abs(plain["a.w"] - weights()["a"].w).max() > 1e-3
    for name in ("dp-adam", "ghost"):
        for path, leaf in after_three(name).items():
            np.testing.assert_allclose(leaf, plain[path], rtol=1e-4, atol=2e-5)


def test_without_clip_and_noise_naive_galore_is_descent_in_the_leading_subspace():
    """One step by NumPy: the update is the mean gradient in its own largest singular vectors."""
    made = source(clip_norm=1e3, everybody=True)
    given = {"source": made, "learning_rate": 0.3, "inner": optax.sgd}
    plain, method = built("adam", **given), built("dp-galore", noise_multiplier=NOTHING, **given)
    tree, _ = grads(plain, *batch_of(made))
    ours, _ = grads(method, *batch_of(made))
    updates, _ = update(method.tx, ours, method.tx.init(method.params), method.params)
    u, s, v = np.linalg.svd(np.asarray(tree["a.w"], np.float64), full_matrices=False)
    wanted = -0.3 * (u[:, :2] * s[:2]) @ v[:2]
    np.testing.assert_allclose(updates["a"].w, wanted, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(updates["a"].b, -0.3 * tree["a.b"], rtol=1e-3, atol=1e-5)


def test_galore_on_the_larger_side_is_that_of_optax():
    """Its Adam and its refreshes, step by step."""
    params = {"a.w": jnp.ones((6, 8)), "b.w": jnp.ones((7, 6)), "b.b": jnp.ones(7)}
    cfg = dp_grape.Config(rank=2, side="larger", project=(r"w$",))
    specs = dp_grape.make_specs(params, cfg)
    assert {spec.side for spec in specs.projected} == {"in", "out"}
    ours = galore.galore(optax.adam(0.1), specs, refresh_every=2)
    theirs = optax.contrib.galore(0.1, rank=2, update_proj_gap=2)
    state, other = ours.init(params), theirs.init(params)
    step, their_step = (jax.jit(lambda *a, tx=tx: update(tx, *a)) for tx in (ours, theirs))
    rng = np.random.default_rng(0)
    for _ in range(5):
        g = {k: jnp.asarray(rng.standard_normal(v.shape), jnp.float32) for k, v in params.items()}
        found, state = step(g, state, params)
        wanted, other = their_step(g, other, params)
        for path, leaf in wanted.items():
            np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=1e-5)
    never = galore.galore(optax.sgd(1.0), specs, refresh_every=0)
    first = never.init(params)
    _, second = update(never, g, first, params)
    _, third = update(never, jax.tree.map(jnp.flip, g), second, params)
    jax.tree.map(np.testing.assert_array_equal, third.basis, second.basis)


def test_galore_decomposes_stacked_layers_one_by_one():
    params = {"layers": Linear(w=jnp.zeros((3, 6, 5)))}
    spec = dp_grape.make_specs(params, dp_grape.Config(rank=2, project=(".",))).projected[0]
    g = jnp.asarray(np.random.default_rng(0).standard_normal((3, 6, 5)), jnp.float32)
    basis = galore.leading(spec, g)
    for i in range(3):
        alone = np.linalg.svd(np.asarray(g[i]))[2][:2].T
        np.testing.assert_allclose(basis[i] @ basis[i].T, alone @ alone.T, atol=1e-5)


def test_adapters_are_low_rank_changes_of_their_weights():
    """y = x W^T + (x A) B^T: nothing at the start; merged it computes the same; the gradient is by hand."""
    method, params = built("dp-lora", rank=3), weights()
    example = {"x": jnp.arange(8.0) / 8, "y": jnp.ones(3)}
    start = example_loss(method.params, example, None)
    assert start == example_loss(params, example, None)
    assert method.params["a"].proj.shape == (8, 3)
    assert method.params["a"].tap.shape == (6, 3)
    assert method.n_trained == 3 * (8 + 6) + 3 * 6
    B = jnp.asarray(np.random.default_rng(1).standard_normal((6, 3)), jnp.float32)
    moved = method.params | {"a": method.params["a"].replace(tap=B)}

    def by_hand(B):
        w = params["a"].w + B @ method.params["a"].proj.T
        return example_loss(params | {"a": params["a"].replace(w=w)}, example, None)

    np.testing.assert_allclose(example_loss(moved, example, None), by_hand(B), rtol=1e-5)
    merged = method.merged(moved)
    np.testing.assert_allclose(example_loss(merged, example, None), by_hand(B), rtol=1e-5)
    assert merged["a"].tap is None
    ours, wanted = jax.grad(example_loss)(moved, example, None), jax.grad(by_hand)(B)
    np.testing.assert_allclose(ours["a"].tap, wanted, rtol=1e-4, atol=1e-6)
    assert method.merged(params)["a"] is params["a"]
    stacked = {"a": Linear(w=jnp.zeros((2, 5, 4)))}
    grown, _ = adapters.with_adapters(stacked, CFG, rank=2, key=PUBLIC)
    tap = jnp.ones((2, 5, 2))
    w = adapters.merged({"a": grown["a"].replace(tap=tap)})["a"].w
    np.testing.assert_allclose(w, jnp.einsum("lor,lir->loi", tap, grown["a"].proj), rtol=1e-6)


def test_the_slope_of_dpzero_is_the_derivative_along_its_direction():
    """By the gradient, clipped and summed by hand; the update lies along the same direction."""
    made = source(clip_norm=0.5)
    batch, is_padding = batch_of(made)
    method = built("dpzero", source=made, noise_multiplier=NOTHING, smoothing=1e-2)
    tree, info = grads(method, batch, is_padding)
    params = weights()
    trained = {p: leaf for p, leaf in flatten(params).items() if p != "embed"}
    u = zeroth.direction(key_words(PUBLIC), batch["step"], trained)
    loss = lambda leaves, example: example_loss(replaced(params, leaves), example, None)
    slopes = [
        jax.jvp(lambda t, i=i: loss(t, jax.tree.map(lambda a: a[i], batch["examples"])), (trained,), (u,))[1]
        for i in np.flatnonzero(~is_padding)
    ]  # fmt: skip
    assert max(map(abs, slopes)) > 0.5
    wanted = np.clip(np.asarray(slopes), -0.5, 0.5).sum()
    # A central difference is off by s^2 times the third derivative, and by rounding over 2 s.
    assert float(tree["slope"]) * ROWS == pytest.approx(float(wanted), rel=0.02)
    assert info["clipped"] > 0
    noised, aligned = method.tx.init(method.params)[:2], method.tx.init(method.params)[2]
    at_step = aligned._replace(inner=aligned.inner._replace(step=jnp.int32(batch["step"])))
    updates, _ = update(method.tx, tree, (*noised, at_step), method.params)
    for path, leaf in u.items():
        size = -RATE * float(tree["slope"]) * ROWS / EXPECTED
        np.testing.assert_allclose(flatten(updates)[path], size * leaf, rtol=1e-3, atol=1e-6)
    other = zeroth.direction(key_words(PUBLIC), batch["step"] + 1, trained)
    assert abs(np.corrcoef(other["a.w"].ravel(), u["a.w"].ravel())[0, 1]) < 0.6


def test_dpzero_asks_for_no_gradient():
    """A loop whose length the data decide cannot be differentiated backwards."""

    def loss(params, example, key):
        more = lambda carry: carry[0] < jnp.where(example["x"][0] > 0, 2, 1)
        turn = lambda carry: (carry[0] + 1, jnp.tanh(linear(carry[1], params["a"]))[:1] * example["x"])  # fmt: skip
        start = (jnp.int32(0), example["x"])
        return jnp.mean(jax.lax.while_loop(more, turn, start)[1])

    batch, is_padding = batch_of(source())
    with pytest.raises(ValueError, match="while_loop"):
        jax.grad(loss)(weights(), jax.tree.map(lambda a: a[0], batch["examples"]), None)
    tree, _ = grads(built("dpzero", loss=loss), batch, is_padding)
    assert np.isfinite(tree["slope"])
    assert tree["slope"] != 0


def test_an_example_without_a_finite_loss_counts_nothing_in_dpzero():
    batch, is_padding = batch_of(source())
    first = int(np.flatnonzero(~np.asarray(is_padding))[0])
    bad = batch | {"examples": batch["examples"] | {"y": batch["examples"]["y"].at[first].set(jnp.nan)}}  # fmt: skip
    method = built("dpzero")
    found, _ = grads(method, bad, is_padding)
    wanted, _ = grads(method, batch, is_padding.at[first].set(True))
    assert found["slope"] == wanted["slope"]


def test_what_a_method_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="name='sgd'"):
        built("sgd")
    with pytest.raises(ConfigError, match=r"method 'dp-adam' has unknown keys \['smoothing'\]"):
        built("dp-adam", smoothing=1e-3)
    with pytest.raises(ConfigError, match=r"unknown keys \['inner'\]"):
        built("dpzero", inner=optax.sgd)
    with pytest.raises(ConfigError, match="is not private"):
        built("adam", noise_multiplier=1.0)
    for name in PRIVATE:
        for nothing in (None, 0):
            with pytest.raises(ConfigError, match=f"noise_multiplier={nothing}"):
                built(name, noise_multiplier=nothing)
    with pytest.raises(ConfigError, match="keys of noise and projections are the same"):
        built("dpzero", noise_key=PUBLIC)
    without = {k: v.replace(b=None) if k != "embed" else v for k, v in weights().items()}
    with pytest.raises(ConfigError, match="has none that is not frozen"):
        built("dp-bitfit", params=without)
    with pytest.raises(ConfigError, match="rank 8 >= 8"):
        built("dp-lora", rank=8)
    with pytest.raises(ConfigError, match="has an adapter already"):
        built("dp-lora", params=built("dp-lora").params)
    with pytest.raises(ConfigError, match="smoothing=0"):
        built("dpzero", smoothing=0)
    with pytest.raises(ConfigError, match="refresh_every=-1"):
        built("dp-galore", refresh_every=-1)
    with pytest.raises(ConfigError, match="learning_rate=0"):
        built("adam", learning_rate=0)
    with pytest.raises(ConfigError, match="nothing to save"):
        built("ghost", materialized=(".",))
    with pytest.raises(ConfigError, match="can have no adapter"):
        built("dp-lora", params=weights() | {"c": {"w": jnp.ones((4, 4))}}, cfg=dataclasses.replace(CFG, project=(r"^c\.w$",)))  # fmt: skip


def test_a_frozen_head_is_trained_by_no_method():
    cfg = dataclasses.replace(CFG, frozen=(r"^embed", r"^classifier"))
    for name in ("dp-lora", "dp-bitfit"):
        batch, is_padding = batch_of(source())
        shapes, _ = jax.eval_shape(
            built(name, cfg=cfg).grad_fn, built(name, cfg=cfg).params, batch, is_padding, SECRET
        )
        assert not any("classifier" in path for path in shapes)
        some = built(name, head=(r"^classifier\.w$",))
        shapes, _ = jax.eval_shape(some.grad_fn, some.params, batch, is_padding, SECRET)
        assert [path for path in shapes if "classifier" in path] == ["classifier.w"]
