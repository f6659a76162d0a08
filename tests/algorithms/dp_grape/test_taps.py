"""Taps: their gradient is the projected one, their projections are what they must be."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape import taps
from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.models.paths import flatten
from ariel_jax.privacy.clipping import ClippedSum
from ariel_jax.testing import tiny_config, tiny_params
from ariel_jax.training.step import LMBatch, lm_loss

CFG = dp_grape.Config(rank=3, refresh_every=4)


def update(tx, *arguments):
    """An optimiser's update; optax raises floats to integer powers, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        return tx.update(*arguments)


def lm_example_loss(cfg, params, example, key):
    """Of one text."""
    batch = LMBatch(
        tokens=example["tokens"][None], targets=example["targets"][None], step=jnp.int32(0)
    )
    return lm_loss(cfg, params, batch, jnp.zeros(1, bool), key=key)[0]


def made(family):
    cfg = tiny_config(family)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, cfg.vocab_size, (6, 9)).astype(np.int32)
    batch = {"tokens": jnp.asarray(tokens[:, :-1]), "targets": jnp.asarray(tokens[:, 1:])}
    return tiny_params(cfg), batch, functools.partial(lm_example_loss, cfg)


@pytest.fixture(scope="module")
def lm():
    """A decoder with biases and norms, texts, and the loss of one."""
    return made("gpt2")


@pytest.fixture(scope="module")
def without_biases():
    """The gradient of a key's bias is 0, and Adam would make steps of its rounding."""
    return made("llama")


def parts(lm, cfg=CFG):
    params, _, loss = lm
    specs = dp_grape.make_specs(params, cfg)
    drawn = dp_grape.projections(jax.random.key(5), 0, specs, cfg)
    return specs, drawn, dp_grape.tapped_loss(loss, specs), dp_grape.trained_leaves(params, specs)


def whole_gradients(lm):
    """[B, ...] of every leaf, the slow way."""
    params, batch, loss = lm
    grads = jax.vmap(jax.grad(loss), in_axes=(None, 0, None))(params, batch, jax.random.key(0))
    return flatten(grads)


@pytest.mark.parametrize("side", ["smaller", "in", "larger"])
def test_a_taps_gradient_is_the_projected_gradient_of_its_weight(lm, side):
    cfg = dataclasses.replace(CFG, side=side)
    params, batch, _ = lm
    specs, drawn, loss, trained = parts(lm, cfg)
    assert {spec.side for spec in specs.projected} == ({"in"} if side == "in" else {"in", "out"})
    per_example = jax.vmap(jax.grad(loss), in_axes=(None, None, 0, None))
    ours = per_example(trained, (params, drawn), batch, jax.random.key(0))
    whole = whole_gradients(lm)
    for spec in specs.projected:
        wanted = dp_grape.project(spec, whole[spec.path], drawn[spec.path])
        np.testing.assert_allclose(ours[spec.path], wanted, rtol=1e-4, atol=1e-6)
    for path in specs.full:
        np.testing.assert_allclose(ours[path], whole[path], rtol=1e-4, atol=1e-6)


def test_scanned_layers_have_a_projection_each_and_the_same_gradients():
    rng = np.random.default_rng(1)
    w = jnp.asarray(rng.standard_normal((3, 6, 6)), jnp.float32)
    x = jnp.asarray(rng.standard_normal((4, 6)), jnp.float32)
    params = {"layers": Linear(w=w)}
    cfg = dp_grape.Config(rank=2, project=(r"layers\.w$",), frozen=())

    def scanned(params, x, key):
        step = lambda y, p: (jnp.tanh(linear(y, p)), None)
        return jnp.sum(jnp.square(jax.lax.scan(step, x, params["layers"])[0]))

    def unrolled(params, x, key):
        for i in range(3):
            x = jnp.tanh(linear(x, jax.tree.map(lambda a, i=i: a[i], params["layers"])))
        return jnp.sum(jnp.square(x))

    specs = dp_grape.make_specs(params, cfg)
    drawn = dp_grape.projections(jax.random.key(0), 0, specs, cfg)
    assert drawn["layers.w"].shape == (3, 6, 2)
    found = {}
    for name, loss in (("scanned", scanned), ("unrolled", unrolled)):
        tapped = dp_grape.tapped_loss(loss, specs)
        grad = jax.grad(tapped)(dp_grape.trained_leaves(params, specs), (params, drawn), x, None)
        found[name] = grad["layers.w"]
        whole = jax.grad(loss)(params, x, None)["layers"].w
        wanted = dp_grape.project(specs.projected[0], whole, drawn["layers.w"])
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["scanned"], found["unrolled"], rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_called_twice_has_one_tap_to_which_both_calls_add():
    params = {"a": Linear(w=jnp.eye(4) * 0.5)}
    cfg = dp_grape.Config(rank=2, project=(r"a\.w$",), frozen=())
    loss = lambda params, x, key: jnp.sum(linear(jnp.tanh(linear(x, params["a"])), params["a"]))
    specs = dp_grape.make_specs(params, cfg)
    drawn = dp_grape.projections(jax.random.key(0), 0, specs, cfg)
    x = jnp.arange(4.0)
    ours = jax.grad(dp_grape.tapped_loss(loss, specs))(
        dp_grape.trained_leaves(params, specs), (params, drawn), x, None
    )
    whole = jax.grad(loss)(params, x, None)["a"].w
    np.testing.assert_allclose(ours["a.w"], dp_grape.project(specs.projected[0], whole, drawn["a.w"]), rtol=1e-5)  # fmt: skip


