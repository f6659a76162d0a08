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


def finite_state(length: int, proposed: int, accepted: int, max_draft: int) -> int:
    """The next number of drafts: one more after a round in which all held, else one fewer."""
    return min(max(length + (1 if accepted == proposed else -1), 0), max_draft)


class DraftVerify:
    """The threshold of Draft & Verify, one request.

    Attributes:
        threshold: a draft ends after a token that is less likely.
    """

    def __init__(self, threshold: float = 0.6, target: float = 0.8) -> None:
        self.threshold, self.target = threshold, target
        self._rate: float | None = None
        self._proposed = self._accepted = 0

    def update(self, proposed: int, accepted: int) -> None:
        """One round with drafts."""
        self._proposed += proposed
        self._accepted += accepted
        overall = self._accepted / self._proposed
        self._rate = overall if self._rate is None else 0.5 * self._rate + 0.5 * overall
        wanted = self.threshold + (0.01 if self._rate < self.target else -0.01)
        self.threshold = 0.9 * self.threshold + 0.1 * wanted


def vocab_top1(
    x: np.ndarray, w: np.ndarray, *, softcap: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(index, logit, log-sum-exp) of each row x [..., D] under a head w [V, D], from all logits."""
    logits = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T
    if softcap is not None:
        logits = softcap * np.tanh(logits / softcap)
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    return logits.argmax(-1), top, total
