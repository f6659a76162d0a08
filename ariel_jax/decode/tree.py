"""The shape of a step's drafts: a chain, or a tree of alternatives behind the pending token."""

import dataclasses
import functools

import numpy as np

from ariel_jax.pallas_kernels.decode_attention.tree import check_parents, depths


@dataclasses.dataclass(frozen=True)
class Tree:
    """Node 0 is the pending token, every other node a draft that follows its parent.

    Attributes:
        parents: of each node, -1 for node 0; a parent comes before its children.

    Raises:
        ConfigError: no such tree, or more than 32 nodes.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        check_parents(self.parents)

    @classmethod
    def chain(cls, k: int) -> "Tree":
        """K drafts, each after the one before."""
        return cls(tuple(range(-1, k)))

    @classmethod
    def branches(cls, n: int, k: int) -> "Tree":
        """N chains of k drafts each."""
        inner = [0 if i == 0 else 1 + b * k + i - 1 for b in range(n) for i in range(k)]
        return cls((-1, *inner))

    @classmethod
    def comb(cls, n: int, k: int) -> "Tree":
        """A chain of k drafts with n - 1 alternatives, that end there, to each of them."""
        return cls((-1, *(0 if i == 0 else 1 + (i - 1) * n for i in range(k) for _ in range(n))))

    @property
    def size(self) -> int:
        """Nodes, the pending token's included."""
        return len(self.parents)

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children."""
        return self.parents == tuple(range(-1, self.size - 1))

    @functools.cached_property
    def depths(self) -> np.ndarray:
        """[S] int32 tokens between a node and the pending one."""
        return depths(self.parents)

    @property
    def depth(self) -> int:
        """Drafts of the longest path."""
        return int(self.depths.max())

    @functools.cached_property
    def paths(self) -> np.ndarray:
        """[S, depth + 1] int32: the nodes from the root to each node, which is repeated behind."""
        rows = np.zeros((self.size, self.depth + 1), np.int32)
        for node in range(self.size):
            at = node
            for i in range(int(self.depths[node]), -1, -1):
                rows[node, i] = at
                at = self.parents[at]
            rows[node, self.depths[node] :] = node
        return rows

    def siblings(self, node: int) -> tuple[int, ...]:
        """Nodes before `node` that follow the same one."""
        return tuple(i for i in range(1, node) if self.parents[i] == self.parents[node])
