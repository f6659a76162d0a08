import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ariel_jax import compat, testing
from ariel_jax.decode import programs
from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.layers.linear import Linear, dequantize
from ariel_jax.models import paths
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import Model, load_pretrained, save_pretrained
from ariel_jax.models.hf.tokenizer import NoTokenizer
from ariel_jax.models.params import stack_layers
from ariel_jax.models.quantization import quantize, report
from ariel_jax.pallas_kernels.linear import unpack_int4
from ariel_jax.training.export import export_model
from ariel_jax.training.loop import LoopConfig, train
from ariel_jax.training.scoring import score_documents
from ariel_jax.training.step import LMBatch, LMGrad, lm_loss

# Widths that 32 divides, as 4 bits need them.
SIZES = {"d_ff": 64}
CASES = {
    "gpt2": {},  # one tensor for q, k and v, which float files store transposed
    "llama": {},  # a head of its own
    "opt": {},
    "opt-350m": {"embed_dim": 64},  # projections beside the embedding
    "gemma2": {"head_dim": 16},
}
FORMS = {
    "8 bits": {"bits": 8},
    "groups": {"bits": 8, "group": 16},
    "4 bits": {"bits": 4, "group": 32},
}


def config(variant="llama", **changes):
    return testing.tiny_config(variant, **(SIZES | CASES.get(variant, {}) | changes))


def model_of(cfg, params, folder):
    return Model(cfg=cfg, params=params, tokenizer=NoTokenizer(str(folder)))


def meant(params):
    """The float weights that quantised ones stand for."""

    def linear(leaf):
        if not isinstance(leaf, Linear):
            return leaf
        return leaf.replace(w=dequantize(leaf.w, leaf.scale, jnp.float32), scale=None)

    tree = jax.tree.map(linear, params, is_leaf=lambda leaf: isinstance(leaf, Linear))
    embed = dequantize(params.embed, params.embed_quant_scale, jnp.float32)
    return tree.replace(embed=embed, embed_quant_scale=None)


@functools.cache
def one_layer():
    """(cfg, float weights) of a Llama of one layer."""
    cfg = config(n_layers=1, vocab_size=64)
    return cfg, testing.tiny_params(cfg)


@pytest.fixture
def llama():
    return one_layer()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", CASES)
def test_what_is_saved_is_loaded_to_the_bit(variant, form, tmp_path):
    cfg = config(variant)
    params = testing.tiny_params(cfg, precision=Precision(param="bfloat16"))
    ours = quantize(params, **FORMS[form])
    save_pretrained(model_of(cfg, ours, tmp_path), tmp_path / "m", max_shard_bytes=60_000)
    theirs = load_pretrained(tmp_path / "m", precision=params.precision).params
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)
    for path, leaf in paths.flatten(ours).items():
        found = paths.flatten(theirs)[path]
        assert found.dtype == leaf.dtype, path
        np.testing.assert_array_equal(np.asarray(found), np.asarray(leaf), err_msg=path)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"


def test_every_projection_and_the_embedding_are_quantised_and_nothing_else():
    for variant in CASES:
        before = paths.flatten(testing.tiny_params(config(variant)))
        after = paths.flatten(quantize(testing.tiny_params(config(variant)), bits=4, group=32))
        for path, leaf in before.items():
            if path == "embed":
                assert after[path].dtype == np.int8
                assert after["embed_quant_scale"].shape == (leaf.shape[0], 1)
            elif path.endswith(".w"):
                is_head = path == "unembed.w"
                assert after[path].dtype == (np.int8 if is_head else np.uint8), path
                n_groups = 1 if is_head else leaf.shape[1] // 32
                scale = after[path.removesuffix("w") + "scale"]
                assert (scale.shape, scale.dtype) == ((leaf.shape[0], n_groups), np.float32)
            else:
                np.testing.assert_array_equal(after[path], leaf)
        assert all(x.sharding == before["embed"].sharding for x in after.values())


numbers = st.floats(-(2.0**120), 2.0**120, width=32)


