"""Private training on the common loop: one device or two, in parts or whole, killed or not."""

import dataclasses
import functools
import json
import stat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape import taps
from ariel_jax.algorithms.dp_grape.training import (
    PrivateGrad,
    PrivateSource,
    key_words,
    private_optimizer,
)
from ariel_jax.errors import ConfigError, StorageError
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.models.paths import flatten
from ariel_jax.privacy import noise
from ariel_jax.privacy.batches import PoissonSource
from ariel_jax.training import LoopConfig, programs, train

CFG = dp_grape.Config(rank=2, refresh_every=3, project=(r"\.w$",), frozen=())
N, ROWS, CLIP, SIGMA = 64, 16, 0.7, 0.8
PUBLIC, SECRET = jax.random.key(1), jax.random.key(2)


def example_loss(params, example, key):
    """Of a regression through two layers."""
    y = linear(jnp.tanh(linear(example["x"], params["a"])), params["b"])
    return jnp.mean(jnp.square(y - example["y"]))


def weights():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) * 0.3, jnp.float32)
    return {"a": Linear(w=draw(6, 8), b=draw(6)), "b": Linear(w=draw(3, 6), b=draw(3))}


def source(**changes):
    rng = np.random.default_rng(3)
    records = {
        "x": rng.standard_normal((N, 8)).astype(np.float32),
        "y": rng.standard_normal((N, 3)).astype(np.float32),
    }
    draws = PoissonSource(**({"records": records, "probability": 1 / 8, "rows": ROWS} | changes))
    return PrivateSource(draws=draws, clip_norm=CLIP, expected_batch=8.0)


SPECS = dp_grape.make_specs(weights(), CFG)
GRAD = PrivateGrad(loss=example_loss, specs=SPECS, cfg=CFG, key_data=key_words(PUBLIC))


def optimizer(inner=None, **changes):
    options = {
        "noise_multiplier": SIGMA,
        "source": source(),
        "noise_key": SECRET,
        "projection_key": PUBLIC,
    }
    return private_optimizer(inner or optax.adam(0.02), CFG, SPECS, **(options | changes))


def state_of(step, seed):
    """A source's state with a known seed."""
    return {
        "step": step, "seed": seed * 32, "n": N, "probability": 1 / 8, "rows": ROWS, "clip_norm": CLIP,
    }  # fmt: skip


