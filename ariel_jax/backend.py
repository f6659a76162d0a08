"""Which platform the work runs on, what its devices offer, and the compile cache.

Nothing here runs on import. `use` chooses the platform, `platform` answers which one a program
that is being traced is for, and `enable_compile_cache` is called by the command line only.
"""

import contextlib
import contextvars
import functools
import hashlib
import os
import pathlib
import platform as host
import stat
from collections.abc import Iterator
from typing import Any

import jax

from ariel_jax import _checks, compat, programs
from ariel_jax.errors import BackendError, StorageError

PLATFORMS = ("cpu", "gpu", "tpu")

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def use(platform: str) -> None:
    """Makes `platform` the one that new arrays and programs go to.

    Before jax has started, `"cpu"` also keeps it from starting an accelerator at all.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Raises:
        ConfigError: `platform` is none of the three.
        BackendError: this machine has no such device for jax; the message names those it has.
    """
    _checks.one_of(PLATFORMS, platform=platform)
    if platform == "cpu" and not compat.backends_are_initialized() and not compat.asked_platforms():
        jax.config.update("jax_platforms", "cpu")
    device = _devices(platform)[0]
    if jax.default_backend() != platform or compat.default_device() is not None:
        jax.config.update("jax_default_device", device)


def _devices(platform: str) -> list[Any]:
    """Returns this process's devices of `platform`."""
    try:
        return jax.local_devices(backend=platform)
    except RuntimeError as error:
        setting = os.environ.get("JAX_PLATFORMS")
        why = f" JAX_PLATFORMS={setting!r} restricts them." if setting else ""
        extra = {"gpu": "cuda", "tpu": "tpu"}.get(platform)
        remedy = f', or install jax for it: pip install "ariel-jax[{extra}]"' if extra else ""
        raise BackendError(
            f"platform {platform!r} is not available; jax finds {list(available())}.{why} "
            f"Choose one of those{remedy}."
        ) from error


def available() -> tuple[str, ...]:
    """Returns the platforms that jax can use here, the default one first."""
    found = [jax.default_backend()]
    for name in PLATFORMS:
        with contextlib.suppress(RuntimeError):
            jax.local_devices(backend=name)
            found.append(name)
    return tuple(dict.fromkeys(found))


def platform() -> str:
    """Returns the platform that a program traced now is for.

    That is the one named by `target`, else the devices of the mesh that is set, else the default
    device, else jax's default backend.
    """
    named = _target.get() or compat.mesh_platform()
    if named:
        return named
    device = compat.default_device()
    if device is not None:
        return device if isinstance(device, str) else device.platform
    return jax.default_backend()


@contextlib.contextmanager
def target(platform: str) -> Iterator[None]:
    """Makes `platform()` answer `platform` while open: lower for a device that is not here.

    Raises:
        ConfigError: `platform` is not `"cpu"`, `"gpu"` or `"tpu"`.
    """
    _checks.one_of(PLATFORMS, platform=platform)
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


@functools.cache
def compiler_options(platform: str) -> dict[str, str | bool]:
    """Returns the compiler options for programs that update a cache in place on `platform`.

    On the CPU the region analysis of copy insertion keeps XLA from copying the whole cache in
    each step of a decode loop. A small compilation checks that this version of XLA knows it.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Returns:
        A value for the argument `compiler_options` of `jax.jit`; empty where nothing is known to help.
    """
    _checks.one_of(PLATFORMS, platform=platform)
    if platform != "cpu":
        return {}
    options: dict[str, str | bool] = {"xla_cpu_copy_insertion_use_region_analysis": True}
    return options if programs.accepts_compiler_options(platform, options) else {}


def memory_kinds(device: Any) -> tuple[str, ...]:
    """Returns the kinds of memory that `device` (a `jax.Device`) can address, its default kind first."""
    default = device.default_memory().kind
    kinds = [memory.kind for memory in device.addressable_memories()]
    return tuple(dict.fromkeys([default, *kinds]))


