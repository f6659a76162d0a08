"""Bad input to every public entry: the documented class, what was given, what to do instead.

Joining is one row: a name, the words that the message must hold, and a function of a folder that
holds a sound toy model in `m`.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy

from ariel_jax import testing
from ariel_jax.errors import ArielError, CheckpointError, ConfigError, StorageError
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import load_pretrained, save_pretrained

REMEDY = re.compile(
    r"Download|download|Use |use |Pass |pass |Choose|choose|Set |set |Save |Remove|remove |"
    r"Make |Convert|convert|jax\.config|Check |Free |create it|Transpose"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One bad input."""

    error: type[ArielError]
    words: tuple[str, ...]
    act: Callable[[pathlib.Path], object]


def _load(*, edit: dict | None = None, **options: object) -> Callable[[pathlib.Path], object]:
    def act(top: pathlib.Path) -> object:
        if edit:
            testing.edit_json(top / "m" / "config.json", **edit)
        return load_pretrained(top / "m", **options)  # type: ignore[arg-type]

    return act


def _without(name: str) -> Callable[[pathlib.Path], object]:
    def act(top: pathlib.Path) -> object:
        (top / "m" / name).unlink()
        return load_pretrained(top / "m")

    return act


def _with_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], object]:
    def act(top: pathlib.Path) -> object:
        path = top / "m" / name
        path.write_bytes(change(path.read_bytes()))
        return load_pretrained(top / "m")

    return act


def _with_tensor(name: str, value: np.ndarray) -> Callable[[pathlib.Path], object]:
    def act(top: pathlib.Path) -> object:
        path = top / "m" / "model.safetensors"
        tensors = {k: np.array(v) for k, v in safetensors.numpy.load_file(path).items()}
        safetensors.numpy.save_file(tensors | {name: value}, path)
        return load_pretrained(top / "m")

    return act


def _sharded(change: Callable[[pathlib.Path, str], None]) -> Callable[[pathlib.Path], object]:
    """Saves in shards, lets `change` spoil the second one, loads."""

    def act(top: pathlib.Path) -> object:
        save_pretrained(load_pretrained(top / "m"), top / "s", max_shard_bytes=20_000)
        change(top / "s", sorted(p.name for p in (top / "s").glob("*-of-*.safetensors"))[1])
        return load_pretrained(top / "s")

    return act


def _truncate(folder: pathlib.Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def _save(to: str = "new", **options: object) -> Callable[[pathlib.Path], object]:
    def act(top: pathlib.Path) -> object:
        return save_pretrained(load_pretrained(top / "m"), top / to, **options)  # type: ignore[arg-type]

    return act


NORM = "model.layers.0.input_layernorm.weight"
LOADING: dict[str, Row] = {
    "no such folder": Row(
        CheckpointError, ("no-such-model", "'nano'"), lambda top: load_pretrained("no-such-model")
    ),
    "no config": Row(CheckpointError, ("config.json",), _without("config.json")),
    "config is no JSON": Row(
        CheckpointError, ("config.json", "not JSON"), _with_bytes("config.json", lambda b: b[:-9])
    ),
    "config is a list": Row(
        CheckpointError, ("config.json", "object"), _with_bytes("config.json", lambda b: b"[]")
    ),
    "unknown attribute": Row(
        CheckpointError, ("attention_sinks=4",), _load(edit={"attention_sinks": 4})
    ),
    "unsupported architecture": Row(
        CheckpointError,
        ("FooForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM"),
        _load(edit={"architectures": ["FooForCausalLM"]}),
    ),
    "no weights": Row(CheckpointError, ("model.safetensors",), _without("model.safetensors")),
    "truncated weights": Row(
        CheckpointError,
        ("model.safetensors", "truncated"),
        _with_bytes("model.safetensors", lambda b: b[:-1]),
    ),
    "missing shard": Row(
        CheckpointError,
        ("model-00002-of-", "missing"),
        _sharded(lambda folder, name: (folder / name).unlink()),
    ),
    "truncated shard": Row(CheckpointError, ("model-00002-of-", "truncated"), _sharded(_truncate)),
    "wrong shape": Row(
        CheckpointError, (NORM, "[31]", "[32]"), _with_tensor(NORM, np.ones(31, np.float32))
    ),
    "integer weights": Row(
        CheckpointError, (NORM, "int8", "float32"), _with_tensor(NORM, np.ones(32, np.int8))
    ),
    "unknown tensor": Row(
        CheckpointError, ("score.weight",), _with_tensor("score.weight", np.ones(3, np.float32))
    ),
    "vocabularies disagree": Row(
        CheckpointError, ("320 tokens", "vocab_size=300"), _load(edit={"vocab_size": 300})
    ),
    "damaged tokenizer": Row(
        CheckpointError, ("tokenizer.json",), _with_bytes("tokenizer.json", lambda b: b[:50])
    ),
    "generation by beams": Row(
        CheckpointError,
        ("num_beams", "4"),
        _with_bytes("generation_config.json", lambda b: json.dumps({"num_beams": 4}).encode()),
    ),
    "float64 without x64": Row(
        ConfigError, ("float64", "jax_enable_x64"), _load(precision=Precision.f64())
    ),
    "weights as integers": Row(
        ConfigError, ("int8", "bfloat16"), _load(precision=Precision(param="int8"))
    ),
}
SAVING: dict[str, Row] = {
    "parent missing": Row(StorageError, ("does not exist",), _save(to="no/such")),
    "shard of no bytes": Row(ConfigError, ("max_shard_bytes=-1",), _save(max_shard_bytes=-1)),
    "target holds other files": Row(ConfigError, ("['m']",), _save(to=".")),
}
ROWS = {
    **{f"load, {name}": row for name, row in LOADING.items()},
    **{f"save, {name}": row for name, row in SAVING.items()},
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_gives_the_documented_error(tmp_path, name):
    row = ROWS[name]
    testing.write_toy_checkpoint(tmp_path / "m")
    with pytest.raises(row.error) as caught:
        row.act(tmp_path)
    message = str(caught.value)
    assert type(caught.value) is row.error
    for word in row.words:
        assert word in message, message
    assert REMEDY.search(message), f"the message says not what to do: {message}"
    assert not [p.name for p in tmp_path.iterdir() if p.name not in ("m", "s")], "half-written"
