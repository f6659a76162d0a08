"""Canaries inside a run: made-up records that take part by a coin, and what the model tells of the coins.

Append them behind the real records and say how many they are (`trainer.Settings.canaries`): the source then
tosses a secret fair coin for each, and who is out is in no batch. `Fitted.canaries` are the coins. An attacker
who knows the canaries and the trained model guesses them; by how well that goes, `audit` bounds the run's
epsilon from below.

A canary is a record like others: it is sampled, clipped and covered by noise as they are, which is why it can
stand for them. It is nobody's, so what becomes of it costs no privacy; it costs utility, because the model
learns of it too, and because the same expected batch is shared with more records.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from ariel_jax._checks import positive_int, whole_number
from ariel_jax.algorithms.dp_grape import programs
from ariel_jax.algorithms.dp_grape.programs import Loss
from ariel_jax.errors import ConfigError
from ariel_jax.privacy.audit import Audit, of_one_run

Records = Mapping[str, np.ndarray]

# So many show an epsilon of 1.2 at most; fewer show less, and their coins may all fall alike.
LEAST = 32


def check_count(canaries: int) -> None:
    """Checks how many canaries there are.

    Raises:
        ConfigError: fewer than `LEAST`.
    """
    whole_number(LEAST, 2**31 - 1, canaries=canaries)


def appended(records: Records, canaries: Records) -> dict[str, np.ndarray]:
    """Records with canaries behind them.

    Args:
        records: arrays [N, ...].
        canaries: arrays [M, ...] of the same names, shapes and dtypes.

    Returns:
        Arrays [N + M, ...].

    Raises:
        ConfigError: the two are not alike.
    """
    like, given = _form(records), _form(canaries)
    if like != given:
        raise ConfigError(f"canaries must be like the records, {like}; got {given}.")
    return {name: np.concatenate([array, canaries[name]]) for name, array in records.items()}


def _form(records: Records) -> dict[str, list[Any]]:
    return {
        name: [*np.shape(array)[1:], str(np.asarray(array).dtype)]
        for name, array in sorted(records.items())
    }


def losses(loss: Loss, params: Any, records: Records, *, at_once: int = 8) -> np.ndarray:
    """The loss of each record under a model.

    Args:
        loss: `loss(params, example, key) -> scalar` of one example; hashable.
        params: the model's tree.
        records: arrays [M, ...].
        at_once: records whose activations exist at once.

    Returns:
        [M] float32. A loss that draws gets one and the same key for all.
    """
    positive_int(at_once=at_once)
    examples = {name: np.asarray(array) for name, array in records.items()}
    key = jax.random.key(0)
    return np.asarray(programs.losses(params, examples, key, loss=loss, at_once=at_once))


def falls(before: npt.ArrayLike, after: npt.ArrayLike) -> np.ndarray:
    """An attacker's scores: how far each canary's loss fell while the model was trained.

    Args:
        before: [M] losses under the weights that the run began with.
        after: [M] losses under the trained ones.

    Returns:
        [M] float64, all finite: a loss that is no finite number afterwards has fallen least of all.
    """
    found = np.asarray(before, np.float64) - np.asarray(after, np.float64)
    return np.where(np.isfinite(found), found, -np.finfo(np.float64).max)


def audit(
    scores: npt.ArrayLike,
    is_in: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    significance: float = 0.05,
) -> Audit:
    """Holds the claim of a run against an attacker's scores of its canaries.

    Args:
        scores: [M], higher for canaries that took part in the attacker's opinion; see `falls`.
        is_in: [M] bool, the coins: `Fitted.canaries`.
        epsilon: claimed.
        delta: claimed.
        significance: probability that the lower bound is too high.

    Raises:
        MissingExtraError: jax-privacy is not installed.
        ConfigError: shapes that do not fit, all coins alike, scores that are no finite numbers, or numbers
            out of range.

    References:
        Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", 2023, arXiv 2305.08846.
    """
    found, coins = np.asarray(scores, np.float64), np.asarray(is_in)
    if found.ndim != 1 or found.shape != coins.shape or coins.dtype != bool:
        raise ConfigError(
            f"scores and coins must be [M] numbers and [M] bool; got {list(found.shape)} and "
            f"{list(coins.shape)} {coins.dtype}."
        )
    return of_one_run(
        found[coins], found[~coins], epsilon=epsilon, delta=delta, significance=significance
    )
