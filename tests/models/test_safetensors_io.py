import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.errors import CheckpointError
from ariel_jax.models.hf import safetensors_io as io


def write(path: pathlib.Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(dtype: str, shape: list, start: int, stop: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_reads_what_the_reference_implementation_writes(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": rng.standard_normal((7,)).astype(ml_dtypes.bfloat16),
        "c": np.arange(4, dtype=np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "scalar": np.array(2.5),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors", {"format": "np"})
    file = io.SafetensorsFile(tmp_path / "x.safetensors")
    assert set(file.tensors) == set(tensors)
    for name, value in tensors.items():
        assert file.view(name).dtype == value.dtype
        np.testing.assert_array_equal(file.view(name), value)
        assert not file.view(name).flags.writeable
        copied = file.copy(name, np.dtype(np.float32))
        assert copied.ctypes.data % 64 == 0 or copied.size == 0
        np.testing.assert_array_equal(copied, value.astype(np.float32))
        file.release(name)
        np.testing.assert_array_equal(file.view(name), value)


shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda s: s != "__metadata__"),
        st.tuples(shapes, st.sampled_from(["float32", "bfloat16", "float16", "int8"])),
        max_size=6,
    )
)
def test_the_reference_implementation_reads_what_is_written(tmp_path_factory, described):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.integers(-9, 9, shape).astype(ml_dtypes.bfloat16 if d == "bfloat16" else d)
        for name, (shape, d) in described.items()
    }
    with open(path, "wb") as file:
        io.write(file, {n: (a.shape, a.dtype) for n, a in arrays.items()}, arrays.__getitem__)
    theirs = safetensors.numpy.load_file(path)
    ours = io.SafetensorsFile(path)
    assert set(theirs) == set(arrays) == set(ours.tensors)
    for name, value in arrays.items():
        np.testing.assert_array_equal(theirs[name], value)
        np.testing.assert_array_equal(ours.view(name), value)
        if value.nbytes % 64 == 0:
            assert ours.tensors[name].start % 64 == 0


GOOD = {"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 8, 12)}
HOSTILE: dict[str, tuple[object, bytes, str]] = {
    "overlap": (
        {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)},
        b"x" * 12,
        "overlap",
    ),
    "gap": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, b"x" * 12, "gap"),
    "beyond the end": (GOOD, b"x" * 11, "truncated"),
    "data after the end": (GOOD, b"x" * 13, "other data"),
    "does not begin at zero": ({"a": entry("F32", [1], 4, 8)}, b"x" * 8, "gap"),
    "negative offset": ({"a": entry("F32", [2], -8, 0)}, b"", "data_offsets"),
    "stop before start": ({"a": entry("F32", [2], 8, 0)}, b"x" * 8, "needs 8 bytes"),
    "size and shape differ": ({"a": entry("F32", [3], 0, 8)}, b"x" * 8, "needs 12 bytes"),
    "product that wraps": ({"a": entry("F32", [1 << 33, 1 << 33], 0, 8)}, b"x" * 8, "needs"),
    "negative dimension": ({"a": entry("F32", [-2], 0, 8)}, b"x" * 8, "shape"),
    "fractional dimension": ({"a": entry("F32", [2.0], 0, 8)}, b"x" * 8, "shape"),
    "boolean dimension": ({"a": entry("F32", [True], 0, 4)}, b"x" * 4, "shape"),
    "too many dimensions": ({"a": entry("F32", [1] * 9, 0, 4)}, b"x" * 4, "shape"),
    "unknown dtype": ({"a": entry("F99", [2], 0, 8)}, b"x" * 8, "F99"),
    "dtype of no text": ({"a": entry(["F32"], [2], 0, 8)}, b"x" * 8, "dtype"),  # type: ignore[arg-type]
    "missing field": ({"a": {"dtype": "F32", "shape": [2]}}, b"x" * 8, "exactly"),
    "extra field": ({"a": entry("F32", [1], 0, 4) | {"pickle": 1}}, b"x" * 4, "exactly"),
    "entry of no object": ({"a": 3}, b"", "exactly"),
    "header of no object": ([1, 2], b"", "JSON object"),
    "header of no JSON": (b"{nope", b"", "not JSON"),
    "header of no text": (b'{"\xff": 1}', b"", "not JSON"),
    "deep nesting": (b"[" * 100_000, b"", "not JSON"),
    "endless number": (b'{"a": ' + b"9" * 5000 + b"}", b"", "not JSON"),
    "name twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"x" * 4,
        "twice",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path, case):
    header, data, words = HOSTILE[case]
    write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError, match=words):
        io.SafetensorsFile(tmp_path / "x.safetensors")


@pytest.mark.parametrize("length", [13, 1 << 40, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    write(tmp_path / "x.safetensors", b"{}", length=length)
    with pytest.raises(CheckpointError, match="header claims"):
        io.SafetensorsFile(tmp_path / "x.safetensors")


@pytest.mark.parametrize("size", [0, 7, 8, 20])
def test_a_truncated_file_is_refused(tmp_path, size):
    path = tmp_path / "x.safetensors"
    write(path, GOOD, b"x" * 12)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"truncated"):
        io.SafetensorsFile(path)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 120))
def test_any_bytes_are_read_or_refused(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    write(path, GOOD, b"x" * 12)
    data = bytearray(path.read_bytes())
    data[at : at + len(noise)] = noise
    path.write_bytes(bytes(data))
    try:
        file = io.SafetensorsFile(path)
    except CheckpointError:
        return
    for name in file.tensors:
        assert file.view(name).nbytes == file.tensors[name].nbytes


def test_shards_are_split_by_size_and_named_as_transformers_does():
    tensors = {name: ((n,), np.dtype(np.float32)) for name, n in [("a", 4), ("b", 4), ("c", 9)]}
    assert io.split_shards(tensors, 32) == [["a", "b"], ["c"]]
    assert io.split_shards(tensors, 1) == [["a"], ["b"], ["c"]]
    assert io.split_shards(tensors, 1000) == [["a", "b", "c"]]
    assert io.names([["a"]]) == ["model.safetensors"]
    assert io.names([["a"], ["b"]])[1] == "model-00002-of-00002.safetensors"
