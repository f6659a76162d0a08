import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ariel_jax import testing
from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models import paths
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import load, load_pretrained, safetensors_io, save_pretrained


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> pathlib.Path:
    """Folders of toy checkpoints by variant."""
    top = tmp_path_factory.mktemp("toy")
    for variant in testing.VARIANTS:
        testing.write_toy_checkpoint(top / variant, variant)
    return top


@pytest.fixture
def folder(toy, tmp_path) -> pathlib.Path:
    """A toy Llama to spoil."""
    return shutil.copytree(toy / "llama", tmp_path / "model")


def rewrite(folder: pathlib.Path, change) -> None:
    """Lets `change` edit the dictionary of tensors of a folder; saved as others do, unaligned."""
    path = folder / "model.safetensors"
    tensors = {k: v.copy() for k, v in safetensors.numpy.load_file(path).items()}
    change(tensors)
    # As one more small tensor at the front would: the data of the rest is not aligned.
    safetensors.numpy.save_file(tensors, path)


@pytest.mark.parametrize("variant", testing.VARIANTS)
def test_what_is_saved_is_loaded(toy, variant):
    saved, loaded = testing.tiny_model(variant), load_pretrained(toy / variant)
    assert loaded.cfg == saved.cfg
    assert loaded.eos_ids == (0,)
    assert loaded.generation == saved.generation
    ours, theirs = paths.flatten(saved.params), paths.flatten(loaded.params)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    assert jax.tree.structure(saved.params) == jax.tree.structure(loaded.params)
    text = "Ünïcode, and the rest\n"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text


def test_saved_tensors_are_aliased_without_a_copy(toy, monkeypatch):
    opened = []

    class Spy(safetensors_io.Checkpoint):
        def __init__(self, folder):
            super().__init__(folder)
            opened.append(self)

    monkeypatch.setattr(load, "Checkpoint", Spy)
    model = load_pretrained(toy / "llama")
    (checkpoint,) = opened
    pointers = {checkpoint.view(name).ctypes.data for name in checkpoint}
    leaves = paths.flatten(model.params)
    aliased = [path for path, leaf in leaves.items() if leaf.unsafe_buffer_pointer() in pointers]
    assert set(aliased) == set(leaves)  # every size here is a multiple of 64 bytes
    # Donating such an array must not write into the file.
    before = (toy / "llama" / "model.safetensors").read_bytes()
    jax.jit(lambda x: x + 1, donate_argnums=0)(leaves["embed"]).block_until_ready()
    assert (toy / "llama" / "model.safetensors").read_bytes() == before


def test_unaligned_tensors_are_copied(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    path.write_bytes((n + 8).to_bytes(8, "little") + data[8 : 8 + n] + b" " * 8 + data[8 + n :])
    model = load_pretrained(folder)
    expected = paths.flatten(testing.tiny_model("llama").params)
    for name, leaf in paths.flatten(model.params).items():
        np.testing.assert_array_equal(leaf, expected[name])


def test_a_loaded_model_survives_the_replacement_of_its_folder(folder):
    model = load_pretrained(folder)
    expected = np.array(model.params.embed)
    save_pretrained(testing.tiny_model("llama", seed=5), folder)
    np.testing.assert_array_equal(model.params.embed, expected)
    assert (np.asarray(load_pretrained(folder).params.embed) != expected).any()


def test_precision(folder):
    model = load_pretrained(folder, precision=Precision.bf16())
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype(jnp.bfloat16)}
    assert model.precision == Precision.bf16()
    exact = load_pretrained(folder)
    assert exact.precision == Precision.f32()
    np.testing.assert_array_equal(model.params.embed, exact.params.embed.astype(jnp.bfloat16))
    with pytest.raises(ConfigError, match="jax_enable_x64"):
        load_pretrained(folder, precision=Precision.f64())
    with jax.enable_x64(True):
        wide = load_pretrained(folder, precision=Precision.f64())
    assert wide.params.embed.dtype == np.float64
    with pytest.raises(ConfigError, match="int8"):
        load_pretrained(folder, precision=Precision(param="int8"))


def test_default_precision_follows_platform_and_file():
    bf16, f32 = np.dtype(jnp.bfloat16), np.dtype(np.float32)
    assert load.default_precision("cpu", bf16) == Precision.f32()
    assert load.default_precision("gpu", bf16) == Precision.bf16()
    assert load.default_precision("tpu", bf16) == Precision.bf16()
    assert load.default_precision("gpu", f32) == Precision.f32()


