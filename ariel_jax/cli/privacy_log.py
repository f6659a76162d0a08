"""What the commands of the privacy judge share: whose log, where it lies, and how a request is given."""

import getpass
import os
import pathlib
from dataclasses import dataclass
from typing import Any, Literal

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.scorer import PersonalScorer
from ariel_jax.algorithms.ariel.types import Policy
from ariel_jax.durable import storage_error
from ariel_jax.errors import ConfigError

STATUS = {"share": 0, "withhold": 10, "ask": 20}
"""Exit status of each verdict."""

Profile = Literal["plain", "standard", "cautious"]


@dataclass(frozen=True, kw_only=True)
class Log:
    """Flags that name a log."""

    db: pathlib.Path | None = None
    """The log; by default privacy.sqlite in the folder ariel_jax of the user's data folder."""
    user: str | None = None
    """Whose judgements count; by default the name of the login."""
    json: bool = False
    """Print JSON instead of text."""


@dataclass(frozen=True, kw_only=True)
class Asked(Log):
    """Flags that name a disclosure, each as an id or in words."""

    data: tuple[str, ...] = ()
    """Types of data, never values, such as "phone number"."""
    recipient: str = ""
    """Who would get it."""
    purpose: str = ""
    """What for."""
    principle: str = ""
    """Under which transmission principle."""
    subject: str = ""
    """Whose data; by default the user's own."""
    sender: str = ""
    """Who hands it out; by default the user."""

    def slots(self) -> dict[str, Any]:
        """As `Ariel.judge_text` takes them."""
        return {
            "data": self.data, "recipient": self.recipient, "purpose": self.purpose,
            "principle": self.principle, "subject": self.subject, "sender": self.sender,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Judging(Log):
    """Flags that say how verdicts follow."""

    profile: Profile = "plain"
    """plain: by your judgements alone. standard: what they would share is asked about where it looks unlike what you
    usually decide, by a score fitted to your own judgements; cautious: unless it looks clearly like it, and what
    they would withhold likewise. What you judged itself is not asked about again. With fewer than 8 judgements, or
    all of one kind, there is no score, and whatever a score could turn into a question is one."""


def log_path(args: Log) -> pathlib.Path:
    """Where the log lies; the folder of the default one is made."""
    if args.db is not None:
        return args.db
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    folder = pathlib.Path(home) / "ariel_jax"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder / "privacy.sqlite"


def user_name(args: Log) -> str:
    """Whose log."""
    if args.user is not None:
        return args.user
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("this machine knows no name of the user: pass --user.") from error


def open_judge(args: Log, *, read_only: bool = False) -> Ariel:
    """Opens the log; a missing one is begun unless it is only read. What judges has the profile of its flags.

    Raises:
        ConfigError: it is only read and not there.
        StorageError: it cannot be opened.
        IntegrityError: it is no privacy log.
    """
    path = log_path(args)
    if read_only and not path.is_file():
        raise ConfigError(
            f"there is no privacy log {path}: begin one with `ariel-jax judge` or `ariel-jax privacy record`."
        )
    policy = Policy.profile(args.profile if isinstance(args, Judging) else "plain")
    return Ariel.open(
        path, user=user_name(args), policy=policy, scorer=PersonalScorer(), read_only=read_only
    )