def update(tx, *arguments):
    """An optimiser's update; optax raises floats to integer powers, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        return tx.update(*arguments)


def grads(params, batch, is_padding, grad_fn=GRAD, **options):
    batch = jax.tree.map(jnp.asarray, batch)
    return programs.grads(params, batch, jnp.asarray(is_padding), jax.random.key(0), grad_fn=grad_fn, **options)  # fmt: skip


def test_a_step_is_that_of_the_specification():
    """By hand: clip, sum, noise on the sum, division by the expected batch, Adam, projected back."""
    params, made = weights(), source()
    (batch, is_padding), _ = made.next(state_of(4, "11"))
    tree, info = grads(params, batch, is_padding)
    assert info["weight"] == ROWS
    drawn = dp_grape.projections(PUBLIC, 1, SPECS, CFG)  # step 4 is in epoch 1
    total = jax.tree.map(lambda a: np.zeros(a.shape), tree)
    for i in np.flatnonzero(~is_padding):
        example = jax.tree.map(lambda a, i=i: a[i], batch["examples"])
        whole = flatten(jax.grad(example_loss)(params, example, None))
        part = {s.path: np.asarray(dp_grape.project(s, whole[s.path], drawn[s.path])) for s in SPECS.projected}  # fmt: skip
        part |= {path: np.asarray(whole[path]) for path in SPECS.full}
        norm = np.sqrt(sum(np.square(v).sum() for v in part.values()))
        total = {k: total[k] + part[k] * min(1, CLIP / norm) for k in total}
    for path in total:
        np.testing.assert_allclose(tree[path] * ROWS, total[path], rtol=1e-4, atol=1e-5)
    tx = optimizer(optax.sgd(1.0))
    state = tx.init(params)
    state = (state[0], state[1], state[2]._replace(step=jnp.int32(4)))
    updates, _ = update(tx, tree, state, params)
    total = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), total)
    noisy = noise.gaussian(total, jax.random.fold_in(SECRET, 0), SIGMA * CLIP)
    small = jax.tree.map(lambda a: -a / 8.0, noisy)  # the expected batch
    flat = flatten(updates)
    for spec in SPECS.projected:
        wanted = dp_grape.project_back(spec, small[spec.path], drawn[spec.path])
        np.testing.assert_allclose(flat[spec.path], wanted, rtol=1e-3, atol=1e-5)
    for path in SPECS.full:
        np.testing.assert_allclose(flat[path], small[path], rtol=1e-3, atol=1e-5)


def test_the_noise_of_a_step_has_the_size_that_the_plan_says():
    """Standard deviation sigma C / expected batch on leaves that are trained in full, within 1 %."""
    specs = dp_grape.Specs((), ("big",), ())
    params = {"big": jnp.zeros(40_000)}
    tx = private_optimizer(
        optax.sgd(1.0), CFG, specs, noise_multiplier=SIGMA, source=source(), projection_key=PUBLIC
    )
    updates, state = update(tx, params, tx.init(params), params)
    again, _ = update(tx, params, state, params)
    other = private_optimizer(
        optax.sgd(1.0), CFG, specs, noise_multiplier=SIGMA, source=source(), projection_key=PUBLIC
    )
    elsewhere, _ = update(other, params, other.init(params), params)
    drawn = [np.asarray(u["big"]) for u in (updates, again, elsewhere)]
    for one in drawn:
        assert np.std(one) == pytest.approx(SIGMA * CLIP / 8.0, rel=0.015)
    correlation = np.corrcoef(drawn) - np.eye(3)
    assert np.abs(correlation).max() < 4 / np.sqrt(40_000)  # neither steps nor runs share it


@pytest.mark.parametrize("how", ["microbatch", "microbatches", "mesh"])
def test_the_gradient_does_not_depend_on_how_it_is_made(how):
    params, made = weights(), source()
    (batch, is_padding), _ = made.next(state_of(1, "22"))
    wanted, _ = grads(params, batch, is_padding)
    if how == "microbatch":
        found, info = grads(params, batch, is_padding, dataclasses.replace(GRAD, microbatch=4))
    elif how == "microbatches":
        found, info = grads(params, batch, is_padding, microbatches=4)
    else:
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        found, info = grads(params, batch, is_padding, mesh=mesh)
    assert info["weight"] == ROWS
    for path in wanted:
        np.testing.assert_allclose(found[path], wanted[path], rtol=1e-5, atol=1e-6)


def test_an_empty_draw_is_pure_noise():
    params, made = weights(), source()
    (batch, is_padding), _ = made.next(made.init())
    tree, info = grads(params, batch, np.ones_like(is_padding))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(tree))
    assert info["loss"] == 0
    tx = optimizer()
    updates, _ = update(tx, tree, tx.init(params), params)
    assert all(
        np.isfinite(leaf).all() and np.asarray(leaf).any() for leaf in jax.tree.leaves(updates)
    )


def run(folder, steps, tx=None, made=None):
    return train(
        weights(), tx=tx or optimizer(), source=made or Fixed(source()), grad_fn=GRAD, folder=folder,
        config=LoopConfig(steps=steps, log_every=1, checkpoint_every_s=0, seed=0),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A source whose secret seed is known, so that two runs can be compared."""

    inner: PrivateSource

    def init(self):
        return state_of(0, "33")

    def next(self, state):
        return self.inner.next(state)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits_and_reuses_no_noise(tmp_path):
    whole = run(tmp_path / "whole", 7)
    run(tmp_path / "parts", 3)
    parts = run(tmp_path / "parts", 7)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    rows = [
        json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == list(range(1, 8))
    steps = [state.step for state in _noise_states(tmp_path / "parts")]
    assert steps == [7]


def test_a_run_of_narrow_weights_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    """Moments of leaves trained in full are float32 from the first step on, as checkpoints hold them."""
    narrow = lambda: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights())
    specs = dp_grape.Specs((), ("a.w", "b.b"), ())
    tx = private_optimizer(
        optax.adam(0.2), CFG, specs, noise_multiplier=SIGMA, source=source(), projection_key=PUBLIC,
        noise_key=SECRET,
    )  # fmt: skip
    grad = dataclasses.replace(GRAD, specs=specs)

    def final(folder, steps):
        return train(
            narrow(), tx=tx, source=Fixed(source()), grad_fn=grad, folder=tmp_path / folder,
            config=LoopConfig(steps=steps),
        ).params  # fmt: skip

    whole, _, parts = final("whole", 7), final("parts", 3), final("parts", 7)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(parts)} == {"bfloat16"}
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    wide = {path: flatten(weights())[path] for path in specs.full}
    first = tx.init(narrow())
    after = jax.eval_shape(functools.partial(update, tx), wide, first, narrow())[1]
    types = lambda state: [leaf.dtype for leaf in jax.tree.leaves(state)]
    assert types(first) == types(after)


@dataclasses.dataclass(frozen=True)
class FromItsKey:
    """A gradient that is nothing but its key."""

    is_private: bool

    def __call__(self, params, batch, is_padding, key):
        number = jax.random.uniform(key)
        return {"w": number[None]}, {"loss": number, "weight": jnp.float32(1)}


