"""How good verdicts are: F1 under three conventions, coverage, false shares, risk by coverage, intervals.

Host only. A verdict is `WITHHOLD`, `SHARE` or `ASK`; what the user would have said is a bool, True where
the disclosure is appropriate. Asking is never counted as right without saying so.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from ariel_jax._checks import one_of
from ariel_jax.errors import ConfigError

WITHHOLD, SHARE, ASK = 0, 1, 2
"""Verdicts as whole numbers."""
NAMES = ("withhold", "share", "ask")
CONVENTIONS = ("decided", "miss", "oracle")
"""How F1 counts what was asked: not at all, as a miss of its class, or as answered by the user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """k of n, with an exact interval.

    Attributes:
        k, n: counts.
        low, high: 95 % Clopper-Pearson interval of k / n; 0 and 1 without observations.
    """

    k: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share k / n; NaN without observations."""
        return self.k / self.n if self.n else math.nan

    def __str__(self) -> str:
        return f"{self.k}/{self.n} [{self.low:.4f}, {self.high:.4f}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What verdicts are worth.

    Attributes:
        n: requests.
        coverage: share that was decided without asking.
        accuracy: of the decided ones; NaN if there are none.
        f1: convention -> (F1 of appropriate, F1 of inappropriate).
        false_share: inappropriate requests that were shared, of all inappropriate ones.
        false_withhold: appropriate ones that were withheld, of all appropriate ones.
    """

    n: int
    coverage: float
    accuracy: float
    f1: dict[str, tuple[float, float]]
    false_share: Share
    false_withhold: Share

    @property
    def ask_rate(self) -> float:
        """Share that the user is asked about."""
        return 1 - self.coverage


def evaluate(verdict: np.ndarray, appropriate: np.ndarray) -> Report:
    """Compares verdicts with what the users would have said.

    Args:
        verdict: [n] whole numbers: `WITHHOLD`, `SHARE` or `ASK`.
        appropriate: [n] bool.

    Raises:
        ConfigError: no rows, other lengths, other numbers.
    """
    verdict, appropriate = _same_length(verdict, appropriate)
    decided = verdict != ASK
    right = (verdict == SHARE) == appropriate
    return Report(
        n=len(verdict),
        coverage=float(decided.mean()),
        accuracy=float(right[decided].mean()) if decided.any() else math.nan,
        f1={name: f1(verdict, appropriate, name) for name in CONVENTIONS},
        false_share=share_of(
            int((~appropriate & (verdict == SHARE)).sum()), int((~appropriate).sum())
        ),
        false_withhold=share_of(
            int((appropriate & (verdict == WITHHOLD)).sum()), int(appropriate.sum())
        ),
    )


def f1(
    verdict: np.ndarray, appropriate: np.ndarray, convention: str = "decided"
) -> tuple[float, float]:
    """F1 of the appropriate and of the inappropriate requests.

    Args:
        verdict: [n].
        appropriate: [n] bool.
        convention: `decided` leaves out what was asked, `miss` counts it as found in neither class,
            `oracle` as answered rightly by the user.

    Returns:
        Both numbers; NaN for a class of which nothing was to be found and nothing was claimed.

    Raises:
        ConfigError: no such convention, or arrays that do not fit.
    """
    one_of(CONVENTIONS, convention=convention)
    verdict, appropriate = _same_length(verdict, appropriate)
    if convention == "decided":
        kept = verdict != ASK
        verdict, appropriate = verdict[kept], appropriate[kept]
    elif convention == "oracle":
        verdict = np.where(verdict == ASK, appropriate, verdict)
    found = []
    for said, truth in ((SHARE, appropriate), (WITHHOLD, ~appropriate)):
        claimed = int((verdict == said).sum())
        both = int(((verdict == said) & truth).sum())
        whole = claimed + int(truth.sum())
        found.append(2 * both / whole if whole else math.nan)
    return found[0], found[1]


def error_reduction(ours: float, theirs: float) -> float:
    """By how much of its distance from 1 another F1 is bettered: (ours - theirs) / (1 - theirs)."""
    return (ours - theirs) / (1 - theirs)


def ask_quality(verdict: np.ndarray, wants_ask: np.ndarray) -> tuple[Share, Share]:
    """Precision and recall of asking, against users who said whether they want to be asked.

    Args:
        verdict: [n].
        wants_ask: [n] bool.

    Raises:
        ConfigError: arrays that do not fit.
    """
    verdict, wants_ask = _same_length(verdict, wants_ask)
    both = int(((verdict == ASK) & wants_ask).sum())
    return share_of(both, int((verdict == ASK).sum())), share_of(both, int(wants_ask.sum()))


