"""Compiled CPU kernels: building them, whether they may be loaded, and the doors into them.

C++ in `src/`, one file per instruction set over one body, called through XLA's foreign-function
interface. `build` compiles them into this user's private cache folder; which instruction set runs is
decided when they are loaded. Nothing is loaded that was built for another jaxlib or from other
sources.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from ariel_jax import backend, compat, durable
from ariel_jax.errors import KernelUnavailableError, StorageError

SOURCES = pathlib.Path(__file__).parent / "src"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-w")
# Of each file: an instruction set belongs to the file that is only called where it exists.
FILES: dict[str, tuple[str, ...]] = {
    "generic.cc": (),
    "avx2.cc": ("-mavx2", "-mfma"),
    "avx512.cc": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"),
    "pool.cc": (),
    "ffi.cc": (),
}
TARGETS = ("ariel_linear", "ariel_attend")
_loaded: dict[str, Any] = {}  # by hash: a target can be registered once in a process
DTYPES = ("float32", "bfloat16")  # of activations, weights and caches
COMPILERS = ("g++", "clang++", "c++")


def _jaxlib() -> str:
    return importlib.metadata.version("jaxlib")


def fingerprint() -> dict[str, str]:
    """What a library must have been built for: jaxlib, processor family and sources."""
    digest = hashlib.sha256(repr((FLAGS, sorted(FILES.items()))).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return {
        "jaxlib": _jaxlib(),
        "machine": platform.machine(),
        "sources": digest.hexdigest(),
    }


def folder() -> pathlib.Path:
    """Where the library of this jaxlib lies, whether it exists or not.

    Raises:
        StorageError: this user has no place for a cache.
    """
    return backend.cache_path() / f"native-{_jaxlib()}-{platform.machine()}"


def build(*, say: Callable[[str], None] = lambda text: None) -> pathlib.Path:
    """Compiles the kernels and returns the library's path.

    Args:
        say: told what is going on.

    Raises:
        KernelUnavailableError: no compiler, another processor than x86-64, or it refused the code.
        StorageError: the folder cannot be written.
    """
    if platform.machine() != "x86_64":
        raise KernelUnavailableError(
            f"the native kernels are written for x86_64 and this is {platform.machine()}: the "
            "reference implementations run here."
        )
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise KernelUnavailableError(
            f"no C++ compiler was found ({', '.join(COMPILERS)}): install one, such as Debian's "
            "g++, and run: ariel-jax kernels build"
        )
    backend.cache_directory()
    target = backend.private_directory(folder())
    with tempfile.TemporaryDirectory(dir=target) as temporary:
        objects = []
        for name, flags in FILES.items():
            say(f"compiling {name}")
            made = pathlib.Path(temporary) / f"{name}.o"
            include = f"-I{jax.ffi.include_dir()}"
            _run([compiler, *FLAGS, *flags, include, "-c", str(SOURCES / name), "-o", str(made)])
            objects.append(str(made))
        library = pathlib.Path(temporary) / "kernels.so"
        _run([compiler, "-shared", *objects, "-o", str(library), "-pthread"])
        content = library.read_bytes()
    record = fingerprint() | {"library": hashlib.sha256(content).hexdigest(), "compiler": compiler}
    # A process may have the old library open: it keeps its file, the new one gets another name.
    path = target / f"kernels-{record['library'][:16]}.so"
    durable.write_bytes(path, content)
    durable.write_json(target / "build.json", record | {"file": path.name})
    _state.cache_clear()
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelUnavailableError(
            f"the compiler refused the native kernels ({' '.join(command[:2])} ...): "
            f"{done.stderr.strip()[-2000:]}"
        )


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
    try:
        where = folder()
        if where.exists():  # only looked at: whoever decodes without a library makes no folder
            backend.check_private(where.parent)
            backend.check_private(where)  # it is code
        record = json.loads((where / "build.json").read_text())
        name = record["file"]
    except FileNotFoundError:
        return None, "they are not built; run: ariel-jax kernels build"
    except StorageError as error:
        return None, str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (
            None,
            f"the record of their build is unreadable ({error}); run: ariel-jax kernels build",
        )
    stale = [key for key, value in fingerprint().items() if record.get(key) != value]
    if stale:
        return (
            None,
            f"they were built for another {' and '.join(stale)}; run: ariel-jax kernels build",
        )
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
    found.ariel_hash = name
    for each in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(found, each))
        jax.ffi.register_ffi_target(f"{each}_{name}", capsule, platform="cpu")
    return found


def describe() -> dict[str, Any]:
    """Returns the state for reports: `loaded`, and `instructions` and `threads`, or `reason`."""
    found, reason = _state()
    if found is None:
        return {"loaded": False, "reason": reason}
    return {
        "loaded": True,
        "instructions": found.ariel_kernel_name().decode(),
        "threads": int(found.ariel_threads()),
    }