@pytest.mark.parametrize("is_private", [True, False])
def test_keys_of_a_private_run_are_secret_and_survive_a_stop(tmp_path, is_private):
    def final(folder, steps):
        return train(
            {"w": jnp.zeros(1)}, tx=optax.sgd(1.0), source=Fixed(source()), folder=tmp_path / folder,
            grad_fn=FromItsKey(is_private), config=LoopConfig(steps=steps, seed=0),
        ).params["w"][0]  # fmt: skip

    first, whole = final("parts", 1), final("whole", 3)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)  # of step 0, part 0
    assert (float(first) == -float(jax.random.uniform(key))) == (not is_private)
    parts = final("parts", 3)
    assert (float(parts) == float(whole)) == (not is_private)
    if is_private:  # stopped after its first step, it went on with the key of its checkpoint
        wanted = _drawn_from(tmp_path / "parts")
        assert float(parts) == pytest.approx(-wanted, rel=1e-6)


def test_what_a_private_run_writes_is_for_this_user_only(tmp_path):
    """Its own folder whole; in one that held something before, what the run writes."""
    mode = lambda path: stat.S_IMODE(path.stat().st_mode)
    for folder in ("new", "empty", "used", "public"):
        if folder != "new":
            (tmp_path / folder).mkdir()
            (tmp_path / folder).chmod(0o755)
        if folder == "used":
            (tmp_path / folder / "notes").touch()
        train(
            {"w": jnp.zeros(1)}, tx=optax.sgd(1.0), source=Fixed(source()), folder=tmp_path / folder,
            grad_fn=FromItsKey(folder != "public"),
            config=LoopConfig(steps=1, log_every=1, log_private_stats=True),
        )  # fmt: skip
    for folder in ("new", "empty", "used"):
        assert mode(tmp_path / folder) == (0o755 if folder == "used" else 0o700)
        assert mode(tmp_path / folder / "checkpoints") == 0o700
        assert mode(tmp_path / folder / "metrics.jsonl") == 0o600
    assert mode(tmp_path / "public") == 0o755
    (tmp_path / "file").touch()  # as any file
    assert mode(tmp_path / "public" / "metrics.jsonl") == mode(tmp_path / "file")
    with pytest.raises(StorageError, match="file"):
        train(
            {"w": jnp.zeros(1)}, tx=optax.sgd(1.0), source=Fixed(source()), folder=tmp_path / "file",
            grad_fn=FromItsKey(is_private=True), config=LoopConfig(steps=1),
        )  # fmt: skip


def _drawn_from(folder):
    from ariel_jax.training import Checkpoints

    like = {
        "params": {"w": jnp.zeros(1)},
        "opt_state": optax.sgd(1.0).init({"w": jnp.zeros(1)}),
        "key": jax.random.key_data(jax.random.key(0)),
    }
    key = Checkpoints(folder / "checkpoints", keep=2).restore(like, step=1)[1]["key"]
    steps = [jax.random.fold_in(jax.random.wrap_key_data(key), step) for step in range(3)]
    return sum(float(jax.random.uniform(jax.random.fold_in(step, 0))) for step in steps)


def _noise_states(folder):
    from ariel_jax.training import Checkpoints

    params, tx = weights(), optimizer()
    like = {
        "params": params,
        "opt_state": tx.init(params),
        "key": jax.random.key_data(jax.random.key(0)),
    }
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    _, state, _ = checkpoints.restore(like)
    return [state["opt_state"][0]]


def test_the_projections_of_a_step_are_those_that_it_is_projected_back_with():
    """The optimiser's own count and the source's agree, over refreshes."""
    tx, params, made = optimizer(), weights(), Fixed(source())
    opt, cursor = tx.init(params), made.init()
    for step in range(5):
        (batch, is_padding), cursor = made.next(cursor)
        assert int(batch["step"]) == step == int(opt[2].step)
        assert int(taps.epoch_of(jnp.int32(step), CFG)) == step // 3
        tree, _ = grads(params, batch, is_padding)
        updates, opt = update(tx, tree, opt, params)
        params = optax.apply_updates(params, updates)


def test_what_would_not_be_private_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="keys of noise and projections are the same"):
        optimizer(noise_key=PUBLIC)
    with pytest.raises(ConfigError, match="noise_multiplier=0"):
        optimizer(noise_multiplier=0)
    with pytest.raises(ConfigError, match="clip_norm=0"):
        PrivateSource(draws=source().draws, clip_norm=0, expected_batch=8.0)
    with pytest.raises(ConfigError, match="expected_batch=0"):
        PrivateSource(draws=source().draws, clip_norm=1.0, expected_batch=0)
    made = source()
    with pytest.raises(ConfigError, match="clipped at 9"):
        made.next(made.init() | {"clip_norm": 9.0})
    for name, value in (("n", 1), ("probability", 0.5), ("rows", 1)):
        with pytest.raises(ConfigError, match=f"drew with {name}={value}"):
            made.next(made.init() | {name: value})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="in one process"):
        made.init()
    with pytest.raises(ConfigError, match="in one process"):
        optimizer()
