"""Compiled CPU kernels: building them, whether they may be loaded, and the doors into them.

C++ in `src/`, one file per instruction set over one body, called through XLA's foreign-function
interface. The installation builds them where it finds a compiler, and `build` into this user's private
cache folder, which comes first; which instruction set runs is decided when they are loaded. Nothing
is loaded that was built for another jaxlib or from other sources.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from ariel_jax import backend, compat, durable
from ariel_jax.errors import KernelUnavailableError, StorageError
from ariel_jax.pallas_kernels.native import compiling

TARGETS = (
    "ariel_linear",
    "ariel_top1",
    "ariel_attend",
    "ariel_write_rows",
    "ariel_bitset_judge",
)
_loaded: dict[str, Any] = {}  # by hash: a target can be registered once in a process
DTYPES = ("float32", "bfloat16")  # of activations, weights that are not quantised, and caches
INSTRUCTIONS = ("generic", "avx2", "avx512", "avx512_vnni", "all")  # of ARIEL_JAX_INSTRUCTIONS
NOT_BUILT = "they are not built; run: ariel-jax kernels build"


def _jaxlib() -> str:
    return importlib.metadata.version("jaxlib")


def folder() -> pathlib.Path:
    """Where this user's library of this jaxlib lies, whether it exists or not.

    Raises:
        StorageError: this user has no place for a cache.
    """
    return backend.cache_path() / f"native-{_jaxlib()}-{platform.machine()}"


def build(*, say: Callable[[str], None] = lambda text: None) -> pathlib.Path:
    """Compiles the kernels into this user's cache and returns the library's path.

    Args:
        say: told what is going on.

    Raises:
        KernelUnavailableError: no compiler, another processor than x86-64, or it refused the code.
        StorageError: the folder cannot be written.
    """
    try:
        content = compiling.library(jax.ffi.include_dir(), say=say)
        record = compiling.record(content, _jaxlib())
    except compiling.CannotCompileError as error:
        raise KernelUnavailableError(str(error)) from error
    backend.cache_directory()
    target = backend.private_directory(folder())
    durable.write_bytes(target / record["file"], content)
    durable.write_json(target / compiling.RECORD, record)
    _state.cache_clear()
    return target / record["file"]


def why_not() -> str | None:
    """Why the library cannot be used here; None if it is loaded."""
    return _state()[1]


def why_not_with(**dtypes: DTypeLike) -> str | None:
    """Why the kernels cannot be used here for arrays of these dtypes, or None."""
    for name, dtype in dtypes.items():
        if np.dtype(dtype).name not in DTYPES:
            return f"{name} is {np.dtype(dtype).name}, not one of {', '.join(DTYPES)}"
    if compat.mesh_platform() is not None:
        return "a mesh is set, and it runs on one device"
    return why_not()


def target(name: str) -> str:
    """What XLA knows a function of the loaded library by; each build has names of its own.

    Raises:
        KernelUnavailableError: the library cannot be used.
    """
    found, reason = _state()
    if found is None:
        raise KernelUnavailableError(f"the native kernels cannot be used: {reason}.")
    return f"{name}_{found.ariel_hash}"


@functools.cache
def _state() -> tuple[Any, str | None]:
    asked = os.environ.get("ARIEL_JAX_INSTRUCTIONS") or "all"
    if asked not in INSTRUCTIONS:
        return None, f"ARIEL_JAX_INSTRUCTIONS is {asked!r}: it takes {', '.join(INSTRUCTIONS)}"
    reasons = []
    for find in (_users, lambda: compiling.PACKAGED):
        try:
            found, reason = _open(find())
        except StorageError as error:
            found, reason = None, str(error)
        if found is not None:
            return found, None
        reasons.append(reason)
    return None, next((reason for reason in reasons if reason != NOT_BUILT), NOT_BUILT)


def _users() -> pathlib.Path:
    where = folder()
    if where.exists():  # only looked at: whoever decodes without a library makes no folder
        backend.check_private(where.parent)
        backend.check_private(where)  # it is code
    return where


def _open(where: pathlib.Path) -> tuple[Any, str | None]:
    """The library of a folder, or why it is not used."""
    try:
        record = json.loads((where / compiling.RECORD).read_text())
        name = record["file"]
    except FileNotFoundError:
        return None, NOT_BUILT
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (
            None,
            f"the record of their build is unreadable ({error}); run: ariel-jax kernels build",
        )
    wanted = compiling.fingerprint(_jaxlib())
    stale = [key for key, value in wanted.items() if record.get(key) != value]
    if stale:
        other = " and ".join(
            "other sources" if key == "sources" else f"another {key}" for key in stale
        )
        return None, f"they were built for {other}; run: ariel-jax kernels build"
    try:
        path = where / pathlib.Path(name).name
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != record["library"]:
            return None, "the library is not the one that was built; run: ariel-jax kernels build"
        if digest not in _loaded:
            _loaded[digest] = _load(path, digest[:16])
    except (OSError, AttributeError) as error:
        return None, f"the library cannot be loaded ({error}); run: ariel-jax kernels build"
    return _loaded[digest], None


def _load(path: pathlib.Path, name: str) -> Any:
    found: Any = ctypes.CDLL(str(path))
    found.ariel_kernel_name.restype = ctypes.c_char_p
    for has in (found.ariel_has_bf16_matmul, found.ariel_has_whole_products, found.ariel_has_tiles):
        has.restype = ctypes.c_bool
    found.ariel_hash = name
    for each in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(found, each))
        jax.ffi.register_ffi_target(f"{each}_{name}", capsule, platform="cpu")
    return found


def has_bf16_matmul() -> bool:
    """Whether the loaded library multiplies many bfloat16 rows with this processor."""
    found, _ = _state()
    return found is not None and bool(found.ariel_has_bf16_matmul())


def describe() -> dict[str, Any]:
    """Returns the state for reports: `loaded`, and `instructions` and `threads`, or `reason`."""
    found, reason = _state()
    if found is None:
        return {"loaded": False, "reason": reason}
    return {
        "loaded": True,
        "instructions": found.ariel_kernel_name().decode(),
        "bfloat16_products": has_bf16_matmul(),
        "whole_products": bool(found.ariel_has_whole_products()),
        "tiles": bool(found.ariel_has_tiles()),
        "threads": int(found.ariel_threads()),
    }
