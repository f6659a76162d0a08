"""Every family: a toy checkpoint written without transformers, loaded by both, logits compared."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from ariel_jax import testing
from ariel_jax.errors import CheckpointError
from ariel_jax.layers.attention import causal
from ariel_jax.models import decoder
from ariel_jax.models.hf import config_map, load_pretrained

pytestmark = pytest.mark.hf

TOKENS = np.random.default_rng(0).integers(4, testing.TOY_VOCAB_SIZE, (1, 24)).astype(np.int32)


def logits_of(model) -> np.ndarray:
    """Logits [1, T, V] without a cache."""
    positions = jnp.arange(TOKENS.shape[1], dtype=jnp.int32)[None]
    attend = causal(model.cfg.attention)
    out, _ = decoder.apply(model.cfg, model.params, jnp.asarray(TOKENS), positions, attend, None)
    return np.asarray(out)


@pytest.mark.parametrize("variant", testing.VARIANTS)
def test_logits_equal_an_independent_forward(tmp_path, variant):
    testing.write_toy_checkpoint(tmp_path / "m", variant)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    assert expected.std() > 0.5
    ours = logits_of(load_pretrained(tmp_path / "m"))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * expected.std())


def test_every_supported_architecture_has_a_row():
    families = {testing.tiny_config(variant).family for variant in testing.VARIANTS}
    assert families == set(config_map.ARCHITECTURES.values())


@pytest.mark.parametrize("variant", ["gpt2", "opt-350m", "llama", "gemma2"])
@pytest.mark.parametrize(
    "fault", ["unknown key", "missing key", "wrong shape", "unknown attribute"]
)
def test_a_spoilt_checkpoint_is_refused_by_name(tmp_path, variant, fault):
    folder = tmp_path / "m"
    testing.write_toy_checkpoint(folder, variant)
    path = folder / "model.safetensors"
    tensors = {k: np.array(v) for k, v in safetensors.numpy.load_file(path).items()}
    victim = sorted(tensors)[len(tensors) // 2]
    words = [victim]
    if fault == "unknown key":
        tensors[f"{victim}.lora_A"] = tensors[victim]
        words = [f"{victim}.lora_A"]
    elif fault == "missing key":
        del tensors[victim]
    elif fault == "wrong shape":
        shape = tensors[victim].shape
        tensors[victim] = np.concatenate([tensors[victim], tensors[victim][:1]])
        words += [str(list(shape)), str(list(tensors[victim].shape))]
    else:
        testing.edit_json(folder / "config.json", attention_sinks=4)
        words = ["attention_sinks=4"]
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(folder)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_unsupported_architecture_lists_the_supported_ones(tmp_path):
    folder = tmp_path / "m"
    testing.write_toy_checkpoint(folder)
    testing.edit_json(folder / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(folder)
    for name in ("MambaForCausalLM", *config_map.ARCHITECTURES):
        assert name in str(caught.value)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama"
