"""Local models that read text for ARIEL: names scored, tries walked, JSON, sentence vectors, proposals.

None of them decides: a model chooses a node or none, and proposes edges that wait for the user. `in_context`,
which judges, is a baseline to compare with and nothing calls it.
"""

from ariel_jax.algorithms.ariel.lm import in_context
from ariel_jax.algorithms.ariel.lm.mappers import EncoderMapper, LMMapper
from ariel_jax.algorithms.ariel.lm.proposals import ASKED, ask, neighbours, propose
from ariel_jax.algorithms.ariel.lm.schema import LMReader, generate_json
from ariel_jax.algorithms.ariel.lm.scoring import Chooser
from ariel_jax.algorithms.ariel.lm.trie import Trie

__all__ = [
    "ASKED",
    "Chooser",
    "EncoderMapper",
    "LMMapper",
    "LMReader",
    "Trie",
    "ask",
    "generate_json",
    "in_context",
    "neighbours",
    "propose",
]
