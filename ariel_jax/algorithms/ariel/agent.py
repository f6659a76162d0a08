"""One user's privacy judge: judges, asks, remembers and proves, over one log; host only.

After Flemings et al. (arXiv 2512.05065). A decision is returned only when it is on the disk: what cannot be
logged is not shared. Only the user's own judgements are premises.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ariel_jax._checks import one_of
from ariel_jax.algorithms.ariel import (
    answering,
    explain,
    guarding,
    proof,
    proof_check,
    query,
    questions,
    reading,
    vetoes,
)
from ariel_jax.algorithms.ariel.agent_view import AgentView
from ariel_jax.algorithms.ariel.explain import Gap
from ariel_jax.algorithms.ariel.judge import History
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.reading import Mapper, Reading
from ariel_jax.algorithms.ariel.records import Decision, Forecast, Tombstone, request_json
from ariel_jax.algorithms.ariel.remembered import Remembered
from ariel_jax.algorithms.ariel.scorer import PersonalScorer
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.text import is_text_of
from ariel_jax.algorithms.ariel.types import (
    ANY,
    HUMAN_SOURCES,
    SLOTS,
    SOURCES,
    UNSPEC,
    VALUES,
    Edge,
    Judgement,
    Node,
    Outcome,
    Policy,
    Request,
)
from ariel_jax.algorithms.ariel.vetoes import Scorer
from ariel_jax.errors import ConfigError, InvalidRequestError, UnknownNodeError

_Step = Callable[[], object]
_VERDICTS = {"appropriate": "share", "inappropriate": "withhold", "ask": "ask"}


class Ariel:
    """The privacy judge of one user.

    Guarantees:
        With no judgements it always asks. A decision that is returned is in the log with its proof. What
        an agent claims is never a premise. Reading, judging and logging are one step: a proof cites a
        state of the log that existed, whatever other processes record meanwhile.
    """

    def __init__(
        self,
        store: Store,
        user: str,
        *,
        mapper: Mapper | None,
        policy: Policy,
        scorer: Scorer | PersonalScorer | None,
    ):
        """Use `open`; raises ConfigError where the policy needs a scorer and there is none."""
        vetoes.check_scorer(policy, scorer)
        self.store, self.user, self.policy = store, user, policy
        self._mapper, self._scorer = mapper, scorer
        self._lock = threading.RLock()
        self._remembered = Remembered(store, user)
        self._answered_once: set[int] = set()
        self._default_mapper: tuple[str, Mapper] | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        user: str,
        ontology: Ontology | None = None,
        mapper: Mapper | None = None,
        policy: Policy | None = None,
        scorer: Scorer | PersonalScorer | None = None,
        source: str | None = None,
        timeout_s: float = 30.0,
        read_only: bool = False,
    ) -> "Ariel":
        """Opens a user's log, beginning one where there is none.

        Args:
            path: of the file; several users may share it.
            user: whose judgements count.
            ontology: becomes the user's; None: the one that is stored, at first the packaged one.
            mapper: from words to nodes; None: by names and letters (`LexiconMapper`).
            policy: None is `Policy()`.
            scorer: log-odds that the user approves a request: `PersonalScorer()`, by the user's own
                judgements, or another model's. It can turn a verdict into a question and nothing else.
                Where it gives None, a verdict that it could have turned is a question too.
            source: who gives the ontology; needed with one, and it must be the user.
            timeout_s: how long to wait for another process that is writing.
            read_only: write nothing; then nothing can be judged.

        Raises:
            ConfigError: a name or scorer is not allowed; the policy has a veto and there is none; an ontology
                without a source; or, read-only, the user has no log.
            UntrustedSourceError: the source of the ontology is not the user.
            StorageError: the file can be neither opened nor made.
            IntegrityError: it is no privacy log.
        """
        policy = policy or Policy()
        vetoes.check_scorer(policy, scorer)
        if ontology is not None:
            if source is None:
                raise ConfigError(
                    "ontology= needs source=: say who gives it, as source='user_cli'."
                )
            answering.check_human(source)
        store = Store(path, timeout_s=timeout_s, read_only=read_only)
        try:
            if read_only:
                names = store.users()
                if user not in names:
                    raise ConfigError(f"user={user!r} has no log in {path}: it has {list(names)}.")
            else:
                with store.transaction():
                    is_new = store.add_user(user)
                    if ontology is None and is_new:
                        ontology = Ontology.core()
                    if ontology is not None:
                        store.set_ontology(user, ontology, why="opened")
        except BaseException:
            store.close()
            raise
        return cls(store, user, mapper=mapper, policy=policy, scorer=scorer)

    def close(self) -> None:
        """Closes the log."""
        self.store.close()

    def __enter__(self) -> "Ariel":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def ontology(self) -> Ontology:
        """The user's facts, as they stand in the log."""
        with self._lock:
            return self._refresh().closures.ontology

    def _refresh(self) -> History:
        """The history as the log has it now."""
        return self._remembered.history()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One step on the log. What was read in a step that is undone is not remembered."""
        with self._lock:
            try:
                with self.store.transaction():
                    yield
            except BaseException:
                self._remembered.clear()
                raise

    def _text_mapper(self, ontology: Ontology) -> Mapper:
        if self._mapper is not None:
            return self._mapper
        if self._default_mapper is None or self._default_mapper[0] != ontology.nodes_hash:
            from ariel_jax.algorithms.ariel.mapper import LexiconMapper

            self._default_mapper = (ontology.nodes_hash, LexiconMapper(ontology.nodes))
        return self._default_mapper[1]

    def judge(self, request: Request) -> Decision:
        """Judges a disclosure, logs the decision and returns it.

        Args:
            request: of ids of nodes. An id that is no node is asked about, and not written down.

        Raises:
            InvalidRequestError: `ANY`, or nothing in `data`.
            StorageError: it could not be logged; share nothing.
            IntegrityError: the log was changed.
        """
        return self._decide(request_json(request), request.task_text, words=False)

    def record_and_judge(
        self, said: Request, value: str, source: str, request: Request
    ) -> tuple[Judgement, Decision]:
        """Writes down what the user says and judges by it, as one step: one commit in place of two.

        Both are on the disk when it returns, and neither is where it raises; it raises what they raise.

        Args:
            said: what the user speaks of, as for `record`.
            value: as for `record`.
            source: as for `record`.
            request: as for `judge`.
        """
        made: list[Judgement] = []
        decision = self._decide(
            request_json(request), request.task_text, words=False,
            before=lambda: made.append(self.record(said, value, source)),
        )  # fmt: skip
        return made[0], decision

    def judge_text(
        self,
        *,
        data: str | Sequence[str],
        recipient: str,
        purpose: str = "",
        principle: str = "",
        subject: str = "",
        sender: str = "",
        task_text: str = "",
    ) -> Decision:
        """Judges a disclosure that is given in words (ids are words too); what is not understood is asked.

        Raises:
            InvalidRequestError: no data, no recipient, or a text that is too long.
            StorageError: it could not be logged; share nothing.
            IntegrityError: the log was changed.
        """
        slots = {"data": data, "recipient": recipient, "purpose": purpose, "principle": principle,
                 "subject": subject, "sender": sender}  # fmt: skip
        return self._decide({s: text for s, text in slots.items() if text}, task_text, words=True)

    def _decide(
        self, slots: Mapping[str, Any], task_text: str, *, words: bool, before: _Step | None = None
    ) -> Decision:
        # Read and scored outside of the transaction, which keeps others from writing; `before` is inside.
        start = time.perf_counter()
        ontology = self._remembered.ontology or self.ontology
        while True:
            mapper = self._text_mapper(ontology) if words else None
            found = reading.read(slots, ontology, mapper, task_text=task_text)
            score = vetoes.score_of(found, self._scorer)
            with self._writing():
                history = self._refresh()
                if history.closures.ontology.hash != ontology.hash:
                    ontology = history.closures.ontology
                    continue  # the facts are others than it was read by: read it again
                if before is not None:
                    before()
                    history = self._refresh()
                outcome, score = vetoes.decide(found, history, self.policy, self._scorer, score)
                return self._log(found, outcome, history, score, start)

    def _log(
        self, found: Reading, outcome: Outcome, history: History, score: float | None, start: float
    ) -> Decision:
        made = proof.build(
            outcome, found.request, history, self.policy, user=self.user, mapping=found.entries,
            mapper=found.mapper, score=score, previous_hash=self.store.previous_decision_hash(self.user),
            text_key=self.store.text_key(self.user) if found.request.task_text else None,
        )  # fmt: skip
        asked = None
        if outcome.verdict == "ask" or outcome.against:
            asked = questions.question(
                found.request, outcome, history, unmapped=found.unmapped, score=score,
                disclosed=self.store.disclosed(self.user, found.request.recipient),
            )  # fmt: skip
        return self.store.append_decision(
            self.user, found.request, outcome, proof.canonical(made), question=asked,
            ontology_hash=history.closures.ontology.hash,
            latency_us=int((time.perf_counter() - start) * 1e6),
        )  # fmt: skip

    def judge_many(self, requests: Iterable[Request]) -> list[Forecast]:
        """What `judge` would say about many requests, in order; for evaluation: nothing is logged.

        Unknown ids, the scorer and its vetoes count as they do there. A forecast is no permission: nothing
        may be shared by it, it has no verdict and no proof.

        Raises:
            InvalidRequestError: as for `judge`, of any of them.
            StorageError: the log cannot be read.
            IntegrityError: the log was changed.
        """
        given, ontology = list(requests), self._remembered.ontology or self.ontology
        while True:
            asked = vetoes.Asked(given, ontology, self._scorer)
            with self._lock:
                history = self._refresh()
                if history.closures.ontology.hash == ontology.hash:
                    return asked.forecasts(history, self.policy)
            ontology = history.closures.ontology  # others than they were read by: read them again

    def understand(self, **slots: str | Sequence[str]) -> Request:
        """The request that ids or words name, for `record`; `ANY` may stand in a slot.

        Args:
            **slots: as for `judge_text`; empty ones are left out.

        Raises:
            InvalidRequestError: no data, no recipient, or a text that is too long.
            UnknownNodeError: something is not understood; it names the nearest nodes.
        """
        with self._lock:
            ontology = self.ontology
            mapper = self._text_mapper(ontology)
        said = {slot: text for slot, text in slots.items() if text}
        found = reading.read(said, ontology, mapper, allow_any=True)
        for entry in found.unmapped:
            nearest = tuple(name for name, _ in entry["candidates"])
            raise UnknownNodeError(
                f"{entry['slot']}={said[entry['slot']]!r} is not understood: "
                + (f"did you mean {' or '.join(nearest)}? " if nearest else "")
                + "Name a node; `ariel-jax privacy ontology` lists them.",
                slot=entry["slot"], node=str(said[entry["slot"]]), nearest=nearest,
            )  # fmt: skip
        return found.request

    def record(
        self,
        request: Request,
        value: str,
        source: str,
        *,
        note: str = "",
        supersedes: Iterable[int] = (),
    ) -> Judgement:
        """Writes down what the user says about a request.

        Args:
            request: ids of nodes; `ANY` where the user means whatever it is.
            value: `appropriate`, `inappropriate`, or `ask`: always ask about this.
            source: who said it, one of `SOURCES`. What has the source `agent_claimed` is kept for audit and
                is never a premise.
            note: for people, without values of data.
            supersedes: ids of other judgements that do not stand any more.

        Raises:
            UnknownNodeError: no such node.
            ConfigError: a value or source is not allowed.
            StorageError: it could not be written.
        """
        one_of(VALUES, value=value)
        one_of(SOURCES, source=source)
        reading.check_text(task_text=request.task_text, note=note)
        with self._writing():
            self._check_nodes(request)
            return self.store.append_judgement(
                self.user, request, value, source, note=note, supersedes=supersedes
            )

    def _check_nodes(self, request: Request) -> None:
        ontology = self.ontology
        for slot in SLOTS:
            for node in request.slot(slot):
                if slot == "data" and node == UNSPEC:
                    raise InvalidRequestError("data=UNSPEC is not allowed: name what it is about.")
                if node not in (ANY, UNSPEC):
                    ontology.node(slot, node)

    def answer(
        self,
        decision: Decision | int,
        value: str,
        *,
        once: bool = False,
        generalise: Mapping[str, str] | None = None,
        slots: Mapping[str, str | Sequence[str]] | None = None,
        supersedes: Iterable[int] = (),
        retract_edges: Iterable[int] = (),
        source: str = "user_elicited",
    ) -> Decision:
        """Writes down the user's answer to a question; the answer is a judgement, unless it is for once.

        Args:
            decision: that asked.
            value: `appropriate`, `inappropriate`, or `ask`: always ask about this, and nothing is shared now.
            once: this one disclosure only: no judgement is made of it.
            generalise: slot to a wider node, or `ANY`, that the answer is meant for; it must cover the
                request, as `isa` edges let it.
            slots: what was meant, by slot, where the question was about words that were not understood: one
                node for each of them, and nothing else is replaced. The decision's `about` shows the whole.
            supersedes: of a conflict: judgements that do not stand any more.
            retract_edges: of a conflict: facts that are wrong.
            source: who answers; it must be the user.

        Returns:
            The decision, answered.

        Raises:
            UntrustedSourceError: the source is not the user.
            ConfigError: it asked nothing, was answered before, or an argument is not allowed.
            StorageError: it could not be written; share nothing.
        """
        one_of(VALUES, value=value)
        answering.check_human(source)
        number = decision if isinstance(decision, int) else decision.id
        wide = dict(generalise or {})
        if once and (value == "ask" or wide or slots or list(supersedes) or list(retract_edges)):
            raise ConfigError(
                "once=True is for 'appropriate' or 'inappropriate' alone: leave the other arguments out, or "
                "leave it out to make a judgement."
            )
        with self._writing():
            found = self.store.decision(number, self.user)
            judgement = meant = None
            for edge in retract_edges:
                self.retract_edge(edge, source=source)
            if not once:
                meant = answering.meant(found, slots or {})
                self._check_nodes(meant)
                request = answering.widened(meant, wide, value, self._refresh().closures)
                note = f"answer to decision {number}"
                judgement = self.record(request, value, source, note=note, supersedes=supersedes)
            self.store.append_answer(
                self.user, number, f"{value}{' once' if once else ''}", _VERDICTS[value], source,
                generalise=wide, judgement_id=None if judgement is None else judgement.id,
                meant=None if meant is None or meant.key == found.request.key else meant,
            )  # fmt: skip
            answered = self.store.decision(number, self.user)
        if once:
            self._answered_once.add(number)
        return answered

    def picks_up(self, decision: Decision) -> bool:
        """Whether an answer for once is shown for the first time, to whoever asked; False ever after."""
        with self._lock:
            is_first = decision.id in self._answered_once
            self._answered_once.discard(decision.id)
        return is_first

    def open_questions(self) -> list[Decision]:
        """Decisions that asked and wait for an answer, oldest first."""
        found = self.store.decisions(self.user)
        return [d for d in found if d.question is not None and d.answer is None]

    def retract(self, judgement_id: int, *, source: str) -> Judgement:
        """Takes a judgement back as if it had never been: what it superseded stands again.

        Raises:
            ConfigError: no such judgement.
            UntrustedSourceError: the source is not the user.
            StorageError: it could not be written.
        """
        answering.check_human(source)
        return self.store.retract(self.user, judgement_id, source)

    def set_ontology(self, ontology: Ontology, *, why: str, source: str) -> None:
        """Makes other facts the user's.

        Raises:
            UntrustedSourceError: the source is not the user.
            StorageError: it could not be written.
        """
        answering.check_human(source)
        self.store.set_ontology(self.user, ontology, why=why)

    def retract_edge(self, edge_id: int, *, source: str) -> None:
        """Says that a fact does not hold; raises what `Ontology.retract` and `set_ontology` raise."""
        with self._writing():
            changed = self.ontology.retract(edge_id)
            self.set_ontology(changed, why=f"retracted edge {edge_id}", source=source)

    def confirm_edge(self, edge_id: int, *, source: str) -> None:
        """Says that a proposed fact holds; raises what `Ontology.confirm` and `set_ontology` raise."""
        with self._writing():
            changed = self.ontology.confirm(edge_id)
            self.set_ontology(changed, why=f"confirmed edge {edge_id}", source=source)

    def add(self, *, nodes: Iterable[Node] = (), edges: Iterable[Edge] = (), source: str) -> None:
        """Adds nodes and facts; raises what `Ontology.of` and `set_ontology` raise."""
        with self._writing():
            changed = self.ontology.with_nodes(*nodes).with_edges(*edges)
            self.set_ontology(changed, why="added by the user", source=source)

    def explain(self, decision: Decision | int) -> str:
        """Why, in words.

        Raises:
            ConfigError: no such decision.
        """
        found = self.decision(decision)
        return explain.explain(found.proof, self._facts(found))

    def why_not(self, decision: Decision | int, verdict: str = "share") -> tuple[Gap, ...]:
        """What the closest judgements that stand now lack to give another verdict; each has a `text`.

        Raises:
            ConfigError: no such decision, or verdict.
        """
        found = self.decision(decision)
        with self._lock:
            return explain.why_not(found.request, verdict, self._refresh(), self.policy)

    def decision(self, decision: Decision | int) -> Decision:
        """A decision as the log has it now.

        Raises:
            ConfigError: the user has no such decision.
        """
        wanted = decision if isinstance(decision, int) else decision.id
        return self.store.decision(wanted, self.user)

    def _facts(self, found: Decision) -> Ontology:
        facts = self.store.ontology(self.user, version=found.ontology_hash)
        if facts is None:
            raise ConfigError(f"the facts that decision {found.id} used are not in the log.")
        return facts

    def rules(self) -> list[dict[str, Any]]:
        """The judgements that stand, as JSON."""
        ontology = self.ontology
        found = [j for j in self.store.judgements(self.user) if j.source in HUMAN_SOURCES]
        return [questions.rule(judgement, ontology) for judgement in found]

    def verify(self, decision: Decision | int | None = None) -> int:
        """Checks the chains of the log, and the proof of one decision or of all, by the independent checker.

        A proof is held against the judgements and facts of its time.

        Returns:
            How many proofs were checked.

        Raises:
            IntegrityError: a row or a proof does not hold; the message names it.
            ConfigError: no such decision.
        """
        self.store.verify()
        wanted = None if decision is None else self.decision(decision).id
        return proof_check.check_proofs(self.store, self.user, wanted)

    def is_text(self, proof: Decision | int | Mapping[str, Any], text: str) -> bool:
        """Whether this is the `task_text` that a decision, or a proof of one, was asked with.

        Raises:
            ConfigError: no such decision, no proof, or the log has no key for it.
        """
        of = proof if isinstance(proof, Mapping) else self.decision(proof).proof
        return is_text_of(of, text, self.store.known_text_key(self.user))

    def guard(
        self,
        *,
        data: str | Sequence[str] | Callable[..., str | Sequence[str]],
        recipient: str | Callable[..., str],
        purpose: str | Callable[..., str] = "",
        principle: str = "",
        on_ask: Callable[[Decision], Any] | None = None,
    ) -> Callable[[Any], Any]:
        """Decorates a function that discloses something: it runs only where that may be shared.

        Args:
            data: what it discloses, as for `judge_text`; or a function of its arguments that says so.
            recipient: to whom, likewise.
            purpose: what for, likewise.
            principle: under which transmission principle.
            on_ask: asks the user. It returns True or False for this once, `appropriate`, `inappropriate` or
                `ask` for a judgement, or None: no answer. It must ask a person: what it returns counts as
                the user's word.

        The function raises `DisclosureDenied` where the verdict is not to share, and then has not run.
        """
        return guarding.guard(
            self, {"data": data, "recipient": recipient, "purpose": purpose, "principle": principle}, on_ask
        )  # fmt: skip

    def for_agent(self) -> AgentView:
        """What an agent may be handed: it can ask and look, and write no judgement."""
        return AgentView(self)

    def forget(self) -> Tombstone:
        """Deletes all that the log has about this user, for good; afterwards it must be opened anew.

        Raises:
            StorageError: it could not be written, or another process keeps old pages in use.
        """
        with self._lock:
            self._remembered.clear()
            return self.store.forget(self.user)

    def log(self, where: str = "") -> list[dict[str, Any]]:
        """The user's decisions, oldest first, one flat row each.

        Args:
            where: a condition in SQL over the columns of `query.COLUMNS`, such as `verdict = 'share'`.

        Raises:
            ConfigError: the condition is no such condition.
        """
        return query.select(self.store.decisions(self.user), where)
