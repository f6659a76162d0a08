"""DEL: drafting with the first layers of the same model (arXiv 2504.05598); so far its controller."""

from ariel_jax.algorithms.del_exit.config import Config
from ariel_jax.algorithms.del_exit.controller import (
    Choice,
    Costs,
    State,
    acceptance,
    draft_limit,
    expected_tokens,
    init,
    layer_costs,
    replay,
    scores,
    select,
    threshold,
    update,
)

__all__ = [
    "Choice",
    "Config",
    "Costs",
    "State",
    "acceptance",
    "draft_limit",
    "expected_tokens",
    "init",
    "layer_costs",
    "replay",
    "scores",
    "select",
    "threshold",
    "update",
]
