"""Taps on encoders: the defaults of the configuration find what they should, gradients are projected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax import testing
from ariel_jax.algorithms import dp_grape
from ariel_jax.models import encoder, vit
from ariel_jax.models.params import stack_layers
from ariel_jax.models.paths import flatten
from ariel_jax.privacy.clipping import ClippedSum

CFG = dp_grape.Config(rank=3)
KEY = jax.random.key(0)


def made(variant, stacked):
    """(weights, examples, loss of one) of a classifier."""
    model = testing.tiny_encoder(variant, n_layers=2 if stacked else 1)
    cfg, rng = model.cfg, np.random.default_rng(0)
    params = stack_layers(model.params) if stacked else model.params
    batch = {"label": jnp.asarray([0, 2, 1], jnp.int32)}
    if variant == "vit":
        batch["image"] = jnp.asarray(rng.standard_normal((3, 12, 12, 3)), jnp.float32)
    else:
        batch["ids"] = jnp.asarray(rng.integers(4, 320, (3, 8)), jnp.int32)
        batch["mask"] = jnp.arange(8)[None] < jnp.asarray([[8], [5], [3]])

    def loss(params, example, key):
        if variant == "vit":
            logits = vit.vit_logits(cfg, params, example["image"][None])
        else:
            logits = encoder.classify(cfg, params, example["ids"][None], example["mask"][None])
        return -jax.nn.log_softmax(logits[0])[example["label"]]

    return params, batch, loss


@pytest.mark.parametrize("variant", testing.ENCODER_VARIANTS)
def test_the_default_settings_project_blocks_freeze_embeddings_and_train_the_rest(variant):
    params, _, _ = made(variant, stacked=False)
    specs = dp_grape.make_specs(params, CFG)
    blocks = ["layers.0."]
    assert set(specs.by_path()) == {
        f"{at}{name}.w"
        for at in blocks
        for name in ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
    }
    tables = {"embed_class"} if variant == "vit" else {"embed", "embed_types"}
    assert set(specs.frozen) == {"pos_embed", *tables}
    heads = {"classifier.w", "classifier.b"}
    heads |= (
        {"patch.w", "final_norm.scale"} if variant == "vit" else {"pooler.w", "input_norm.bias"}
    )
    assert heads < set(specs.full)
    assert {f"{at}attn_norm.scale" for at in blocks} < set(specs.full)
    assert {f"{at}mlp.up.b" for at in blocks} < set(specs.full)


@pytest.mark.parametrize(("variant", "stacked"), [("vit", False), ("roberta", True)])
def test_a_taps_gradient_is_the_projected_gradient_of_its_weight(variant, stacked):
    params, batch, loss = made(variant, stacked)
    specs = dp_grape.make_specs(params, CFG)
    drawn = dp_grape.projections(jax.random.key(5), 0, specs, CFG)
    tapped = dp_grape.tapped_loss(loss, specs)
    trained = dp_grape.trained_leaves(params, specs)
    per_example = jax.jit(jax.vmap(jax.grad(tapped), in_axes=(None, None, 0, None)))
    ours = per_example(trained, (params, drawn), batch, KEY)
    whole = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, None)))(params, batch, KEY)
    whole = flatten(whole)
    assert {spec.side for spec in specs.projected} == {"in", "out"}
    for spec in specs.projected:
        assert np.abs(whole[spec.path]).max() > 1e-3
        P = jnp.broadcast_to(drawn[spec.path], (3, *drawn[spec.path].shape))
        wanted = dp_grape.project(spec, whole[spec.path], P)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(ours[spec.path], wanted, rtol=0, atol=1e-5 * scale)
        # Of another weight's projection it is not.
        assert np.abs(ours[spec.path] - dp_grape.project(spec, whole[spec.path], -P)).max() > scale
    # A key's bias moves all scores of a query alike: its gradient is the rounding of the others'.
    largest = max(float(np.abs(leaf).max()) for leaf in whole.values())
    for path in specs.full:
        atol = 1e-5 * float(np.abs(whole[path]).max()) + 1e-6 * largest
        np.testing.assert_allclose(ours[path], whole[path], rtol=0, atol=atol)


def test_a_clipped_sum_of_texts_counts_each_and_is_bounded():
    params, batch, loss = made("roberta", stacked=True)
    specs = dp_grape.make_specs(params, CFG)
    drawn = dp_grape.projections(jax.random.key(5), 0, specs, CFG)
    summed = ClippedSum(loss=dp_grape.tapped_loss(loss, specs))
    trained = dp_grape.trained_leaves(params, specs)
    run = jax.jit(
        lambda is_padding: summed(
            trained, (params, drawn), batch, is_padding, KEY, jnp.float32(0.01)
        )[0]
    )

    def norm_of(is_padding):
        leaves = jax.tree.leaves(run(jnp.asarray(is_padding)))
        return float(np.sqrt(sum(np.square(leaf).sum() for leaf in leaves)))

    for i in range(3):
        alone = [j != i for j in range(3)]
        assert norm_of(alone) == pytest.approx(0.01, rel=1e-4)  # clipped to the bound
    assert norm_of([True] * 3) == 0