@settings(max_examples=60, deadline=None)
@given(
    w=hnp.arrays(np.float32, (3, 32), elements=numbers | st.floats(-2, 2, width=32)),
    group=st.sampled_from([None, 8]),
)
def test_with_8_bits_no_weight_is_off_by_more_than_half_a_scale(w, group):
    found = quantize(one_layer()[1].replace(embed=jnp.asarray(w)), group=group)
    q, scale = np.asarray(found.embed, np.float64), np.asarray(found.embed_quant_scale, np.float64)
    assert np.all(np.abs(q) <= 127)
    wide = np.repeat(scale, 32 // scale.shape[1], axis=1)
    # A quotient near a tie, and the largest weight over its rounded scale, are off by float32's eps.
    assert np.all(np.abs(w - q * wide) <= wide / 2 * (1 + 1e-4))


def test_with_4_bits_no_group_is_worse_than_rounded_to_sevenths(llama):
    w = np.random.default_rng(0).standard_t(4, (40, 64)).astype(np.float32)
    w[0], w[1, :3] = 0, 50  # nothing to scale; weights that stand alone
    params = llama[1].replace(embed=jnp.asarray(w))
    found = quantize(params, bits=4, group=32, vocab_bits=4)
    q, scale = np.asarray(unpack_int4(found.embed)), np.asarray(found.embed_quant_scale)
    assert (q.min(), q.max()) == (-8, 7)
    assert set(np.sign(scale).ravel()) == {-1, 1}
    groups = w.reshape(40, 2, 32)
    errors = np.sum((groups - q.reshape(40, 2, 32) * scale[..., None]) ** 2, axis=-1)
    plain = np.maximum(np.max(np.abs(groups), axis=-1, keepdims=True) / 7, 1e-9)
    worse = np.sum((groups - np.rint(groups / plain) * plain) ** 2, axis=-1)
    assert np.all(errors <= worse * (1 + 1e-5))
    assert errors.sum() < 0.9 * worse.sum()
    assert not q[0].any()


@pytest.mark.parametrize(("variant", "form"), [("gpt2", "8 bits"), ("opt-350m", "4 bits")])
def test_the_decoder_computes_with_the_weights_that_are_meant(variant, form):
    cfg = config(variant)
    params = testing.tiny_params(cfg)
    found = quantize(params, **FORMS[form])
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, (2, 9)).astype(np.int32)
    positions = np.broadcast_to(np.arange(9, dtype=np.int32), (2, 9))
    ours, same, exact = (
        np.asarray(programs.forward(cfg, p, tokens, positions))
        for p in (found, meant(found), params)
    )
    np.testing.assert_allclose(ours, same, atol=1e-4 * same.std())
    off = np.sqrt(np.mean((ours - exact) ** 2)) / exact.std()
    assert 1e-4 < off < (0.05 if form == "8 bits" else 0.5)


def test_the_report_has_the_errors_and_bytes_of_every_weight(llama):
    _, params = llama
    found = quantize(params, bits=4, group=32)
    rows = {row.path: row for row in report(params, found)}
    before, after = paths.flatten(params), paths.flatten(meant(found))
    assert set(rows) == {p for p in before if p == "embed" or p.endswith(".w")}
    for path, row in rows.items():
        w, off = np.asarray(before[path]), np.asarray(before[path] - after[path])
        assert row.relative_error == pytest.approx(
            np.linalg.norm(off) / np.linalg.norm(w), rel=1e-4
        )
        assert row.max_abs_error == pytest.approx(np.abs(off).max(), rel=1e-4)
        assert row.bytes_before == w.nbytes
    assert rows["layers.0.mlp.up.w"].bytes_after == 64 * 32 // 2 + 64 * 4
    assert rows["embed"].bytes_after == 64 * 32 + 64 * 4
    for one, other in ((params, params), (found, params), (found, found)):
        with pytest.raises(ConfigError, match="Pass"):
            report(one, other)


def _with(head):
    return lambda params: params.replace(unembed=Linear(w=head))


