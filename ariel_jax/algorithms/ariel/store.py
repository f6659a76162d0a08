"""ARIEL's log: judgements, decisions with proofs, questions and answers in one sqlite file; host only."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel import schema
from ariel_jax.algorithms.ariel.log_check import check_user, supersession
from ariel_jax.algorithms.ariel.log_file import LogFile
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.records import (
    LIMIT,
    Decision,
    State,
    check_request,
    judgement_of,
    outcome_of,
    request_json,
    request_of,
)
from ariel_jax.algorithms.ariel.text import new_text_key
from ariel_jax.algorithms.ariel.types import (
    HUMAN_SOURCES,
    SOURCES,
    VALUES,
    Judgement,
    Outcome,
    Request,
)
from ariel_jax.errors import ConfigError, IntegrityError, StorageError, UntrustedSourceError


class Store(LogFile):
    """The log of one or more users.

    It holds types of data, never values, and of a task's text a digest under a key of its user alone, in
    the proof; who asked whom for what is sensitive all the same.

    Guarantees:
        The file is readable by its user only. What is written is on the disk when a method returns, and
        nothing of it where one raises. Chained rows are never changed, but for the mark that a judgement
        is superseded; `verify` finds every row that was changed, removed between others or moved.
        `forget` deletes a user's rows from the file.
    """

    def state(self, user: str) -> State:
        """What to compare a history in memory with.

        Raises:
            StorageError: the user has no log here any more, or it cannot be read.
        """
        of = "FROM {} WHERE user = :user ORDER BY number DESC LIMIT 1"  # has an index
        (row,) = self._rows(
            f"SELECT (SELECT hash {of.format('ontology_versions')}) AS version_hash, "
            f"(SELECT hash {of.format('retractions')}) AS retraction_hash, "
            f"(SELECT hash {of.format('judgements')}) AS judgement_hash, "
            f"(SELECT id {of.format('judgements')}) AS judgement",
            {"user": user},
        )
        if row["version_hash"] is None:
            raise StorageError(
                f"the log of user {user!r} is not in {self.path}: it was deleted, or never begun. Open "
                "it again to begin a new one."
            )
        return State(
            version_hash=row["version_hash"], retraction_hash=row["retraction_hash"] or "",
            judgement_hash=row["judgement_hash"] or "", judgement=row["judgement"] or 0,
        )  # fmt: skip

    def judgement_hash(self, user: str, judgement_id: int) -> str:
        """Of the row of a judgement; empty where there is none."""
        rows = self._rows(
            "SELECT hash FROM judgements WHERE user = ? AND id = ?", user, judgement_id
        )
        return rows[0]["hash"] if rows else ""

    def check_chain(
        self, user: str, *, since: tuple[int, str] = (0, schema.ROOT)
    ) -> tuple[int, str]:
        """Recomputes a user's chain, or what of it came after a row that was checked; its head.

        A whole one is held against the marks of what is superseded, too.

        Raises:
            IntegrityError: a row or a mark was changed, removed or put elsewhere.
        """
        with self.snapshot(), self._translated():
            return check_user(self._connection, str(self.path), user, since=since)

    def said_later(self, user: str, *, after: int) -> list[Judgement]:
        """Judgements with a larger id, as they were made: none of them is marked as superseded.

        For a history that takes them one by one, where none supersedes others than those on its nodes.
        """
        found = self.judgements(user, after=after, standing=False)
        return [dataclasses.replace(judgement, superseded_by=None) for judgement in found]

    def set_ontology(self, user: str, ontology: Ontology, *, why: str) -> bool:
        """Makes an ontology the user's; whether it differs from the one before.

        Raises:
            ConfigError: no such user.
            StorageError: it could not be written.
        """
        with self.transaction(), self._translated():
            if self.ontology_hash(user) == ontology.hash:
                return False
            execute, value = self._connection.execute, ontology.as_json()
            execute(
                "INSERT OR IGNORE INTO ontologies VALUES (?, ?)",
                (ontology.hash, schema.canonical(value)),
            )
            row = {"ontology_hash": ontology.hash, "why": why[:LIMIT], "created_at": self._now()}
            self._append("ontology_versions", user, row)
            self._mirror(user, value, row["created_at"])
        return True

    def _mirror(self, user: str, value: Mapping[str, Any], now: str) -> None:
        """Lays the current nodes and edges out in tables, for questions in SQL."""
        execute = self._connection.execute
        before = {
            row["id"]: row for row in execute("SELECT * FROM edges WHERE user = ?", (user,))
        }  # fmt: skip
        execute("DELETE FROM nodes WHERE user = ?", (user,))
        execute("DELETE FROM edges WHERE user = ?", (user,))
        self._connection.executemany(
            "INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?)",
            [
                (user, n["slot"], n["id"], n["label"], schema.canonical(n["aliases"]), n["definition"])
                for n in value["nodes"]
            ],
        )  # fmt: skip
        rows = []
        for edge in value["edges"]:
            old = before.get(edge["id"])
            retracted = None
            if edge["status"] == "retracted":
                retracted = (old and old["retracted_at"]) or now
            rows.append((user, edge["id"], edge["slot"], edge["type"], edge["src"], edge["dst"],
                         edge["scope"], edge["status"], edge["origin"], edge["reason"],
                         old["created_at"] if old else now, retracted))  # fmt: skip
        marks = ", ".join("?" * 12)
        self._connection.executemany(f"INSERT INTO edges VALUES ({marks})", rows)

    def ontology_hash(self, user: str) -> str | None:
        """Of the user's ontology; None where there is none yet."""
        rows = self._rows(
            "SELECT ontology_hash FROM ontology_versions WHERE user = ? ORDER BY number DESC LIMIT 1",
            user,
        )
        return rows[0]["ontology_hash"] if rows else None

    def ontology(self, user: str, *, version: str | None = None) -> Ontology | None:
        """The user's ontology, or an earlier one of theirs by its hash; None where there is none.

        Raises:
            IntegrityError: what is stored has another hash.
        """
        wanted = self.ontology_hash(user) if version is None else version
        rows = self._rows(
            "SELECT json FROM ontologies WHERE hash = ? AND EXISTS (SELECT 1 FROM ontology_versions "
            "WHERE user = ? AND ontology_hash = ontologies.hash)", wanted, user,
        )  # fmt: skip
        if not rows:
            return None
        try:
            found = Ontology.from_json(json.loads(rows[0]["json"]))
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"{self.path}: an ontology of {user!r} was changed: {error}. Restore a copy of the file."
            ) from error
        if found.hash != wanted:
            raise IntegrityError(
                f"{self.path}: an ontology of {user!r} was changed, its hash is another. Restore a copy "
                "of the file."
            )
        return found

    def append_judgement(
        self,
        user: str,
        request: Request,
        value: str,
        source: str,
        *,
        channel: str = "",
        note: str = "",
        supersedes: Iterable[int] = (),
    ) -> Judgement:
        """Adds what the user, or an agent in the user's name, said about a request.

        What a human said supersedes what was said before on the same nodes. What an agent claims
        supersedes nothing and is never a premise.

        Args:
            user: whose.
            request: what about; nothing of its text is kept.
            value: `appropriate`, `inappropriate` or `ask`.
            source: one of `SOURCES`.
            channel: the way it came, for people.
            note: for people; it must hold no values of data.
            supersedes: ids of other judgements that do not stand any more.

        Raises:
            ConfigError: a value or source is not allowed, or `supersedes` names no judgement that stands.
            UntrustedSourceError: an agent wants to supersede.
            StorageError: it could not be written.
        """
        one_of(VALUES, value=value)
        one_of(SOURCES, source=source)
        check_request(request)
        given = sorted(set(supersedes))
        is_human = source in HUMAN_SOURCES
        if given and not is_human:
            raise UntrustedSourceError(
                f"source={source!r} may not supersede the judgements {given}: only the user may."
            )
        nodes = schema.canonical(request_json(request))
        with self.transaction(), self._translated():
            standing = {j.id for j in self.judgements(user)} if given else set()
            if missing := [i for i in given if i not in standing]:
                raise ConfigError(
                    f"supersedes={missing} is not allowed: pass ids of judgements of {user!r} that stand."
                )
            row = self._append("judgements", user, {
                "nodes_json": nodes, "text_sha256": "", "value": value,
                "source": source, "channel": channel[:LIMIT], "created_at": self._now(),
                "supersedes": schema.canonical(given), "note": note[:LIMIT],
            })  # fmt: skip
            if is_human:
                self._supersede(row["id"], user, "nodes_json = ?", nodes)
                for other in given:
                    self._supersede(row["id"], user, "id = ?", other)
        return judgement_of(row)

    def _supersede(self, by: int, user: str, which: str, value: str | int) -> None:
        self._connection.execute(
            f"UPDATE judgements SET superseded_by = ? WHERE user = ? AND {which} AND id < ? "
            "AND superseded_by IS NULL AND source != 'agent_claimed'",
            (by, user, value, by),
        )

    def retract(self, user: str, judgement_id: int, source: str) -> Judgement:
        """Takes a judgement back as if it had never been: what it superseded stands again.

        Raises:
            ConfigError: the user has no such judgement, or it was taken back before.
            UntrustedSourceError: the source is not the user.
            StorageError: it could not be written.
        """
        one_of(SOURCES, source=source)
        if source not in HUMAN_SOURCES:
            raise UntrustedSourceError(
                f"source={source!r} may not take a judgement back: only the user may."
            )
        with self.transaction(), self._translated():
            found = {j.id: j for j in self.judgements(user, standing=False)}
            if judgement_id not in found:
                raise ConfigError(
                    f"judgement {judgement_id} is not allowed: {user!r} has none of that id that was not "
                    "taken back. List them and pass the id of one."
                )
            row = {"judgement_id": judgement_id, "source": source, "created_at": self._now()}
            self._append("retractions", user, row)
            for id_, by in supersession(self._connection, user).items():
                self._connection.execute(
                    "UPDATE judgements SET superseded_by = ? WHERE id = ? AND superseded_by IS NOT ?",
                    (by, id_, by),
                )
        return found[judgement_id]

    def judgements(
        self, user: str, *, after: int = 0, standing: bool = True, retracted: bool = False
    ) -> list[Judgement]:
        """A user's judgements by id.

        Args:
            user: whose.
            after: only those with a larger id.
            standing: only those that are not superseded.
            retracted: those too that were taken back.
        """
        rows = self._rows(
            "SELECT * FROM judgements WHERE user = ? AND id > ? AND (? OR id NOT IN "
            "(SELECT judgement_id FROM retractions WHERE user = ?)) ORDER BY id",
            user, after, retracted, user,
        )  # fmt: skip
        found = [judgement_of(row) for row in rows]
        return [j for j in found if j.superseded_by is None] if standing else found

    def order(self, user: str) -> list[tuple[str, int]]:
        """What happened, in its order: `judgements`, `retractions` or `decisions`, and the id of the row.

        Of a retraction it is the id of the judgement that was taken back.
        """
        rows = self._rows(
            "SELECT 'judgements' AS what, id, number FROM judgements WHERE user = :user UNION ALL "
            "SELECT 'retractions', judgement_id, number FROM retractions WHERE user = :user UNION ALL "
            "SELECT 'decisions', id, number FROM decisions WHERE user = :user ORDER BY 3", {"user": user},
        )  # fmt: skip
        return [(row["what"], row["id"]) for row in rows]

    def also_superseded(self, user: str) -> dict[int, list[int]]:
        """For judgements that supersede some on other nodes: the ids of these."""
        rows = self._rows(
            "SELECT id, supersedes FROM judgements WHERE user = ? AND supersedes != '[]'", user
        )
        return {row["id"]: json.loads(row["supersedes"]) for row in rows}

    def supersedes_others(self, user: str, *, after: int) -> bool:
        """Whether a later judgement supersedes some on other nodes."""
        rows = self._rows(
            "SELECT 1 FROM judgements WHERE user = ? AND id > ? AND supersedes != '[]' LIMIT 1",
            user,
            after,
        )
        return bool(rows)

    def text_key(self, user: str) -> bytes:
        """The user's key for `proof.build`, made when it is first asked for; `forget` deletes it.

        Raises:
            ConfigError: no such user.
            StorageError: it could not be written.
        """
        key = self.known_text_key(user)
        if key is not None:
            return key
        with self.transaction(), self._translated():
            if user not in self.users():
                raise ConfigError(f"user={user!r} has no log in {self.path}: add the user first.")
            self._connection.execute(
                "INSERT OR IGNORE INTO text_keys VALUES (?, ?)", (user, new_text_key())
            )
            return self._rows("SELECT key FROM text_keys WHERE user = ?", user)[0]["key"]

    def known_text_key(self, user: str) -> bytes | None:
        """The user's key, None where no proof has needed one yet."""
        if not self._rows("SELECT 1 FROM sqlite_master WHERE name = 'text_keys'"):
            return None  # a file of version 1 that is only read
        rows = self._rows("SELECT key FROM text_keys WHERE user = ?", user)
        return rows[0]["key"] if rows else None

    def append_decision(
        self,
        user: str,
        request: Request,
        outcome: Outcome,
        proof: bytes,
        *,
        ontology_hash: str,
        latency_us: int,
        question: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Logs a decision, with its question where it asks.

        Raises:
            StorageError: it could not be written, or the facts are not the log's latest; nothing may be
                shared then.
        """
        check_request(request)
        now = self._now()
        with self.transaction():
            if ontology_hash != self.ontology_hash(user):
                raise StorageError(
                    f"a decision for {user!r} rests on facts that are not the latest in {self.path}: share "
                    "nothing, and judge again."
                )
            row = self._append("decisions", user, {
                "request_json": schema.canonical(request_json(request)), "verdict": outcome.verdict,
                "rule": outcome.rule, "outcome_json": schema.canonical(vars(outcome)),
                "proof_json": proof.decode(), "ontology_hash": ontology_hash, "latency_us": latency_us,
                "created_at": now,
            })  # fmt: skip
            asked = None if question is None else schema.canonical(question)
            if asked is not None:
                self._append("escalations", user, {
                    "decision_id": row["id"], "question": asked, "created_at": now
                }, after=row)  # fmt: skip
        nothing_said = {"question": asked, "answer": None, "answered": None, "meant_json": None}
        return self._decision({**dict(row), **nothing_said})

    def previous_decision_hash(self, user: str) -> str:
        """Hash of the user's latest decision; that of no row where there is none."""
        rows = self._rows(
            "SELECT hash FROM decisions WHERE user = ? ORDER BY number DESC LIMIT 1", user
        )
        return rows[0]["hash"] if rows else schema.ROOT

    def append_answer(
        self,
        user: str,
        decision_id: int,
        answer: str,
        verdict: str,
        source: str,
        *,
        generalise: Mapping[str, str] | None = None,
        judgement_id: int | None = None,
        meant: Request | None = None,
    ) -> None:
        """Logs what the user said to a question.

        Args:
            user: whose.
            decision_id: that asked.
            answer: in words of the log.
            verdict: that follows.
            source: of the user.
            generalise: slots that the answer was widened in.
            judgement_id: that was made of it.
            meant: what the answer is about, where the request was not all understood.

        Raises:
            ConfigError: the question was answered before.
            UntrustedSourceError: the source is not the user.
            StorageError: it could not be written; nothing may be shared then.
        """
        one_of(SOURCES, source=source)
        if source not in HUMAN_SOURCES:
            raise UntrustedSourceError(f"source={source!r} may not answer: only the user may.")
        with self.transaction():
            found = self.decision(decision_id, user)
            if found.question is None:
                raise ConfigError(f"decision {decision_id} asked nothing: answer one that asks.")
            if found.answer is not None:
                raise ConfigError(
                    f"decision {decision_id} was answered before ({found.answer}): record a judgement instead."
                )
            self._append("answers", user, {
                "decision_id": decision_id, "answer": answer, "verdict": verdict,
                "generalise": schema.canonical(dict(generalise or {})), "judgement_id": judgement_id,
                "meant_json": "" if meant is None else schema.canonical(request_json(meant)),
                "source": source, "answered_at": self._now(),
            })  # fmt: skip

    def decision(self, decision_id: int, user: str) -> Decision:
        """A decision of a user.

        Raises:
            ConfigError: the user has no such decision.
            IntegrityError: its row was damaged.
        """
        found = self.decisions(user, only=decision_id) if 0 < decision_id < 2**63 else []
        if not found:
            raise ConfigError(
                f"decision {decision_id!r} is not allowed: the log of {user!r} has none of that id. List "
                "them with `ariel-jax privacy log`."
            )
        return found[0]

    def decisions(self, user: str, *, after: int = 0, only: int | None = None) -> list[Decision]:
        """A user's decisions by id."""
        where, values = ("d.id = ?", (only,)) if only is not None else ("d.id > ?", (after,))
        rows = self._rows(
            "SELECT d.*, e.question, a.answer, a.verdict AS answered, a.meant_json "
            "FROM decisions d "
            "LEFT JOIN escalations e ON e.decision_id = d.id LEFT JOIN answers a ON a.decision_id = d.id "
            f"WHERE d.user = ? AND {where} ORDER BY d.id", user, *values,
        )  # fmt: skip
        return [self._decision(dict(row)) for row in rows]

    def _decision(self, row: Mapping[str, Any]) -> Decision:
        try:
            question = None if row["question"] is None else json.loads(row["question"])
            return Decision(
                id=row["id"], user=row["user"], request=request_of(json.loads(row["request_json"])),
                outcome=outcome_of(json.loads(row["outcome_json"])), proof=json.loads(row["proof_json"]),
                proof_json=row["proof_json"], ontology_hash=row["ontology_hash"],
                latency_us=row["latency_us"], created_at=row["created_at"], hash=row["hash"],
                question=question, answer=row["answer"], answered=row["answered"],
                meant=request_of(json.loads(row["meant_json"])) if row["meant_json"] else None,
            )  # fmt: skip
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(
                f"{self.path}: decision {row['id']} was changed: {error}. Restore a copy of the file."
            ) from error

    def disclosed(self, user: str, recipient: str) -> dict[str, int]:
        """How often each item was shared with a recipient, by a verdict or an answer."""
        rows = self._rows(
            "SELECT coalesce(nullif(a.meant_json, ''), d.request_json) AS request_json "
            "FROM decisions d LEFT JOIN answers a ON a.decision_id = d.id WHERE "
            "d.user = ? AND coalesce(a.verdict, d.verdict) = 'share' AND "
            "json_extract(d.request_json, '$.recipient') = ?", user, recipient,
        )  # fmt: skip
        tally: dict[str, int] = {}
        for row in rows:
            for item in json.loads(row["request_json"])["data"]:
                tally[item] = tally.get(item, 0) + 1
        return dict(sorted(tally.items()))
