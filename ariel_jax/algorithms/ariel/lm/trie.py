"""Labels as a trie of tokens that a program on the device can walk."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ariel_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class Trie:
    """Labels by their tokens; state 0 is the root.

    Attributes:
        moves: [S, F] int32, the state behind each allowed token; S and F are powers of two.
        tokens: [S, F] int32, allowed tokens, -1 for none.
        label: [S] int32, the number of the label that ends there, -1 for none.
        depth: tokens of the longest label.
    """

    moves: np.ndarray
    tokens: np.ndarray
    label: np.ndarray
    depth: int

    @classmethod
    def of(cls, labels: Sequence[Sequence[int]]) -> "Trie":
        """The trie of token lists.

        Args:
            labels: none empty, none twice, none the beginning of another (end each with a mark).

        Raises:
            ConfigError: they are not like that.
        """
        children: list[dict[int, int]] = [{}]
        ends: dict[int, int] = {}
        for number, label in enumerate(labels):
            state = 0
            for token in label:
                if token not in children[state]:
                    children[state][token] = len(children)
                    children.append({})
                state = children[state][token]
            if not label or state in ends:
                raise ConfigError(
                    f"label {number} is {'empty' if not label else 'there twice'}: pass different "
                    "labels of at least one token."
                )
            ends[state] = number
        if not ends or any(children[state] for state in ends):
            raise ConfigError(
                "no label may be the beginning of another, and there must be one: end each label "
                "with a token that none has inside, such as that of a line break."
            )
        S = _power(len(children))
        F = _power(max(len(found) for found in children))
        moves = np.zeros((S, F), np.int32)
        tokens = np.full((S, F), -1, np.int32)
        label_of = np.full(S, -1, np.int32)
        for state, found in enumerate(children):
            for column, (token, behind) in enumerate(sorted(found.items())):
                tokens[state, column], moves[state, column] = token, behind
        for state, number in ends.items():
            label_of[state] = number
        return cls(moves, tokens, label_of, max(len(label) for label in labels))


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()