def test_bfloat16_files_are_widened_exactly(tmp_path):
    precision = Precision.bf16()
    saved = testing.tiny_model("qwen3", precision=precision)
    save_pretrained(saved, tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    wide = load_pretrained(tmp_path / "m")
    assert wide.params.embed.dtype == np.float32
    np.testing.assert_array_equal(wide.params.embed, saved.params.embed.astype(jnp.float32))
    same = load_pretrained(tmp_path / "m", precision=precision)
    np.testing.assert_array_equal(same.params.embed, saved.params.embed)


def test_shards(tmp_path, folder):
    model = load_pretrained(folder)
    save_pretrained(model, tmp_path / "sharded", max_shard_bytes=20_000)
    names = sorted(p.name for p in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(names) > 2
    again = load_pretrained(tmp_path / "sharded")
    for ours, theirs in zip(
        jax.tree.leaves(model.params), jax.tree.leaves(again.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    index_path = tmp_path / "sharded" / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    assert set(index["weight_map"].values()) == set(names)

    def reindex(**changes: str) -> None:
        testing.edit_json(index_path, weight_map=index["weight_map"] | changes)

    first = next(iter(index["weight_map"]))
    for bad in ("../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""):
        reindex(**{first: bad})
        with pytest.raises(CheckpointError, match="same folder"):
            load_pretrained(tmp_path / "sharded")
    reindex(**{first: next(n for n in names if n != index["weight_map"][first])})
    with pytest.raises(CheckpointError, match="different checkpoints"):
        load_pretrained(tmp_path / "sharded")
    reindex()
    (tmp_path / "sharded" / names[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"shard {names[1]}.* missing"):
        load_pretrained(tmp_path / "sharded")


def test_old_files_without_prefix_and_with_buffers_are_understood(toy, tmp_path):
    folder = shutil.copytree(toy / "gpt2", tmp_path / "old")
    expected = load_pretrained(folder).params

    def age(tensors: dict) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(2):
            tensors[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 128, 128), np.float32))
            tensors[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)

    rewrite(folder, age)
    loaded = load_pretrained(folder).params
    for ours, theirs in zip(jax.tree.leaves(expected), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_tied_head_that_is_stored_must_equal_the_embedding(toy, tmp_path):
    folder = shutil.copytree(toy / "qwen2", tmp_path / "tied")

    def with_head(tensors: dict) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    rewrite(folder, with_head)
    load_pretrained(folder)

    def other_head(tensors: dict) -> None:
        tensors["lm_head.weight"][-1, -1] += 1

    rewrite(folder, other_head)
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        load_pretrained(folder)


def test_a_folder_without_a_tokenizer_takes_ids_only(folder):
    (folder / "tokenizer.json").unlink()
    model = load_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        model.tokenizer.encode("x")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        model.tokenizer.decode([1])
    assert model.chat_template is None


def test_generation_settings(folder):
    path = folder / "generation_config.json"
    path.write_text(
        json.dumps(
            {
                "eos_token_id": [3, 0],
                "do_sample": True,
                "temperature": 0.6,
                "top_p": 0.9,
                "transformers_version": "5.0",
                "max_new_tokens": 7,
                "num_beams": None,
            }
        )
    )
    found = load_pretrained(folder).generation
    assert found.eos_ids == (3, 0)
    assert (found.do_sample, found.temperature, found.top_p, found.max_new) == (True, 0.6, 0.9, 7)
    testing.edit_json(path, num_beams=4)
    with pytest.raises(CheckpointError, match="num_beams"):
        load_pretrained(folder)
    path.unlink()  # config.json speaks instead, then the tokenizer
    testing.edit_json(folder / "config.json", eos_token_id=2)
    assert load_pretrained(folder).eos_ids == (2,)
    testing.edit_json(folder / "config.json", eos_token_id=None)
    assert load_pretrained(folder).eos_ids == (0,)
    testing.edit_json(folder / "config.json", eos_token_id="x")
    with pytest.raises(CheckpointError, match="eos_token_id"):
        load_pretrained(folder)


def test_notes_on_early_exits_are_kept_and_change_nothing(folder, tmp_path):
    """As checkpoints trained with LayerSkip may carry them; their weights are plain Llama's."""
    plain = load_pretrained(folder)
    assert plain.early_exits == ()
    testing.edit_json(folder / "config.json", early_exit={"exits": [1], "loss_scale": 0.2})
    noted = load_pretrained(folder)
    assert noted.early_exits == (1,)
    assert noted.cfg == plain.cfg
    save_pretrained(noted, tmp_path / "again")
    assert load_pretrained(tmp_path / "again").early_exits == (1,)
    testing.edit_json(folder / "config.json", early_exit=...)
    settings = {"assistant_early_exit": 1, "num_assistant_tokens": 4}
    testing.edit_json(folder / "generation_config.json", **settings)
    assert load_pretrained(folder).early_exits == (1,)
    for wrong in (2, [0], "x", [True]):
        testing.edit_json(folder / "config.json", early_exit=wrong)
        with pytest.raises(CheckpointError, match="early_exit"):
            load_pretrained(folder)


def test_loading_opens_no_network_and_unpickles_nothing(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="Only safetensors"):
        load_pretrained(folder)


def test_an_unreadable_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    os.mkdir(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_pretrained(folder)
