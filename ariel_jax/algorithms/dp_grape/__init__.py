"""DP-GRAPE: private training in a random projection of the gradients (arXiv 2506.15588)."""

from ariel_jax.algorithms.dp_grape.config import Config, Spec, Specs, make_specs
from ariel_jax.algorithms.dp_grape.taps import (
    insert,
    project,
    project_back,
    projections,
    tapped_loss,
    trained_leaves,
    zero_taps,
)
from ariel_jax.algorithms.dp_grape.transform import GrapeState, transform

__all__ = [
    "Config",
    "GrapeState",
    "Spec",
    "Specs",
    "insert",
    "make_specs",
    "project",
    "project_back",
    "projections",
    "tapped_loss",
    "trained_leaves",
    "transform",
    "zero_taps",
]
