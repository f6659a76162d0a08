"""Judgements of the user from a file of JSON lines, all of them or none; host only."""

import datetime
import json
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ariel_jax._checks import known_keys, one_of
from ariel_jax.algorithms.ariel.types import SLOTS, VALUES, Judgement, Request
from ariel_jax.durable import storage_error
from ariel_jax.errors import ConfigError, ContradictoryJudgementError

if TYPE_CHECKING:
    from ariel_jax.algorithms.ariel.agent import Ariel

MOST_BYTES = 64 * 2**20
"""Of a file."""
_KEYS = (*SLOTS, "value", "at", "note")


def import_judgements(ariel: "Ariel", path: str | os.PathLike[str]) -> list[Judgement]:
    """Adds the judgements of a file, with the source `imported_by_user`.

    Each line is an object: `data` (a text or a list) and `recipient`, in ids or words, `value`; and where
    they are known `purpose`, `principle`, `subject`, `sender`, `at` (ISO 8601) and `note`. The order is that
    of `at` where all lines have one, else of the lines; the later judgement on the same nodes stands.

    Raises:
        ConfigError: a line is not allowed; the message names it. Nothing was written.
        ContradictoryJudgementError: two lines judge the same nodes differently at the same time (or without
            times); `ids` are their numbers. Nothing was written.
        StorageError: the file cannot be read, or the log not written.
    """
    lines = _lines(pathlib.Path(path))
    said: dict[Any, tuple[int, str]] = {}
    found: list[tuple[str, int, Request, str, str]] = []
    with ariel.store.transaction():
        for number, row in lines:
            try:
                at = _time(row.get("at", ""))
                one_of(VALUES, value=row.get("value", ""))
                note = row.get("note", "")
                if not isinstance(note, str):
                    raise ConfigError("note is not allowed: pass a text.")
                request = ariel.understand(**_slots(row))
            except ConfigError as error:
                raise ConfigError(
                    f"{path}, line {number}: {error} Nothing was imported."
                ) from error
            other, value = said.setdefault((request.key, at), (number, row["value"]))
            if value != row["value"]:
                raise ContradictoryJudgementError(
                    f"{path}: the lines {other} and {number} judge the same request as {value} and as "
                    f"{row['value']} at the same time: keep one, or say at which time each was. Nothing was "
                    "imported.", ids=(other, number),
                )  # fmt: skip
            found.append((at, number, request, row["value"], note))
        if all(at for at, *_ in found):
            found.sort(key=lambda entry: entry[:2])
        return [
            ariel.record(request, value, "imported_by_user", note=note)
            for _, _, request, value, note in found
        ]


def _lines(path: pathlib.Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise storage_error(path, error) from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path} is larger than {MOST_BYTES} bytes: import it in parts.")
    found = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}, line {number} is not JSON in UTF-8: nothing was imported."
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number} is no object: nothing was imported.")
        found.append((number, row))
    if not found:
        raise ConfigError(f"{path} holds no judgement: nothing was imported.")
    return found


def _slots(row: Mapping[str, Any]) -> dict[str, Any]:
    known_keys("a judgement", _KEYS, row)
    data = row.get("data", ())
    items = [data] if isinstance(data, str) else data
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ConfigError("data is not allowed: pass a text or a list of texts.")
    others = {slot: row[slot] for slot in SLOTS[1:] if slot in row}
    for slot, value in others.items():
        if not isinstance(value, str):
            raise ConfigError(f"{slot} is not allowed: pass a text.")
    return others | {"data": items}


def _time(text: Any) -> str:
    """In UTC and one form; empty for none."""
    if text == "":
        return ""
    try:
        when = datetime.datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        return when.astimezone(datetime.UTC).isoformat(timespec="microseconds")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"at={str(text)[:40]!r} is not allowed: pass a time such as 2026-05-03T12:00:00+00:00."
        ) from error
