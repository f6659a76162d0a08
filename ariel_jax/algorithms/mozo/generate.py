"""Private answers under a ledger: reserved before a demonstration is seen, settled by what was made."""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import numpy as np

from ariel_jax._checks import one_of, positive_int
from ariel_jax._checks import seed as check_seed
from ariel_jax.algorithms.mozo import spending, store
from ariel_jax.algorithms.mozo.decoding import Answer, MixedDecoder, suffix_tokens
from ariel_jax.algorithms.mozo.demos import Encoded
from ariel_jax.algorithms.mozo.draws import Draw, Subsets
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.algorithms.mozo.report import NOT_PRIVATE, PrivacyReport, make_report
from ariel_jax.algorithms.mozo.store import Place
from ariel_jax.decode.stream import TextModel
from ariel_jax.errors import BudgetExceededError, ConfigError
from ariel_jax.privacy.ledger import Ledger, Ticket
from ariel_jax.privacy.random import secure_key
from ariel_jax.privacy.renyi import FREE

OnExhausted = Literal["raise", "public"]


class Session:
    """Answers to several queries from one set of private demonstrations, under one reservation.

    Use it as a context manager, or call `close`: what was not made is given back then. Whoever dies
    before has spent all of it.

    Guarantees:
        The price of all queries at their full length is reserved before a pass of the model sees a
        demonstration. No more blocks and tokens are made than were reserved. What is charged is the price
        of the blocks that were started (without draws: of the tokens that were drawn). Threads answer one
        after the other, so that no two queries share a number, and with it draws and a key; a forked child,
        which has the same key, is refused.
    """

    def __init__(
        self,
        model: TextModel,
        encoded: Encoded,
        plan: Plan,
        ledger: Ledger,
        *,
        n_queries: int = 1,
        on_exhausted: OnExhausted = "raise",
        place: Place = "auto",
        most_bytes: int = 2 << 30,
        seed: int | None = None,
        insecure_seed_ok: bool = False,
    ) -> None:
        """Reserves the price of `n_queries`; nothing private is computed yet.

        Args:
            model: with tokenizer and weights.
            encoded: the demonstrations, from `demos.encode`.
            plan: how they are drawn and mixed, such as from `plan_for`.
            ledger: the account that pays.
            n_queries: that may be answered.
            on_exhausted: what happens where the budget does not cover them, or to a query beyond them:
                `raise`, or `public`, an answer from the zero-shot row alone, which is free.
            place: where keys and values of the demonstrations are kept, see `store.build`. `auto` reads all
                of them into a store only where `n_queries` of the plan read as many rows without one.
            most_bytes: of a store that `place="auto"` makes.
            seed: of draws and tokens, for tests: who knows it knows the demonstrations as well as the text
                does. Needs `insecure_seed_ok`, and marks the account as not private for good. None: keys
                from the operating system.
            insecure_seed_ok: that the above is understood.

        Raises:
            BudgetExceededError: the budget does not cover it, and `on_exhausted` is `raise`.
            AccountingMismatchError: the plan is not for these demonstrations, or not for this account.
            PrivacyUnitError: the plan prices another number of an owner's demonstrations together.
            ConfigError: a seed without `insecure_seed_ok`, or a setting out of range.
            StorageError: the ledger could not be written.
        """
        positive_int(n_queries=n_queries)
        one_of(("raise", "public"), on_exhausted=on_exhausted)
        check_seed(seed=seed)
        if seed is not None and not insecure_seed_ok:
            raise ConfigError(
                f"seed={seed} is not allowed: with a known seed the text is a function of the demonstrations, "
                "and no budget protects them. Leave it out, or pass insecure_seed_ok=True for a test: the "
                "account is then marked as not private."
            )
        self.plan, self.ledger, self.n_queries = plan, ledger, n_queries
        self.on_exhausted = on_exhausted
        self._subsets = Subsets.of(plan, encoded, seed=seed)
        if place == "auto":
            place = store.choose(
                model.cfg,
                model.params,
                encoded,
                n_reads=n_queries * len(plan.blocks()) * (plan.config.n_slots + 1),
                n_planned=plan.n_demonstrations,
                most_bytes=most_bytes,
            )
        self._decoder = MixedDecoder(
            model,
            encoded,
            plan.config,
            plan.numbers,
            max_tokens=plan.max_tokens,
            redraw_every=plan.redraw_every,
            place=place,
            most_bytes=most_bytes,
        )
        self._key = secure_key() if seed is None else jax.random.key(seed)
        self._blocks: list[int] = []  # of each query that was begun
        self._tokens: list[int] = []
        self._n_public = 0
        self._used = FREE[plan.relation]
        self._lock, self._is_busy, self._process = threading.RLock(), False, os.getpid()
        self._ticket = self._reserve()
        self._is_open = True
        if seed is not None and self._ticket is not None:
            ledger.void(
                f"{NOT_PRIVATE}: answers were drawn with a seed that somebody chose (reservation "
                f"{self._ticket.number})"
            )

    def _reserve(self) -> Ticket | None:
        try:
            return spending.reserve(
                self.ledger, self.plan, self.n_queries, details={"system": "mozo"}
            )
        except BudgetExceededError:
            if self.on_exhausted == "raise":
                raise
            return None

    @property
    def queries_left(self) -> int:
        """Queries that may still be answered with demonstrations."""
        return self.n_queries - len(self._blocks) if self._ticket is not None else 0

    def answer(
        self,
        query: str | Sequence[int],
        *,
        on_block: Callable[[list[int]], None] | None = None,
    ) -> Answer:
        """The answer to one query. The same query again is another query, and another charge.

        Args:
            query: a text for the format's `query`, or token ids.
            on_block: called with the new tokens after each block.

        Raises:
            BudgetExceededError: all queries are answered, and `on_exhausted` is `raise`.
            ConfigError: the query is empty or too long, which costs nothing; or the session is closed, of
                another process, or called from its own `on_block`.
            ModelOutputError: the zero-shot row has NaN or infinite logits.
            RowCouplingError: in this model rows are not independent.
        """
        with self._alone():
            if not self._is_open:
                raise ConfigError("this session is closed and settled: open another one.")
            self._decoder.suffix(query)  # refused before anything is charged
            if self.queries_left < 1:
                return self._answer_publicly(query, on_block)
            return self._answer_privately(query, on_block)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the session for one call."""
        if os.getpid() != self._process:  # before the lock: a thread of the parent may have held it
            raise ConfigError(
                f"this session belongs to process {self._process} and its key with it; this is {os.getpid()}: "
                "open another session here."
            )
        with self._lock:
            if self._is_busy:
                raise ConfigError(
                    "this session is in the middle of an answer: call it when that has been returned, not "
                    "from on_block."
                )
            self._is_busy = True
            try:
                yield
            finally:
                self._is_busy = False

    def _answer_privately(
        self, query: str | Sequence[int], on_block: Callable[[list[int]], None] | None
    ) -> Answer:
        number = len(self._blocks)
        lengths = self.plan.blocks()
        self._blocks.append(0)
        self._tokens.append(0)

        def begun(blocks: int) -> None:
            # In full, until it is known what was drawn: an error must not make it cheaper.
            self._blocks[number], self._tokens[number] = blocks, sum(lengths[:blocks])

        answer = self._decoder.answer(
            query,
            lambda block: self._subsets.draw(number, block),
            jax.random.fold_in(self._key, number),
            on_start=begun,
            on_block=on_block,
        )
        self._tokens[number] = len(answer.tokens)
        return answer

    def _answer_publicly(
        self, query: str | Sequence[int], on_block: Callable[[list[int]], None] | None
    ) -> Answer:
        if self.on_exhausted == "raise":
            terms, stands = self.ledger.terms, self.ledger.epsilon()
            raise BudgetExceededError(
                f"the {self.n_queries} queries that this session has reserved are answered: open a session "
                "for more, or pass on_exhausted='public' for answers without demonstrations.",
                needed=stands,
                left=max(terms.epsilon - stands, 0.0),
                most_tokens=0,
            )
        self._n_public += 1
        nobody = Draw(rows=np.full(self.plan.config.n_slots, -1, np.int64))
        # Far from the numbers of paid queries, which these keys must not meet.
        key = jax.random.fold_in(self._key, self.n_queries + self._n_public)
        return self._decoder.answer(
            query, lambda block: nobody, key, on_block=on_block, is_private=False
        )

    def report(self) -> PrivacyReport:
        """What the answers so far guarantee; before `close` the whole reservation counts."""
        with self._lock:
            return self._report()

    def _report(self) -> PrivacyReport:
        used = self._used
        if self._is_open and self._ticket is not None:
            used = self._ticket.price
        found = self.ledger.report()
        return make_report(
            self.plan,
            self.ledger.terms,
            used,
            ledger=str(self.ledger.path),
            account_epsilon=found["epsilon_with_reservations"],
            void=found["void"],
            planned_queries=0 if self._ticket is None else self.n_queries,
            queries=len(self._blocks),
            public_queries=self._n_public,
            tokens=sum(self._tokens),
            blocks=sum(self._blocks),
        )

    def close(self) -> None:
        """Charges what was made and gives the rest back; a second time it does nothing.

        Raises:
            StorageError: it could not be written; the whole reservation stands.
            ConfigError: the session is of another process, or in the middle of an answer.
        """
        with self._alone():
            if not self._is_open:
                return
            self._is_open = False
            if self._ticket is not None:
                self._used = self.plan.settled(self._blocks, self._tokens)
                spending.settle(
                    self.ledger,
                    self._ticket,
                    self.plan,
                    blocks_started=self._blocks,
                    tokens=self._tokens,
                )

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Answers in the order of the queries, and what they guarantee."""

    answers: tuple[Answer, ...]
    privacy: PrivacyReport

    @property
    def texts(self) -> list[str]:
        """Of the answers."""
        return [answer.text for answer in self.answers]