def facts() -> dict[str, Any]:
    """Returns what is known about the platform in use, ready for JSON.

    Returns:
        platform, device_kind, n_devices, n_processes, memory_kinds, memory_limit_bytes (None where
        the device does not say), driver, and available (platforms).
    """
    devices = _devices(platform())
    first = devices[0]
    limit = (first.memory_stats() or {}).get("bytes_limit")
    return {
        "platform": first.platform,
        "device_kind": first.device_kind,
        "n_devices": len(devices),
        "n_processes": jax.process_count(),
        "memory_kinds": list(memory_kinds(first)),
        "memory_limit_bytes": limit,
        "driver": " ".join(first.client.platform_version.split()),
        "available": list(available()),
    }


@functools.cache
def processor() -> dict[str, Any]:
    """Returns the host processor's `model` name and its sorted instruction set `flags`."""
    model, flags = host.processor() or host.machine(), []
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            if name == "model name":
                model = value
            elif name in ("flags", "Features"):
                flags = sorted(value.split())
                break
    return {"model": model, "flags": flags}


def make_mesh(*, data: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """Returns a mesh with the axes `data` (batch rows) and `tensor` (heads, widths).

    Args:
        data: devices along the batch.
        tensor: devices that share one copy of the weights.

    Raises:
        ConfigError: a count is not a whole number of at least 1.
        BackendError: there are fewer devices than `data * tensor`.
    """
    _checks.positive_int(data=data, tensor=tensor)
    there = jax.device_count()
    if data * tensor > there:
        raise BackendError(
            f"a mesh of data={data} by tensor={tensor} needs {data * tensor} devices, "
            f"{platform()!r} has {there}. Choose smaller counts; on a CPU, "
            "jax.config.update('jax_num_cpu_devices', n) before first use makes n of them."
        )
    return compat.auto_mesh((data, tensor), ("data", "tensor"))


def cache_path() -> pathlib.Path:
    """Returns where `cache_directory` is: `$XDG_CACHE_HOME/ariel_jax`, or `~/.cache/ariel_jax`.

    Raises:
        StorageError: there is no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = pathlib.Path(base).expanduser()
    except RuntimeError as error:
        raise StorageError(
            f"there is no home folder for a cache: {error} Set XDG_CACHE_HOME to a folder that you "
            "can write to."
        ) from error
    return folder / "ariel_jax"


def cache_directory() -> pathlib.Path:
    """Returns this user's private folder for what can be made again, creating it with mode 0700.

    Raises:
        StorageError: it cannot be made, belongs to another user or lets others write.
    """
    return private_directory(cache_path())


def private_directory(path: pathlib.Path) -> pathlib.Path:
    """Returns `path` after making sure that it is a folder that only this user can write to.

    A compile cache is code that will be run, so a folder that others can fill is refused.

    Raises:
        StorageError: it cannot be made, is no folder, belongs to another user or lets others write.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the cache folder {path}: {error.strerror}. "
            "Set XDG_CACHE_HOME to a folder that you can write to."
        ) from error
    return check_private(path)


def check_private(path: pathlib.Path) -> pathlib.Path:
    """Returns `path` if it is a folder that only this user can write to.

    Raises:
        StorageError: it is no folder, belongs to another user, lets others write, or cannot be
            looked at.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise StorageError(
            f"cannot look at the cache folder {path}: {error.strerror}. "
            "Set XDG_CACHE_HOME to a folder of your own."
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"{path} is no folder (or a link to one). Remove it or use another.")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise StorageError(
            f"the folder {path} belongs to user {found.st_uid}, you are {os.getuid()}. "
            "Set XDG_CACHE_HOME to a folder of your own."
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(
            f"others can write to {path} (mode {stat.S_IMODE(found.st_mode):04o}), so what it "
            f"holds cannot be trusted. Run: chmod -R go-w {path}"
        )
    return path


def enable_compile_cache(directory: pathlib.Path | None = None) -> pathlib.Path:
    """Keeps compiled programs on disk from now on, so that a second start compiles nothing.

    Args:
        directory: where; None means a folder for this version of jax and this processor in
            `cache_directory()`.

    Returns:
        The folder in use.

    Raises:
        StorageError: the folder is not private to this user; nothing is changed then.
    """
    if directory is None:
        # Compiled code may use any instruction of the processor that it was compiled on.
        flags = hashlib.sha256(" ".join(processor()["flags"]).encode()).hexdigest()[:8]
        name = f"xla-{jax.__version__}-{host.machine()}-{flags}"
        directory = private_directory(cache_directory() / name)
    else:
        private_directory(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory
