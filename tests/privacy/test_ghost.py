"""Ghost clipping: the sums of materialised gradients without them, and refusals where they would differ."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.errors import ConfigError
from ariel_jax.layers import ghost as product
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.models.params import stack_layers
from ariel_jax.models.paths import flatten, replaced
from ariel_jax.privacy.clipping import ClippedSum
from ariel_jax.privacy.ghost import GhostClippedSum, linear_weights, weighted_gradient
from ariel_jax.testing import tiny_config, tiny_params
from ariel_jax.training.step import LMBatch, lm_loss

B, T, D, F = 6, 3, 12, 10
KEY = jax.random.key(0)
# Both ways round sums of a few hundred products in float32; ghost norms carry 8 eps T / 2 more.
CLOSE = {"rtol": 3e-5, "atol": 3e-6}


def mlp_loss(params, example, key):
    """Of T rows, by two layers and a scale that is no linear weight; the first rows count more."""
    hidden = jnp.tanh(linear(example["x"], params["a"])) * params["scale"][None]
    y = linear(hidden, params["b"])
    return jnp.mean(jnp.square(y - example["y"])) + 0.1 * jnp.sum(y[0])


@pytest.fixture(scope="module")
def mlp():
    """Weights, a batch with a row of padding, and its mask."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) * 0.5, jnp.float32)
    params = {
        "a": Linear(w=draw(F, D), b=draw(F)),
        "b": Linear(w=draw(D, F)),
        "scale": draw(F) + 1,
    }
    return params, {"x": draw(B, T, D), "y": draw(B, T, D)}, jnp.arange(B) == 5


def ghosted(loss, params, **options):
    return GhostClippedSum(loss=loss, ghosted=linear_weights(params), **options)


def both(loss, params, batch, is_padding, clip_norm, trained=None, **options):
    """Ghost clipping's sum and that of materialised gradients, by path."""
    trained = flatten(params) if trained is None else trained
    by_path = lambda leaves, params, example, key: loss(replaced(params, leaves), example, key)
    paths = tuple(p for p in linear_weights(params) if p in trained)
    ours = GhostClippedSum(loss=loss, ghosted=paths, **options)
    slow = ClippedSum(loss=by_path)

    @jax.jit
    def run(trained, params, batch, is_padding, clip_norm):
        given = trained, params, batch, is_padding, KEY, clip_norm
        return ours(*given), slow(*given)

    return run(trained, params, batch, is_padding, jnp.float32(clip_norm))


def assert_same(ours, slow):
    (total, info), (wanted, wanted_info) = ours, slow
    assert list(total) == list(wanted) or set(total) == set(wanted)
    for path, leaf in wanted.items():
        np.testing.assert_allclose(total[path], leaf, **CLOSE, err_msg=path)
    np.testing.assert_allclose(info.norm, wanted_info.norm, rtol=3e-5)
    np.testing.assert_allclose(info.loss, wanted_info.loss, rtol=1e-6)


@pytest.mark.parametrize("microbatch", [None, 2])
@pytest.mark.parametrize("clip_norm", [0.7, 1e6])
def test_the_sum_is_that_of_materialised_gradients(mlp, microbatch, clip_norm):
    ours, slow = both(mlp_loss, *mlp, clip_norm, microbatch=microbatch)
    assert_same(ours, slow)
    if clip_norm < 1:
        assert (np.asarray(slow[1].norm[:5]) > clip_norm).any()


@pytest.mark.parametrize("is_stacked", [False, True])
def test_the_sum_over_a_decoder_is_that_of_materialised_gradients(is_stacked):
    """Weights through linear by products and formed; biases, norms, embeddings and the head as they are."""
    cfg = tiny_config("gpt2")
    params = tiny_params(cfg)
    params = stack_layers(params) if is_stacked else params
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, (3, 9)).astype(np.int32)
    batch = {"tokens": jnp.asarray(tokens[:, :-1]), "targets": jnp.asarray(tokens[:, 1:])}
    if is_stacked:
        loss = functools.partial(scanned_loss, cfg)
    else:
        loss = functools.partial(lm_example_loss, cfg)
    trained = {p: leaf for p, leaf in flatten(params).items() if not p.startswith("embed")}
    assert_same(*both(loss, params, batch, jnp.zeros(3, bool), 0.5, trained))


