"""The controller as its definition reads, in NumPy, one request and one exit at a time."""

from collections.abc import Sequence

import numpy as np


class Controller:
    """One request.

    Attributes:
        exits: layers.
        omega: weight of the past at each round.
        matches, mismatches: decayed counts of each exit.
        sure_match, sure_mismatch: decayed sums of the shadow tokens' probabilities.
    """

    def __init__(self, exits: Sequence[int], omega: float) -> None:
        self.exits, self.omega = tuple(exits), omega
        n = len(exits)
        self.matches, self.mismatches = np.zeros(n), np.zeros(n)
        self.sure_match, self.sure_mismatch = np.zeros(n), np.zeros(n)

    def update(self, match: np.ndarray, sureness: np.ndarray, n_accepted: int) -> None:
        """One round: match and sureness [K, W], of which the first n_accepted + 1 columns count."""
        for sums in (self.matches, self.mismatches, self.sure_match, self.sure_mismatch):
            sums *= self.omega
        for k in range(len(self.exits)):
            for j in range(n_accepted + 1):
                if match[k, j]:
                    self.matches[k] += 1
                    self.sure_match[k] += sureness[k, j]
                else:
                    self.mismatches[k] += 1
                    self.sure_mismatch[k] += sureness[k, j]

    def acceptance(self, k: int) -> float:
        """Share of matches."""
        total = self.matches[k] + self.mismatches[k]
        return self.matches[k] / total if total else 0.0

    def threshold(self, k: int) -> float:
        """Midway between the mean sureness of matches and mismatches; 0 without one of them."""
        if not self.matches[k] or not self.mismatches[k]:
            return 0.0
        high = self.sure_match[k] / self.matches[k]
        return 0.5 * (high + self.sure_mismatch[k] / self.mismatches[k])

    def select(self, n_layers: int, max_draft: int, *, allow_zero_draft: bool) -> tuple[int, int]:
        """(exit index, drafts) of most tokens per layer loaded."""
        best, chosen = -1.0, (0, 0)
        for k, layer in enumerate(self.exits):
            alpha = self.acceptance(k)
            for d in range(0 if allow_zero_draft else 1, max_draft + 1):
                tokens = sum(alpha**i for i in range(d + 1))
                score = tokens / (n_layers + d * layer)
                if score > best * (1 + 1e-9):
                    best, chosen = score, (k, d)
        return chosen