def test_no_example_has_a_full_gradient(lm):
    """Nowhere in the program stands an array [B, out, in] of a projected weight, nor one of them."""
    params, batch, _ = lm
    specs, drawn, loss, trained = parts(lm)
    run = lambda trained, params: ClippedSum(loss=loss)(
        trained, (params, drawn), batch, jnp.zeros(6, bool), jax.random.key(0), jnp.float32(1.0)
    )
    text = jax.jit(run).lower(trained, params).as_text()
    for spec in specs.projected:
        n_out, n_in = spec.shape
        for shape in (f"6x{n_out}x{n_in}x", f"6x{n_in}x{n_out}x"):
            assert f"tensor<{shape}f32>" not in text, spec


def test_projections_are_the_same_bits_everywhere_and_change_with_epoch_and_path(lm):
    specs, drawn, _, _ = parts(lm)
    key = jax.random.key(5)
    compiled = jax.jit(lambda epoch: dp_grape.projections(key, epoch, specs, CFG))
    for path, value in compiled(jnp.int32(0)).items():
        np.testing.assert_array_equal(value, drawn[path])
    after = compiled(jnp.int32(1))
    kept = [np.asarray(v).ravel()[:9] for v in (*drawn.values(), *after.values())]
    assert len({v.tobytes() for v in kept}) == len(kept)
    steps = [int(taps.epoch_of(jnp.int32(step), CFG)) for step in range(9)]
    assert steps == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    never = dataclasses.replace(CFG, refresh_every=0)
    assert int(taps.epoch_of(jnp.int32(10**6), never)) == 0
    fewer = dp_grape.make_specs(lm[0], dataclasses.replace(CFG, project=(r"\.mlp\.up\.w$",)))
    for path, value in dp_grape.projections(key, 0, fewer, CFG).items():
        np.testing.assert_array_equal(value, drawn[path])  # by path, not by place


@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
def test_projections_are_unbiased(law):
    """E[P P^T] = I, and the moments of the specification: E|P^T G|^2 and E|P P^T G|^2."""
    m, r, runs = 24, 4, 4000
    spec = dp_grape.Spec(path="a", side="in", rank=r, shape=(30, m))
    specs = dp_grape.Specs((spec,), (), ())
    cfg = dp_grape.Config(rank=r, law=law)
    draw = jax.vmap(lambda epoch: dp_grape.projections(jax.random.key(0), epoch, specs, cfg)["a"])
    P = np.asarray(draw(jnp.arange(runs)))
    mean = np.einsum("nir,njr->ij", P, P) / runs
    assert np.abs(mean - np.eye(m)).max() < 5 / np.sqrt(runs * r)
    g = np.random.default_rng(0).standard_normal((m, 6))
    projected = np.einsum("nir,ij->nrj", P, g)
    size = np.square(g).sum()
    assert np.square(projected).sum((1, 2)).mean() == pytest.approx(size, rel=0.02)
    back = np.einsum("nir,nrj->nij", P, projected)
    extra = 1 if law == "gaussian" else -1
    assert np.square(back).sum((1, 2)).mean() == pytest.approx(
        (1 + (m + extra) / r) * size, rel=0.02
    )
    authors = dataclasses.replace(cfg, scale="authors")
    ours = dp_grape.projections(jax.random.key(0), 0, specs, cfg)["a"]
    theirs = dp_grape.projections(jax.random.key(0), 0, specs, authors)["a"]
    np.testing.assert_allclose(theirs * np.sqrt(r), ours, rtol=1e-6)


