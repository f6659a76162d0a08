"""What encoders promise: padding, pooling, gradients, scanned layers, and errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax import testing
from ariel_jax.errors import ConfigError
from ariel_jax.models import encoder, vit
from ariel_jax.models.config import Precision
from ariel_jax.models.encoder import EncoderConfig, init_encoder
from ariel_jax.models.params import stack_layers
from ariel_jax.models.presets import encoder_preset, vit_preset
from ariel_jax.models.vit import ViTConfig, init_vit

IDS = np.random.default_rng(0).integers(4, testing.TOY_VOCAB_SIZE, (2, 9)).astype(np.int32)
PIXELS = np.random.default_rng(1).standard_normal((2, 12, 12, 3)).astype(np.float32)


def padded(ids, n_before=0, n_behind=0):
    """Texts with padding around them, and their mask."""
    mask = np.pad(np.ones(ids.shape, bool), ((0, 0), (n_before, n_behind)))
    rng = np.random.default_rng(2)
    filled = rng.integers(0, testing.TOY_VOCAB_SIZE, mask.shape).astype(np.int32)
    filled[mask] = ids.ravel()
    return jnp.asarray(filled), jnp.asarray(mask)


def logits_of(model, params=None, **options):
    params = model.params if params is None else params
    if isinstance(model.cfg, ViTConfig):
        return vit.vit_logits(model.cfg, params, jnp.asarray(PIXELS), **options)
    return encoder.classify(model.cfg, params, *padded(IDS, 0, 2), **options)


@pytest.mark.parametrize("variant", ["bert", "roberta"])
def test_padding_behind_a_text_changes_its_vectors_by_rounding_only(variant):
    model = testing.tiny_encoder(variant)
    bare = encoder.encode(model.cfg, model.params, *padded(IDS))
    ids, mask = padded(IDS, 0, 7)
    longer = encoder.encode(model.cfg, model.params, ids, mask)
    np.testing.assert_allclose(longer[:, :9], bare, atol=2e-5)
    np.testing.assert_allclose(
        encoder.pool(longer, mask), encoder.pool(bare, jnp.ones((2, 9), bool)), atol=2e-5
    )
    np.testing.assert_allclose(
        encoder.classify(model.cfg, model.params, ids, mask),
        encoder.classify(model.cfg, model.params, *padded(IDS)),
        atol=2e-5,
    )
    # The same text with the padding attended to: the test would notice.
    unmasked = encoder.encode(model.cfg, model.params, ids, jnp.ones_like(mask))
    assert np.abs(unmasked[:, :9] - bare).max() > 0.1


def test_padding_before_a_text_changes_nothing_where_positions_count_tokens():
    model = testing.tiny_encoder("roberta")
    bare = encoder.encode(model.cfg, model.params, *padded(IDS))
    shifted = encoder.encode(model.cfg, model.params, *padded(IDS, 3, 1))
    np.testing.assert_allclose(shifted[:, 3:12], bare, atol=2e-5)
    bert = testing.tiny_encoder("bert")
    bare = encoder.encode(bert.cfg, bert.params, *padded(IDS))
    shifted = encoder.encode(bert.cfg, bert.params, *padded(IDS, 3, 1))
    assert np.abs(shifted[:, 3:12] - bare).max() > 0.01


def test_pooling_is_the_mean_of_the_tokens_that_exist():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    x[1, 3], x[2] = np.nan, np.inf  # what padding holds does not matter
    mask = np.array([[1, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    found = encoder.pool(jnp.asarray(x), jnp.asarray(mask))
    np.testing.assert_allclose(found[0], x[0, [0, 1, 3]].mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[1], x[1, [0, 2]].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(found[2], np.zeros(5))
    np.testing.assert_array_equal(encoder.pool(jnp.asarray(x), jnp.asarray(mask), "first"), x[:, 0])
    narrow = encoder.pool(jnp.asarray(x[:1], jnp.bfloat16), jnp.asarray(mask[:1]))
    assert narrow.dtype == jnp.bfloat16
    with pytest.raises(ConfigError, match="kind='last'"):
        encoder.pool(jnp.asarray(x), jnp.asarray(mask), "last")  # type: ignore[arg-type]


def test_a_text_without_tokens_is_finite():
    model = testing.tiny_encoder("roberta")
    nothing = jnp.zeros((1, 4), bool)
    x = encoder.encode(model.cfg, model.params, jnp.zeros((1, 4), jnp.int32), nothing)
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(encoder.pool(x, nothing), np.zeros((1, 32)))


def test_patches_are_read_row_by_row():
    image = np.arange(4 * 6 * 2).reshape(1, 4, 6, 2).astype(np.float32)
    found = vit.patches(jnp.asarray(image), 2)
    assert found.shape == (1, 6, 8)
    for row in range(2):
        for column in range(3):
            here = image[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(found[0, 3 * row + column], here.ravel())
    for bad in (image[0], image[:, :3]):
        with pytest.raises(ConfigError, match="multiples"):
            vit.patches(jnp.asarray(bad), 2)


@pytest.mark.parametrize("variant", ["roberta", "vit"])
def test_scanned_and_recomputed_layers_have_the_same_gradients(variant):
    model = testing.tiny_encoder(variant)

    def loss(params, **options):
        return jnp.sum(jnp.square(logits_of(model, params, **options)))

    plain = jax.jit(jax.grad(loss))(model.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain))
    unused = [  # a key's bias moves all scores of a query alike
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(plain)
        if np.abs(leaf).max() < 1e-3
    ]
    expected = {f"layers.{i}.attn.k.b" for i in range(2)}
    assert set(unused) == expected
    stacked = jax.jit(jax.grad(lambda p: loss(p, remat=True)))(stack_layers(model.params))
    for a, b in zip(jax.tree.leaves(stack_layers(plain)), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max() + 1e-5)


def test_examples_do_not_see_each_other():
    """A batch is what its examples are alone, in value and in gradient: what private training needs."""
    for variant in ("roberta", "vit"):
        model = testing.tiny_encoder(variant, n_layers=1)
        whole = logits_of(model)
        if variant == "vit":
            alone = [vit.vit_logits(model.cfg, model.params, jnp.asarray(PIXELS[i : i + 1])) for i in (0, 1)]  # fmt: skip
        else:
            ids, mask = padded(IDS, 0, 2)
            alone = [encoder.classify(model.cfg, model.params, ids[i : i + 1], mask[i : i + 1]) for i in (0, 1)]  # fmt: skip
        np.testing.assert_allclose(whole, jnp.concatenate(alone), atol=1e-5)


def test_narrow_weights():
    for variant in ("bert", "vit"):
        model = testing.tiny_encoder(variant)
        narrow = testing.tiny_encoder(variant, precision=Precision.bf16())
        found = logits_of(narrow)
        assert found.dtype == jnp.float32  # the logits' own
        assert narrow.params.precision.compute == "bfloat16"
        scale = np.abs(logits_of(model)).max()
        assert np.abs(found - logits_of(model)).max() < 0.1 * scale  # two layers of 8 bits


def test_new_classifiers():
    model = testing.tiny_encoder("bert", n_classes=None, has_pooler=False)
    with pytest.raises(ConfigError, match="with_classifier"):
        encoder.classify(model.cfg, model.params, *padded(IDS))
    with pytest.raises(ConfigError, match="no pooler"):
        encoder.pooled(model.params, jnp.zeros((1, 2, 32)))
    cfg, params = encoder.with_classifier(model.cfg, model.params, 4, key=jax.random.key(0))
    assert (cfg.n_classes, cfg.has_pooler) == (4, True)
    assert params.embed is model.params.embed
    assert encoder.classify(cfg, params, *padded(IDS)).shape == (2, 4)
    again, changed = encoder.with_classifier(cfg, params, 2, key=jax.random.key(1))
    assert changed.pooler is params.pooler
    assert changed.classifier.w.shape == (2, 32)
    assert again.n_classes == 2
    images = testing.tiny_encoder("vit", n_classes=None)
    with pytest.raises(ConfigError, match="with_vit_classifier"):
        vit.vit_logits(images.cfg, images.params, jnp.asarray(PIXELS))
    cfg, params = vit.with_vit_classifier(images.cfg, images.params, 7, key=jax.random.key(0))
    assert vit.vit_logits(cfg, params, jnp.asarray(PIXELS)).shape == (2, 7)


def test_random_weights_are_those_of_the_config():
    for cfg, init in (
        # Few different shapes: each compiles a draw.
        (
            testing.tiny_encoder("roberta", vocab_size=32, max_positions=30, d_ff=32).cfg,
            init_encoder,
        ),
        (testing.tiny_encoder("vit", qkv_bias=False, n_channels=2, d_ff=32).cfg, init_vit),
    ):
        params = init(cfg, key=jax.random.key(0), precision=Precision.bf16())
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
        assert 0.015 < float(jnp.std(params.layers[1].mlp.up.w.astype(jnp.float32))) < 0.025
        assert not np.array_equal(params.layers[0].attn.q.w, params.layers[1].attn.q.w)
        np.testing.assert_array_equal(params.layers[0].attn.o.b, np.zeros(32))


REFUSED_TEXTS = {
    "too long": (lambda ids, mask: (jnp.tile(ids, (1, 4)), jnp.tile(mask, (1, 4))), "32 positions"),
    "mask of another shape": (lambda ids, mask: (ids, mask[:, :4]), "alike"),
    "mask of numbers": (lambda ids, mask: (ids, mask.astype(jnp.int32)), "bool"),
    "one text": (lambda ids, mask: (ids[0], mask[0]), r"\[B, T\]"),
    "types of another shape": (lambda ids, mask: (ids, mask, ids[:1]), "alike"),
}


@pytest.mark.parametrize("case", REFUSED_TEXTS)
def test_bad_texts_are_refused(case):
    change, words = REFUSED_TEXTS[case]
    model = testing.tiny_encoder("bert")
    with pytest.raises(ConfigError, match=words):
        encoder.encode(model.cfg, model.params, *change(*padded(IDS)))


def test_images_of_another_size_are_refused():
    model = testing.tiny_encoder("vit")
    for bad in (PIXELS[:, :8], PIXELS.transpose(0, 3, 1, 2), PIXELS[0]):
        with pytest.raises(ConfigError, match=r"\[B, 12, 12, 3\]"):
            vit.vit_logits(model.cfg, model.params, jnp.asarray(bad))


REFUSED_CONFIGS = {
    "unknown field": ({"d_modle": 3}, "d_modle"),
    "heads": ({"n_heads": 5}, "d_model=32.*n_heads=5"),
    "no layers": ({"n_layers": 0}, "n_layers=0"),
    "family": ({"family": "albert"}, "family='albert'"),
    "activation": ({"act": "mish"}, "act='mish'"),
    "epsilon": ({"norm_eps": 0.0}, "norm_eps=0"),
    "classes without a pooler": ({"has_pooler": False}, "has_pooler"),
    "no classes": ({"n_classes": 0}, "n_classes=0"),
    "offset": ({"positions": "tokens", "pos_offset": 0}, "pos_offset=0"),
    "positions": ({"positions": "words"}, "positions='words'"),
}


@pytest.mark.parametrize("case", REFUSED_CONFIGS)
def test_configs_that_cannot_be_an_encoder_are_refused(case):
    changes, words = REFUSED_CONFIGS[case]
    good = dataclasses.asdict(testing.tiny_encoder("bert").cfg)
    with pytest.raises(ConfigError, match=words):
        EncoderConfig.create(**(good | changes))


def test_configs_that_cannot_be_a_vit_are_refused():
    good = testing.tiny_encoder("vit").cfg
    for changes, words in (
        ({"patch_size": 5}, "image_size=12.*patch_size=5"),
        ({"n_channels": 0}, "n_channels=0"),
        ({"n_heads": 3}, "n_heads=3"),
    ):
        with pytest.raises(ConfigError, match=words):
            good.replace(**changes)
    with pytest.raises(ConfigError, match="colour"):
        ViTConfig.create(colour=True)
    with pytest.raises(ConfigError, match="variant='albert'"):
        testing.tiny_encoder("albert")
    with pytest.raises(ConfigError, match=r"'bert'.*roberta-large"):
        encoder_preset("bert")
    with pytest.raises(ConfigError, match=r"'vit'.*vit-b16"):
        vit_preset("vit")
