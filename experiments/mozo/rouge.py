"""ROUGE-L of Lin 2004 ("ROUGE: A Package for Automatic Evaluation of Summaries"), for one reference."""

import re
from collections.abc import Sequence

import numpy as np


def words(text: str) -> list[str]:
    """The runs of ASCII letters and digits of a text, in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower())


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = np.zeros(len(b) + 1, np.int64)  # of the prefix of a so far and each prefix of b
    for word in a:
        before = row.copy()
        for j, other in enumerate(b, 1):
            row[j] = before[j - 1] + 1 if word == other else max(before[j], row[j - 1])
    return int(row[-1])


def rouge_l(answer: str, reference: str) -> float:
    """F1 of ROUGE-L, between 0 and 1.

    The harmonic mean of the shares of both texts' words that lie in their longest common subsequence;
    0 where either text has no word.
    """
    a, b = words(answer), words(reference)
    common = common_length(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0
