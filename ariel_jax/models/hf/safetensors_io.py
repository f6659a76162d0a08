"""Reading and writing safetensors files: memory-mapped, header checked, tensors 64-byte aligned."""

import dataclasses
import json
import mmap
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from ariel_jax.errors import CheckpointError

ALIGNMENT = 64  # bytes; what XLA:CPU needs to use host memory without a copy
MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_INDEX_BYTES = 100_000_000
MAX_DIMENSIONS = 8
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_COPY_CHUNK = 16 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies in a file.

    Attributes:
        dtype: as stored.
        shape: as stored.
        start, stop: byte offsets in the file.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.stop - self.start


class SafetensorsFile:
    """One memory-mapped file; its header is treated as hostile.

    Attributes:
        path: the file.
        tensors: what it holds, by name.

    Raises:
        CheckpointError: the file is missing, truncated or not well formed.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            with open(path, "rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                self.tensors = _read_header(path, file, size)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"there is no file {path}: the checkpoint is incomplete. Download or copy it again."
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"cannot read {path}: {error.strerror}. It must be a readable safetensors file."
            ) from error
        self._bytes = np.frombuffer(self._map, np.uint8)

    def view(self, name: str) -> np.ndarray:
        """The tensor as a read-only view of the mapped file; nothing is read before it is used."""
        info = self.tensors[name]
        return self._bytes[info.start : info.stop].view(info.dtype).reshape(info.shape)

    def release(self, name: str) -> None:
        """Lets go of the memory that reading a tensor took; a later access reads the file again."""
        info = self.tensors[name]
        self._release(info.start, info.stop)

    def _release(self, start: int, stop: int) -> None:
        start = start // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def copy(self, name: str, dtype: np.dtype) -> np.ndarray:
        """A fresh 64-byte aligned copy in `dtype`; never more than a few MB of the file stay read.

        Args:
            name: the tensor.
            dtype: of the result; values are rounded to nearest.

        Returns:
            The stored shape.
        """
        info = self.tensors[name]
        out = aligned_empty(info.shape, dtype)
        flat = out.reshape(-1)
        source = self.view(name).reshape(-1)
        step = max(1, _COPY_CHUNK // max(1, info.dtype.itemsize))
        for first in range(0, flat.size, step):
            flat[first : first + step] = source[first : first + step].astype(dtype)
            begin = info.start + first * info.dtype.itemsize
            self._release(begin, min(begin + step * info.dtype.itemsize, info.stop))
        return out


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array whose data begins at a multiple of 64 bytes."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + n_bytes].view(dtype).reshape(shape)


def _bad(path: pathlib.Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a sound safetensors file: {what}. Download or save it again."
    )


def _no_duplicates(path: pathlib.Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise _bad(path, f"its header names {twice[:3]} twice")
        return found

    return check


def _read_header(path: pathlib.Path, file: BinaryIO, size: int) -> dict[str, TensorInfo]:
    if size < 8:
        raise _bad(path, f"it has {size} bytes, too few for a header (truncated?)")
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise _bad(
            path, f"its header claims {length} bytes, at most {MAX_HEADER_BYTES} are allowed"
        )
    if 8 + length > size:
        raise _bad(path, f"its header claims {length} bytes but the file has {size} (truncated?)")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_no_duplicates(path))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _bad(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_layout(path, tensors, 8 + length, size)
    return tensors


def _tensor_info(path: pathlib.Path, name: str, entry: Any, base: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, f"tensor {name!r} must have exactly dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise _bad(path, f"tensor {name!r} has dtype {entry['dtype']!r}, known: {sorted(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(
            type(n) is int and 0 <= n < 1 << 62 for n in numbers
        ):
            raise _bad(path, f"tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}")
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise _bad(path, f"tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}")
    dtype = DTYPES[entry["dtype"]]
    n_bytes = dtype.itemsize
    for n in shape:  # Python integers: no overflow
        n_bytes *= n
    if offsets[1] - offsets[0] != n_bytes:
        raise _bad(
            path,
            f"tensor {name!r} of shape {shape} and dtype {entry['dtype']} needs {n_bytes} bytes, "
            f"its data_offsets {offsets} span {offsets[1] - offsets[0]}",
        )
    return TensorInfo(
        dtype=dtype, shape=tuple(shape), start=base + offsets[0], stop=base + offsets[1]
    )


def _check_layout(
    path: pathlib.Path, tensors: Mapping[str, TensorInfo], base: int, size: int
) -> None:
    at = base
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != at:
            problem = "overlaps the one before it" if info.start < at else "leaves a gap before it"
            raise _bad(path, f"tensor {name!r} {problem}")
        at = info.stop
    if at != size:
        what = "truncated" if at > size else "followed by other data"
        raise _bad(path, f"its tensors end at byte {at} but the file has {size}: it is {what}")


class Checkpoint(Mapping[str, TensorInfo]):
    """The tensors of a folder, whichever of its safetensors files each of them lies in.

    Args:
        folder: holds `model.safetensors`, or `model.safetensors.index.json` and the shards it names.

    Raises:
        CheckpointError: no weights there, a shard is missing or damaged, or the index and the
            shards disagree.
    """

    def __init__(self, folder: pathlib.Path):
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        self._files: dict[str, SafetensorsFile] = {}
        if single.is_file():
            file = SafetensorsFile(single)
            self._files = dict.fromkeys(file.tensors, file)
        elif index.is_file():
            self._open_shards(folder, index)
        else:
            raise CheckpointError(
                f"{folder} holds neither model.safetensors nor model.safetensors.index.json. Only "
                "safetensors weights are read; convert .bin or .pth files with transformers "
                "(save_pretrained) first."
            )

    def _open_shards(self, folder: pathlib.Path, index: pathlib.Path) -> None:
        content = read_json(index, limit=MAX_INDEX_BYTES)
        where = content.get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
            raise CheckpointError(f"{index} has no weight_map from tensor to file; save it again.")
        shards: dict[str, SafetensorsFile] = {}
        for name in sorted(set(where.values())):
            # A name with a folder in it could lead to any file of this machine.
            if pathlib.PurePath(name).name != name or "\\" in name or name in ("", ".", ".."):
                raise CheckpointError(
                    f"{index} names the shard {name!r}; a shard must lie in the same folder. "
                    "Do not use this checkpoint unless you know who made it."
                )
            if not _is_file(folder / name):
                raise CheckpointError(
                    f"the shard {name} that {index.name} names is missing from {folder}. "
                    "Download or copy it."
                )
            shards[name] = SafetensorsFile(folder / name)
        for tensor, name in where.items():
            if tensor not in shards[name].tensors:
                raise CheckpointError(
                    f"{index} says that {tensor!r} is in {name}, which does not have it. "
                    "Index and shards are of different checkpoints; download both again."
                )
            self._files[tensor] = shards[name]
        for name, file in shards.items():
            extra = sorted(set(file.tensors) - {t for t, n in where.items() if n == name})
            if extra:
                raise CheckpointError(
                    f"{name} holds {extra[:3]}, which {index.name} does not name there. "
                    "Index and shards are of different checkpoints; download both again."
                )

    def __getitem__(self, name: str) -> TensorInfo:
        return self._files[name].tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def view(self, name: str) -> np.ndarray:
        """See `SafetensorsFile.view`."""
        return self._files[name].view(name)

    def release(self, name: str) -> None:
        """See `SafetensorsFile.release`."""
        self._files[name].release(name)

    def copy(self, name: str, dtype: np.dtype) -> np.ndarray:
        """See `SafetensorsFile.copy`."""
        return self._files[name].copy(name, dtype)


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL
        return False


def read_json(path: pathlib.Path, *, limit: int = 64 << 20) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing, larger than `limit` bytes or no JSON object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    if len(data) > limit:
        raise CheckpointError(f"{path} has more than {limit} bytes; that is no such file.")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Download or save it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object; download or save it again.")
    return content


def layout(
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
) -> tuple[bytes, list[str]]:
    """Header and order of tensors for a file in which as many as possible are 64-byte aligned.

    The format allows no gaps, so tensors whose size is a multiple of 64 bytes come first.

    Args:
        tensors: shape and dtype by name.

    Returns:
        (length and header, padded with blanks to a multiple of 64 bytes; names in file order).
    """

    def n_bytes(name: str) -> int:
        shape, dtype = tensors[name]
        return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    order = sorted(
        tensors, key=lambda name: (n_bytes(name) % ALIGNMENT != 0, -tensors[name][1].itemsize, name)
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order:
        shape, dtype = tensors[name]
        end = at + n_bytes(name)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, order


def write(
    file: BinaryIO,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    get: Callable[[str], np.ndarray],
) -> None:
    """Writes a safetensors file, one tensor in memory at a time.

    Args:
        file: open for writing in binary.
        tensors: shape and dtype by name.
        get: the data of a name; asked once for each.
    """
    header, order = layout(tensors)
    file.write(header)
    for name in order:
        shape, dtype = tensors[name]
        data = np.asarray(get(name), order="C")
        if data.shape != shape or data.dtype != dtype:
            raise CheckpointError(
                f"tensor {name!r} was announced as {dtype.name} {list(shape)} and is "
                f"{data.dtype.name} {list(data.shape)}."
            )
        file.write(data.reshape(-1).view(np.uint8).data)


def split_shards(
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]], max_bytes: int
) -> list[list[str]]:
    """Names of the tensors of each shard, in order, no shard above `max_bytes` unless one tensor is."""
    shards: list[list[str]] = [[]]
    room = max_bytes
    for name, (shape, dtype) in tensors.items():
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if shards[-1] and n_bytes > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= n_bytes
    return shards


def names(shards: Iterable[list[str]]) -> list[str]:
    """File names of the shards, as transformers names them."""
    count = len(list(shards))
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
