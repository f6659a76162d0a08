"""Runs the C++ kernels against plain loops under the address and undefined-behaviour sanitizers.

With `--time`: as they are shipped, and then times them, in a process without XLA.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).parents[1]
WHERE = ROOT / "ariel_jax" / "pallas_kernels" / "native" / "compiling.py"
FLAGS = (
    "-O1",
    "-g",
    "-std=c++17",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-w",
)


def main() -> int:
    """Returns the exit status."""
    spec = importlib.util.spec_from_file_location("compiling", WHERE)
    assert spec is not None
    assert spec.loader is not None
    compiling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compiling)
    files = {name: flags for name, flags in compiling.FILES.items() if name != "ffi.cc"}
    files["harness.cc"] = ()
    timing = sys.argv[1:] == ["--time"]
    common = compiling.FLAGS if timing else FLAGS
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)

        def compile_one(item: tuple[str, tuple[str, ...]]) -> str:
            file, flags = item
            made = str(folder / f"{file}.o")
            source = str(compiling.SOURCES / file)
            command = [compiling.compiler(), *common, *flags, "-c", source, "-o", made]
            subprocess.run(command, check=True)
            return made

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_one, files.items()))
        program = str(folder / "harness")
        link = [compiling.compiler(), *common, *objects, "-o", program, "-pthread"]
        subprocess.run(link, check=True)
        # Two threads, so that a race that breaks memory has a chance to show.
        environment = os.environ | {"ARIEL_JAX_THREADS": "2", "ASAN_OPTIONS": "detect_leaks=0"}
        command = [program, "time"] if timing else [program]
        return subprocess.run(command, check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
