"""Files and folders that are replaced in one step: written beside, flushed, renamed."""

import contextlib
import ctypes
import errno
import io
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO

from ariel_jax.errors import StorageError

_REMEDY = {
    errno.ENOSPC: "The disk is full: free some space or choose another folder",
    errno.EDQUOT: "The disk quota is used up: free some space or choose another folder",
    errno.EFBIG: "The file would exceed the size limit: raise it (ulimit -f)",
    errno.EROFS: "The disk is read-only: choose another folder",
    errno.EACCES: "This user may not write there: change the permissions or choose another folder",
    errno.EPERM: "This user may not write there: change the permissions or choose another folder",
    errno.ENOENT: "The folder does not exist: create it first",
}


def storage_error(path: str | os.PathLike[str], error: OSError) -> StorageError:
    """Returns the `StorageError` that says why `path` could not be written and what to do."""
    remedy = _REMEDY.get(error.errno or 0, "Choose another folder")
    new = StorageError(
        f"cannot write {os.fspath(path)}: {error.strerror or error}. {remedy}; "
        "what was stored before is unchanged."
    )
    new.errno = error.errno
    return new


class _Descriptor(io.RawIOBase):
    """Raw file over a descriptor that its maker closes."""

    def __init__(self, descriptor: int):
        super().__init__()
        self._descriptor = descriptor
        self.is_open = True

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any, /) -> int:
        # A buffer still holds data after a failed write, and offers them again when collected.
        return os.write(self._descriptor, data) if self.is_open else len(data)


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def sync_directory(path: pathlib.Path) -> None:
    """Flushes the names in a folder to the disk (a new or renamed file is lost otherwise)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_name(path: pathlib.Path, old: pathlib.Path | None = None) -> None:
    try:
        sync_directory(path.parent)
    except OSError as error:
        new = StorageError(
            f"{path} has its new content, but its folder could not be flushed: "
            f"{error.strerror or error}. A power cut may bring the old content back; check the disk."
            + (f" The old content is kept in {old}." if old is not None and old.exists() else "")
        )
        new.errno = error.errno
        raise new from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[BinaryIO]:
    """Opens a binary file that takes the place of `path` when the block ends without an error.

    Args:
        path: the file to create or replace; its folder must exist.
        private: whether only this user may read it (mode 0600).

    Yields:
        A buffered writer.

    Guarantees:
        When the block or the writing fails, `path` holds what it held before. When it returns, the
        new content is on the disk. Only if the very last flush, that of the folder, fails is the
        new content in place and an error raised; the message says so.

    Raises:
        StorageError: a write, flush or rename failed.
    """
    path = pathlib.Path(path)
    temporary = _beside(path)
    try:
        mode = 0o600 if private else 0o666
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, mode)
        try:
            raw = _Descriptor(descriptor)
            file = io.BufferedWriter(raw, buffer_size=1 << 20)
            try:
                yield file
                file.flush()
                os.fsync(descriptor)
            finally:
                raw.is_open = False
                file.detach()
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(path, error) from error
    _sync_name(path)


def write_bytes(path: str | os.PathLike[str], data: bytes, *, private: bool = False) -> None:
    """Replaces the content of `path` by `data`, all or nothing; see `replacing`.

    Raises:
        StorageError: it could not be written; the old content is still there.
    """
    with replacing(path, private=private) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any, *, private: bool = False) -> None:
    """Replaces the content of `path` by `value` as indented JSON; see `replacing`.

    Raises:
        StorageError: it could not be written; the old content is still there.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), private=private)


@contextlib.contextmanager
def replacing_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives an empty folder that takes the place of `path` when the block ends without an error.

    Guarantees:
        When the block or a flush fails, `path` holds what it held before. Where the file system
        can exchange two names (Linux: ext4, xfs, btrfs, tmpfs), a folder is at `path` at every
        moment; elsewhere a crash between two renames leaves the old one beside it, in a folder
        whose name begins with a dot and ends in `.old`.

    Raises:
        StorageError: a file in the folder could not be flushed, or the folder not renamed, or the
            block itself met an error of the file system.
    """
    path = pathlib.Path(path)
    temporary = _beside(path)
    try:
        os.mkdir(temporary)
        try:
            yield temporary
            _sync_tree(temporary)
            _swap_directory(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(path, error) from error
    _sync_name(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)  # now the old content, if there was one


def _sync_tree(top: pathlib.Path) -> None:
    for folder, _, names in os.walk(top, topdown=False):
        for name in names:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(pathlib.Path(folder))


def _swap_directory(new: pathlib.Path, path: pathlib.Path) -> None:
    """Puts `new` at `path`; what was at `path` is at `new` afterwards, or gone."""
    if not path.exists():
        os.rename(new, path)
        return
    if _exchange(new, path):
        return
    old = new.with_suffix(".old")
    os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Exchanges two names in one step; False where this system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    result = renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange)
    code = ctypes.get_errno()
    if result != 0 and code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), os.fspath(other))
    return result == 0
