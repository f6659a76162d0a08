import errno
import json
import pathlib
import resource

import numpy as np
import pytest
import torch
import transformers

from ariel_jax import testing
from ariel_jax.errors import CheckpointError, ConfigError, StorageError
from ariel_jax.models import paths
from ariel_jax.models.hf import load_pretrained, save_pretrained


@pytest.mark.hf
def test_transformers_loads_what_is_saved(reference, tmp_path):
    model = load_pretrained(reference.folder)
    save_pretrained(model, tmp_path / "again", max_shard_bytes=10_000)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(reference.tokens[:1], dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(
        logits, reference.logits[:1], rtol=0, atol=1e-5 * reference.logits.std()
    )


@pytest.mark.hf
def test_transformers_loads_the_tokenizer_and_its_template(tmp_path):
    model = testing.write_toy_checkpoint(tmp_path / "m")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    text = "The seat, the tea: 12 ☃"
    assert theirs(text)["input_ids"] == model.tokenizer.encode(text)
    assert theirs.eos_token_id == model.eos_ids[0]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    for prompt in (False, True):
        rendered = theirs.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt
        )
        assert rendered == model.tokenizer.render_chat(messages, add_generation_prompt=prompt)


def test_saving_replaces_models_and_nothing_else(tmp_path):
    model = testing.tiny_model("gpt2")
    folder = tmp_path / "m"
    save_pretrained(model, folder, max_shard_bytes=20_000)
    save_pretrained(model, folder)
    assert [p.name for p in folder.glob("*.safetensors*")] == ["model.safetensors"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        save_pretrained(model, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        save_pretrained(model, tmp_path / "file")
    with pytest.raises(ConfigError, match="max_shard_bytes=0"):
        save_pretrained(model, folder, max_shard_bytes=0)
    with pytest.raises(StorageError, match="does not exist"):
        save_pretrained(model, tmp_path / "no" / "such")


def _snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_saving_through_a_link_replaces_what_it_leads_to(tmp_path):
    testing.write_toy_checkpoint(tmp_path / "real", seed=1)
    (tmp_path / "link").symlink_to("real")
    new = testing.write_toy_checkpoint(tmp_path / "link", seed=2)
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(load_pretrained(tmp_path / "real").params.embed, new.params.embed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_a_full_disk_leaves_the_old_model(tmp_path):
    folder = tmp_path / "m"
    old = testing.write_toy_checkpoint(folder)
    before = _snapshot(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match="size limit"):
            save_pretrained(testing.tiny_model("llama", seed=1), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _snapshot(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    np.testing.assert_array_equal(load_pretrained(folder).params.embed, old.params.embed)


@pytest.fixture
def two_models():
    """An old and a new model whose saving writes several shards and a tokenizer."""
    return testing.tiny_model("llama", n_layers=1), testing.tiny_model("llama", n_layers=1, seed=1)


def _save(model, folder):
    save_pretrained(model, folder, max_shard_bytes=50_000)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("once", [False, True])
def test_a_disk_that_fails_at_any_write_call_leaves_the_old_model(
    tmp_path, failing_disk, two_models, code, once
):
    folder = tmp_path / "m"
    contents = []
    for model in two_models:
        with failing_disk(code, 10**9) as disk:
            _save(model, folder)
        contents.append(_snapshot(folder))
    (before, after), n_calls = contents, len(disk.calls)
    assert len(after) >= 6
    assert disk.calls.count("open") == len(after)
    assert disk.calls.count("write") >= len(after)
    assert disk.calls[-2:] == ["exchange", "fsync"]
    _save(two_models[0], folder)
    for fail_at in range(1, n_calls):
        with (
            failing_disk(code, fail_at, once=once),
            pytest.raises(StorageError, match="what was stored before is unchanged") as raised,
        ):
            _save(two_models[1], folder)
        assert raised.value.errno == code
        assert _snapshot(folder) == before
        assert [p.name for p in tmp_path.iterdir()] == ["m"]
    loaded = load_pretrained(folder)
    for path, leaf in paths.flatten(two_models[0].params).items():
        np.testing.assert_array_equal(paths.flatten(loaded.params)[path], leaf)
    # The last call flushes the name of a model that is in place already.
    with (
        failing_disk(code, n_calls, once=once),
        pytest.raises(StorageError, match=r"(?s)has its new content.*kept in") as raised,
    ):
        _save(two_models[1], folder)
    assert raised.value.errno == code
    assert _snapshot(folder) == after
    _save(two_models[0], folder)
    assert _snapshot(folder) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_at_any_write_call_leaves_no_part_of_a_first_model(
    tmp_path, failing_disk, two_models, code
):
    with failing_disk(code, 10**9) as disk:
        _save(two_models[0], tmp_path / "first")
    assert disk.calls[-2:] == ["rename", "fsync"]
    for fail_at in range(1, len(disk.calls)):
        with failing_disk(code, fail_at), pytest.raises(StorageError, match=r"full|read-only"):
            _save(two_models[0], tmp_path / "m")
        assert [p.name for p in tmp_path.iterdir()] == ["first"]


def test_what_the_format_cannot_say_is_refused(tmp_path):
    model = testing.tiny_model("llama", query_scale=0.5)
    with pytest.raises(CheckpointError, match=r"query_scale=0\.5"):
        save_pretrained(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_tensor_data_is_aligned(tmp_path):
    testing.write_toy_checkpoint(tmp_path / "m", "opt-350m")
    data = (tmp_path / "m" / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 64 == 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            assert start % 64 == 0 or (stop - start) % 64


def test_paths_name_every_leaf():
    cfg = testing.tiny_config("gemma2")
    params = testing.tiny_params(cfg)
    leaves = paths.flatten(params)
    assert {p: leaf.shape for p, leaf in leaves.items()} == paths.abstract(cfg)
    assert leaves["layers.1.attn.q.w"] is params.layers[1].attn.q.w
    rebuilt = paths.assemble(cfg, leaves)
    assert rebuilt.layers[0].mlp_post_norm.scale is params.layers[0].mlp_post_norm.scale