def lm_example_loss(cfg, params, example, key):
    batch = LMBatch(
        tokens=example["tokens"][None], targets=example["targets"][None], step=jnp.int32(0)
    )
    return lm_loss(cfg, params, batch, jnp.zeros(1, bool), key=key)[0]


def scanned_loss(cfg, params, example, key):
    """MLPs of all layers in a scan, each computed again in the backward pass."""
    x = params.embed[example["tokens"]]
    targets = params.embed[example["targets"]]

    @jax.checkpoint
    def step(x, layer):
        return x + linear(jnp.tanh(linear(x, layer.mlp.up)), layer.mlp.down), None

    x, _ = jax.lax.scan(step, x, params.layers)
    return jnp.mean(jnp.square(x - targets))


def test_padding_and_examples_without_a_gradient_add_exactly_nothing(mlp):
    params, batch, is_padding = mlp
    summed = ghosted(mlp_loss, params)
    run = jax.jit(
        lambda batch, mask: summed(flatten(params), params, batch, mask, KEY, jnp.float32(0.5))
    )
    bad = batch | {"y": batch["y"].at[2].set(np.nan).at[5].set(1e30)}
    ours, info = run(bad, is_padding)
    without, _ = run(batch, is_padding.at[2].set(True))
    jax.tree.map(np.testing.assert_array_equal, ours, without)
    assert not np.isfinite(info.norm[2])
    nothing, _ = run(bad, jnp.ones(B, bool))
    assert all(not np.asarray(leaf).any() for leaf in nothing.values())


def test_no_array_of_every_examples_weights_exists(mlp):
    """Neither pass has [B, out, in]; the control, materialised gradients, does."""
    params, batch, is_padding = mlp
    given = flatten(params), params, batch, is_padding, KEY, jnp.float32(1.0)
    by_path = lambda leaves, params, example, key: mlp_loss(replaced(params, leaves), example, key)
    texts = [
        jax.jit(summed).lower(*given).as_text()
        for summed in (ghosted(mlp_loss, params), ClippedSum(loss=by_path))
    ]
    found = [[f"tensor<{B}x{n}x{m}xf32>" in t for n, m in ((F, D), (D, F))] for t in texts]
    assert found[0] == [False, False]
    assert any(found[1])


def test_the_activations_of_both_passes_do_not_stand_beside_each_other():
    """Both passes need no more than a little above what the second needs alone."""
    cfg = tiny_config("gpt2")
    params, rows = stack_layers(tiny_params(cfg)), 64
    tokens = jnp.zeros((rows, 16), jnp.int32)
    batch = {"tokens": tokens, "targets": tokens}
    loss = functools.partial(lm_example_loss, cfg)
    weights = {path: flatten(params)[path] for path in linear_weights(params)}
    keys = jax.random.split(KEY, rows)
    second = lambda leaves, example, key: loss(replaced(params, leaves), example, key)

    def temporaries(run, *given):
        return jax.jit(run).lower(*given).compile().memory_analysis().temp_size_in_bytes

    alone = temporaries(
        functools.partial(weighted_gradient, second), weights, batch, keys, jnp.ones(rows)
    )
    summed = GhostClippedSum(loss=loss, ghosted=tuple(weights))
    both = temporaries(
        summed, weights, params, batch, jnp.zeros(rows, bool), keys, jnp.float32(1.0)
    )
    assert both < 1.3 * alone


def test_both_passes_are_asked_for_at_full_precision(mlp):
    """Whatever the caller's default is: with fewer bits they would round a gradient differently."""
    params, batch, is_padding = mlp
    given = flatten(params), params, batch, is_padding, KEY, jnp.float32(1.0)
    with jax.default_matmul_precision("bfloat16"):
        text = jax.jit(ghosted(mlp_loss, params)).lower(*given).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 6
    assert all("HIGHEST" in line for line in products)


