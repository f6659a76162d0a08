"""`run.json`: by what a folder of a private run finds its reservation again."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ariel_jax import durable
from ariel_jax.errors import ConfigError

NAME = "run.json"
PLAN_FIELDS = ("noise_multiplier", "steps", "relation", "sampling_probability", "truncation")
# What else a trainer writes: a folder with one of these and no note is somebody else's.
_OF_A_RUN = ("checkpoints", "metrics.jsonl", "model", "tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFile:
    """What is remembered of a run; secret.

    Attributes:
        run: its random name, which stands in the reservation, too.
        secret: 64 hexadecimal digits, under which the records are hashed.
        ticket: number of the reservation; None before there is one.
        details: settings, as reserved.
        stopped: steps made when it last ended in order; None while it runs, and after a kill.
    """

    run: str
    secret: str
    ticket: int | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
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


def check_unused(folder: pathlib.Path) -> None:
    """Checks that no other run lives in a folder without a note.

    Raises:
        ConfigError: one does.
    """
    if found := [name for name in _OF_A_RUN if (folder / name).exists()]:
        raise ConfigError(
            f"{folder} holds {found} and no {NAME}: it is the folder of another run. Choose another one."
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
