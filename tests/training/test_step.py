import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.errors import ConfigError
from ariel_jax.layers.attention import (
    AttentionOptions,
    blocked_attention,
    causal,
    causal_attention,
)
from ariel_jax.models import decoder
from ariel_jax.models.params import stack_layers, unstack_layers
from ariel_jax.testing import tiny_config, tiny_params
from ariel_jax.training import programs
from ariel_jax.training.loss import head_cross_entropy
from ariel_jax.training.optimizer import OptimizerConfig, make_optimizer
from ariel_jax.training.step import LayerSkip, LMGrad, lm_loss


def slow_loss(cfg, params, batch, is_padding, *, skip=None, exit_layer=None, exit_scale=0.0):
    """The recipe from its formula: all logits, log_softmax, masks by multiplication."""
    B, T = batch.tokens.shape
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    x = decoder.embed(cfg, params, batch.tokens, positions)
    states = []
    for i, layer in enumerate(params.layers):
        y, _ = decoder.block(cfg, layer, i, x, positions, causal(cfg.attention), None)
        keep = 1.0 if skip is None else 1.0 - skip[i].astype(jnp.float32)[:, None, None]
        x = x + keep * (y - x)
        states.append(x)
    learned = (batch.targets >= 0) & ~is_padding[:, None]

    def cross_entropy(state):
        logits = jax.nn.log_softmax(decoder.unembed(cfg, params, state))
        picked = jnp.take_along_axis(logits, jnp.maximum(batch.targets, 0)[..., None], -1)[..., 0]
        return -jnp.sum(jnp.where(learned, picked, 0)) / jnp.sum(learned.astype(jnp.float32))

    total = cross_entropy(states[-1])
    if exit_layer is not None:
        total = (total + exit_scale * cross_entropy(states[exit_layer - 1])) / (1 + exit_scale)
    return total


def assert_close(ours, theirs, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = float(jnp.max(jnp.abs(b))) + 1e-6
        np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("padded", [(), (1, 6)])
def test_plain_loss_and_gradient_equal_the_slow_oracle(cfg, params, batch, no_padding, key, padded):
    is_padding = no_padding.copy()
    is_padding[list(padded)] = True
    tree, info = programs.grads(params, batch, is_padding, key, grad_fn=LMGrad(cfg=cfg))
    value, expected = jax.value_and_grad(
        lambda p: slow_loss(cfg, p, batch, jnp.asarray(is_padding))
    )(params)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-5)
    assert info["weight"] == 8 * 12 - 7 - 12 * len(padded)
    assert_close(tree, expected)


def test_layerskip_loss_and_gradient_equal_the_slow_oracle(cfg, params, batch, no_padding, key):
    recipe = LayerSkip(exit_scale=0.7, max_dropout=0.6)
    tree, info = programs.grads(
        params, batch, no_padding, key, grad_fn=LMGrad(cfg=cfg, layerskip=recipe)
    )
    exit_layer = recipe.rotation(3)[4 % len(recipe.rotation(3))]
    assert info["exit"] == exit_layer
    draw = jax.random.uniform(jax.random.fold_in(key, 0), (3, 8))
    skip = draw < 0.6 * jnp.asarray([0.0, np.sqrt(2) - 1, 1.0], jnp.float32)[:, None]
    assert skip.any()
    assert not skip.all()

    def oracle(p):
        return slow_loss(
            cfg,
            p,
            batch,
            jnp.asarray(no_padding),
            skip=skip,
            exit_layer=exit_layer,
            exit_scale=0.7,
        )

    value, expected = jax.value_and_grad(oracle)(params)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-5)
    assert_close(tree, expected)
    # The oracle can tell: without the exit loss it is another number.
    assert abs(float(slow_loss(cfg, params, batch, jnp.asarray(no_padding))) - float(value)) > 1e-3


def test_a_padding_row_has_no_influence(cfg, params, batch, no_padding, key):
    is_padding = no_padding.copy()
    is_padding[3] = True
    garbage = batch.replace(tokens=batch.tokens.copy(), targets=batch.targets.copy())
    garbage.tokens[3], garbage.targets[3] = 11, 12
    grad_fn = LMGrad(cfg=cfg)
    one, _ = programs.grads(params, batch, is_padding, key, grad_fn=grad_fn)
    other, _ = programs.grads(params, garbage, is_padding, key, grad_fn=grad_fn)
    assert_close(one, other, tolerance=1e-6)


