"""DEL: drafting with the first layers of the same model (arXiv 2504.05598)."""

from ariel_jax.algorithms.del_exit.config import (
    CONTROLLERS,
    Config,
    Costs,
    Tuning,
    layer_costs,
    named,
    tuning,
)
from ariel_jax.algorithms.del_exit.controller import (
    Choice,
    State,
    acceptance,
    draft_limit,
    expected_tokens,
    init,
    replay,
    scores,
    select,
    threshold,
    update,
)
from ariel_jax.algorithms.del_exit.rounds import Trace
from ariel_jax.algorithms.del_exit.shadow import vocab_top1
from ariel_jax.algorithms.del_exit.strategy import SelfSpeculative

__all__ = [
    "CONTROLLERS",
    "Choice",
    "Config",
    "Costs",
    "SelfSpeculative",
    "State",
    "Trace",
    "Tuning",
    "acceptance",
    "draft_limit",
    "expected_tokens",
    "init",
    "layer_costs",
    "named",
    "replay",
    "scores",
    "select",
    "threshold",
    "tuning",
    "update",
    "vocab_top1",
]
