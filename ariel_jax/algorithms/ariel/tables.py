"""Bit masks of judgements, one row a node. Host only."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WORD = np.dtype("<u8")
"""Bit n of a row is judgement n: 64 to a word, the lowest first, whatever the machine."""
Positions = npt.NDArray[np.int64]


class Table:
    """For one slot and polarity: which judgements cover each node, and which nodes each covers.

    Row V stands for what is no node; column V for `ANY`, column V + 1 for what is no node.
    """

    def __init__(self, matrix: npt.NDArray[np.bool_]) -> None:
        n = len(matrix)
        self.covers = np.zeros((n + 1, n + 2), np.bool_)
        self.covers[:n, :n] = matrix
        self.covers[:, n] = True
        self.breadth = np.count_nonzero(self.covers[:n], axis=0)
        self.bits = np.zeros((n + 1, 0), WORD)

    def fill(self, columns: npt.NDArray[np.int64], starts: Positions | None, words: int) -> None:
        """Sets the bits of all judgements; `starts` where one may have several columns."""
        covered = self.covers[:, columns]
        if starts is not None and len(starts):
            covered = np.logical_or.reduceat(covered, starts, axis=1)
        packed = np.packbits(covered, axis=1, bitorder="little")
        self.bits = np.zeros((len(self.covers), words), WORD)
        self.bits.view(np.uint8)[:, : packed.shape[1]] = packed

    def column(self, columns: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Per row, whether one of the columns covers it."""
        if len(columns) == 1:
            return self.covers[:, columns[0]]
        return np.logical_or.reduce(self.covers[:, list(columns)], axis=1)

    def widen(self, words: int) -> None:
        """Makes room for more judgements."""
        bits = np.zeros((len(self.bits), words), WORD)
        bits[:, : self.bits.shape[1]] = self.bits
        self.bits = bits

    def add(self, position: int, columns: Sequence[int]) -> None:
        """Sets the bit of one judgement."""
        word, bit = divmod(position, 64)
        self.bits[:, word] |= self.column(columns).astype(WORD) << WORD.type(bit)