def test_only_padding_gives_zero_gradients(cfg, params, batch, no_padding, key):
    tree, info = programs.grads(params, batch, ~no_padding, key, grad_fn=LMGrad(cfg=cfg))
    assert info["weight"] == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(tree))


def test_accumulated_gradients_equal_those_of_the_big_batch(cfg, params, batch, no_padding, key):
    # Row 2 has fewer targets and a padded row none, so the parts have unequal weights.
    is_padding = no_padding.copy()
    is_padding[7] = True
    grad_fn = LMGrad(cfg=cfg, layerskip=LayerSkip(max_dropout=0.0))
    whole, info = programs.grads(params, batch, is_padding, key, grad_fn=grad_fn)
    parts, info_parts = programs.grads(
        params, batch, is_padding, key, grad_fn=grad_fn, microbatches=4
    )
    assert_close(parts, whole)
    assert info_parts["weight"] == info["weight"]
    np.testing.assert_allclose(info_parts["loss"], info["loss"], rtol=1e-5)


def test_two_devices_give_the_gradients_of_one(cfg, params, batch, no_padding, key):
    from ariel_jax.compat import auto_mesh

    grad_fn = LMGrad(cfg=cfg)
    one, info = programs.grads(params, batch, no_padding, key, grad_fn=grad_fn)
    two, info_two = programs.grads(
        params,
        batch,
        no_padding,
        key,
        grad_fn=grad_fn,
        microbatches=2,
        mesh=auto_mesh((2,), ("data",)),
    )
    assert_close(two, one)
    assert info_two["weight"] == info["weight"]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_both_programs_of_a_step_lower_for(cfg, params, batch, no_padding, key, platform):
    grad_fn = LMGrad(cfg=cfg, layerskip=LayerSkip(curriculum_steps=10))
    traced = programs.grads.trace(params, batch, no_padding, key, grad_fn=grad_fn, microbatches=2)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "dot_general" in text
    tx = make_optimizer(OptimizerConfig(lr=1e-3, steps=10))
    state = programs.init_optimizer(params, tx=tx)
    traced = programs.apply.trace(params, state, params, tx=tx)
    assert "sqrt" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_equal_grad_fns_share_a_program(cfg, params, batch, no_padding, key):
    before = programs.grads._cache_size()
    for _ in range(2):
        programs.grads(
            params, batch, no_padding, key, grad_fn=LMGrad(cfg=cfg.replace(norm_eps=2e-6))
        )
    assert programs.grads._cache_size() == before + 1


def test_rotation_visits_every_exit_and_favours_shallow_ones():
    turns = LayerSkip().rotation(12)
    counts = [turns.count(e) for e in range(1, 12)]
    assert min(counts) == 2
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    plain = LayerSkip(depth_power=0.0).rotation(5)
    assert sorted(plain) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_skip_probabilities_follow_depth_and_curriculum():
    recipe = LayerSkip(max_dropout=0.2, curriculum_steps=100)
    at = lambda step: np.asarray(recipe.skip_probabilities(5, jnp.int32(step)))
    np.testing.assert_allclose(at(0), 0, atol=1e-7)
    full = 0.2 * (2 ** (np.arange(5) / 4) - 1)
    np.testing.assert_allclose(at(100), full, rtol=1e-5)
    np.testing.assert_allclose(at(1000), full, rtol=1e-5)
    np.testing.assert_allclose(at(50), full * (np.sqrt(2) - 1), rtol=1e-5)
    without = LayerSkip(max_dropout=0.2).skip_probabilities(5, jnp.int32(0))
    np.testing.assert_allclose(without, full, rtol=1e-5)


