"""BMC: how much cache to reserve (Ramachandran et al. 2025, arXiv 2511.12031)."""

from ariel_jax.algorithms.bmc.model import Costs, Work, best_rows, overhead_s, simulate
from ariel_jax.algorithms.bmc.planning import Profile, Schedule, Times, predicted_s, schedule
from ariel_jax.algorithms.bmc.policy import Auto, Table
from ariel_jax.algorithms.bmc.profiling import default_capacities, profile, step_costs
from ariel_jax.algorithms.bmc.report import Plan, Row, plan

__all__ = [
    "Auto",
    "Costs",
    "Plan",
    "Profile",
    "Row",
    "Schedule",
    "Table",
    "Times",
    "Work",
    "best_rows",
    "default_capacities",
    "overhead_s",
    "plan",
    "predicted_s",
    "profile",
    "schedule",
    "simulate",
    "step_costs",
]