def generate(
    model: TextModel,
    encoded: Encoded,
    queries: str | Sequence[str],
    plan: Plan,
    ledger: Ledger,
    *,
    on_exhausted: OnExhausted = "raise",
    place: Place = "auto",
    most_bytes: int = 2 << 30,
    seed: int | None = None,
    insecure_seed_ok: bool = False,
    on_answer: Callable[[int, Answer], None] | None = None,
) -> Generation:
    """Answers queries from private demonstrations, all under one reservation.

    Args:
        model: as for `Session`.
        encoded: as for `Session`.
        queries: a text or several.
        plan: as for `Session`.
        ledger: as for `Session`.
        on_exhausted: as for `Session`.
        place: as for `Session`.
        most_bytes: as for `Session`.
        seed: as for `Session`.
        insecure_seed_ok: as for `Session`.
        on_answer: called with (number, answer) after each.

    Raises:
        ConfigError: no queries, or one that does not fit the model; nothing was reserved then.
        BudgetExceededError: the budget does not cover all of them; nothing was computed.
        AccountingMismatchError, PrivacyUnitError, ModelOutputError, RowCouplingError, StorageError: as for
            `Session` and `Session.answer`.
    """
    texts = [queries] if isinstance(queries, str) else list(queries)
    if not texts:
        raise ConfigError("there are no queries: pass at least one text.")
    for text in texts:
        suffix_tokens(model, encoded, text, max_tokens=plan.max_tokens)
    answers = []
    with Session(
        model,
        encoded,
        plan,
        ledger,
        n_queries=len(texts),
        on_exhausted=on_exhausted,
        place=place,
        most_bytes=most_bytes,
        seed=seed,
        insecure_seed_ok=insecure_seed_ok,
    ) as session:
        for number, text in enumerate(texts):
            answers.append(session.answer(text))
            if on_answer is not None:
                on_answer(number, answers[-1])
    return Generation(answers=tuple(answers), privacy=session.report())
