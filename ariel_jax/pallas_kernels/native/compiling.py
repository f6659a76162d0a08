"""Compiles the C++ kernels: plain Python, run by the installation and by `ariel-jax kernels build`.

The installation loads this file by its path, before anything that it could import is there: it
imports the standard library only.
"""

import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable

SOURCES = pathlib.Path(__file__).parent / "src"
PACKAGED = pathlib.Path(__file__).parent / "lib"  # what the installation built, if it could
RECORD = "build.json"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-w")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
# Of each file: an instruction set belongs to the file that is only called where it exists.
# The plain ones come first: what the standard library's templates leave in several, the linker takes
# from the first.
FILES: dict[str, tuple[str, ...]] = {
    "ffi.cc": (),
    "pool.cc": (),
    "generic.cc": (),
    "bitset.cc": (),
    "avx2.cc": ("-mavx2", "-mfma"),
    "avx512.cc": _AVX512,
    "bf16.cc": (*_AVX512, "-mavx512bf16"),
    "vnni.cc": (*_AVX512, "-mavx512vnni"),
    "bitset512.cc": (*_AVX512, "-mavx512vpopcntdq"),
    "amx.cc": (*_AVX512, "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
}
# Those of newer instructions: a compiler that does not know them leaves them out, and the others are taken.
OPTIONAL = ("bf16.cc", "vnni.cc", "bitset512.cc", "amx.cc")
COMPILERS = ("g++", "clang++", "c++")
MACHINE = "x86_64"


class CannotCompileError(Exception):
    """Why there will be no library; the text is for the user."""


def fingerprint(jaxlib: str) -> dict[str, str]:
    """What a library must have been built for: jaxlib, processor family and sources.

    Args:
        jaxlib: its version.
    """
    digest = hashlib.sha256(repr((FLAGS, sorted(FILES.items()))).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return {"jaxlib": jaxlib, "machine": platform.machine(), "sources": digest.hexdigest()}


def compiler() -> str:
    """The path of the C++ compiler that would be used.

    Raises:
        CannotCompileError: there is none, or the processor is another one.
    """
    if platform.machine() != MACHINE:
        raise CannotCompileError(
            f"the native kernels are written for {MACHINE} and this is {platform.machine()}: the "
            "reference implementations run here."
        )
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        raise CannotCompileError(
            f"no C++ compiler was found ({', '.join(COMPILERS)}): install one, such as Debian's "
            "g++, and run: ariel-jax kernels build"
        )
    return found


def library(headers: str, *, say: Callable[[str], None] = lambda text: None) -> bytes:
    """Compiles the kernels.

    Args:
        headers: folder with `xla/ffi/api/ffi.h`.
        say: told what is going on.

    Returns:
        The content of the shared library.

    Raises:
        CannotCompileError: no compiler, or it refused the code.
    """
    with tempfile.TemporaryDirectory() as temporary:
        objects = []
        for name, flags in FILES.items():
            say(f"compiling {name}")
            made = os.path.join(temporary, f"{name}.o")
            source = str(SOURCES / name)
            command = [compiler(), *FLAGS, f"-I{headers}", "-c", source, "-o", made]
            try:
                _run([*command, *flags])
            except CannotCompileError as error:
                if name not in OPTIONAL:
                    raise
                say(f"{name} is left out, this compiler does not know its instructions: {error}")
                _run(command)
            objects.append(made)
        path = pathlib.Path(temporary) / "kernels.so"
        _run([compiler(), "-shared", *objects, "-o", str(path), "-pthread"])
        return path.read_bytes()


def record(content: bytes, jaxlib: str) -> dict[str, str]:
    """What is noted beside a library: what it was built for, by whom, its hash and file name."""
    digest = hashlib.sha256(content).hexdigest()
    # A process may have an older library open: it keeps its file, a new one gets another name.
    return fingerprint(jaxlib) | {
        "library": digest,
        "compiler": compiler(),
        "file": f"kernels-{digest[:16]}.so",
    }


def write(content: bytes, noted: dict[str, str], folder: pathlib.Path) -> None:
    """Puts a library and its record into a folder, the record last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / noted["file"]).write_bytes(content)
    beside = folder / f"{RECORD}.new"
    beside.write_text(json.dumps(noted))
    beside.replace(folder / RECORD)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCompileError(
            f"the compiler refused the native kernels ({' '.join(command[:2])} ...): "
            f"{done.stderr.strip()[-2000:]}"
        )
