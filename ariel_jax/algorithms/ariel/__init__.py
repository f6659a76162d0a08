"""ARIEL: a privacy judge that shares, withholds or asks, with a proof (arXiv 2512.05065).

Judging one request, its proof and the log need no JAX; `many`, `bulk`, `lm` and `icl` do and are imported
by themselves.
"""

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.checker import verify_proof
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.mapper import Ladder, LexiconMapper
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.records import Decision
from ariel_jax.algorithms.ariel.scorer import PersonalScorer
from ariel_jax.algorithms.ariel.types import (
    ANY,
    SELF,
    SLOTS,
    UNSPEC,
    Edge,
    Judgement,
    Node,
    Outcome,
    Policy,
    Request,
)

__all__ = [
    "ANY",
    "SELF",
    "SLOTS",
    "UNSPEC",
    "Ariel",
    "Closures",
    "Decision",
    "Edge",
    "History",
    "Judgement",
    "Ladder",
    "LexiconMapper",
    "Node",
    "Ontology",
    "Outcome",
    "PersonalScorer",
    "Policy",
    "Request",
    "judge",
    "verify_proof",
]
