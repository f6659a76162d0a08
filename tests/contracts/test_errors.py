"""Bad input to every public entry: the documented class, what was given, what to do instead.

Joining is one row: a name, the words that the message must hold, and a function of a folder that
holds a sound toy model in `m`. A row of FOLDERS spoils that model and returns what to load; it is
tried in Python and through the command line.
"""

import dataclasses
import functools
import json
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ariel_jax import backend, compat, decode, durable, testing
from ariel_jax.cli import main as cli
from ariel_jax.decode import Arithmetic, SamplingParams, Upfront
from ariel_jax.errors import (
    ArielError,
    BackendError,
    CapacityError,
    CheckpointError,
    ConfigError,
    KernelUnavailableError,
    StorageError,
)
from ariel_jax.models import encoder, presets, vit
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import load_encoder, load_pretrained, save_encoder, save_pretrained
from ariel_jax.pallas_kernels import dispatch
from ariel_jax.pallas_kernels.decode_attention import decode_attention
from ariel_jax.pallas_kernels.linear import linear
from ariel_jax.training.data import TokenFileSource
from ariel_jax.training.loop import LoopConfig
from ariel_jax.training.optimizer import OptimizerConfig
from ariel_jax.training.placement import place_batch
from ariel_jax.training.scoring import score_documents
from ariel_jax.training.step import LayerSkip

REMEDY = re.compile(
    r"Download|download|Use |use |Pass |pass |Choose|choose|Set |set |Save |Remove|remove |"
    r"Make |make |Convert|convert|jax\.config|Check |Free |create it|Transpose|Give |give |add |"
    r"Shorten|encode |Encode|reserve |Decode |name |Name |Reorder|chmod"
)
# Of an argument it is enough to say what is allowed: what to do follows.
ALLOWED = re.compile(r"must |at most|known are")

