"""A user's linen and nnx models trained through the loss-function entry."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape.flax_models import from_linen, from_nnx
from ariel_jax.errors import ConfigError
from ariel_jax.models.paths import flatten
from ariel_jax.privacy.clipping import ClippedSum

CFG = dp_grape.Config(rank=2, project=(r"(Dense_\d|inner\.\d|first)\.w$",), frozen=())
X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
Y = np.asarray([0, 1, 2, 1], np.int32)


class Linen(nn.Module):
    """Two dense layers with a norm between them, one of them called twice, and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(jnp.tanh(nn.Dense(8)(x)))
        again = nn.Dense(8, use_bias=False)
        return nn.Dense(3, name="head")(again(jnp.tanh(again(x))))


class Step(nn.Module):
    """A layer to be stacked."""

    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(6)(x), None


class Nnx(nnx.Module):
    """The like, with a list of layers."""

    def __init__(self, rngs):
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.inner = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.norm(jnp.tanh(self.first(x)))
        for layer in self.inner:
            x = jnp.tanh(layer(x))
        return self.head(x)


def linen_model():
    module = Linen()
    variables = module.init(jax.random.key(0), X[0])
    plain = lambda variables, x: module.apply(variables, x)
    return from_linen(module, variables, X[0]), variables, plain


def nnx_model():
    model = Nnx(nnx.Rngs(0))
    graph, state = nnx.split(model)
    return from_nnx(model), state, lambda state, x: nnx.merge(graph, state)(x)


def cross_entropy(logits, label):
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)


@pytest.fixture(scope="module", params=[linen_model, nnx_model], ids=["linen", "nnx"])
def model(request):
    with jax.numpy_dtype_promotion("standard"):  # flax's own layers ask for it
        yield request.param()


def test_its_projected_gradients_are_those_of_flax_s_own(model):
    ours, own, plain = model
    np.testing.assert_allclose(
        ours.apply(ours.params, X[1]), plain(own, X[1]), rtol=1e-5, atol=1e-6
    )
    specs = dp_grape.make_specs(ours.params, CFG)
    drawn = dp_grape.projections(jax.random.key(1), 0, specs, CFG)
    loss = dp_grape.tapped_loss(
        lambda params, example, key: cross_entropy(ours.apply(params, example["x"]), example["y"]),
        specs,
    )
    trained = dp_grape.trained_leaves(ours.params, specs)
    found = jax.grad(loss)(trained, (ours.params, drawn), {"x": X[2], "y": Y[2]}, None)
    whole = jax.grad(lambda own: cross_entropy(plain(own, X[2]), Y[2]))(own)
    same = flatten(_ours(ours, whole))
    for spec in specs.projected:
        wanted = dp_grape.project(spec, same[spec.path], drawn[spec.path])
        np.testing.assert_allclose(found[spec.path], wanted, rtol=1e-4, atol=1e-6)
    for path in specs.full:
        np.testing.assert_allclose(found[path], same[path], rtol=1e-4, atol=1e-6)
    assert len(specs.projected) + len(specs.full) == len(jax.tree.leaves(own))


def _ours(model, gradient):
    """A gradient in flax's form, in ours: kernels the other way round."""
    tree = gradient["params"] if "params" in gradient else nnx.to_pure_dict(gradient)

    def visit(ours, theirs):
        if isinstance(ours, dict):
            return {name: visit(ours[name], theirs[name]) for name in ours}
        if hasattr(ours, "w"):
            return ours.replace(w=theirs["kernel"].T, b=theirs.get("bias"))
        return theirs

    return visit(model.params, tree)


def test_private_steps_change_it_and_flax_runs_the_result(model):
    ours, own, plain = model
    specs = dp_grape.make_specs(ours.params, CFG)
    key = jax.random.key(1)
    loss = lambda params, example, key: cross_entropy(
        ours.apply(params, example["x"]), example["y"]
    )
    summed = ClippedSum(loss=dp_grape.tapped_loss(loss, specs))
    tx = dp_grape.transform(optax.adam(1e-2), CFG, specs, key=key)

    @jax.jit
    def step(params, state):
        drawn = dp_grape.projections(key, 0, specs, CFG)
        total, info = summed(
            dp_grape.trained_leaves(params, specs), (params, drawn), {"x": X, "y": Y},
            jnp.zeros(4, bool), key, jnp.float32(1.0),
        )  # fmt: skip
        updates, state = tx.update(total, state, params)
        return optax.apply_updates(params, updates), state, jnp.sum(info.loss)

    params, state, losses = ours.params, tx.init(ours.params), []
    for _ in range(30):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]
    after = ours.restore(params)
    result = after(X[1]) if isinstance(after, nnx.Module) else plain(after, X[1])
    np.testing.assert_allclose(result, ours.apply(params, X[1]), rtol=1e-5, atol=1e-6)
    assert np.abs(result - plain(own, X[1])).max() > 1e-2


def test_what_mixes_examples_or_cannot_be_projected_is_refused():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x))

    with jax.numpy_dtype_promotion("standard"):
        variables = Normed().init(jax.random.key(0), X)
        with pytest.raises(ConfigError, match=r"batch_stats.*mix examples"):
            from_linen(Normed(), variables, X)
        norm = nn.LayerNorm()
        with pytest.raises(ConfigError, match="no dense layer"):
            from_linen(norm, norm.init(jax.random.key(0), X[0]), X[0])
        model = Nnx(nnx.Rngs(0))
        model.norm = nnx.BatchNorm(8, rngs=nnx.Rngs(0))
        with pytest.raises(ConfigError, match="norm is a batch norm"):
            from_nnx(model)
        model.norm = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
        with pytest.raises(ConfigError, match=r"model\.eval"):
            from_nnx(model)
        scan = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()
        stacked = scan.init(jax.random.key(0), X[0], None)
        with pytest.raises(ConfigError, match=r"shape \[2, 6, 6\]: layers stacked"):
            from_linen(scan, stacked, X[0], None)
        model = Nnx(nnx.Rngs(0))
        model.head = nnx.Linear(8, 3, preferred_element_type=jnp.float32, rngs=nnx.Rngs(0))
        with pytest.raises(ConfigError, match="head multiplies in a way of its own"):
            from_nnx(model)
        own = nn.Dense(3, dot_general=jax.lax.dot_general)
        with pytest.raises(ConfigError, match="way of its own"):
            from_linen(own, own.init(jax.random.key(0), X[0]), X[0])
