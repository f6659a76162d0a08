"""Secret draws of records: Poisson samples at one fixed shape."""

import dataclasses
import hashlib
import math
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from ariel_jax._checks import in_range, positive_int
from ariel_jax.errors import ConfigError


def slots(n: int, probability: float, *, multiple: int = 1, failure: float = 1e-12) -> int:
    """Rows that a Poisson sample fits into, but for a probability of `failure`.

    Args:
        n: records; the bound holds for one more, too.
        probability: of each.
        multiple: the result is one of it.
        failure: probability that a draw is larger, by Chernoff's bound.

    Returns:
        At most n + 1, rounded up.
    """
    positive_int(n=n, multiple=multiple)
    in_range(0, 1, ends="(]", probability=probability)
    in_range(0, 1, ends="()", failure=failure)
    low, high = math.floor((n + 1) * probability), n + 1
    while low < high:
        middle = (low + high) // 2
        enough = overflow(n, probability, middle) <= failure
        low, high = (low, middle) if enough else (middle + 1, high)
    return -(-max(low, 1) // multiple) * multiple


def overflow(n: int, probability: float, rows: int) -> float:
    """A bound on the probability that more than `rows` of n + 1 records are drawn.

    References:
        Chernoff's bound for the binomial law, exp(-(n + 1) KL(rows' share || probability)).
    """
    most = n + 1
    share = (rows + 1) / most
    if share > 1:
        return 0.0
    if share <= probability:
        return 1.0
    divergence = share * math.log(share / probability)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - probability))
    return math.exp(-most * divergence)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonSource:
    """A `training.BatchSource` in which every record enters every batch by a coin of its own.

    Attributes:
        records: arrays [n, ...] in a dictionary, one row a record: the unit that is protected.
        probability: of a record to be in a batch.
        rows: of every batch; what is not drawn is padding, rows of zeros.

    Guarantees:
        Every batch has the same shapes, whatever is drawn, an empty draw included. A draw of more than
        `rows` records, whose probability `overflow` bounds, keeps a uniform choice of them; the price
        must say so (`truncation`). The same state gives the same batch in every process.

    The state holds the secret seed of the draws. A price that counts on sampling is worth nothing to
    those who know who was drawn: keep checkpoints secret. NumPy's generator is no cryptographic one.
    """

    records: Mapping[str, np.ndarray]
    probability: float
    rows: int

    def __post_init__(self) -> None:
        """Check lengths and numbers."""
        lengths = {name: len(array) for name, array in self.records.items()}
        if len(set(lengths.values())) != 1 or not self.n:
            raise ConfigError(
                f"records must be arrays of one length of at least 1; got lengths {lengths}."
            )
        in_range(0, 1, ends="(]", probability=self.probability)
        positive_int(rows=self.rows)

    @property
    def n(self) -> int:
        """How many records there are."""
        return len(next(iter(self.records.values()), ()))

    def truncation(self, epsilon: float, steps: int) -> float:
        """What truncated draws add to delta over a run of so many steps.

        References:
            A mechanism that fails with probability t on either of two neighbouring data sets is
            (epsilon, delta + (1 + e^epsilon) t)-private where it is (epsilon, delta)-private otherwise.
        """
        return steps * (1 + math.exp(epsilon)) * overflow(self.n, self.probability, self.rows)

    def init(self) -> dict[str, Any]:
        """The state before the first batch, with a fresh secret seed."""
        return {"step": 0, "seed": secrets.token_hex(32), **self._identity()}

    def _identity(self) -> dict[str, Any]:
        """What the accounting of a run depends on."""
        return {"n": self.n, "probability": self.probability, "rows": self.rows}

    def draw(self, state: Mapping[str, Any]) -> np.ndarray:
        """Numbers of the records of a batch, in order; at most `rows`.

        Raises:
            ConfigError: the state is of another data set.
        """
        for name, now in self._identity().items():
            if state[name] != now:
                raise ConfigError(
                    f"this run drew with {name}={state[name]} and now it is {now}: its accounting holds for "
                    "the former. Go on with the same, or begin another run under the ledger."
                )
        words = np.frombuffer(bytes.fromhex(state["seed"]), np.uint32)
        generator = np.random.default_rng([*words.tolist(), state["step"]])
        # As many coins, drawn at once.
        count = int(generator.binomial(self.n, self.probability))
        drawn = generator.choice(self.n, size=count, replace=False, shuffle=True)
        return np.sort(drawn[: self.rows])

    def next(
        self, state: dict[str, Any]
    ) -> tuple[tuple[dict[str, np.ndarray], np.ndarray], dict[str, Any]]:
        """`((batch, is_padding), state)` after a state; leaves [rows, ...]."""
        return self.batch(self.draw(state)), {**state, "step": state["step"] + 1}

    def batch(self, drawn: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`(batch, is_padding)` of the records of these numbers; leaves [rows, ...]."""
        batch = {}
        for name, array in self.records.items():
            batch[name] = np.zeros((self.rows, *array.shape[1:]), array.dtype)
            batch[name][: len(drawn)] = array[drawn]
        return batch, np.arange(self.rows) >= len(drawn)

    def keys(self, state: Mapping[str, Any], drawn: np.ndarray, words: int) -> np.ndarray:
        """Secret keys of the drawn records for one step, from the seed, the step and each one's number.

        Args:
            state: of the step.
            drawn: numbers of records, at most `rows`.
            words: of a key.

        Returns:
            uint32 [rows, words], zeros for padding.

        Guarantees:
            A record has the same key whoever else was drawn, and another one at every step.
        """
        found = np.zeros((self.rows, words), np.uint32)
        seed, step = bytes.fromhex(state["seed"]), int(state["step"])
        for row, number in enumerate(drawn.tolist()):
            what = f"key of record {number} at step {step}".encode()
            digest = hashlib.blake2b(what, key=seed, digest_size=4 * words).digest()
            found[row] = np.frombuffer(digest, np.uint32)
        return found
