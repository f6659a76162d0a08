"""Judgements of many users from published data sets that the caller has, as plain tables. Host only.

Nothing is shipped: pass the folder of your own copy.
"""

import collections
import csv
import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ariel_jax.errors import ConfigError, IntegrityError

INAPPROPRIATE, APPROPRIATE, ASKS = 0, 1, 2
"""Labels of a table; `ASKS`: the user wants to be asked each time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Judgements of many users.

    Attributes:
        source: the data set.
        slots: names of the K slots that it has.
        names: for each slot, the nodes by number.
        user: [n] int32, the user of each row.
        nodes: [n, K] int32, the request.
        label: [n] int8: `INAPPROPRIATE`, `APPROPRIATE` or `ASKS`.
        is_test: [n] bool, where the data set says what is for testing; else all False.
        leans: [n] int8: for `ASKS`, what the user leans to; else the label.
        group: [n] int32: rows that were asked together, such as one task's.
    """

    source: str
    slots: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    user: np.ndarray
    nodes: np.ndarray
    label: np.ndarray
    is_test: np.ndarray
    leans: np.ndarray
    group: np.ndarray

    @property
    def n_users(self) -> int:
        """How many users have a row."""
        return len(np.unique(self.user))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Nodes of each slot."""
        return tuple(len(names) for names in self.names)

    def take(self, rows: np.ndarray) -> "Table":
        """The table of some rows (numbers, or bools), with the same nodes."""
        arrays = ("user", "nodes", "label", "is_test", "leans", "group")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in arrays})


PERMISSION_SLOTS = ("data", "recipient", "purpose", "domain", "principle")
_FOUR_WAYS = {
    "Yes, always share": (APPROPRIATE, APPROPRIATE),
    "Yes, but ask me next time": (ASKS, APPROPRIATE),
    "No, but ask me next time": (ASKS, INAPPROPRIATE),
    "No, never share": (INAPPROPRIATE, INAPPROPRIATE),
}


def agent_permissions(folder: str | pathlib.Path, *, four_way: bool = False) -> Table:
    """Permissions that people gave to assistants (Wu et al., IEEE S&P 2026, arXiv:2511.17959, CC BY 4.0).

    Args:
        folder: has `processed_dataset.json`, `queries.json` and, for the four-way answers,
            `user_study.json`.
        four_way: the answers of the study, a majority of which wants to be asked, in the place of the
            authors' binary rows; `is_test` then marks the tasks that they test the user on, and users
            whom they left out are left out.

    Returns:
        Slots `data` (its description), `recipient` (the app), `purpose` (the task), `domain` (of the
        task) and `principle`: whether the task needs the item, as the study's authors designed it
        (`needed`, `unneeded`, `unknown`).

    Raises:
        ConfigError: a file is missing.
        IntegrityError: a file is not what it should be.
    """
    folder = pathlib.Path(folder)
    users = _json(folder, "processed_dataset.json")
    queries = {row["id"]: row for row in _json(folder, "queries.json")}
    found: list[tuple[Any, ...]] = []
    with _reading(folder):
        if four_way:
            test = {u: {row["id"] for row in each["testing"]} for u, each in users.items()}
            parts: Iterable[tuple[str, bool, Any]] = (
                (each["uuid"], row["id"] in test[each["uuid"]], row)
                for each in _json(folder, "user_study.json")
                if each["uuid"] in test
                for row in each["task3"]
            )
        else:
            parts = (
                (user, part == "testing", row)
                for user, each in users.items()
                for part in ("training", "testing")
                for row in each[part]
            )
        for user, is_test, row in parts:
            query = queries[row["id"]]
            for key, answer in row["answer"].items():
                app, data = key.split(",", 1)
                nodes = (data, app, str(row["id"]), query["domain"], _need(query, data))
                found.append((user, nodes, *_FOUR_WAYS[answer], is_test, row["id"]))
    if not found:
        raise IntegrityError(f"{folder} holds no judgement.")
    return _table("agent_permissions", PERMISSION_SLOTS, found)


def _need(query: dict[str, Any], data: str) -> str:
    if data in query["data_incorrect"]:
        return "unneeded"
    needed = any(data in query[name] for name in ("data_tool1", "data_tool2", "data_MIRA"))
    return "needed" if needed else "unknown"


EDUCATION_SLOTS = ("data", "recipient", "sender", "principle")


def education(
    folder: str | pathlib.Path, *, least_answers: int = 81, least_judged: int = 30
) -> Table:
    """Flows of students' data judged by a crowd (Shvartzshnaider et al., HCOMP 2016; from privaci.info).

    Args:
        folder: has `survey_questions.csv` and `surveys.zip` or the files `survey_*.csv`.
        least_answers: users with fewer answers are left out.
        least_judged: and those with fewer answers that are yes or no.

    Returns:
        Answers 1 (yes) and 2 (no) only; what 3 to 5 mean is not documented. `is_test` is False throughout.

    Raises:
        ConfigError: a file is missing.
        IntegrityError: a file is not what it should be.
    """
    folder = pathlib.Path(folder)
    questions = {row["Num"]: row for row in csv.DictReader(_text(folder, "survey_questions.csv"))}
    columns = ("Attribute", "Recipient", "Sender", "TP")
    found: list[tuple[Any, ...]] = []
    with _reading(folder):
        for name, lines in _surveys(folder):
            rows = list(csv.reader(lines))
            asked = [cell.removeprefix("X") for cell in rows[0]]
            for number, row in enumerate(rows[2:]):
                answers = [(q, cell) for q, cell in zip(asked, row, strict=False) if q in questions]
                answered = [(q, cell.strip()) for q, cell in answers if cell.strip()]
                judged = [(q, cell) for q, cell in answered if cell in ("1", "2")]
                if len(answered) < least_answers or len(judged) < least_judged:
                    continue
                for q, cell in judged:
                    nodes = tuple(questions[q][column] for column in columns)
                    label = APPROPRIATE if cell == "1" else INAPPROPRIATE
                    found.append((f"{name}:{number}", nodes, label, label, False, int(q)))
    if not found:
        raise IntegrityError(f"{folder} holds no user with {least_judged} judgements.")
    return _table("education", EDUCATION_SLOTS, found)


def _surveys(folder: pathlib.Path) -> Iterable[tuple[str, Iterable[str]]]:
    archive = folder / "surveys.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as packed:
            names = sorted(
                n for n in packed.namelist() if n.endswith(".csv") and "__MACOSX" not in n
            )
            for name in names:
                yield name, io.StringIO(packed.read(name).decode("utf-8-sig"))
        return
    paths = sorted(folder.glob("survey_[0-9]*.csv"))
    if not paths:
        raise ConfigError(
            f"{folder} has neither surveys.zip nor survey_1.csv: pass the data's folder."
        )
    for path in paths:
        yield path.name, io.StringIO(path.read_text("utf-8-sig"))


def known(folder: str | pathlib.Path) -> Callable[[str | pathlib.Path], Table]:
    """The importer of the data set that lies in a folder.

    Raises:
        ConfigError: it is none of those known.
    """
    folder = pathlib.Path(folder)
    if (folder / "processed_dataset.json").exists():
        return agent_permissions
    if (folder / "survey_questions.csv").exists():
        return education
    raise ConfigError(
        f"{folder} holds no data set that is known: pass a folder with processed_dataset.json (agent "
        "permissions) or survey_questions.csv (Education)."
    )


def _table(source: str, slots: Sequence[str], found: list[tuple[Any, ...]]) -> Table:
    users, nodes, labels, leans, tests, groups = zip(*found, strict=True)
    names, columns = [], []
    for k in range(len(slots)):
        counted = collections.Counter(row[k] for row in nodes)
        names.append(tuple(sorted(counted)))
        number = {name: i for i, name in enumerate(names[-1])}
        columns.append([number[row[k]] for row in nodes])
    of_user = {name: i for i, name in enumerate(dict.fromkeys(users))}
    of_group = {name: i for i, name in enumerate(sorted(set(groups)))}
    return Table(
        source=source,
        slots=tuple(slots),
        names=tuple(names),
        user=np.array([of_user[u] for u in users], np.int32),
        nodes=np.array(columns, np.int32).T.copy(),
        label=np.array(labels, np.int8),
        is_test=np.array(tests, bool),
        leans=np.array(leans, np.int8),
        group=np.array([of_group[g] for g in groups], np.int32),
    )


def _text(folder: pathlib.Path, name: str) -> io.StringIO:
    try:
        return io.StringIO((folder / name).read_text("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{folder} has no {name}: pass the folder of the data set.") from error


def _json(folder: pathlib.Path, name: str) -> Any:
    text = _text(folder, name)
    try:
        return json.load(text)
    except ValueError as error:
        raise IntegrityError(f"{folder / name} is not JSON: {error}.") from error


class _reading:
    """Turns what a file of another shape causes into an error that names the folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(
            error, KeyError | TypeError | IndexError | AttributeError | zipfile.BadZipFile
        ) or (type(error) is ValueError):
            raise IntegrityError(
                f"{self._folder} is not laid out as the data set that was asked for: {error!r}."
            ) from error