BAD = {
    "bits": ({"bits": 3}, None, r"bits=3.*8, 4"),
    "bits of the vocabulary": ({"vocab_bits": 16}, None, r"vocab_bits=16.*8, 4"),
    "no group": ({"group": 0}, None, r"group=0"),
    "group that does not divide": (
        {"group": 24},
        None,
        r"embed has 32 inputs.*group=24.*\[16, 32\]",
    ),
    "default group that does not divide": (
        {"bits": 4},
        None,
        r"layers.0.attn.q.w has 32.*group=64",
    ),
    "inputs for 4 bits": (
        {"bits": 4, "group": 16, "vocab_bits": 4},
        _with(jnp.ones((64, 48))),
        r"unembed.w has 48 inputs.*multiples of 32.*Use 8 bits",
    ),
    "twice": ({}, quantize, "quantize got quantised weights.*original"),
    "stacked": ({}, stack_layers, "unstack_layers"),
    "whole numbers": ({}, _with(jnp.ones((64, 32), jnp.int32)), "unembed.w is int32.*float"),
    "NaN": ({}, _with(jnp.full((64, 32), jnp.nan)), "unembed.w.*not finite"),
    "infinity": ({"bits": 4, "group": 32}, _with(jnp.full((64, 32), -jnp.inf)), "unembed.w.*not"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(llama, case):
    options, change, words = BAD[case]
    params = llama[1] if change is None else change(llama[1])
    with pytest.raises(ConfigError, match=words):
        quantize(params, **options)


def test_weights_on_several_devices_are_refused(llama):
    _cfg, params = llama
    mesh = compat.auto_mesh((2,), ("tensor",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with pytest.raises(ConfigError, match=r"spread over 2 devices.*without mesh"):
        quantize(jax.device_put(params, everywhere))


def test_what_a_checkpoint_cannot_say_is_not_saved(llama, tmp_path):
    cfg, params = llama
    row, groups = quantize(params), quantize(params, group=16)
    partly = row.replace(unembed=params.unembed)
    attn = row.layers[0].attn
    other = row.replace(
        layers=(row.layers[0].replace(attn=attn.replace(q=groups.layers[0].attn.q)),)
    )
    for tree, words in ((partly, "unembed.w"), (other, r"layers\.0\.attn\.[kvo]\.w")):
        with pytest.raises(CheckpointError, match=words + ".* otherwise"):
            save_pretrained(model_of(cfg, tree, tmp_path), tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.fixture
def saved(llama, tmp_path):
    """The folder of a quantised model to spoil."""
    cfg, params = llama
    save_pretrained(model_of(cfg, quantize(params, group=16), tmp_path), tmp_path / "m")
    return tmp_path / "m"


def test_quantised_weights_lie_where_the_file_does(saved):
    params = load_pretrained(saved).params
    maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
    files = [line for line in maps if str(saved) in line]
    spans = [tuple(int(n, 16) for n in line.split()[0].split("-")) for line in files]
    for path, leaf in paths.flatten(params).items():
        at = leaf.unsafe_buffer_pointer()
        assert any(low <= at < high for low, high in spans), path


def test_a_mesh_is_refused(saved):
    with pytest.raises(ConfigError, match="mesh=None"):
        load_pretrained(saved, mesh=compat.auto_mesh((2,), ("tensor",)))


Q = "model.layers.0.self_attn.q_proj.weight"


HOSTILE = {
    "no scale": ({f"{Q}_scale": None}, {}, f"{Q}_scale"),
    "scales of another shape": ({f"{Q}_scale": np.ones((32, 4), np.float32)}, {}, f"{Q}_scale"),
    "scales of another dtype": ({f"{Q}_scale": np.ones((32, 2), np.float16)}, {}, f"{Q}_scale.*float16"),
    "numbers of another dtype": ({Q: np.ones((32, 32), np.uint8)}, {}, f"{Q}' .*uint8.*int8"),
    "floats": ({Q: np.ones((32, 32), np.float32)}, {}, f"{Q}' .*float32.*int8"),
    "a scale too many": (
        {"model.norm.weight_scale": np.ones((32, 1), np.float32)}, {}, "model.norm.weight_scale",
    ),
    "other bits": ({}, {"bits": 4}, rf"{Q}'.*\[32, 32\].*\[32, 16\]"),
    "group of another size": ({}, {"group": 32}, f"{Q}_scale"),
    "group that does not divide": ({}, {"group": 5}, f"{Q}'.*group=5"),
    "no number for a group": ({}, {"group": 0}, "group=0"),
    "a flag for a group": ({}, {"vocab_group": True}, "quantization_config.*whole numbers"),
    "bits that nobody stores": ({}, {"bits": 3}, "bits=3"),
    "no bits": ({}, {"bits": None}, "bits=None"),
    "something more": ({}, {"zero_point": True}, "exactly quant_method, bits"),
    "of another library": ({}, {"quant_method": "gptq"}, "allowed: quant_method 'ariel_jax'"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_are_not_sound_are_refused_by_name(saved, case):
    tensors, changes, words = HOSTILE[case]
    file = saved / "model.safetensors"
    kept = {k: v.copy() for k, v in safetensors.numpy.load_file(file).items()} | tensors
    safetensors.numpy.save_file({k: v for k, v in kept.items() if v is not None}, file)
    now = json.loads((saved / "config.json").read_text())["quantization_config"]
    testing.edit_json(saved / "config.json", quantization_config=now | changes)
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(saved)


@pytest.mark.parametrize("value", [..., None, "int8", {"bits": 8}])
def test_without_a_word_on_it_whole_numbers_are_no_weights(saved, value):
    testing.edit_json(saved / "config.json", quantization_config=value)
    with pytest.raises(
        CheckpointError, match=r"weight_scale|quantization_config.*ariel-jax quantize"
    ):
        load_pretrained(saved)


def test_scores_are_those_of_the_weights_that_are_meant(llama):
    cfg, params = llama
    found = quantize(params, bits=4, group=32)
    text = np.random.default_rng(3).integers(1, 64, 40)
    (ours,), (same,), (exact,) = (
        score_documents(cfg, p, [text], start_id=0) for p in (found, meant(found), params)
    )
    np.testing.assert_allclose(ours.nats, same.nats, atol=2e-4)
    assert np.abs(ours.nats - exact.nats).max() > 1e-2


def test_quantised_weights_are_not_trained(llama, tmp_path):
    cfg, params = llama
    found, grad = quantize(params), LMGrad(cfg=cfg)
    zeros = jnp.zeros((1, 4), jnp.int32)
    batch, padding = LMBatch(zeros, zeros, jnp.int32(0)), jnp.zeros(1, bool)
    key = jax.random.key(0)
    config = LoopConfig(steps=1)
    for attempt in (
        lambda: train(
            found,
            grad_fn=grad,
            tx=optax.sgd(0.1),
            source=None,
            folder=tmp_path / "r",
            config=config,
        ),
        lambda: grad(found, batch, padding, key),
        lambda: lm_loss(cfg, found, batch, padding, key=key),
        lambda: export_model(cfg, found, testing.toy_tokenizer(), tmp_path / "r"),
    ):
        with pytest.raises(ConfigError, match=r"quantised weights.*Load the original"):
            attempt()
    assert not (tmp_path / "r").exists()