@pytest.mark.parametrize("side", ["in", "larger"])
def test_within_a_window_it_is_adam_on_an_adapter(without_biases, side):
    """DP-LoRA-FA: W + Q P^T with P frozen and Q trained from 0, step by step (no noise)."""
    cfg = dataclasses.replace(CFG, side=side, refresh_every=0)
    params, batch, _ = without_biases
    specs, _, tapped, zero = parts(without_biases, cfg)
    key = jax.random.key(5)
    drawn = dp_grape.projections(key, 0, specs, cfg)
    summed = ClippedSum(loss=tapped)
    clip = functools.partial(summed, batch=batch, is_padding=jnp.zeros(6, bool), key=key, clip_norm=jnp.float32(0.5))  # fmt: skip
    inner = optax.adam(1e-2)
    grape = dp_grape.transform(inner, cfg, specs, key=key)

    @jax.jit
    def ours(params, state):
        total, _ = clip(dp_grape.trained_leaves(params, specs), (params, drawn))
        updates, state = update(grape, total, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def adapter(trained, state):
        total, _ = clip(trained, (params, drawn))
        updates, state = update(inner, total, state, trained)
        return optax.apply_updates(trained, updates), state

    whole, state, trained, other = params, grape.init(params), zero, inner.init(zero)
    for _ in range(5):
        whole, state = ours(whole, state)
        trained, other = adapter(trained, other)
    leaves, before = flatten(whole), flatten(params)
    for spec in specs.projected:
        path = spec.path
        meant = before[path] + dp_grape.project_back(spec, trained[path], drawn[path])
        np.testing.assert_allclose(leaves[path], meant, rtol=2e-4, atol=2e-5)
        assert np.abs(leaves[path] - before[path]).max() > 1e-3
    for path in specs.full:
        np.testing.assert_allclose(leaves[path], trained[path], rtol=2e-4, atol=2e-5)
    for path in specs.frozen:
        np.testing.assert_array_equal(leaves[path], before[path])


def test_with_the_identity_as_projection_it_is_adam_on_the_weights(lm, monkeypatch):
    """The hook of the specification: r full, P = I."""
    params = lm[0]
    cfg = dataclasses.replace(CFG, side="in")
    specs = dp_grape.make_specs(params, cfg)
    specs = dp_grape.Specs(
        tuple(dataclasses.replace(s, rank=s.shape[1]) for s in specs.projected), specs.full, specs.frozen
    )  # fmt: skip
    identity = lambda key, epoch, specs, cfg: {s.path: jnp.eye(s.rank) for s in specs.projected}
    monkeypatch.setattr(taps, "projections", identity)
    whole = {k: v for k, v in flatten(params).items() if k not in specs.frozen}
    inner = optax.adam(1e-2)
    grape = dp_grape.transform(inner, cfg, specs, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    state, other, ours, theirs = grape.init(params), inner.init(whole), params, whole
    for _ in range(3):
        g = {k: jnp.asarray(rng.standard_normal(v.shape), jnp.float32) for k, v in whole.items()}
        updates, state = update(grape, g, state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, other = update(inner, g, other, theirs)
        theirs = optax.apply_updates(theirs, updates)
    for path, value in theirs.items():
        np.testing.assert_allclose(flatten(ours)[path], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("moments", ["keep", "reset", "transfer"])
def test_moments_at_a_new_draw_are_what_was_asked_for(lm, moments):
    cfg = dataclasses.replace(CFG, refresh_every=2, moments=moments)
    params = lm[0]
    specs = dp_grape.make_specs(params, cfg)
    key = jax.random.key(2)
    grape = dp_grape.transform(optax.scale_by_adam(b1=0.5, b2=0.5), cfg, specs, key=key)
    ones = jax.tree.map(jnp.ones_like, dp_grape.trained_leaves(params, specs))
    zeros = jax.tree.map(jnp.zeros_like, ones)
    step = jax.jit(functools.partial(update, grape))
    state = grape.init(params)
    for g in (ones, ones, zeros):  # the third is the first of a new epoch
        before = state
        _, state = step(g, state, params)
    P = [dp_grape.projections(key, epoch, specs, cfg) for epoch in (0, 1)]
    apart = lambda state: state.inner if moments == "reset" else (state.inner, state.inner)
    (before, full_before), (after, full_after) = apart(before), apart(state)
    for spec in specs.projected:
        old, new = before.mu[spec.path], after.mu[spec.path]
        if spec.side == "in":
            moved = old @ (P[0][spec.path].T @ P[1][spec.path])
        else:
            moved = (P[1][spec.path].T @ P[0][spec.path]) @ old
        wanted = {"keep": old, "reset": 0 * old, "transfer": moved}[moments]
        np.testing.assert_allclose(new, 0.5 * wanted, rtol=1e-5, atol=1e-6)
        nu = before.nu[spec.path] * float(moments != "reset")
        np.testing.assert_allclose(after.nu[spec.path], 0.5 * nu, rtol=1e-6)
    for path in specs.full:
        np.testing.assert_allclose(full_after.mu[path], 0.5 * full_before.mu[path], rtol=1e-6)


def test_moments_that_are_reset_begin_with_adams_first_step_and_schedules_go_on():
    params = {"layer": Linear(w=jnp.ones((6, 5)), b=jnp.ones(6))}
    cfg = dp_grape.Config(
        rank=2, refresh_every=2, moments="reset", project=(r"\.w$",), frozen=(), scale="unbiased"
    )
    specs = dp_grape.make_specs(params, cfg)
    key, rate = jax.random.key(2), lambda step: jnp.where(step < 2, 0.0, 0.1)
    grape = dp_grape.transform(optax.adam(rate), cfg, specs, key=key)
    trained = dp_grape.trained_leaves(params, specs)
    state, plain = grape.init(params), optax.adam(rate)
    other = plain.init({"layer.b": trained["layer.b"]})
    for size in (2.0, -1.0, 3.0):  # the third is the first of a new epoch
        g = {path: jnp.full_like(leaf, size) for path, leaf in trained.items()}
        updates, state = update(grape, g, state, params)
        wanted, other = update(plain, {"layer.b": g["layer.b"]}, other, None)
    np.testing.assert_array_equal(updates["layer"].b, wanted["layer.b"])
    drawn = dp_grape.projections(key, 1, specs, cfg)["layer.w"]
    first = jnp.full(specs.projected[0].projected_shape, -0.1)  # Adam's, of whatever size
    back = dp_grape.project_back(specs.projected[0], first, drawn)
    np.testing.assert_allclose(updates["layer"].w, back, rtol=1e-5)
    assert [int(part[0].count) for part in state.inner] == [1, 3]
    assert [int(part[1].count) for part in state.inner] == [3, 3]  # of the schedule


def test_it_stands_in_a_chain_and_traces_once(lm):
    params = lm[0]
    specs = dp_grape.make_specs(params, CFG)
    chain = optax.chain(
        optax.scale(1 / 8),
        dp_grape.transform(optax.scale_by_adam(), CFG, specs, key=jax.random.key(0)),
        optax.add_decayed_weights(0.1),
        optax.scale(-1e-3),
    )
    traces = 0

    @jax.jit
    def step(g, state, params):
        nonlocal traces
        traces += 1
        updates, state = update(chain, g, state, params)
        return optax.apply_updates(params, updates), state

    g = jax.tree.map(jnp.ones_like, dp_grape.trained_leaves(params, specs))
    state = chain.init(params)
    for _ in range(6):  # beyond a refresh
        params, state = step(g, state, params)
    assert traces == 1
    n = specs.n_trained(params)
    moments = state[1].inner
    assert sum(leaf.nbytes for leaf in jax.tree.leaves((moments.mu, moments.nu))) == 8 * n
    with pytest.raises(ValueError, match="needs the parameters"):
        update(chain, g, state)


def test_a_weight_that_no_linear_holds_is_not_projected():
    params = {"layer": {"w": jnp.ones((6, 5))}}
    cfg = dp_grape.Config(rank=2, project=(r"layer\.w$",), frozen=())
    specs = dp_grape.make_specs(params, cfg)
    drawn = dp_grape.projections(jax.random.key(0), 0, specs, cfg)
    with pytest.raises(ConfigError, match="would not be trained"):
        dp_grape.insert(params, dp_grape.trained_leaves(params, specs), drawn, specs)


def test_bad_settings_are_refused(lm):
    params = lm[0]
    with pytest.raises(ConfigError, match=r"rank 32 >= 32 for 'layers\.0\.attn\.q\.w'"):
        dp_grape.make_specs(params, dp_grape.Config(rank=32))
    with pytest.raises(ConfigError, match="finds no weight"):
        dp_grape.make_specs(params, dp_grape.Config(project=("nothing",)))
    with pytest.raises(ConfigError, match="no weight"):
        dp_grape.make_specs(params, dp_grape.Config(project=(r"attn_norm\.scale",)))
    for field, value in (("rank", 0), ("refresh_every", -1), ("side", "left"), ("law", "cauchy"), ("scale", "big"), ("moments", "spin")):  # fmt: skip
        with pytest.raises(ConfigError, match=field):
            dp_grape.Config(**{field: value})
    one = dp_grape.Config(rank=40, overrides=((".", 2),))
    assert {spec.rank for spec in dp_grape.make_specs(params, one).projected} == {2}
