"""Tables of ARIEL's log, and the hash that chains a user's rows; host only."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

APPLICATION = 0x41524A58
"""Written into the file's header: an sqlite file without it is none of ours."""
ROOT = "0" * 64
"""What the first row of a chain follows."""

_FIRST = """
CREATE TABLE users (
  name TEXT PRIMARY KEY, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE tombstones (
  id INTEGER PRIMARY KEY AUTOINCREMENT, judgements INTEGER NOT NULL, decisions INTEGER NOT NULL,
  rows INTEGER NOT NULL, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE ontologies (hash TEXT PRIMARY KEY, json TEXT NOT NULL);
CREATE TABLE ontology_versions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  ontology_hash TEXT NOT NULL REFERENCES ontologies(hash), why TEXT NOT NULL, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE nodes (
  user TEXT NOT NULL REFERENCES users(name), slot TEXT NOT NULL, id TEXT NOT NULL, label TEXT NOT NULL,
  aliases TEXT NOT NULL, definition TEXT NOT NULL, PRIMARY KEY (user, slot, id)
);
CREATE TABLE edges (
  user TEXT NOT NULL REFERENCES users(name), id INTEGER NOT NULL, slot TEXT NOT NULL, type TEXT NOT NULL,
  src TEXT NOT NULL, dst TEXT NOT NULL, scope TEXT, status TEXT NOT NULL, origin TEXT NOT NULL,
  reason TEXT NOT NULL, created_at TEXT NOT NULL, retracted_at TEXT, PRIMARY KEY (user, id)
);
CREATE TABLE judgements (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  nodes_json TEXT NOT NULL, text_sha256 TEXT NOT NULL,
  value TEXT NOT NULL CHECK (value IN ('appropriate', 'inappropriate', 'ask')),
  source TEXT NOT NULL CHECK (source IN
    ('user_elicited', 'user_cli', 'user_ui', 'imported_by_user', 'agent_claimed')),
  channel TEXT NOT NULL, created_at TEXT NOT NULL, superseded_by INTEGER, supersedes TEXT NOT NULL,
  note TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE retractions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  judgement_id INTEGER NOT NULL UNIQUE REFERENCES judgements(id), source TEXT NOT NULL,
  created_at TEXT NOT NULL, number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE decisions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  request_json TEXT NOT NULL, verdict TEXT NOT NULL CHECK (verdict IN ('share', 'withhold', 'ask')),
  rule TEXT, outcome_json TEXT NOT NULL, proof_json TEXT NOT NULL, ontology_hash TEXT NOT NULL,
  latency_us INTEGER NOT NULL, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE escalations (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  decision_id INTEGER NOT NULL UNIQUE REFERENCES decisions(id), question TEXT NOT NULL,
  created_at TEXT NOT NULL, number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE answers (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  decision_id INTEGER NOT NULL UNIQUE REFERENCES decisions(id), answer TEXT NOT NULL,
  verdict TEXT NOT NULL, generalise TEXT NOT NULL, meant_json TEXT NOT NULL, judgement_id INTEGER REFERENCES judgements(id),
  source TEXT NOT NULL, answered_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE INDEX judgements_by_time ON judgements (user, created_at);
CREATE INDEX judgements_by_nodes ON judgements (user, nodes_json);
CREATE INDEX judgements_in_order ON judgements (user, id);
CREATE INDEX decisions_by_time ON decisions (user, created_at);
CREATE INDEX decisions_by_verdict ON decisions (user, verdict);
CREATE INDEX decisions_by_recipient ON decisions (user, json_extract(request_json, '$.recipient'));
CREATE UNIQUE INDEX ontology_versions_chain ON ontology_versions (user, number);
CREATE UNIQUE INDEX judgements_chain ON judgements (user, number);
CREATE UNIQUE INDEX retractions_chain ON retractions (user, number);
CREATE UNIQUE INDEX decisions_chain ON decisions (user, number);
CREATE UNIQUE INDEX escalations_chain ON escalations (user, number);
CREATE UNIQUE INDEX answers_chain ON answers (user, number);
"""

_SECOND = """
CREATE TABLE text_keys (
  user TEXT PRIMARY KEY REFERENCES users(name), key BLOB NOT NULL CHECK (length(key) = 32)
);
"""

