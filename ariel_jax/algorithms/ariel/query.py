"""Questions to a user's decisions in SQL, and exports of the log; host only."""

import csv
import io
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel import schema
from ariel_jax.algorithms.ariel.records import Decision
from ariel_jax.algorithms.ariel.types import SLOTS, Judgement
from ariel_jax.errors import ConfigError

COLUMNS = (
    "id", "created_at", "verdict", "rule", "reason", *SLOTS, "premises", "answer", "answered",
    "ontology_hash", "latency_us",
)  # fmt: skip
"""Of a decision as one flat row; several items in `data` are joined by a blank."""
_MOST_S = 5.0
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


def row_of(decision: Decision) -> dict[str, Any]:
    """A decision as one flat row with `COLUMNS`."""
    outcome, request = decision.outcome, decision.request
    return {
        "id": decision.id, "created_at": decision.created_at, "verdict": outcome.verdict,
        "rule": outcome.rule, "reason": outcome.reason,
        **{slot: " ".join(request.slot(slot)) for slot in SLOTS},
        "premises": " ".join(map(str, outcome.premises)), "answer": decision.answer,
        "answered": decision.answered, "ontology_hash": decision.ontology_hash,
        "latency_us": decision.latency_us,
    }  # fmt: skip


def select(decisions: Iterable[Decision], where: str = "") -> list[dict[str, Any]]:
    """Flat rows of the decisions that meet a condition.

    The condition runs over a copy of these rows in memory, and may read and nothing else: it reaches no
    file and no other user's rows.

    Args:
        decisions: of one user.
        where: in SQL over `COLUMNS`; empty for all.

    Raises:
        ConfigError: it is no condition, wants more than to read, or takes longer than five seconds.
    """
    rows = [row_of(decision) for decision in decisions]
    if not where.strip():
        return rows
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute(f"CREATE TABLE log ({', '.join(COLUMNS)})")
        marks = ", ".join("?" * len(COLUMNS))
        connection.executemany(
            f"INSERT INTO log VALUES ({marks})", [tuple(r.values()) for r in rows]
        )
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
        end = time.monotonic() + _MOST_S
        connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
        )
        kept = {row[0] for row in connection.execute(f"SELECT id FROM log WHERE ({where}\n)")}
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise ConfigError(
            f"where={where!r} is not allowed: {error}. Pass a condition in SQL over {', '.join(COLUMNS)}, "
            "such as verdict = 'share'."
        ) from error
    finally:
        connection.close()
    return [row for row in rows if row["id"] in kept]


def judgement_row(judgement: Judgement) -> dict[str, Any]:
    """A judgement as one flat row."""
    request = judgement.request
    return {
        "id": judgement.id, "created_at": judgement.created_at, "value": judgement.value,
        "source": judgement.source, "superseded_by": judgement.superseded_by,
        **{slot: " ".join(request.slot(slot)) for slot in SLOTS},
    }  # fmt: skip


def export(
    what: str, form: str, decisions: Sequence[Decision], judgements: Sequence[Judgement]
) -> str:
    """A user's log as text.

    Args:
        what: `decisions` or `judgements`.
        form: `jsonl` (decisions with their proofs) or `csv`.
        decisions: to write.
        judgements: to write.

    Raises:
        ConfigError: no such kind or form.
    """
    one_of(("decisions", "judgements"), what=what)
    one_of(("jsonl", "csv"), form=form)
    rows: list[Mapping[str, Any]]
    if what == "judgements":
        rows = [judgement_row(judgement) for judgement in judgements]
    elif form == "jsonl":
        rows = [row_of(d) | {"hash": d.hash, "proof": json.loads(d.proof_json)} for d in decisions]
    else:
        rows = [row_of(decision) for decision in decisions]
    if form == "jsonl":
        return "".join(schema.canonical(row) + "\n" for row in rows)
    text = io.StringIO()
    names = COLUMNS if what == "decisions" else tuple(rows[0]) if rows else ("id",)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row[name]) for name in names} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    is_formula = isinstance(value, str) and value[:1] in "=+-@\t\r" and value[:1] != ""
    return "'" + value if is_formula else value
