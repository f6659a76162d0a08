"""In-context judging by a language model: the user's earlier judgements in a prompt, then the request.

What the paper compares itself with, reconstructed: neither its wording nor its model is known. A baseline for
evaluation only, like `baselines` and `icl`: nothing that judges calls it, and its log-odds are no verdict.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ariel_jax.algorithms.ariel.importers import APPROPRIATE, INAPPROPRIATE
from ariel_jax.algorithms.ariel.lm.scoring import Chooser
from ariel_jax.algorithms.ariel.prompts import JUDGED, judge_prompt, request_words
from ariel_jax.algorithms.ariel.text import LIMIT, clean, is_blank
from ariel_jax.errors import ConfigError

Names = Mapping[str, Sequence[str]]
"""What each slot is called, which is written as it is, with the names of its nodes by number, which are made
harmless; in the order of the columns of requests."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InContext:
    """What a model made of requests.

    Attributes:
        log_odds: [n] float64, that each is appropriate.
        n_dropped: [n] int64, how many of its oldest judgements the prompt had no room for.
    """

    log_odds: np.ndarray
    n_dropped: np.ndarray


def log_odds(
    chooser: Chooser, names: Names, history: np.ndarray, label: np.ndarray, asked: np.ndarray
) -> InContext:
    """A model's log-odds that requests are appropriate, with judgements of their users in the prompt.

    Log p(appropriate) - log p(inappropriate), each the probability of the whole answer behind the prompt;
    no other answer exists, whatever a name says. Where the model has too few positions the oldest judgements
    are left out, whole ones only. Which judgements are told, and in which order, is the caller's choice:
    drawn at random, or `icl.nearest_first`.

    Args:
        chooser: with the model.
        names: of slots and nodes.
        history: [m, K] node numbers, oldest first, of all requests; or [n, m, K], of each. m may be 0: then
            the model answers without knowing the user.
        label: [m] or [n, m], `APPROPRIATE` or `INAPPROPRIATE`.
        asked: [n, K].

    Raises:
        ConfigError: shapes that do not fit, a node without a name, a name that says nothing or is too long,
            a label that is neither yes nor no, or a request that the model has no positions for even alone.
        InvalidRequestError: a name is no string.
        ModelOutputError: a logit is no number.
    """
    history, label, asked = np.asarray(history), np.asarray(label), np.asarray(asked)
    _check(names, history, label, asked)
    words = {slot: [_harmless(chooser, name) for name in nodes] for slot, nodes in names.items()}

    def told(nodes: np.ndarray) -> str:
        return request_words({slot: words[slot][v] for slot, v in zip(words, nodes, strict=True)})

    found, dropped = np.zeros(len(asked)), np.zeros(len(asked), np.int64)
    each = history.ndim == 3
    shared = [] if each else _judgements(told, history, label)
    for i, request in enumerate(asked):
        judgements = _judgements(told, history[i], label[i]) if each else shared
        prompt, dropped[i] = _fitting(chooser, judgements, told(request))
        yes, no = np.float64(1) * chooser.totals(prompt, JUDGED)
        found[i] = yes - no
    return InContext(log_odds=found, n_dropped=dropped)


def _fitting(chooser: Chooser, judgements: list[tuple[str, bool]], request: str) -> tuple[str, int]:
    """The prompt with the latest judgements that fit, and how many are left out."""

    def length(n_dropped: int) -> int:
        return len(chooser.tokenizer.encode(judge_prompt(judgements[n_dropped:], request)))

    room = chooser.room(JUDGED)
    if length(len(judgements)) > room:
        raise ConfigError(
            f"a request of {length(len(judgements))} tokens without any judgement: the model has "
            f"{room} positions beside an answer. Pass shorter names, or use a model with more."
        )
    low, high = 0, len(judgements)  # so many dropped fit; one bisection encodes few prompts
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if length(middle) <= room else (middle + 1, high)
    return judge_prompt(judgements[high:], request), high


def _judgements(
    told: Callable[[np.ndarray], str], history: np.ndarray, label: np.ndarray
) -> list[tuple[str, bool]]:
    return [
        (told(nodes), bool(yes == APPROPRIATE)) for nodes, yes in zip(history, label, strict=True)
    ]


def _harmless(chooser: Chooser, name: str) -> str:
    """A name on one line, without marks of the tokenizer; never a part of one."""
    read, flags = clean(name)
    read = chooser.harmless(read)
    if "cut" in flags or is_blank(read):
        raise ConfigError(
            f"a name of {len(name)} characters, {name[:40]!r}, says nothing or is too long: pass 1 to "
            f"{LIMIT} characters that can be seen."
        )
    return read


def _check(names: Names, history: np.ndarray, label: np.ndarray, asked: np.ndarray) -> None:
    K = len(names)
    fits = (
        asked.ndim == 2
        and label.shape == history.shape[:-1]
        and label.shape[:-1] in ((), asked.shape[:1])
    )
    if not fits or label.ndim == 0 or not asked.shape[-1] == history.shape[-1] == K > 0:
        raise ConfigError(
            f"judgements {list(history.shape)} with labels {list(label.shape)} beside requests "
            f"{list(asked.shape)} and names of {K} slots: pass [m, K] and [m] for all, or [n, m, K] and "
            "[n, m], beside [n, K]."
        )
    sizes = [len(nodes) for nodes in names.values()]
    for nodes in (history, asked):
        whole = np.issubdtype(nodes.dtype, np.integer)
        if not whole or not ((nodes >= 0) & (nodes < np.array(sizes))).all():
            raise ConfigError(
                f"a node has no name: pass whole numbers from 0, below {sizes} in the slots "
                f"{list(names)}."
            )
    if not np.isin(label, (INAPPROPRIATE, APPROPRIATE)).all():
        raise ConfigError("a label is neither yes nor no: leave such judgements out.")
