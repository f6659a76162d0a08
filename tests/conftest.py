"""Settings that every test runs under; they are made before jax starts a backend."""

import builtins
import contextlib
import io
import itertools
import os
import pathlib
import threading

os.environ["ARIEL_JAX_TYPECHECK"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = pathlib.Path(__file__).parents[1]
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".cache" / "home")  # not the user's

import jax
import pytest

from ariel_jax import backend, durable
from ariel_jax.decode import ahead
from ariel_jax.pallas_kernels import native
from ariel_jax.pallas_kernels.native import compiling

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
# Compiled programs of earlier runs: a second run of the suite spends its time on testing.
(ROOT / ".cache").mkdir(mode=0o700, exist_ok=True)
backend.enable_compile_cache(ROOT / ".cache" / f"xla-{jax.__version__}")


_tests = itertools.count()


@pytest.fixture(autouse=True)
def room_for_programs():
    """Drops compiled programs when this process comes near the number of mappings Linux allows.

    Each program of XLA's CPU backend holds several; beyond the limit (65,530 by default) the next
    compilation dies with a segmentation fault. Checked before a test, so that no test loses what
    it compiled itself.
    """
    if next(_tests) % 8:  # the look itself takes milliseconds
        return
    with contextlib.suppress(OSError):
        maps = pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
        if maps > 30_000:
            ahead._made.clear()
            ahead._jitted.clear()
            jax.clear_caches()


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Returns the top folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def native_kernels() -> pathlib.Path:
    """Returns the folder of the native kernels: the installation's, or built if there are none."""
    if native.why_not() is not None:
        native.build()
    assert native.why_not() is None
    return native.folder() if native.folder().exists() else compiling.PACKAGED


@pytest.fixture
def key() -> jax.Array:
    """Returns the random key most tests start from."""
    return jax.random.key(0)


class FailingDisk:
    """Lets `fail_at - 1` calls that change the disk through; then each, or `once`, raises `code`.

    Counts what Python code of this process does, in all threads: opening for writing, every write
    of an open file that reaches the disk, flushing, renaming, making folders; removing too if
    `removals`.
    """

    def __init__(self, patch, code, fail_at, *, once=False, removals=False):
        self.code, self.fail_at, self.once = code, fail_at, once
        self.calls, self._lock = [], threading.Lock()
        names = ["write", "fsync", "replace", "rename", "mkdir", "ftruncate"]
        for name in names + ["unlink", "remove", "rmdir"] * removals:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))
        patch.setattr(durable.files, "_exchange", self._wrap("exchange", durable.files._exchange))
        self._os_open, self._io_open = os.open, io.open
        patch.setattr(os, "open", self._open_descriptor)
        patch.setattr(io, "open", self._open_file)
        patch.setattr(builtins, "open", self._open_file)

    def count(self, name):
        with self._lock:
            self.calls.append(name)
            number = len(self.calls)
        if number == self.fail_at or (number > self.fail_at and not self.once):
            raise OSError(self.code, os.strerror(self.code))

    def _wrap(self, name, fun):
        def call(*args, **options):
            self.count(name)
            return fun(*args, **options)

        return call

    def _open_descriptor(self, path, flags, *args, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.count("open")
        return self._os_open(path, flags, *args, **options)

    def _open_file(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        if not set(mode) & set("wax+"):
            return self._io_open(file, mode, buffering, encoding, errors, newline)
        self.count("open")
        raw = _CountedFile(file, mode.replace("b", "").replace("t", ""))
        raw.disk = self
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class _CountedFile(io.FileIO):
    disk: FailingDisk

    def write(self, data, /):
        self.disk.count("write")
        return super().write(data)


@pytest.fixture
def failing_disk(monkeypatch):
    """Returns a context manager with the arguments of `FailingDisk`, in which the disk is so."""

    @contextlib.contextmanager
    def failing(code, fail_at, **options):
        with monkeypatch.context() as patch:
            yield FailingDisk(patch, code, fail_at, **options)

    return failing
