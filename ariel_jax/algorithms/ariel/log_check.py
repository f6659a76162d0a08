"""Whether ARIEL's log is as it was written: every chain recomputed; host only."""

import collections
import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from ariel_jax.algorithms.ariel import schema
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.errors import IntegrityError

_REMEDY = "Restore a copy of the file."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """What was checked.

    Attributes:
        users, tombstones: in the file.
        rows: of all users' chains.
        heads: number and hash of each user's latest row; keep them elsewhere, and a later check finds
            rows gone from the end too.
    """

    users: int
    tombstones: int
    rows: int
    heads: Mapping[str, tuple[int, str]]


def supersession(connection: sqlite3.Connection, user: str) -> dict[int, int | None]:
    """By which judgement each one of a user is superseded, worked out from what was said alone."""
    rows = connection.execute(
        "SELECT id, nodes_json, source, supersedes, id IN (SELECT judgement_id FROM retractions) AS gone "
        "FROM judgements WHERE user = ? ORDER BY id", (user,),
    ).fetchall()  # fmt: skip
    found: dict[int, int | None] = {}
    claims: set[int] = set()
    same: dict[str, list[int]] = collections.defaultdict(list)
    for row in rows:
        found[row["id"]] = None
        if row["source"] == "agent_claimed":
            claims.add(row["id"])  # nothing supersedes a claim: it never counts
            continue
        if not row["gone"]:
            for old in (*same[row["nodes_json"]], *json.loads(row["supersedes"])):
                if found[old] is None and old not in claims:
                    found[old] = row["id"]
            same[row["nodes_json"]] = []
        same[row["nodes_json"]].append(row["id"])
    return found


def check_structure(connection: sqlite3.Connection, path: str) -> None:
    """Checks pages, references and the triggers that keep rows.

    Raises:
        IntegrityError: one of them is damaged.
    """
    damage = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if damage != "ok":
        raise IntegrityError(f"{path} is damaged: {damage}. {_REMEDY}")
    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    if orphan is not None:
        raise IntegrityError(
            f"{path}: row {orphan[1]} of {orphan[0]} refers to a row of {orphan[2]} that was removed. {_REMEDY}"
        )
    there = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for name, trigger in schema.guards(version).items():
        if there.get(name) != trigger:
            raise IntegrityError(
                f"{path}: the trigger {name}, which keeps the log append-only, was changed or removed. {_REMEDY}"
            )


def check(
    connection: sqlite3.Connection, path: str, remembered: Mapping[str, tuple[int, str]]
) -> Verified:
    """Recomputes the chains.

    Args:
        connection: to the log.
        path: for messages.
        remembered: heads that must still be in their chains, by user.

    Raises:
        IntegrityError: something was changed; the message names the first such row.
    """
    roster = schema.chain(connection, schema.ROSTER, "1")
    _check_chain(roster, f"{path}: the list of users")
    names = [row["name"] for table, row in roster if table == "users"]
    heads, rows = {}, 0
    for user in names:
        what = f"{path}: the log of {user!r}"
        found = schema.chain(connection, schema.CHAINED, "user = ?", user)
        _check_chain(found, what)
        rows += len(found)
        heads[user] = (found[-1][1]["number"], found[-1][1]["hash"]) if found else (0, schema.ROOT)
        _check_supersession(connection, user, what)
        _check_ontologies(connection, user, what)
        seen = {(0, schema.ROOT), *((row["number"], row["hash"]) for _, row in found)}
        if user in remembered and tuple(remembered[user]) not in seen:
            raise IntegrityError(
                f"{what} lacks the remembered row {remembered[user][0]}: later rows were removed, or an "
                f"older copy was put in place. {_REMEDY}"
            )
    if missing := sorted(set(remembered) - set(names)):
        raise IntegrityError(
            f"{path} has no log of {missing}, of which a head was remembered. {_REMEDY}"
        )
    return Verified(users=len(names), tombstones=len(roster) - len(names), rows=rows, heads=heads)


def check_user(
    connection: sqlite3.Connection, path: str, user: str, *, since: tuple[int, str]
) -> tuple[int, str]:
    """Recomputes a user's chain after a row that was checked, or all of it; its head.

    Args:
        connection: to the log.
        path: for messages.
        user: whose.
        since: number and hash of that row; number 0 for the whole chain, and the marks of what is superseded.

    Raises:
        IntegrityError: something was changed; the message names the first such row.
    """
    what, (number, prev) = f"{path}: the log of {user!r}", since
    rows = schema.chain(connection, schema.CHAINED, "user = ? AND number >= ?", user, number)
    if number:
        seen = rows.pop(0)[1] if rows else None
        if seen is None or (seen["number"], seen["hash"]) != since:
            raise IntegrityError(
                f"{what} lacks row {number}, which was there before: it was removed, or an older copy was "
                f"put in place. {_REMEDY}"
            )
    else:
        _check_supersession(connection, user, what)
    _check_chain(rows, what, number, prev)
    return (rows[-1][1]["number"], rows[-1][1]["hash"]) if rows else since


def _check_chain(
    rows: list[tuple[str, sqlite3.Row]], what: str, number: int = 0, prev: str = schema.ROOT
) -> None:
    for expected, (table, row) in enumerate(rows, start=number + 1):
        good: Any = schema.digest(table, dict(row), expected, prev)
        if (row["number"], row["prev_hash"], row["hash"]) != (expected, prev, good):
            raise IntegrityError(
                f"{what}: row {expected} (of {table}) was changed, removed or put in another place. Those "
                f"before it are intact. {_REMEDY}"
            )
        prev = good


def _check_supersession(connection: sqlite3.Connection, user: str, what: str) -> None:
    marks = dict(
        connection.execute("SELECT id, superseded_by FROM judgements WHERE user = ?", (user,)).fetchall()
    )  # fmt: skip
    for id_, by in supersession(connection, user).items():
        if marks[id_] != by:
            raise IntegrityError(
                f"{what}: judgement {id_} is marked as superseded by {marks[id_]} and not by {by}. {_REMEDY}"
            )


def _check_ontologies(connection: sqlite3.Connection, user: str, what: str) -> None:
    rows = connection.execute(
        "SELECT v.ontology_hash, o.json FROM ontology_versions v JOIN ontologies o ON o.hash = "
        "v.ontology_hash WHERE v.user = ? ORDER BY v.id", (user,),
    ).fetchall()  # fmt: skip
    latest = None
    for row in rows:
        try:
            latest = Ontology.from_json(json.loads(row["json"]))
        except (ValueError, TypeError):
            latest = None
        if latest is None or latest.hash != row["ontology_hash"]:
            raise IntegrityError(f"{what}: an ontology that it used was changed. {_REMEDY}")
    if latest is None:
        return
    for table, items in latest.as_json().items():
        if table == "version":
            continue
        rows = connection.execute(f"SELECT * FROM {table} WHERE user = ?", (user,)).fetchall()
        shown = sorted(schema.canonical(_shown(dict(row))) for row in rows)
        if shown != sorted(schema.canonical(_shown(item)) for item in items):
            raise IntegrityError(
                f"{what}: the table {table} is not that of the user's ontology. {_REMEDY}"
            )


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A node or an edge without what only a table or only an ontology has."""
    apart = ("user", "created_at", "retracted_at") if "type" in row else ("user", "origin")
    kept = {name: value for name, value in row.items() if name not in apart}
    if isinstance(kept.get("aliases"), list):
        kept["aliases"] = schema.canonical(kept["aliases"])
    return kept
