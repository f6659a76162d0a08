"""Folders of encoders: what is loaded and saved, what is refused, and their tokenizers."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

from ariel_jax import testing
from ariel_jax.errors import CheckpointError, ConfigError, StorageError
from ariel_jax.models import paths
from ariel_jax.models.hf import (
    config_map,
    encoder_map,
    load_encoder,
    load_pretrained,
    save_encoder,
)
from ariel_jax.models.hf.tokenizer import Tokenizer
from ariel_jax.models.presets import ENCODER_PRESETS, VIT_PRESETS

BASE = {"n_classes": None}
FORMS = {
    **{variant: (variant, {}) for variant in testing.ENCODER_VARIANTS},
    "bert base": ("bert", BASE),
    "bert without a pooler": ("bert", BASE | {"has_pooler": False}),
    "roberta base": ("roberta", BASE),
    "vit base": ("vit", BASE | {"qkv_bias": False}),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Folders of toy encoders by form."""
    top = tmp_path_factory.mktemp("encoders")
    for form, (variant, changes) in FORMS.items():
        save_encoder(testing.tiny_encoder(variant, **changes), top / form)
    return top


@pytest.fixture
def folder(toy, tmp_path):
    """A toy BERT with a classifier to spoil."""
    return shutil.copytree(toy / "bert", tmp_path / "m")


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = {k: np.array(v) for k, v in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(change(tensors), path)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_is_loaded(toy, form):
    variant, changes = FORMS[form]
    saved, loaded = testing.tiny_encoder(variant, **changes), load_encoder(toy / form)
    assert loaded.cfg == saved.cfg
    assert loaded.labels == saved.labels
    assert len(loaded.labels) == (loaded.cfg.n_classes or 0)
    assert jax.tree.structure(saved.params) == jax.tree.structure(loaded.params)
    ours, theirs = paths.flatten(saved.params), paths.flatten(loaded.params)
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    if variant != "vit":
        assert loaded.tokenizer.encode("a text") == saved.tokenizer.encode("a text")


@pytest.mark.parametrize("variant", testing.ENCODER_VARIANTS)
def test_paths_name_every_leaf(variant):
    model = testing.tiny_encoder(variant)
    leaves = paths.flatten(model.params)
    assert {p: leaf.shape for p, leaf in leaves.items()} == paths.abstract(model.cfg)
    assert leaves["layers.1.attn.q.w"] is model.params.layers[1].attn.q.w
    rebuilt = paths.assemble_encoder(model.cfg, leaves)
    assert rebuilt.layers[0].mlp.up.w is model.params.layers[0].mlp.up.w


def test_saving_replaces_models_and_nothing_else(folder, tmp_path):
    model = testing.tiny_encoder("bert")
    save_encoder(model, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        save_encoder(model, folder)
    with pytest.raises(ConfigError, match="max_shard_bytes=0"):
        save_encoder(model, tmp_path / "n", max_shard_bytes=0)
    with pytest.raises(StorageError, match="does not exist"):
        save_encoder(model, tmp_path / "no" / "such")


def test_models_that_do_not_fit_are_not_saved(tmp_path):
    model = testing.tiny_encoder("bert")
    wrong = {
        "labels for 3": dataclasses.replace(model, labels=("one",)),
        r"classifier\.b is .*must be": dataclasses.replace(
            model, cfg=model.cfg.replace(n_classes=4)
        ),
        "layers.*tuple": dataclasses.replace(model, cfg=model.cfg.replace(n_layers=1)),
    }
    for words, bad in wrong.items():
        with pytest.raises(ConfigError, match=words):
            save_encoder(bad, tmp_path / "m")
    odd = dataclasses.replace(model, cfg=model.cfg.replace(positions="tokens", pos_offset=1, max_positions=31))  # fmt: skip
    with pytest.raises(CheckpointError, match="positions='tokens'"):
        save_encoder(odd, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_decoders_and_encoders_name_each_others_functions(tmp_path, toy):
    testing.write_toy_checkpoint(tmp_path / "decoder")
    with pytest.raises(CheckpointError, match=r"a decoder.*'llama'.*Use load_pretrained\(folder\)"):
        load_encoder(tmp_path / "decoder")
    for form in FORMS:
        with pytest.raises(CheckpointError, match=r"an encoder.*Use load_encoder\(folder\)"):
            load_pretrained(toy / form)
    testing.edit_json(tmp_path / "decoder" / "config.json", architectures=...)
    with pytest.raises(CheckpointError, match="Use load_pretrained"):
        load_encoder(tmp_path / "decoder")
    with pytest.raises(CheckpointError, match="is no folder"):
        load_encoder(tmp_path / "nothing")


@pytest.mark.parametrize("variant", testing.ENCODER_VARIANTS)
@pytest.mark.parametrize("fault", ["unknown", "missing", "wrong shape", "attribute", "integers"])
def test_a_spoilt_checkpoint_is_refused_by_name(toy, tmp_path, variant, fault):
    folder = shutil.copytree(toy / variant, tmp_path / "m")
    victim = f"{variant}.encoder.layer.1.output.dense.weight"
    words = [victim]

    def spoil(tensors):
        if fault == "unknown":
            tensors[f"{victim}.lora_A"] = tensors[victim]
        elif fault == "missing":
            del tensors[victim]
        elif fault == "wrong shape":
            tensors[victim] = tensors[victim][:-1].copy()
        elif fault == "integers":
            tensors[victim] = tensors[victim].astype(np.int8)
        return tensors

    if fault == "attribute":
        testing.edit_json(folder / "config.json", attention_sinks=4)
        words = ["attention_sinks=4"]
    else:
        rewrite(folder, spoil)
        words += {"wrong shape": ["[31, 48]", "[32, 48]"], "integers": ["int8"]}.get(fault, [])
    with pytest.raises(CheckpointError) as caught:
        load_encoder(folder)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_convolution_of_another_size_is_refused(toy, tmp_path):
    folder = shutil.copytree(toy / "vit", tmp_path / "m")
    key = "vit.embeddings.patch_embeddings.projection.weight"
    rewrite(folder, lambda t: t | {key: np.zeros((32, 4, 3, 4), np.float32)})
    with pytest.raises(CheckpointError, match=r"projection.*\[32, 4, 3, 4\].*\[32, 3, 4, 4\]"):
        load_encoder(folder)


def config(variant="bert", **changes):
    base = encoder_map.to_hf(testing.tiny_encoder(variant).cfg, dtype="float32")
    return {k: v for k, v in (base | changes).items() if v is not ...}


REFUSED = {
    "unsupported architecture": ("bert", {"architectures": ["BertForQuestionAnswering"]}, "BertModel"),
    "decoding": ("bert", {"is_decoder": True}, "is_decoder=True"),
    "relative positions": ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
    "type and architecture differ": ("bert", {"model_type": "roberta"}, "roberta.*BertModel"),
    "missing size": ("bert", {"hidden_size": ...}, "hidden_size"),
    "heads do not divide": ("roberta", {"num_attention_heads": 5}, "32.*5"),
    "unknown activation": ("vit", {"hidden_act": "mish"}, "hidden_act='mish'"),
    "many layers": ("bert", {"num_hidden_layers": 10**8}, "to 1024"),
    "padding beyond the positions": ("roberta", {"pad_token_id": 33}, "pad_token_id=33"),
    "labels with a hole": ("bert", {"id2label": {"0": "a", "2": "b"}}, "id2label"),
    "labels of no text": ("bert", {"id2label": {"0": 4}}, "id2label"),
    "no labels": ("bert", {"id2label": {}}, "id2label"),
    "a rectangle": ("vit", {"image_size": [12, 24]}, "image_size"),
    "patches that do not fit": ("vit", {"patch_size": 5}, "patch_size=5"),
    "text for a flag": ("vit", {"qkv_bias": "no"}, "qkv_bias"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(case):
    variant, changes, words = REFUSED[case]
    with pytest.raises(CheckpointError, match=words):
        encoder_map.parse(config(variant, **changes))


def test_forms_of_config_files():
    assert encoder_map.parse(config(id2label=..., label2id=...))[1] == ("LABEL_0", "LABEL_1")
    assert encoder_map.parse(config(id2label=..., label2id=..., num_labels=3))[0].n_classes == 3
    assert encoder_map.parse(config(architectures=...))[0].n_classes is None
    with pytest.raises(CheckpointError, match="Use load_encoder"):
        config_map.parse(config(architectures=...))
    published = {
        "bert-base-uncased": """{"architectures": ["BertForMaskedLM"],
            "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
            "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
            "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
            "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": true,
            "vocab_size": 30522}""",
        "roberta-large": """{"architectures": ["RobertaForMaskedLM"],
            "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 1024,
            "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 16,
            "num_hidden_layers": 24, "pad_token_id": 1, "type_vocab_size": 1,
            "vocab_size": 50265}""",
        "vit-b16": """{"architectures": ["ViTModel"], "attention_probs_dropout_prob": 0.0,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768,
            "image_size": 224, "initializer_range": 0.02, "intermediate_size": 3072,
            "layer_norm_eps": 1e-12, "model_type": "vit", "num_attention_heads": 12,
            "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16, "qkv_bias": true,
            "transformers_version": "4.13.0.dev0"}""",
    }
    presets = ENCODER_PRESETS | VIT_PRESETS
    for name, text in published.items():
        assert encoder_map.parse(json.loads(text)) == (presets[name], ())


@pytest.mark.hf
@pytest.mark.parametrize("name", ENCODER_PRESETS | VIT_PRESETS)
def test_presets_survive_the_format_and_have_transformers_sizes(name):
    cfg = (ENCODER_PRESETS | VIT_PRESETS)[name]
    written = encoder_map.to_hf(cfg, dtype="float32")
    assert encoder_map.parse(written)[0] == cfg
    theirs = transformers.AutoConfig.for_model(**written)
    with torch.device("meta"):
        options = {"add_pooling_layer": False} if name == "vit-b16" else {}
        model = transformers.AutoModel.from_config(theirs, **options)
    n = sum(math.prod(shape) for shape in paths.abstract(cfg).values())
    assert n == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.hf
@pytest.mark.parametrize("kind", ["bert", "roberta", "vit"])
def test_every_default_of_transformers_is_understood(kind):
    theirs = transformers.AutoConfig.for_model(kind)
    attributes = json.loads(theirs.to_json_string(use_diff=False))
    cfg, labels = encoder_map.parse(attributes)
    assert (cfg.family, cfg.n_classes, labels) == (kind, None, ())
    again = transformers.AutoConfig.for_model(**encoder_map.to_hf(cfg, dtype="float32"))
    assert encoder_map.parse(json.loads(again.to_json_string(use_diff=False)))[0] == cfg


def test_the_head_of_a_masked_language_model_is_left_behind(toy, tmp_path):
    folder = shutil.copytree(toy / "bert without a pooler", tmp_path / "m")
    plain = load_encoder(folder)
    extra = {
        "cls.predictions.bias": np.zeros(4, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, 32), np.float32),
        "bert.embeddings.position_ids": np.arange(32)[None],
    }
    rewrite(folder, lambda tensors: tensors | extra)
    testing.edit_json(folder / "config.json", architectures=["BertForMaskedLM"])
    loaded = load_encoder(folder)
    assert loaded.cfg == plain.cfg
    np.testing.assert_array_equal(loaded.params.embed, plain.params.embed)
    roberta = shutil.copytree(toy / "roberta base", tmp_path / "r")
    rewrite(roberta, lambda tensors: tensors | {"lm_head.bias": np.zeros(4, np.float32)})
    assert load_encoder(roberta).cfg.n_classes is None
    # A classifier is never left behind, nor another head beside one.
    other = shutil.copytree(toy / "bert", tmp_path / "c")
    rewrite(other, lambda tensors: tensors | extra)
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.bias"):
        load_encoder(other)
    testing.edit_json(tmp_path / "c" / "config.json", architectures=["BertModel"])
    with pytest.raises(CheckpointError, match=r"classifier\.weight"):
        load_encoder(other)


def test_names_of_older_files(toy, tmp_path):
    """The first BERTs call scale and bias gamma and beta; files of the base model have no prefix."""
    folder = shutil.copytree(toy / "bert base", tmp_path / "m")
    plain = paths.flatten(load_encoder(folder).params)

    def older(name):
        name = name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma")
        return name.replace("LayerNorm.bias", "LayerNorm.beta")

    rewrite(folder, lambda tensors: {older(name): value for name, value in tensors.items()})
    assert "encoder.layer.0.output.LayerNorm.gamma" in safetensors.numpy.load_file(
        folder / "model.safetensors"
    )
    for path, leaf in paths.flatten(load_encoder(folder).params).items():
        np.testing.assert_array_equal(leaf, plain[path])


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "play", "##ing", "##ed", "time", ".")


def wordpiece() -> tokenizers.Tokenizer:
    """Of a BERT, as its tokenizer.json is."""
    vocab = {word: i for i, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.add_special_tokens(list(WORDS[:5]))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.enable_truncation(4)
    made.enable_padding(length=9)
    return made


@pytest.mark.hf
def test_a_wordpiece_tokenizer(toy, tmp_path):
    folder = shutil.copytree(toy / "bert", tmp_path / "m")
    wordpiece().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "cls_token": "[CLS]",
        "pad_token": {"content": "[PAD]"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.from_folder(folder)
    text = "The playing PLAYED time: ☃."
    wanted = [2, 5, 6, 7, 6, 8, 9, 1, 1, 10, 3]
    assert tokenizer.encode(text) == wanted  # neither cut nor padded
    assert tokenizer.encode(text, add_special_tokens=False) == wanted[1:-1]
    assert tokenizer.encode_pair("the time", "played") == (
        [2, 5, 9, 3, 6, 8, 3],
        [0, 0, 0, 0, 1, 1, 1],
    )
    assert tokenizer.id_of(tokenizer.special("pad_token")) == 0
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert theirs(text, truncation=False)["input_ids"] == wanted
    with pytest.raises(ConfigError, match="not valid Unicode"):
        tokenizer.encode_pair("time", "\udcff")
    # Eleven tokens where the embedding has 320 rows: padding, as far as anybody can tell.
    assert load_encoder(folder).tokenizer.encode("time") == [2, 9, 3]


def test_a_byte_level_tokenizer_with_robertas_marks(tmp_path):
    made = testing.toy_tokenizer().backend
    made.post_processor = processors.RobertaProcessing(("<|end|>", 3), ("<|endoftext|>", 0))
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    plain = testing.toy_tokenizer().encode("yes")
    assert tokenizer.encode("yes") == [0, *plain, 3]
    ids, types = tokenizer.encode_pair("yes", "yes")
    assert ids == [0, *plain, 3, 3, *plain, 3]
    assert set(types) == {0}


def test_a_text_model_without_a_tokenizer_takes_ids(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_encoder(folder).tokenizer.encode_pair("a", "b")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_encoder(folder).tokenizer.encode("a")


def test_the_vocabulary_must_fit(folder):
    rewrite(folder, lambda t: t | {"bert.embeddings.word_embeddings.weight": np.zeros((300, 32), np.float32)})  # fmt: skip
    testing.edit_json(folder / "config.json", vocab_size=300)
    with pytest.raises(CheckpointError, match=r"320 tokens.*vocab_size=300"):
        load_encoder(folder)