@pytest.mark.parametrize("rows", [2, 40])  # by products, formed
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1.0, 1e12])
def test_a_norm_is_that_of_the_gradient(rows, scale):
    rng = np.random.default_rng(rows)
    x, g = rng.standard_normal((rows, 24)) * 3, rng.standard_normal((rows, 30)) * scale
    x, g = (a.astype(np.float32) for a in (x, g))
    wanted = np.square(np.linalg.norm(g.astype(np.float64).T @ x.astype(np.float64)))
    found = float(jax.jit(product.square_norm)(x, g))
    # Below the smallest float32 squares vanish, as they do in ClippedSum.
    assert found == pytest.approx(wanted, rel=3e-5, abs=1e-44)


def test_rows_that_cancel_do_not_hide_a_norm():
    """Gradients that nearly cancel over the rows: products of T x T lose them in their rounding."""
    rng = np.random.default_rng(3)
    worst = []
    for size in (1e-2, 1e-3, 1e-4, 1e-5):
        for _ in range(20):
            x, g = rng.standard_normal((1, 300)), rng.standard_normal((1, 200))
            x = np.concatenate([x, x * (1 + size * rng.standard_normal((1, 300)))])
            x, g = x.astype(np.float32), np.concatenate([g, -g]).astype(np.float32)
            true = np.linalg.norm(g.astype(np.float64).T @ x.astype(np.float64))
            plain = np.sum((x @ x.T) * (g @ g.T), dtype=np.float32)
            ratio = true / np.sqrt(float(product.square_norm(x, g)))
            worst.append((ratio, plain < true**2 * (1 - 1e-4)))
    assert max(ratio for ratio, _ in worst) <= 1 + 1e-6
    assert any(is_low for _, is_low in worst)  # without the slack it would fail


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_no_example_counts_more_than_the_clip_norm(mlp, size):
    params, batch, _ = mlp
    batch = jax.tree.map(lambda leaf: leaf * size, batch)
    summed = ghosted(mlp_loss, params)
    run = jax.jit(
        lambda mask: summed(flatten(params), params, batch, mask, KEY, jnp.float32(0.01))[0]
    )
    for i in range(3):
        total = run(jnp.arange(B) != i)
        flat = np.concatenate([np.asarray(v, np.float64).ravel() for v in total.values()])
        assert np.linalg.norm(flat) <= 0.01 * (1 + 1e-6)


def test_sums_of_bfloat16_weights_are_formed_in_float32(mlp):
    params, batch, is_padding = mlp
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    def loss(params, example, key):
        wide = {**params, "scale": params["scale"].astype(jnp.float32)}
        return mlp_loss(wide, example, key)

    (total, _), (slow, _) = both(loss, narrow, batch, is_padding, 1e6)
    for path, leaf in total.items():
        assert leaf.dtype == jnp.float32
        # The other way rounds every example's gradient to bfloat16.
        np.testing.assert_allclose(leaf, slow[path], rtol=0.02, atol=0.02)


def twice(params, example, key):
    return jnp.sum(linear(jnp.tanh(linear(example["x"], params["a"])), params["a"]))


def in_a_loop(params, example, key):
    step = lambda x, _: (jnp.tanh(linear(x, params["a"])), None)
    return jnp.sum(jax.lax.scan(step, example["x"], None, length=2)[0])


def outside_of_linear(params, example, key):
    return jnp.sum(linear(example["x"], params["a"])) + jnp.sum(jnp.square(params["a"].w))


def under_vmap(params, example, key):
    return jnp.sum(jax.vmap(lambda row: linear(row, params["a"]))(example["x"]))


def under_a_rule(params, example, key):
    """Somebody's own derivative around the layer."""
    scaled = jax.custom_vjp(lambda x, p: linear(x, p))
    scaled.defvjp(lambda x, p: (linear(x, p), (x, p)), lambda saved, g: (g, saved[1]))
    return jnp.sum(scaled(example["x"], params["a"]))


def differentiated(params, example, key):
    return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.tanh(linear(x, params["a"]))))(example["x"]))