@pytest.mark.parametrize("fields", [{"max_dropout": 1.0}, {"exit_scale": -1.0}])
def test_layerskip_refuses_impossible_options(fields):
    with pytest.raises(ConfigError):
        LayerSkip(**fields)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_head_cross_entropy_equals_log_softmax(softcap):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((1500, 6)), jnp.float32)
    weights = jnp.asarray(rng.standard_normal((17, 6)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 17, 1500), jnp.int32)
    row_weights = jnp.asarray(rng.random(1500), jnp.float32)

    def slow(hidden, weights):
        logits = hidden @ weights.T
        if softcap is not None:
            logits = softcap * jnp.tanh(logits / softcap)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1)[:, 0]
        return jnp.sum(nll * row_weights), nll

    def ours(hidden, weights):
        return head_cross_entropy(hidden, weights, targets, row_weights, softcap=softcap)

    value, nll = jax.jit(ours)(hidden, weights)
    expected, expected_nll = slow(hidden, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(nll, expected_nll, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda *a: 2 * ours(*a)[0], argnums=(0, 1)))(hidden, weights)
    assert_close(gradient, jax.grad(lambda *a: 2 * slow(*a)[0], argnums=(0, 1))(hidden, weights))


def test_a_frozen_head_has_no_gradient_formed():
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((3, 5, 6)), jnp.float32)
    weights = jnp.asarray(rng.standard_normal((17, 6)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 17, (3, 5)), jnp.int32)

    def of_example(hidden, weights, targets):
        return head_cross_entropy(hidden, weights, targets, jnp.ones(5, jnp.float32))[0]

    def frozen(hidden):
        return jax.vmap(jax.grad(of_example), (0, None, 0))(hidden, weights, targets)

    def trained(hidden):
        both = jax.vmap(jax.grad(of_example, (0, 1)), (0, None, 0))(hidden, weights, targets)
        return both[0] + 0 * jnp.sum(both[1])

    programs = {f: jax.jit(f).lower(hidden).as_text() for f in (frozen, trained)}
    assert "tensor<3x17x6xf32>" not in programs[frozen]
    assert "tensor<3x17x6xf32>" in programs[trained]  # what would be seen
    np.testing.assert_allclose(jax.jit(frozen)(hidden), jax.jit(trained)(hidden), rtol=1e-6)


@pytest.mark.parametrize("variant", ["llama", "gemma2"])
def test_computing_blocks_again_and_scanning_them_change_no_gradient(
    variant, batch, no_padding, key
):
    cfg = tiny_config(variant)
    params = tiny_params(cfg, seed=2)

    def loss(params, remat):
        return lm_loss(cfg, params, batch, jnp.asarray(no_padding), key=key, remat=remat)[0]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain = gradient(params, False)
    assert_close(gradient(params, True), plain)
    assert "remat" in str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, True))
    stacked = stack_layers(params)
    if len({cfg.attention(i) for i in range(cfg.n_layers)}) > 1:
        with pytest.raises(ConfigError, match="of 2 kinds"):
            loss(stacked, False)
        return
    for remat in (False, True):
        assert_close(unstack_layers(gradient(stacked, remat)), plain)


@pytest.mark.parametrize(
    "options",
    [
        AttentionOptions(scale=0.3),
        AttentionOptions(scale=0.3, window=5),
        AttentionOptions(scale=0.3, softcap=2.0),
    ],
)
def test_blocked_attention_equals_causal_attention(options):
    rng = np.random.default_rng(1)
    draw = lambda heads: jnp.asarray(rng.standard_normal((2, 19, heads, 8)), jnp.float32)
    q, k, v = draw(4), draw(2), draw(2)
    ours = blocked_attention(q, k, v, options, block=8)
    np.testing.assert_allclose(ours, causal_attention(q, k, v, options), atol=2e-6)


@pytest.mark.parametrize("variant", ["gpt2", "opt-350m", "gemma2", "qwen3"])
def test_every_form_of_decoder_has_the_oracle_s_loss(variant, batch, no_padding, key):
    cfg = tiny_config(variant)
    params = tiny_params(cfg, seed=2)
    loss, _ = jax.jit(lambda p: lm_loss(cfg, p, batch, jnp.asarray(no_padding), key=key))(params)
    expected = jax.jit(lambda p: slow_loss(cfg, p, batch, jnp.asarray(no_padding)))(params)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
