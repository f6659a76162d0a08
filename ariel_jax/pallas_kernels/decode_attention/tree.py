"""Trees of new rows: which of them each one sees."""

from collections.abc import Sequence

import numpy as np

from ariel_jax.errors import ConfigError

MAX_NODES = 32  # one bit each in the mask of a query


def check_parents(parents: Sequence[int]) -> None:
    """Checks a tree given by the parent of each node.

    Raises:
        ConfigError: node 0 is not the root (-1), a parent does not come before its child, or there
            are more than 32 nodes.
    """
    is_tree = len(parents) > 0 and parents[0] == -1
    is_tree = is_tree and all(0 <= p < i for i, p in enumerate(parents) if i)
    if not is_tree or len(parents) > MAX_NODES:
        raise ConfigError(
            f"parents={tuple(parents)} is no tree that can be verified: pass -1 for node 0, an "
            f"earlier node for each other, and at most {MAX_NODES} nodes."
        )


def depths(parents: Sequence[int]) -> np.ndarray:
    """[S] int32 how far each node is from the root."""
    depth = np.zeros(len(parents), np.int32)
    for i, parent in enumerate(parents):
        depth[i] = 0 if i == 0 else depth[parent] + 1
    return depth


def seen_bits(parents: Sequence[int], *, within: int | None = None) -> np.ndarray:
    """[S] uint32: `ancestors` with the bits of row i in one number, node 0 the lowest."""
    seen = ancestors(parents, within=within).astype(np.uint32)
    return seen @ (np.uint32(1) << np.arange(len(parents), dtype=np.uint32))


def ancestors(parents: Sequence[int], *, within: int | None = None) -> np.ndarray:
    """[S, S] bool: row i is set at node i and its ancestors, with `within` only the last ones."""
    S = len(parents)
    seen = np.zeros((S, S), bool)
    for i in range(S):
        node, left = i, S if within is None else within
        while node >= 0 and left > 0:
            seen[i, node] = True
            node, left = parents[node], left - 1
    return seen
