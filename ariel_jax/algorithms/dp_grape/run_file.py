"""`run.json`: by what a folder of a private run finds its reservation again."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ariel_jax import durable
from ariel_jax.errors import ConfigError

NAME = "run.json"
_LOCK = "run.lock"
PLAN_FIELDS = ("noise_multiplier", "steps", "relation", "sampling_probability", "truncation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFile:
    """What is remembered of a run; secret.

    Attributes:
        run: its random name, which stands in the reservation, too.
        secret: 64 hexadecimal digits, under which the records are hashed.
        ticket: number of the reservation; None before there is one.
        account: of the ledger that it was made in.
        details: settings, as reserved.
        begun: a record may have been read: the checkpoint before the first step is written.
        stopped: steps made when it last ended in order; None while it runs, and after a kill.
    """

    run: str
    secret: str
    ticket: int | None = None
    account: str | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    begun: bool = False
    stopped: int | None = None

    def replace(self, **changes: Any) -> "RunFile":
        """The same with some fields changed."""
        return dataclasses.replace(self, **changes)

    def write(self, folder: pathlib.Path) -> None:
        """Writes it, for this user only, into a folder that is made for this user only.

        Raises:
            StorageError: it could not be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise durable.storage_error(folder, error) from error
        durable.write_json(folder / NAME, dataclasses.asdict(self), private=True)


def read(folder: pathlib.Path) -> RunFile | None:
    """The note of a folder; None where there is none.

    Raises:
        ConfigError: the file is none.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return RunFile(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is no note of a private run ({error}): choose another folder."
        ) from error


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a folder for this call alone; one that no run begins in stays as it was.

    Raises:
        ConfigError: another call or process trains in it, or it holds something else than a run.
        StorageError: it cannot be made.
    """
    path, is_new = folder / _LOCK, not folder.exists()
    if not (folder / NAME).exists():
        _check_unused(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise durable.storage_error(folder, error) from error
    try:
        _take(descriptor, path)
        try:
            yield
        finally:
            if not (folder / NAME).exists():
                with contextlib.suppress(OSError):
                    path.unlink()
                    if is_new:
                        folder.rmdir()
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: pathlib.Path) -> None:
    """Locks a file that is still the one of its name: its last holder may have removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
    except BlockingIOError:
        is_there = False
    except OSError as error:
        raise durable.storage_error(path, error) from error
    if not is_there:
        raise ConfigError(
            f"another process trains in {path.parent} or gives its run up: two would make the same steps "
            "twice. Wait for it to end, or choose another folder."
        )


def _check_unused(folder: pathlib.Path) -> None:
    """Checks that a folder without a note is empty: it will be made private."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if found := [name for name in found if name != _LOCK]:
        raise ConfigError(
            f"{folder} holds {found[:4]}{' and more' if len(found) > 4 else ''} and no {NAME}: it is the "
            "folder of another run, or of something else. Choose another one."
        )


def check_same(reserved: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Checks that a run goes on with what it was reserved for.

    Raises:
        ConfigError: something differs; both values are named.
    """
    for name, value in now.items():
        if reserved.get(name) != value:
            raise ConfigError(
                f"{what} was made for {name}={reserved.get(name)!r} and now it is {value!r}: its price "
                "and its noise hold for the former. Go on with the same, or begin another run in "
                "another folder."
            )