def risk_coverage(score: np.ndarray, appropriate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The error among the most confident decisions, for every number of them.

    Args:
        score: [n] log-odds of being appropriate; larger magnitude, more confident.
        appropriate: [n] bool.

    Returns:
        (coverage [n], risk [n]): share decided, rising to 1, and error among those decided. Decisions of
        equal confidence share their errors evenly, so order never matters.
    """
    score, appropriate = np.asarray(score, float), np.asarray(appropriate, bool)
    if score.shape != appropriate.shape or score.ndim != 1 or not len(score):
        raise ConfigError(
            f"scores {list(score.shape)} and answers {list(appropriate.shape)}: pass two arrays [n], n > 0."
        )
    wrong = ((score > 0) != appropriate).astype(float)
    confidence, group = np.unique(-np.abs(score), return_inverse=True)
    mean = np.bincount(group, wrong, len(confidence)) / np.bincount(
        group, minlength=len(confidence)
    )
    n = np.arange(1, len(score) + 1)
    return n / len(score), np.cumsum(mean[np.sort(group)]) / n


def risk_area(score: np.ndarray, appropriate: np.ndarray) -> float:
    """Area under the curve of `risk_coverage`: the mean risk over all coverages; lower is better."""
    return float(risk_coverage(score, appropriate)[1].mean())


def at_coverage(score: np.ndarray, coverage: float) -> float:
    """The threshold of confidence at which about this share of the scores is decided.

    Args:
        score: [n] log-odds.
        coverage: in (0, 1].

    Returns:
        The smallest confidence that still decides: `abs(score) >= threshold` holds for
        `round(coverage * n)` of them, and for those that tie with the last.

    Raises:
        ConfigError: a coverage outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ConfigError(f"coverage={coverage!r} is not allowed: pass a share above 0, at most 1.")
    confidence = np.sort(np.abs(np.asarray(score, float)))[::-1]
    return float(confidence[max(round(coverage * len(confidence)), 1) - 1])


def selective(score: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Verdicts [n] int8 of scores: decide where `abs(score) >= threshold`, else ask.

    A score of exactly 0 has no direction and asks.
    """
    score = np.asarray(score, float)
    asks = (np.abs(score) < threshold) | (score == 0)
    return np.where(asks, ASK, np.where(score > 0, SHARE, WITHHOLD)).astype(np.int8)


def share_of(k: int, n: int, confidence: float = 0.95) -> Share:
    """A share, k of n, with its two-sided Clopper-Pearson interval."""
    tail = (1 - confidence) / 2
    return Share(k=k, n=n, low=_bound(k, n, tail, upper=False), high=_bound(k, n, tail, upper=True))


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson bound: with this confidence the true share is at most this."""
    return _bound(k, n, 1 - confidence, upper=True)


def bootstrap(
    users: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of a statistic when whole users are drawn anew, with replacement.

    Args:
        users: [n] the user of each row.
        statistic: from row numbers (with repeats) to a number.
        n_resamples: how often.
        seed: of the draws.
    """
    _, user = np.unique(users, return_inverse=True)
    n_users = int(user.max()) + 1
    order = np.argsort(user, kind="stable")
    ends = np.cumsum(np.bincount(user, minlength=n_users))
    rows = np.split(order, ends[:-1])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_resamples):
        drawn = rng.integers(n_users, size=n_users)
        found.append(statistic(np.concatenate([rows[i] for i in drawn])))
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def _same_length(verdict: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    verdict, truth = np.asarray(verdict), np.asarray(truth)
    if verdict.ndim != 1 or verdict.shape != truth.shape or not len(verdict) or truth.dtype != bool:
        raise ConfigError(
            f"verdicts {list(verdict.shape)} and answers {list(truth.shape)} ({truth.dtype}): pass two "
            "arrays [n] with n > 0, the second of bool."
        )
    if not np.isin(verdict, (WITHHOLD, SHARE, ASK)).all():
        raise ConfigError(f"verdicts are {WITHHOLD} (withhold), {SHARE} (share) or {ASK} (ask).")
    return verdict, truth


def _bound(k: int, n: int, tail: float, *, upper: bool) -> float:
    """The share at which k or fewer (upper), k or more (lower), of n has probability `tail`."""
    if not 0 <= k <= n:
        raise ConfigError(f"{k} of {n} is not a share: pass 0 <= k <= n.")
    if n == 0 or (upper and k == n) or (not upper and k == 0):
        return 1.0 if upper else 0.0
    counts = np.arange(0, k + 1) if upper else np.arange(k, n + 1)
    ways = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in counts]
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        log = np.array(ways) + counts * math.log(p) + (n - counts) * math.log1p(-p)
        # At most k gets rarer as p grows, at least k more frequent.
        if (float(np.exp(log).sum()) > tail) == upper:
            low = p
        else:
            high = p
    return (low + high) / 2
