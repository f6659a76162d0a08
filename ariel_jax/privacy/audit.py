"""What an attacker can show of a mechanism: lower bounds on epsilon, to hold against the claimed one.

An audit finds faults; it proves no guarantee. The bounds are `jax_privacy.auditing`'s.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ariel_jax._checks import in_range, positive
from ariel_jax.errors import ConfigError, missing_extra

HELD_OUT = 0.1  # of the releases, from which the direction to look in is learned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """What an attack found.

    Attributes:
        epsilon: claimed, at `delta`.
        delta: claimed.
        lower_bound: epsilon is at least this, with confidence 1 - `significance`.
        estimate: of the epsilon that scores which are Gaussian on both sides stand for; None where the
            attack has none. No bound.
        auroc: area under the attack's receiver operating characteristic; 0.5 tells nothing apart.
        significance: probability that `lower_bound` is too high.
        n: scores on the smaller side.
        most: the lower bound of an attack on as many scores that never errs; None where that was not
            computed. A claim above it cannot be refuted by so few.
    """

    epsilon: float
    delta: float
    lower_bound: float
    estimate: float | None
    auroc: float
    significance: float
    n: int
    most: float | None = None

    @property
    def refutes(self) -> bool:
        """Whether the claim cannot be true, but for `significance`."""
        return self.lower_bound > self.epsilon


def of_scores(
    inside: npt.ArrayLike,
    outside: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    significance: float = 0.05,
) -> Audit:
    """Holds independent runs with and without a record against a claim.

    Args:
        inside: [n] scores of runs with the record, expected to be higher.
        outside: [m] scores of runs without it.
        epsilon: claimed.
        delta: claimed.
        significance: see `Audit`.

    Raises:
        MissingExtraError: jax-privacy is not installed.
        ConfigError: numbers out of range, or no scores.

    References:
        Clopper and Pearson's intervals for the error rates of a threshold that is chosen on one half and
        judged on the other; the estimate is that of Gaussian differential privacy (Dong, Roth, Su 2022,
        arXiv 1905.02383).
    """
    auditor, n = _auditor(inside, outside, epsilon, delta, significance)
    auditing = _auditing()
    bound = auditor.epsilon_clopper_pearson(
        significance, delta, threshold_strategy=auditing.Split(seed=0)
    )
    return Audit(
        epsilon=epsilon,
        delta=delta,
        lower_bound=float(bound),
        estimate=float(auditor.epsilon_from_gdp(significance, delta)),
        auroc=float(auditor.attack_auroc()),
        significance=significance,
        n=n,
    )


def of_releases(
    inside: npt.ArrayLike,
    outside: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    significance: float = 0.05,
    direction: npt.ArrayLike | None = None,
) -> Audit:
    """Holds releases of vectors with and without a record against a claim.

    The score of a release is its likelihood ratio for Gaussians of one covariance that is a multiple of
    the identity: its projection on the difference of the means.

    Args:
        inside: [n, d] releases with the record.
        outside: [m, d] releases without it.
        epsilon: claimed.
        delta: claimed.
        significance: see `Audit`.
        direction: [d] that difference, where the attacker knows it; None learns it from a tenth of the
            releases, which are then left out.

    Raises:
        MissingExtraError: jax-privacy is not installed.
        ConfigError: numbers out of range, or shapes that do not fit.
    """
    a, b = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 100:
        raise ConfigError(
            f"releases must be [n, d] and [m, d] with at least 100 rows; got {list(a.shape)} and "
            f"{list(b.shape)}."
        )
    if direction is None:
        n_a, n_b = int(len(a) * HELD_OUT), int(len(b) * HELD_OUT)
        along = a[:n_a].mean(axis=0) - b[:n_b].mean(axis=0)
        a, b = a[n_a:], b[n_b:]
    else:
        along = np.asarray(direction, np.float64)
        if along.shape != a.shape[1:]:
            raise ConfigError(
                f"direction is {list(along.shape)}, the releases have {a.shape[1]} numbers."
            )
    return of_scores(
        a @ along,
        b @ along,
        epsilon=epsilon,
        delta=delta,
        significance=significance,
    )


def of_one_run(
    inside: npt.ArrayLike,
    outside: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    significance: float = 0.05,
) -> Audit:
    """Holds one run against a claim: canaries of which each was in it or out by a fair coin.

    Args:
        inside: [n] scores of the canaries that were in, expected to be higher.
        outside: [m] scores of those that were not.
        epsilon: claimed.
        delta: claimed.
        significance: see `Audit`.

    Raises:
        MissingExtraError: jax-privacy is not installed.
        ConfigError: numbers out of range, or no scores.

    References:
        Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", 2023, arXiv 2305.08846.
    """
    auditor, n = _auditor(inside, outside, epsilon, delta, significance)
    perfect, _ = _auditor(
        np.ones(np.size(inside)), np.zeros(np.size(outside)), epsilon, delta, significance
    )
    return Audit(
        epsilon=epsilon,
        delta=delta,
        lower_bound=float(auditor.epsilon_one_run(significance, delta)),
        estimate=None,
        auroc=float(auditor.attack_auroc()),
        significance=significance,
        n=n,
        most=float(perfect.epsilon_one_run(significance, delta)),
    )


def _auditor(
    inside: npt.ArrayLike, outside: npt.ArrayLike, epsilon: float, delta: float, significance: float
) -> tuple[Any, int]:
    positive(epsilon=epsilon)
    in_range(0, 1, ends="()", delta=delta)
    in_range(0, 0.5, ends="()", significance=significance)
    a, b = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if a.ndim != 1 or b.ndim != 1 or not a.size or not b.size or not np.isfinite([*a, *b]).all():
        raise ConfigError(
            f"scores must be finite numbers [n] and [m]; got {list(a.shape)} and {list(b.shape)}."
        )
    return _auditing().CanaryScoreAuditor(a, b), min(a.size, b.size)


def _auditing() -> Any:
    try:
        from jax_privacy import auditing
    except ImportError as error:
        raise missing_extra("jax_privacy", "privacy", "auditing a private mechanism") from error
    return auditing
