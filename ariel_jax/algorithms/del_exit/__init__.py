"""DEL: drafting with the first layers of the same model (arXiv 2504.05598)."""

from ariel_jax.algorithms.del_exit.config import (
    CONTROLLERS,
    Config,
    Costs,
    Tuning,
    default_exits,
    head_in_layers,
    idle_every,
    layer_costs,
    look_every,
    named,
    speedup,
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
from ariel_jax.algorithms.del_exit.profiling import measured_costs
from ariel_jax.algorithms.del_exit.report import Progress, progress
from ariel_jax.algorithms.del_exit.strategy import SelfSpeculative
from ariel_jax.algorithms.del_exit.tracing import Trace

__all__ = [
    "CONTROLLERS",
    "Choice",
    "Config",
    "Costs",
    "Progress",
    "SelfSpeculative",
    "State",
    "Trace",
    "Tuning",
    "acceptance",
    "default_exits",
    "draft_limit",
    "expected_tokens",
    "head_in_layers",
    "idle_every",
    "init",
    "layer_costs",
    "look_every",
    "measured_costs",
    "named",
    "progress",
    "replay",
    "scores",
    "select",
    "speedup",
    "threshold",
    "tuning",
    "update",
]
