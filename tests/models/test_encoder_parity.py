"""BERT, RoBERTa and ViT against transformers, ragged batches included; planted faults."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from ariel_jax.layers.linear import linear
from ariel_jax.models import encoder, vit
from ariel_jax.models.encoder import EncoderConfig
from ariel_jax.models.hf import EncoderModel, load_encoder, save_encoder
from ariel_jax.models.vit import ViTConfig

pytestmark = pytest.mark.hf

# Of the standard deviation of each output, as for decoders: room for float32 rounding in another order
# of sums, and less than what every fault planted below changes.
TOLERANCE = 1e-4
VOCAB, LENGTHS, IMAGES = 96, (20, 13, 6), 3
BLOCKS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-3,
    "num_labels": 5,
}
TEXT = BLOCKS | {"vocab_size": VOCAB, "max_position_embeddings": 24}
IMAGE = BLOCKS | {"image_size": 12, "patch_size": 4}
CLASSIFIER, BASE = "classifier", "base"
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", CLASSIFIER, TEXT),
    "bert base": ("bert", BASE, TEXT | {"hidden_act": "gelu_new", "type_vocab_size": 3}),
    "roberta": ("roberta", CLASSIFIER, TEXT | {"type_vocab_size": 1}),
    "roberta base": ("roberta", BASE, TEXT | {"pad_token_id": 3, "hidden_act": "relu"}),
    "vit": ("vit", CLASSIFIER, IMAGE),
    "vit base": ("vit", BASE, IMAGE | {"qkv_bias": False, "num_channels": 1, "patch_size": 6}),
}


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of a batch; texts have ids, mask and types, images have pixels [B, H, W, C]."""

    ids: np.ndarray | None = None
    mask: np.ndarray | None = None
    types: np.ndarray | None = None
    pixels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A checkpoint on disk and what transformers computes from it.

    Attributes:
        folder: saved by transformers.
        batch: what it was computed from; the last text is padded on the left.
        outputs: `hidden` [B, T, D], and `logits` [B, 5] or `pooled` [B, D].
        entropy_share: mean entropy of attention over that of uniform attention.
    """

    folder: pathlib.Path
    batch: Batch
    outputs: dict[str, np.ndarray]
    entropy_share: float


def auto_class(kind: str, form: str) -> Any:
    """How transformers makes such a model."""
    if form == BASE:
        return transformers.AutoModel
    if kind == "vit":
        return transformers.AutoModelForImageClassification
    return transformers.AutoModelForSequenceClassification


def build(kind: str, form: str, settings: dict[str, Any]) -> transformers.PreTrainedModel:
    """A model whose every parameter is random and matters."""
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = auto_class(kind, form).from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1.0 + 0.3 * draw)
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * draw)
            elif "embeddings" in name and "projection" not in name:
                parameter.copy_(0.1 * draw)  # small, so that the epsilon of the first norm counts
            else:
                attends = any(part in name for part in ("query", "key", "q_proj", "k_proj"))
                parameter.copy_((3.0 if attends else 1.5) * draw / parameter[0].numel() ** 0.5)
    return model.eval()


def batch_of(settings: dict[str, Any], config: Any) -> Batch:
    rng = np.random.default_rng(3)
    if "image_size" in settings:
        shape = (IMAGES, config.image_size, config.image_size, config.num_channels)
        return Batch(pixels=rng.standard_normal(shape).astype(np.float32))
    shape = (len(LENGTHS), max(LENGTHS))
    mask = np.arange(shape[1])[None] < np.asarray(LENGTHS)[:, None]
    mask[-1] = mask[-1, ::-1]
    ids = np.where(mask, rng.integers(5, VOCAB, shape), config.pad_token_id).astype(np.int32)
    types = rng.integers(0, config.type_vocab_size, shape).astype(np.int32)
    return Batch(ids=ids, mask=mask, types=types)


def theirs_of(model: transformers.PreTrainedModel, batch: Batch) -> tuple[dict, float]:
    """(outputs, share of entropy)."""
    if batch.pixels is not None:
        given = {"pixel_values": torch.tensor(batch.pixels.transpose(0, 3, 1, 2))}
    else:
        given = {
            "input_ids": torch.tensor(batch.ids, dtype=torch.long),
            "attention_mask": torch.tensor(batch.mask, dtype=torch.long),
            "token_type_ids": torch.tensor(batch.types, dtype=torch.long),
        }
    with torch.no_grad():
        out = model(**given, output_hidden_states=True, output_attentions=True)
        hidden = out.get("last_hidden_state", out.hidden_states[-1])
        if "last_hidden_state" not in out and batch.pixels is not None:
            hidden = model.vit(**given).last_hidden_state  # after the final norm
    outputs = {"hidden": hidden.numpy()}
    if "logits" in out:
        outputs["logits"] = out.logits.numpy()
    elif batch.pixels is None:
        outputs["pooled"] = out.pooler_output.numpy()
    first = torch.stack([weights[0] for weights in out.attentions]).double()  # not padded
    entropy = -(first * (first + 1e-30).log()).sum(-1).mean()
    return outputs, float(entropy / np.log(first.shape[-1]))


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> dict[str, Reference]:
    """One reference per case."""
    found = {}
    for name, (kind, form, settings) in CASES.items():
        model = build(kind, form, settings)
        batch = batch_of(settings, model.config)
        folder = tmp_path_factory.mktemp("encoder") / "m"
        model.save_pretrained(folder)
        outputs, share = theirs_of(model, batch)
        found[name] = Reference(folder, batch, outputs, share)
    return found


@pytest.fixture(params=CASES)
def reference(request, references) -> Reference:
    return references[request.param]


def ours_of(model: EncoderModel, batch: Batch) -> dict[str, Any]:
    """What this library computes of a batch."""
    cfg, params = model.cfg, model.params
    if isinstance(cfg, ViTConfig):
        pixels = jnp.asarray(batch.pixels)
        found = {"hidden": vit.vit_encode(cfg, params, pixels)}
        return found | (
            {"logits": vit.vit_logits(cfg, params, pixels)} if params.classifier is not None else {}
        )
    types = None if batch.types is None else jnp.asarray(batch.types)
    text = (jnp.asarray(batch.ids), jnp.asarray(batch.mask), types)
    found = {"hidden": encoder.encode(cfg, params, *text)}
    if cfg.n_classes is None:
        return found | {"pooled": encoder.pooled(params, found["hidden"])}
    return found | {"logits": encoder.classify(cfg, params, *text)}


def check(ours: dict[str, Any], theirs: dict[str, np.ndarray]) -> None:
    """Raises AssertionError unless all outputs agree, those of padding included."""
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        assert ours[name].shape == wanted.shape
        np.testing.assert_allclose(
            ours[name], wanted, rtol=0, atol=TOLERANCE * wanted.std(), err_msg=name
        )


def test_the_reference_is_not_degenerate(reference):
    assert all(output.std() > 0.3 for output in reference.outputs.values())
    assert 0.02 < reference.entropy_share < 0.9


def test_hidden_states_and_logits_equal_transformers(reference):
    model = load_encoder(reference.folder)
    assert model.params.precision.param == "float32"
    check(ours_of(model, reference.batch), reference.outputs)


def test_without_token_types_all_are_of_type_0(references):
    reference = references["bert"]
    model, batch = load_encoder(reference.folder), reference.batch
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        reference.folder, attn_implementation="eager"
    )
    zeros = dataclasses.replace(batch, types=np.zeros_like(batch.types))
    wanted, _ = theirs_of(theirs.eval(), zeros)
    check(ours_of(model, dataclasses.replace(batch, types=None)), wanted)


def test_transformers_loads_what_is_saved(reference, tmp_path):
    model = load_encoder(reference.folder)
    save_encoder(model, tmp_path / "again", max_shard_bytes=10_000)
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    is_image = reference.batch.pixels is not None
    form = CLASSIFIER if "logits" in reference.outputs else BASE
    kind = auto_class("vit" if is_image else "text", form)
    theirs, info = kind.from_pretrained(
        tmp_path / "again", attn_implementation="eager", output_loading_info=True
    )
    # The pooler of a ViTModel is left behind, as the documentation says.
    left = {"pooler.dense.weight", "pooler.dense.bias"} if form == BASE else set()
    assert set(info["missing_keys"]) == (left if is_image else set())
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    again, _ = theirs_of(theirs.eval(), reference.batch)
    for name, wanted in reference.outputs.items():
        np.testing.assert_allclose(again[name], wanted, rtol=0, atol=1e-5 * wanted.std())


class PreNorm(EncoderConfig):
    """A BERT with its norms before attention and feed-forward."""

    norm_place = "pre"


class PostNorm(ViTConfig):
    """A ViT with its norms behind the residual sums."""

    norm_place = "post"


def _config(**changes: Any) -> Callable[[EncoderModel, Batch], dict[str, Any]]:
    def plant(model: EncoderModel, batch: Batch) -> dict[str, Any]:
        cfg = dataclasses.replace(model.cfg, **changes)
        assert cfg != model.cfg
        return ours_of(dataclasses.replace(model, cfg=cfg), batch)

    return plant


def _as(kind: type) -> Callable[[EncoderModel, Batch], dict[str, Any]]:
    def plant(model: EncoderModel, batch: Batch) -> dict[str, Any]:
        fields = {f.name: getattr(model.cfg, f.name) for f in dataclasses.fields(model.cfg)}
        return ours_of(dataclasses.replace(model, cfg=kind(**fields)), batch)

    return plant


def _weights(change: Callable[[Any], Any]) -> Callable[[EncoderModel, Batch], dict[str, Any]]:
    def plant(model: EncoderModel, batch: Batch) -> dict[str, Any]:
        return ours_of(dataclasses.replace(model, params=change(model.params)), batch)

    return plant


def _batch(**changes: Any) -> Callable[[EncoderModel, Batch], dict[str, Any]]:
    return lambda model, batch: ours_of(model, dataclasses.replace(batch, **changes))


def _second_token(model: EncoderModel, batch: Batch) -> dict[str, Any]:
    found = ours_of(model, batch)
    vector = encoder.pooled(model.params, found["hidden"][:, 1:])
    head = model.params.classifier
    return found | ({"pooled": vector} if head is None else {"logits": linear(vector, head)})


def _mean_of_patches(model: EncoderModel, batch: Batch) -> dict[str, Any]:
    found = ours_of(model, batch)
    vector = jnp.mean(found["hidden"], axis=1)
    return found | {"logits": linear(vector, model.params.classifier)}


def _class_token_last(model: EncoderModel, batch: Batch) -> dict[str, Any]:
    found = ours_of(model, batch)
    return found | {"logits": linear(found["hidden"][:, -1], model.params.classifier)}


def _channels_first(params: Any) -> Any:
    w = params.patch.w.reshape(32, 4, 4, 3).transpose(0, 3, 1, 2).reshape(32, -1)
    return params.replace(patch=params.patch.replace(w=w))


def _columns_before_rows(model: EncoderModel, batch: Batch) -> dict[str, Any]:
    return ours_of(model, dataclasses.replace(batch, pixels=batch.pixels.swapaxes(1, 2)))


ALL = np.ones((len(LENGTHS), max(LENGTHS)), bool)
FAULTS: dict[str, tuple[str, Callable[[EncoderModel, Batch], dict[str, Any]]]] = {
    "other gelu, bert": ("bert", _config(act="gelu_tanh")),
    "other gelu, bert base": ("bert base", _config(act="gelu")),
    "other gelu, roberta": ("roberta", _config(act="gelu_tanh")),
    "other gelu, vit": ("vit", _config(act="gelu_tanh")),
    "norms before, bert": ("bert", _as(PreNorm)),
    "norms before, roberta": ("roberta", _as(PreNorm)),
    "norms behind, vit": ("vit", _as(PostNorm)),
    **{f"epsilon x10, {case}": (case, _config(norm_eps=1e-2)) for case in CASES},
    "no position offset": ("roberta", _config(positions="columns", pos_offset=0)),
    "position offset of another pad id": ("roberta base", _config(pos_offset=2)),
    "positions of columns": ("roberta", _config(positions="columns")),
    "position offset, bert": ("bert", _config(pos_offset=1)),
    "mask ignored, bert": ("bert", _batch(mask=ALL)),
    "mask ignored, roberta": ("roberta", _batch(mask=ALL)),
    "types ignored": ("bert", _batch(types=None)),
    "types ignored, roberta base": ("roberta base", _batch(types=None)),
    "second token pooled, bert": ("bert", _second_token),
    "second token pooled, bert base": ("bert base", _second_token),
    "second token pooled, roberta": ("roberta", _second_token),
    "patches pooled": ("vit", _mean_of_patches),
    "class token last": ("vit", _class_token_last),
    "channels first": ("vit", _weights(_channels_first)),
    "rows and columns exchanged": ("vit", _columns_before_rows),
    "no final norm": (
        "vit",
        _weights(lambda p: p.replace(final_norm=p.final_norm.replace(bias=None))),
    ),
    "no first norm's bias": (
        "bert",
        _weights(lambda p: p.replace(input_norm=p.input_norm.replace(bias=None))),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_breaks_the_check(references, fault):
    case, plant = FAULTS[fault]
    reference = references[case]
    model = load_encoder(reference.folder)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(plant(model, reference.batch), reference.outputs)