CHAINED = {
    "ontology_versions": ("id", "user", "ontology_hash", "why", "created_at"),
    "judgements": ("id", "user", "nodes_json", "text_sha256", "value", "source", "channel", "created_at",
                   "supersedes", "note"),
    "retractions": ("id", "user", "judgement_id", "source", "created_at"),
    "decisions": ("id", "user", "request_json", "verdict", "rule", "outcome_json", "proof_json",
                  "ontology_hash", "latency_us", "created_at"),
    "escalations": ("id", "user", "decision_id", "question", "created_at"),
    "answers": ("id", "user", "decision_id", "answer", "verdict", "generalise", "meant_json", "judgement_id",
                "source", "answered_at"),
}  # fmt: skip
"""Tables whose rows form the chain of a user, and the columns that a row's hash is over."""
ROSTER = {
    "users": ("name", "created_at"),
    "tombstones": ("id", "judgements", "decisions", "rows", "created_at"),
}
"""Tables whose rows form the chain of the file: who has a log in it, and whose was deleted."""
MIGRATIONS: tuple[str, ...] = (_FIRST, _SECOND)
"""Statements that bring a file from one `user_version` to the next.

Version 1 wrote SHA-256 of a task's text into `judgements.text_sha256` and into proofs. The chains cover both,
so they stay until their user is forgotten; since version 2 the column is left empty.
"""


def statements(script: str) -> Iterator[str]:
    """The statements of a script; none of them holds a semicolon before a line's end inside."""
    for statement in script.split(";\n"):
        if statement.strip():
            yield statement


def guards(version: int = len(MIGRATIONS)) -> dict[str, str]:
    """Name -> trigger that keeps a row as it is; of a judgement `superseded_by` may be set.

    Args:
        version: of the file.
    """
    made = {}
    for event in ("DELETE", "UPDATE") if version >= 2 else ():
        made[f"text_keys_{event.lower()}"] = (
            f"CREATE TRIGGER text_keys_{event.lower()} BEFORE {event} ON text_keys "
            "BEGIN SELECT RAISE(ABORT, 'a key stays until its user is forgotten'); END"
        )
    for table in (*CHAINED, *ROSTER):
        columns = [*(CHAINED | ROSTER)[table], "number", "prev_hash", "hash"]
        made[f"{table}_keep"] = (
            f"CREATE TRIGGER {table}_keep BEFORE DELETE ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
        )
        made[f"{table}_stay"] = (
            f"CREATE TRIGGER {table}_stay BEFORE UPDATE OF {', '.join(columns)} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
        )
    # A mark is set once, to a later judgement of the same user. It changes only when that one is taken back.
    made["judgements_mark"] = (
        "CREATE TRIGGER judgements_mark BEFORE UPDATE OF superseded_by ON judgements "
        "WHEN NEW.superseded_by IS NOT OLD.superseded_by AND NOT ("
        "(OLD.superseded_by IS NULL OR EXISTS "
        "(SELECT 1 FROM retractions WHERE judgement_id = OLD.superseded_by)) AND "
        "(NEW.superseded_by IS NULL OR EXISTS (SELECT 1 FROM judgements "
        "WHERE id = NEW.superseded_by AND id > OLD.id AND user = OLD.user))) "
        "BEGIN SELECT RAISE(ABORT, 'what is superseded stays so: the log is append-only'); END"
    )
    return made


def canonical(value: Any) -> str:
    """JSON in one form only: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: it holds NaN or infinity, or half of a surrogate pair.
        TypeError: it holds something that JSON has not.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    text.encode()
    return text


def digest(table: str, row: Mapping[str, Any], number: int, prev_hash: str) -> str:
    """SHA-256 over what a row follows and what it says."""
    columns = (CHAINED | ROSTER)[table]
    text = canonical([prev_hash, number, table, [row[column] for column in columns]])
    return hashlib.sha256(text.encode()).hexdigest()


def chain(
    connection: sqlite3.Connection, tables: Mapping[str, Iterable[str]], where: str, *values: Any
) -> list[tuple[str, sqlite3.Row]]:
    """(table, row) of a chain in its order; `where` picks the rows."""
    found = []
    for table in tables:
        rows = connection.execute(f"SELECT * FROM {table} WHERE {where}", values)
        found.extend((table, row) for row in rows)
    return sorted(found, key=lambda pair: pair[1]["number"])