Act = Callable[[pathlib.Path], object]
Spoil = Callable[[pathlib.Path], pathlib.Path | str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One bad input."""

    error: type[ArielError]
    words: tuple[str, ...]
    act: Act


def _edited(**changes: object) -> Spoil:
    def spoil(top: pathlib.Path) -> pathlib.Path:
        testing.edit_json(top / "m" / "config.json", **changes)
        return top / "m"

    return spoil


def _without(name: str) -> Spoil:
    def spoil(top: pathlib.Path) -> pathlib.Path:
        (top / "m" / name).unlink()
        return top / "m"

    return spoil


def _with_bytes(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(top: pathlib.Path) -> pathlib.Path:
        path = top / "m" / name
        path.write_bytes(change(path.read_bytes()))
        return top / "m"

    return spoil


def _with_tensor(name: str, value: np.ndarray | None) -> Spoil:
    """With None, without that tensor."""

    def spoil(top: pathlib.Path) -> pathlib.Path:
        path = top / "m" / "model.safetensors"
        tensors = {k: np.array(v) for k, v in safetensors.numpy.load_file(path).items()}
        tensors.pop(name, None)
        safetensors.numpy.save_file(tensors | ({} if value is None else {name: value}), path)
        return top / "m"

    return spoil


def _sharded(change: Callable[[pathlib.Path, str], None]) -> Spoil:
    """Saves in shards and lets `change` spoil the second one."""

    def spoil(top: pathlib.Path) -> pathlib.Path:
        save_pretrained(load_pretrained(top / "m"), top / "s", max_shard_bytes=20_000)
        change(top / "s", sorted(p.name for p in (top / "s").glob("*-of-*.safetensors"))[1])
        return top / "s"

    return spoil


def _truncate(folder: pathlib.Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])


NORM = "model.layers.0.input_layernorm.weight"
FOLDERS: dict[str, tuple[tuple[str, ...], Spoil]] = {
    "no such folder": (("no-such-model", "'nano'"), lambda top: "no-such-model"),
    "no config": (("config.json",), _without("config.json")),
    "config is no JSON": (
        ("config.json", "not JSON"),
        _with_bytes("config.json", lambda b: b[:-9]),
    ),
    "config is a list": (("config.json", "object"), _with_bytes("config.json", lambda b: b"[]")),
    "unknown attribute": (("attention_sinks=4",), _edited(attention_sinks=4)),
    "missing attribute": (("num_attention_heads",), _edited(num_attention_heads=...)),
    "unsupported architecture": (
        ("FooForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM"),
        _edited(architectures=["FooForCausalLM"]),
    ),
    "no weights": (("model.safetensors",), _without("model.safetensors")),
    "truncated weights": (
        ("model.safetensors", "truncated"),
        _with_bytes("model.safetensors", lambda b: b[:-1]),
    ),
    "missing shard": (
        ("model-00002-of-", "missing"),
        _sharded(lambda folder, name: (folder / name).unlink()),
    ),
    "truncated shard": (("model-00002-of-", "truncated"), _sharded(_truncate)),
    "wrong shape": ((NORM, "[31]", "[32]"), _with_tensor(NORM, np.ones(31, np.float32))),
    "integer weights": ((NORM, "int8", "float32"), _with_tensor(NORM, np.ones(32, np.int8))),
    "missing tensor": ((NORM,), _with_tensor(NORM, None)),
    "unknown tensor": (("score.weight",), _with_tensor("score.weight", np.ones(3, np.float32))),
    "vocabularies disagree": (("320 tokens", "vocab_size=300"), _edited(vocab_size=300)),
    "damaged tokenizer": (("tokenizer.json",), _with_bytes("tokenizer.json", lambda b: b[:50])),
    "text without a tokenizer": (("no tokenizer.json", "ids only"), _without("tokenizer.json")),
    "generation by beams": (
        ("num_beams", "4"),
        _with_bytes("generation_config.json", lambda b: json.dumps({"num_beams": 4}).encode()),
    ),
}


def _load(spoil: Spoil) -> Act:
    return lambda top: load_pretrained(spoil(top)).tokenizer.encode("hi")


def _load_sound(**options: Any) -> Act:
    return lambda top: load_pretrained(top / "m", **options)


def _save(to: str = "new", **options: Any) -> Act:
    return lambda top: save_pretrained(load_pretrained(top / "m"), top / to, **options)


MODELS: dict[str, Row] = {
    **{name: Row(CheckpointError, words, _load(spoil)) for name, (words, spoil) in FOLDERS.items()},
    "float64 without x64": Row(
        ConfigError, ("float64", "jax_enable_x64"), _load_sound(precision=Precision.f64())
    ),
    "weights as integers": Row(
        ConfigError, ("int8", "bfloat16"), _load_sound(precision=Precision(param="int8"))
    ),
    "mesh with other axes": Row(
        ConfigError,
        ("['model']", "'data' and 'tensor'"),
        lambda top: load_pretrained(top / "m", mesh=compat.auto_mesh((2,), ("model",))),
    ),
    "save under no parent": Row(StorageError, ("does not exist",), _save(to="no/such")),
    "shard of no bytes": Row(ConfigError, ("max_shard_bytes=-1",), _save(max_shard_bytes=-1)),
    "save over other files": Row(ConfigError, ("['m']",), _save(to=".")),
    "heads that do not divide": Row(
        ConfigError, ("n_heads=3", "n_kv_heads=2"), lambda top: testing.tiny_config(n_heads=3)
    ),
    "unknown field": Row(ConfigError, ("['depth']",), lambda top: testing.tiny_config(depth=3)),
    "unknown preset": Row(ConfigError, ("'gpt5'", "gpt2"), lambda top: presets.preset("gpt5")),
    "text that is no string": Row(
        ConfigError, ("encode got int",), lambda top: _model().tokenizer.encode(3)
    ),
    "decoder as an encoder": Row(
        CheckpointError,
        ("a decoder", "LlamaForCausalLM", "load_pretrained"),
        lambda top: load_encoder(top / "m"),
    ),
    "encoder as a decoder": Row(
        CheckpointError,
        ("an encoder", "RobertaForSequenceClassification", "load_encoder"),
        lambda top: load_pretrained(_saved_encoder(top)),
    ),
    "labels of other classes": Row(
        ConfigError, ("2 labels for 3",), lambda top: _saved_encoder(top, labels=("a", "b"))
    ),
    "text longer than the encoder": Row(
        ConfigError, ("33 tokens", "32 positions"), lambda top: _encoded((1, 33), (1, 33))
    ),
    "mask of other texts": Row(
        ConfigError, ("(1, 4)", "(1, 3)"), lambda top: _encoded((1, 4), (1, 3))
    ),
    "encoder of no such variant": Row(
        ConfigError, ("variant='t5'", "'bert'"), lambda top: testing.tiny_encoder("t5")
    ),
    "unknown encoder preset": Row(
        ConfigError, ("'bert'", "minilm-l6"), lambda top: presets.encoder_preset("bert")
    ),
    "image of another size": Row(
        ConfigError, ("[1, 8, 8, 3]", "12"), lambda top: _seen((1, 8, 8, 3))
    ),
}


def _saved_encoder(top: pathlib.Path, **changes: Any) -> pathlib.Path:
    save_encoder(dataclasses.replace(testing.tiny_encoder("roberta"), **changes), top / "s")
    return top / "s"


def _encoded(ids: tuple[int, ...], mask: tuple[int, ...]) -> object:
    model = testing.tiny_encoder("bert")
    return encoder.classify(
        model.cfg, model.params, jnp.zeros(ids, jnp.int32), jnp.ones(mask, bool)
    )


def _seen(shape: tuple[int, ...]) -> object:
    model = testing.tiny_encoder("vit")
    return vit.vit_logits(model.cfg, model.params, jnp.zeros(shape))


@functools.cache
def _model() -> Any:
    return testing.tiny_model()


@functools.cache
def _state() -> decode.DecodeState:
    """Two rows with three and two known tokens."""
    model = _model()
    return decode.start(model.cfg, model.params, [[1, 2], [3]], max_new=8).state


def _generate(prompts: Any = "to be", **options: Any) -> Act:
    return lambda top: decode.generate(_model(), prompts, **({"max_new": 4} | options))


def _sampling(**fields: Any) -> Act:
    return _generate(sampling=SamplingParams(**fields))


class Stingy(Upfront):
    """Reserves no row for the first step."""

    def initial(self, prompt_len: int, rows: int, limit: int) -> int:
        return prompt_len - 1


class Stuck(Arithmetic):
    """Never grows."""

    def next(self, capacity: int, need: int, limit: int) -> int:
        return capacity


def _table(make: Callable[..., Act], fields: dict[str, tuple[Any, ...]]) -> dict[str, Row]:
    """A row for every field and bad value; the message repeats both."""
    return {
        f"{name}={value!r}": Row(ConfigError, (f"{name}={value!r}",), make(**{name: value}))
        for name, values in fields.items()
        for value in values
    }


NAN, INF = float("nan"), float("inf")
KEY = jax.random.key
DECODING: dict[str, Row] = {
    "empty prompt": Row(ConfigError, ("prompt 0 is empty",), _generate("")),
    "no prompt": Row(ConfigError, ("0 prompts",), _generate([])),
    "prompt beyond the context": Row(
        ConfigError, ("200 tokens", "128 positions"), _generate([[1] * 200])
    ),
    "more tokens than positions": Row(
        ConfigError, ("max_new is 30", "at most 28 new"), _generate([[1] * 100], max_new=30)
    ),
    "id beyond the vocabulary": Row(ConfigError, ("prompt 1", "320"), _generate([[1], [2, 320]])),
    "negative id": Row(ConfigError, ("token id -1", "0..319"), _generate([[-1]])),
    "settings for other prompts": Row(
        ConfigError, ("2 sampling settings for 1",), _generate(sampling=[SamplingParams()] * 2)
    ),
    **_table(
        _sampling,
        {
            "temperature": (-0.1, NAN, INF, 1e300),
            "top_p": (0.0, 1.1, NAN),
            "min_p": (-0.1, 1.1),
            "repetition_penalty": (0.0, -1.0, INF),
            "top_k": (-1, 1.5),
            "min_new": (-1,),
            "seed": (-1, 2**32, 2**64, 1.5),
        },
    ),
    **_table(_generate, {"max_new": (0, True, 1.5), "stream_every": (0,)}),
    "stop that is one string": Row(ConfigError, ("stop='ab'",), _generate(stop="ab")),
    "stop that is no string": Row(ConfigError, ("stop=[3]",), _generate(stop=[3])),
    "ids that are no list of prompts": Row(ConfigError, ("prompts",), _generate([1, 2, 3])),
    "ids that are no whole numbers": Row(ConfigError, ("1.5",), _generate([[1.5]])),
    "key that is a number": Row(ConfigError, ("key=3",), _generate(key=3)),
    "several keys": Row(
        ConfigError, ("key=", "one"), lambda top: _generate(key=jax.random.split(KEY(0)))(top)
    ),
    "end of text that is no token": Row(
        ConfigError,
        ("eos[0]=320", "319"),
        lambda top: decode.start(_model().cfg, _model().params, [[1]], max_new=2, eos=[320]),
    ),
    "stopping a row that is not there": Row(
        ConfigError, ("row=7", "0 to 1"), lambda top: _run().stop_row(7, 3)
    ),
    "stopping within the prompt": Row(
        ConfigError, ("n_known=1", "2 to"), lambda top: _run().stop_row(0, 1)
    ),
    "fork of half a row": Row(ConfigError, ("[0.5]",), lambda top: decode.fork(_state(), [0.5])),
    "rollback of half a token": Row(
        ConfigError, ("2.5", "whole numbers"), lambda top: decode.rollback(_state(), [2.5, 2.5])
    ),
    "negative logprobs": Row(ConfigError, ("logprobs=-1",), _generate(logprobs=-1)),
    "more logprobs than tokens": Row(ConfigError, ("logprobs=321",), _generate(logprobs=321)),
    "empty stop string": Row(ConfigError, ("stop", "empty string"), _generate(stop=["a", ""])),
    "capacity below the limit": Row(
        CapacityError,
        ("Upfront(8)", "22 rows"),
        _generate([[1, 2, 3]], max_new=20, capacity=Upfront(8)),
    ),
    "policy that reserves less than a step writes": Row(
        CapacityError, ("Stingy", "1 rows", "needs 2"), _generate([[1, 2]], capacity=Stingy())
    ),
    "policy that does not grow": Row(
        CapacityError,
        ("Stuck", "16 rows", "needs 17"),
        _generate([[1] * 8], max_new=20, capacity=Stuck(8, 8)),
    ),
    **_table(lambda **f: lambda top: Upfront(**f), {"rows": (0, 1.5), "granularity": (0,)}),
    **_table(lambda **f: lambda top: Arithmetic(**f), {"r": (0, -8), "granularity": (-1,)}),
    "advance by no step": Row(ConfigError, ("max_steps=0",), lambda top: _run().advance(0)),
    "fork of an unknown row": Row(
        ConfigError, ("rows [2]", "0..1"), lambda top: decode.fork(_state(), [2])
    ),
    "fork of a negative row": Row(
        ConfigError, ("rows [-1]", "0..1"), lambda top: decode.fork(_state(), [-1])
    ),
    "fork of no row": Row(ConfigError, ("rows []",), lambda top: decode.fork(_state(), [])),
    "rollback into the prompt": Row(
        ConfigError,
        ("n_known=[1, 1]", "[2, 1] and [3, 2]"),
        lambda top: decode.rollback(_state(), [1, 1]),
    ),
    "rollback beyond what is known": Row(
        ConfigError, ("n_known=[3, 3]",), lambda top: decode.rollback(_state(), [3, 3])
    ),
    "rollback of other rows": Row(
        ConfigError, ("n_known=[3]",), lambda top: decode.rollback(_state(), [3])
    ),
    "keys of other rows": Row(
        ConfigError,
        ("[5]", "[2]"),
        lambda top: decode.rekey(_state(), jax.random.split(jax.random.key(0), 5)),
    ),
    "chain without a draw": Row(ConfigError, ("DRAW",), lambda top: decode.chain()),
    "mask with holes": Row(
        ConfigError, ("holes",), lambda top: decode.from_padded([[1, 2, 3]], [[1, 0, 1]])
    ),
    "mask of another shape": Row(
        ConfigError, ("[1, 2]", "[1, 1]"), lambda top: decode.from_padded([[1, 2]], [[1]])
    ),
    "another cache on a mesh": Row(
        ConfigError,
        ("NoneType", "KVCache"),
        lambda top: decode.shard_state(_state().replace(cache=None), backend.make_mesh(data=2)),
    ),
}


def _run() -> decode.Run:
    return decode.Run(_model().cfg, _model().params, _state())


def _shared_cache(top: pathlib.Path) -> object:
    (top / "s").mkdir()
    (top / "s").chmod(0o777)
    return backend.enable_compile_cache(top / "s")


BACKEND: dict[str, Row] = {
    "absent platform": Row(
        BackendError, ("'tpu'", "['cpu']", "ariel-jax[tpu]"), lambda top: backend.use("tpu")
    ),
    "unknown platform": Row(
        ConfigError, ("platform='cuda'", "'gpu'"), lambda top: backend.use("cuda")
    ),
    "target of an unknown platform": Row(
        ConfigError, ("platform='cuda'", "'gpu'"), lambda top: backend.target("cuda").__enter__()
    ),
    "more devices than there are": Row(
        BackendError,
        ("data=3 by tensor=2", "6 devices", "has 2"),
        lambda top: backend.make_mesh(data=3, tensor=2),
    ),
    **_table(
        lambda **f: lambda top: backend.make_mesh(**f), {"data": (0, 1.0), "tensor": (-1, True)}
    ),
    "cache that others can fill": Row(StorageError, ("mode 0777", "chmod"), _shared_cache),
    "file under no parent": Row(
        StorageError, ("does not exist",), lambda top: durable.write_bytes(top / "no/such", b"")
    ),
}


def _optimizer(**fields: Any) -> Act:
    return lambda top: OptimizerConfig(**({"lr": 1e-3, "steps": 10} | fields))


def _source(*, reads: bool = False, **fields: Any) -> Act:
    """A source over two sound files, `s/a.npy` and `s/b.npy`, except for `fields`."""

    def act(top: pathlib.Path) -> object:
        (top / "s").mkdir()
        for name, array in (
            ("a", np.ones(99, np.int32)),
            ("b", np.ones(99, np.int32)),
            ("short", np.ones(9, np.int32)),
        ):
            np.save(top / "s" / f"{name}.npy", array)
        made: dict[str, Any] = {
            "files": ("a", "b"),
            "weights": (0.5, 0.5),
            "tokens_per_batch": 32,
            "lengths": ((0, 8),),
            "seed": 0,
            "vocab_size": 64,
        } | fields
        made["files"] = tuple(str(top / "s" / f"{name}.npy") for name in made["files"])
        source = TokenFileSource(**made)
        return source.next(source.init()) if reads else source

    return act


def _file(name: str, **fields: Any) -> Act:
    return _source(reads=True, files=(name,), weights=(1.0,), **fields)


def _score(**options: Any) -> Act:
    cfg, params = testing.tiny_config(), None  # refused before the weights are looked at
    return lambda top: score_documents(cfg, params, [[1, 2]], start_id=0, **options)


TRAINING: dict[str, Row] = {
    **_table(
        _optimizer,
        {
            "lr": (0.0, -1.0, NAN, INF),
            "steps": (0, 2.5),
            "clip": (0.0, NAN),
            "schedule": ("linear",),
            "warmup_steps": (-1,),
            "weight_decay": (-0.1, NAN),
            "final_lr": (-0.1, 1.1),
            "b1": (1.0, -0.1),
            "b2": (1.0, NAN),
        },
    ),
    "warm-up longer than the run": Row(
        ConfigError,
        ("warmup_steps=8", "decay_steps=3", "steps=10"),
        _optimizer(warmup_steps=8, decay_steps=3, schedule="wsd"),
    ),
    **_table(
        lambda **f: lambda top: LoopConfig(**({"steps": 10} | f)),
        {
            "steps": (-1, 1.5),
            "microbatches": (0,),
            "keep": (0,),
            "log_every": (0,),
            "checkpoint_every_s": (-1, NAN),
            "seed": (-2, 2**40),
        },
    ),
    **_table(
        lambda **f: lambda top: LayerSkip(**f),
        {
            "max_dropout": (1.0, -0.1, NAN),
            "exit_scale": (-1.0, NAN),
            "depth_power": (-0.5, INF),
            "curriculum_steps": (-1, 1.5),
        },
    ),
    "negative exit scale": Row(
        ConfigError, ("exit_scale", "-1.5"), lambda top: LayerSkip(exit_scale=-1.5)
    ),
    "negative curriculum": Row(
        ConfigError, ("curriculum_steps", "-7"), lambda top: LayerSkip(curriculum_steps=-7)
    ),
    "no token files": Row(ConfigError, ("0 token files",), _source(files=(), weights=())),
    "one weight for two files": Row(ConfigError, ("2 token files", "1 w"), _source(weights=(1.0,))),
    **_table(
        _source,
        {
            "weights": ((0.0, 0.0), (-1.0, 2.0), (NAN, 1.0), (INF, 1.0)),
            "lengths": ((), ((1, 8),), ((0, 8), (0, 16))),
            "tokens_per_batch": (0,),
            "vocab_size": (0,),
            "seed": (-3,),
        },
    ),
    "length that does not divide": Row(
        ConfigError, ("length of 7", "tokens_per_batch=32"), _source(lengths=((0, 7),))
    ),
    "no such token file": Row(CheckpointError, ("none.npy",), _file("none")),
    "token file of few tokens": Row(ConfigError, ("short.npy", "9 tokens"), _file("short")),
    "token ids beyond the model": Row(
        ConfigError, ("a.npy", "from 1 to 1"), _file("a", vocab_size=1)
    ),
    "rows that microbatches do not divide": Row(
        ConfigError,
        ("8 rows", "3 microbatches"),
        lambda top: place_batch(np.ones(8), np.zeros(8, bool), None, 3),
    ),
    "exit of no layer": Row(ConfigError, ("exits=(0,)", "2 layers"), _score(exits=(0,))),
    "window beyond the context": Row(ConfigError, ("window=999", "128"), _score(window=999)),
}


def _linear(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> Act:
    return lambda top: linear(jnp.ones(x), jnp.ones(w), **options)


def _attention(rows: int = 8, **options: Any) -> Act:
    def act(top: pathlib.Path) -> object:
        q, k, v = jnp.ones((1, 1, 2, 4)), jnp.ones((1, 1, 8, 4)), jnp.ones((1, 1, rows, 4))
        return decode_attention(q, k, v, length=jnp.ones(1, jnp.int32), scale=1.0, **options)

    return act


def _overridden(**impls: str) -> Act:
    def act(top: pathlib.Path) -> object:
        with dispatch.override(**impls):
            return linear(jnp.ones((1, 2)), jnp.ones((3, 2)))

    return act


ON_TPU = dispatch.Op(
    "sort", (dispatch.Implementation(name="mosaic", fun=jnp.sort, platforms=("tpu",)),)
)
UNKNOWN = ("no implementation 'fast'", "'reference'")
KERNELS: dict[str, Row] = {
    "unknown linear": Row(ConfigError, ("linear", *UNKNOWN), _linear((1, 2), (3, 2), impl="fast")),
    "unknown attention": Row(ConfigError, ("decode_attention", *UNKNOWN), _attention(impl="fast")),
    "override by an unknown one": Row(ConfigError, UNKNOWN, _overridden(linear="fast")),
    "override of an unknown operation": Row(
        ConfigError, ("['sort']", "'linear'"), _overridden(sort="fast")
    ),
    "unknown operation": Row(ConfigError, ("['sort']",), lambda top: dispatch.op("sort")),
    "implementation for another platform": Row(
        KernelUnavailableError,
        ("'mosaic'", "'cpu'", "tpu only"),
        lambda top: ON_TPU.select("mosaic"),
    ),
    "transposed weight": Row(ConfigError, ("[2, 3]", "[3, 4]"), _linear((2, 3), (3, 4))),
    "values of other rows": Row(ConfigError, ("[1, 1, 8, 4]", "[1, 1, 3, 4]"), _attention(3)),
    **_table(_attention, {"window": (0,), "softcap": (0.0, -1.0)}),
}
GROUPS = {
    "models": MODELS,
    "decoding": DECODING,
    "backend": BACKEND,
    "training": TRAINING,
    "kernels": KERNELS,
}
ROWS = {f"{group}, {name}": row for group, rows in GROUPS.items() for name, row in rows.items()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors") / "m"
    testing.write_toy_checkpoint(folder)
    return folder


@pytest.fixture
def top(sound, tmp_path):
    """A folder with a sound model in `m`, free to be spoilt."""
    shutil.copytree(sound, tmp_path / "m")
    return tmp_path


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_gives_the_documented_error(top, name):
    row = ROWS[name]
    with pytest.raises(row.error) as caught:
        row.act(top)
    message = str(caught.value)
    assert type(caught.value) is row.error
    for word in row.words:
        assert word in message, message
    is_argument = row.error in (ConfigError, CapacityError)
    says = REMEDY.search(message) or (is_argument and ALLOWED.search(message))
    assert says, f"the message says not what to do: {message}"
    assert not [p.name for p in top.iterdir() if p.name not in ("m", "s")], "half-written"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_loaded_is_one_message_and_status_2(top, name, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)
    words, spoil = FOLDERS[name]
    status = cli.main(["generate", "hi", "--model", str(spoil(top))])
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    (message,) = err.splitlines()
    assert message.startswith("ariel-jax: error: ")
    for word in words:
        assert word in message
    assert "Traceback" not in err
