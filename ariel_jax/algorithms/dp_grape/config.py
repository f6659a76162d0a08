"""Settings of DP-GRAPE: what is projected, by what, and what becomes of the moments."""

import dataclasses
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from ariel_jax._checks import one_of, positive_int
from ariel_jax.errors import ConfigError
from ariel_jax.models.paths import flatten

SIDES = ("smaller", "in", "larger")
SCALES = ("unbiased", "authors")
LAWS = ("gaussian", "rademacher")
MOMENTS = ("keep", "reset", "transfer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is fixed while a program runs; none of it enters the privacy guarantee.

    Attributes:
        rank: r, columns of the random projections.
        refresh_every: F, optimiser steps between two draws of the projections; 0 never draws again.
        side: which axis of a weight is projected. `smaller` (the authors' rule); always `in`; or the
            `larger` one, which compresses harder.
        scale: entries of the projections have variance 1/r (`unbiased`: E[P P^T] = I) or 1/r^2
            (`authors`: what the released code draws, to replay its learning rates and clip norms).
        law: of the entries. The experiments of the paper are Gaussian; `rademacher` has the same mean
            and variance from cheaper bits.
        moments: of the optimiser at a new draw: `keep` (the authors'), `reset`, or `transfer` of the
            first one into the new space (the rule of Flora, Hao et al. 2024, arXiv 2402.03293).
        project: regular expressions; the weights of linear layers whose path one of them finds are
            projected.
        lookups: regular expressions; embeddings that are trained by the rows that examples look up, so that
            no example has a gradient of their size. Their noise is on all rows: to leave out those that no
            example of a batch looked up would tell which they are.
        frozen: regular expressions; leaves that are not trained. They win over all others.
        overrides: `(regular expression, rank)` pairs; the first that finds a path replaces `rank`.

    Everything else is trained in full, in the same joint clip. Paths are as `layers.3.attn.q.w`.

    References:
        Mulrooney, Gupta, Flemings, Zhang, Annavaram, Razaviyayn, Zhang, 2025, arXiv 2506.15588, and the
        code released with it.
    """

    rank: int = 16
    refresh_every: int = 100
    side: str = "smaller"
    scale: str = "unbiased"
    law: str = "gaussian"
    moments: str = "keep"
    project: tuple[str, ...] = (r"\.attn\.[qkvo]\.w$", r"\.mlp\.(up|gate|down)\.w$")
    lookups: tuple[str, ...] = ()
    frozen: tuple[str, ...] = (r"^embed", r"^pos_embed$", r"^unembed")
    overrides: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(rank=self.rank)
        if self.refresh_every != 0:
            positive_int(refresh_every=self.refresh_every)
        one_of(SIDES, side=self.side)
        one_of(SCALES, scale=self.scale)
        one_of(LAWS, law=self.law)
        one_of(MOMENTS, moments=self.moments)

    def mode(self, path: str) -> str:
        """What becomes of a leaf: `project`, `lookup`, `full` or `frozen`."""
        if any(re.search(pattern, path) for pattern in self.frozen):
            return "frozen"
        if any(re.search(pattern, path) for pattern in self.lookups):
            return "lookup"
        return "project" if any(re.search(pattern, path) for pattern in self.project) else "full"

    def rank_of(self, path: str) -> int:
        """The rank of one weight."""
        return next((r for pattern, r in self.overrides if re.search(pattern, path)), self.rank)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """How one weight `[..., out, in]` is projected.

    Attributes:
        path: its name.
        side: `in`: P [in, r] and the projected gradient [out, r]; `out`: P [out, r] and [r, in].
        rank: r.
        shape: of the weight; a leading axis stands for stacked layers, each with a P of its own.
    """

    path: str
    side: str
    rank: int
    shape: tuple[int, ...]

    @property
    def leaf_id(self) -> int:
        """What the weight's draws are derived from: its path, not its place among others."""
        return zlib.crc32(self.path.encode())

    @property
    def projection_shape(self) -> tuple[int, ...]:
        """Of P."""
        *stacked, n_out, n_in = self.shape
        return (*stacked, n_in if self.side == "in" else n_out, self.rank)

    @property
    def projected_shape(self) -> tuple[int, ...]:
        """Of the projected gradient R, of the tap and of the moments."""
        *stacked, n_out, n_in = self.shape
        return (*stacked, n_out, self.rank) if self.side == "in" else (*stacked, self.rank, n_in)


@dataclasses.dataclass(frozen=True)
class Specs:
    """What becomes of every leaf of a tree; static.

    Attributes:
        projected: by path, in the order of the tree.
        full: paths of leaves that are trained as they are.
        frozen: paths of the others.
        looked_up: those of `full` whose gradients are taken by the rows that examples look up.
    """

    projected: tuple[Spec, ...]
    full: tuple[str, ...]
    frozen: tuple[str, ...]
    looked_up: tuple[str, ...] = ()

    def by_path(self) -> dict[str, Spec]:
        """The projected weights by name."""
        return {spec.path: spec for spec in self.projected}

    def n_trained(self, params: Any) -> int:
        """D: numbers in the projected gradients and in the leaves trained in full."""
        leaves = flatten(params)
        projected = sum(math.prod(spec.projected_shape) for spec in self.projected)
        return projected + sum(leaves[path].size for path in self.full)


def make_specs(params: Any, cfg: Config) -> Specs:
    """Decides leaf by leaf.

    Args:
        params: the tree, arrays or shapes.
        cfg: the settings.

    Raises:
        ConfigError: nothing is projected, a projected leaf is no matrix, or a rank does not fit.
    """
    leaves: Mapping[str, Any] = flatten(params)
    projected, full, frozen, looked_up = [], [], [], []
    for path, leaf in leaves.items():
        mode = cfg.mode(path)
        if mode == "project":
            projected.append(_spec(path, leaf, cfg))
            continue
        (frozen if mode == "frozen" else full).append(path)
        if mode == "lookup":
            if len(leaf.shape) != 2:
                raise ConfigError(
                    f"{path!r} has the shape {list(leaf.shape)} and is no table [V, D]: leave it out of "
                    "lookups=."
                )
            looked_up.append(path)
    if unmatched := [p for p in cfg.lookups if not any(re.search(p, path) for path in looked_up)]:
        raise ConfigError(
            f"lookups={unmatched} finds no table that is not frozen: frozen={cfg.frozen} wins over it."
        )
    if not projected:
        matrices = [path for path, leaf in leaves.items() if len(leaf.shape) in (2, 3)]
        raise ConfigError(
            f"project={cfg.project} finds no weight that is not frozen. Matrices of this tree are "
            f"{matrices[:12]}{' and more' if len(matrices) > 12 else ''}."
        )
    if len({spec.leaf_id for spec in projected}) < len(projected):
        raise ConfigError(
            "two projected weights would have one projection: their paths have one hash."
        )
    return Specs(tuple(projected), tuple(full), tuple(frozen), tuple(looked_up))


def _spec(path: str, leaf: Any, cfg: Config) -> Spec:
    shape = tuple(leaf.shape)
    if len(shape) not in (2, 3) or not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
        raise ConfigError(
            f"{path!r} is {leaf.dtype}{list(shape)} and no weight [out, in] (or stacked [L, out, in]) of "
            "floats: leave it out of project=, or put it into frozen=."
        )
    n_out, n_in = shape[-2:]
    is_in = {"smaller": n_in <= n_out, "in": True, "larger": n_in > n_out}[cfg.side]
    side, dim = ("in", n_in) if is_in else ("out", n_out)
    rank = cfg.rank_of(path)
    if not 0 < rank < dim:
        raise ConfigError(
            f"rank {rank} >= {dim} for {path!r}: it would project nothing away. Choose a smaller rank, an "
            "override for this weight, or leave it out of project= to train it in full."
        )
    return Spec(path=path, side=side, rank=rank, shape=shape)
