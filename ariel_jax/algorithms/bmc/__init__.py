"""BMC: how much cache to reserve (Ramachandran et al. 2025, arXiv 2511.12031)."""

from ariel_jax.algorithms.bmc.model import Costs, Work, best_rows, overhead_s, simulate
from ariel_jax.algorithms.bmc.plan import Profile, Schedule, Times, predicted_s, schedule
from ariel_jax.algorithms.bmc.policy import Auto, Table

__all__ = [
    "Auto",
    "Costs",
    "Profile",
    "Schedule",
    "Table",
    "Times",
    "Work",
    "best_rows",
    "overhead_s",
    "predicted_s",
    "schedule",
    "simulate",
]
