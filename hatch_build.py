"""Compiles the native CPU kernels while the package is built; without a compiler there are none.

They are built against the headers of the jaxlib that is installed where the package goes, else of
the newest one, which the same installation would bring. A wheel with kernels belongs to Linux on
x86-64; one without runs anywhere.
"""

import importlib.metadata
import importlib.util
import pathlib
import sysconfig
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WHERE = "ariel_jax/pallas_kernels/native"
JAXLIB = "jaxlib>=0.10.2"


def _load(root: str) -> Any:
    path = pathlib.Path(root) / WHERE / "compiling.py"
    spec = importlib.util.spec_from_file_location("compiling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _headers() -> tuple[str, str] | None:
    """Version and headers of the jaxlib that the package will meet, or None."""
    paths = sysconfig.get_paths()
    for places in ([paths["purelib"], paths["platlib"]], None):
        options = {} if places is None else {"path": places}
        for found in importlib.metadata.distributions(name="jaxlib", **options):
            headers = pathlib.Path(str(found.locate_file("jaxlib/include")))
            if (headers / "xla" / "ffi" / "api" / "ffi.h").exists():
                return found.version, str(headers)
    return None


class NativeKernels(BuildHookInterface):
    """The hook of `pip install`."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """The jaxlib whose headers are needed, where there is a compiler to use them."""
        compiling = _load(self.root)
        try:
            compiling.compiler()
        except compiling.CannotCompileError:
            return []
        return [] if _headers() is not None else [JAXLIB]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the compiled kernels to the wheel; of an editable one, to the source tree."""
        compiling = _load(self.root)
        found = _headers()
        try:
            if found is None:
                raise compiling.CannotCompileError(
                    "no jaxlib with headers is installed; run later: ariel-jax kernels build"
                )
            jaxlib, headers = found
            content = compiling.library(headers)
        except compiling.CannotCompileError as error:
            self.app.display_warning(f"ariel-jax is built without native kernels: {error}")
            return
        noted = compiling.record(content, jaxlib)
        if version == "editable":
            compiling.write(content, noted, compiling.PACKAGED)
        else:
            self.made = tempfile.TemporaryDirectory()
            folder = pathlib.Path(self.made.name)
            compiling.write(content, noted, folder)
            for path in folder.iterdir():
                build_data["force_include"][str(path)] = f"{WHERE}/lib/{path.name}"
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )
