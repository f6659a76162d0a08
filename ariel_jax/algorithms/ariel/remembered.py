"""A user's history in memory, held against the log each time it is used; host only."""

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.history import History
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.records import State
from ariel_jax.algorithms.ariel.store import Store


class Remembered:
    """What is kept between requests.

    Guarantees:
        `history` gives what the log holds at that moment. A row that was read and then undone, or another
        row under its number, is noticed by its hash. All rows that a history is made of were checked to be
        in the user's chain, and which judgements stand was worked out from what was said.
    """

    def __init__(self, store: Store, user: str):
        """Remembers nothing yet."""
        self._store, self._user = store, user
        self.clear()

    def clear(self) -> None:
        """Forgets all: the next history is made from the log alone."""
        self._state: State | None = None
        self._history: History | None = None
        self._closures: Closures | None = None
        self._head = (0, "")

    @property
    def ontology(self) -> Ontology | None:
        """The facts as they were when the log was last looked at; None where it was not yet."""
        closures = self._closures  # another thread may clear it meanwhile
        return None if closures is None else closures.ontology

    def history(self) -> History:
        """The history as the log has it now.

        Raises:
            IntegrityError: the log was changed.
            StorageError: it cannot be read, or the user has none any more.
        """
        with self._store.snapshot():
            state = self._store.state(self._user)
            if self._state == state and self._history is not None:
                return self._history
            try:
                return self._read(state)
            except BaseException:
                self.clear()
                raise

    def _read(self, state: State) -> History:
        store, user, old, history = self._store, self._user, self._state, self._history
        same_facts = old is not None and old.version_hash == state.version_hash
        closures = self._closures if same_facts else None
        goes_on = (
            closures is not None and history is not None and old is not None
            and old.retraction_hash == state.retraction_hash and old.judgement <= state.judgement
            and store.judgement_hash(user, old.judgement) == old.judgement_hash
            and not store.supersedes_others(user, after=old.judgement)
        )  # fmt: skip
        if goes_on and old is not None and history is not None:
            self._head = store.check_chain(user, since=self._head)
            for judgement in store.said_later(user, after=old.judgement):
                history.add(judgement)
        else:
            self._head = store.check_chain(user)
            if closures is None:
                ontology = store.ontology(user)
                assert ontology is not None  # state() saw a version
                closures = Closures(ontology)
            history = History(closures, store.judgements(user))
        self._state, self._history, self._closures = state, history, closures
        return history
