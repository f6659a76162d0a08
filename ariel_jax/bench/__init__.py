"""Comparisons with other programs: named cases, one process per side, alternating pairs.

`ariel-jax bench` and the experiments are thin layers over this. Only `transformers_worker` imports
torch and transformers, and only in the process that is that side.
"""

from ariel_jax.bench.cases import CASES, SCALES, Case, Metric, in_dtypes, select
from ariel_jax.bench.decode import Row, compare, markdown, memory_rows
from ariel_jax.bench.worker import Worker, WorkerError

__all__ = [
    "CASES",
    "SCALES",
    "Case",
    "Metric",
    "Row",
    "Worker",
    "WorkerError",
    "compare",
    "in_dtypes",
    "markdown",
    "memory_rows",
    "select",
]