def unrolled_from_a_stack(params, example, key):
    x = example["x"]
    for i in range(2):
        x = linear(x, jax.tree.map(lambda leaf, i=i: leaf[i], params["a"]))
    return jnp.sum(x)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (twice, "more than once"),
        (in_a_loop, "every turn of a loop"),
        (outside_of_linear, "more than once|is read by"),
        (under_vmap, "under a vmap"),
        (under_a_rule, "is read by"),
        (differentiated, "is read by|more than once"),
        (unrolled_from_a_stack, "is read by|more than once"),
    ],
)
def test_weights_whose_norms_would_be_wrong_are_refused(loss, why):
    shape = (2, 4, 4) if loss is unrolled_from_a_stack else (4, 4)
    params = {"a": Linear(w=jnp.ones(shape))}
    batch = {"x": jnp.ones((2, 3, 4))}
    with pytest.raises(ConfigError, match=why):
        ghosted(loss, params)(flatten(params), params, batch, jnp.zeros(2, bool), KEY, 1.0)


def test_a_weight_under_a_condition_or_a_call_may_be_watched():
    """Each branch uses it once; what is not used adds nothing."""
    params = {"a": Linear(w=jnp.arange(16.0).reshape(4, 4)), "unused": Linear(w=jnp.ones((2, 2)))}

    def loss(params, example, key):
        run = jax.checkpoint(lambda x, p: jnp.tanh(0.1 * linear(x, p)))
        turn = lambda: run(example["x"], params["a"])
        return jnp.sum(jax.lax.cond(example["flag"], turn, lambda: linear(example["x"], params["a"])))  # fmt: skip

    batch = {"x": jnp.ones((3, 2, 4)) * 0.1, "flag": jnp.asarray([True, False, True])}
    assert_same(*both(loss, params, batch, jnp.zeros(3, bool), 0.4))


def test_what_cannot_be_watched_is_refused(mlp):
    params, batch, is_padding = mlp
    call = lambda how, params=params, batch=batch, trained=None: how(
        trained or flatten(params), params, batch, is_padding, KEY, 1.0
    )
    with pytest.raises(ConfigError, match="no trained weights"):
        call(GhostClippedSum(loss=mlp_loss, ghosted=("scale",)))
    with pytest.raises(ConfigError, match="no trained weights"):
        call(ghosted(mlp_loss, params), trained={"a.b": params["a"].b})
    with pytest.raises(ConfigError, match="nothing to save"):
        GhostClippedSum(loss=mlp_loss, ghosted=())
    with pytest.raises(ConfigError, match="no multiple of microbatch=4"):
        call(ghosted(mlp_loss, params, microbatch=4))
    with pytest.raises(ConfigError, match="float scalar"):
        call(ghosted(lambda params, example, key: linear(example["x"], params["a"]), params))
    narrow = {"x": batch["x"].astype(jnp.bfloat16), "y": batch["y"]}
    with pytest.raises(ConfigError, match="not bfloat16"):
        call(ghosted(lambda p, e, k: jnp.sum(linear(e["x"], p["a"])).astype(jnp.float32), params), batch=narrow)  # fmt: skip


def test_a_weighted_gradient_is_the_sum_of_gradients(mlp):
    params, batch, _ = mlp
    weights = jnp.asarray([0.5, 0.0, 2.0, 0.0, 0.0, 1.0])
    bad = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), batch)
    keys = jax.random.split(KEY, B)
    found, losses = weighted_gradient(mlp_loss, params, bad, keys, weights)
    each = jax.vmap(jax.grad(mlp_loss), in_axes=(None, 0, 0))(params, batch, keys)
    wanted = jax.tree.map(lambda leaf: jnp.einsum("b...,b->...", leaf, weights), each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found, wanted)
    row = jax.tree.map(lambda leaf: leaf[2], batch)
    np.testing.assert_allclose(losses[2], mlp_loss(params, row, None), rtol=1e-6)


def test_equal_sums_are_one_static_argument(mlp):
    one = ghosted(mlp_loss, mlp[0])
    assert hash(one) == hash(dataclasses.replace(one))
    assert one == dataclasses.replace(one)
