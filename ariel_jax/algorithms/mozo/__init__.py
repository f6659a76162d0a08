"""dps-mozo: few-shot text under differential privacy, by mixing one-shot with zero-shot outputs (arXiv 2501.19287)."""

from ariel_jax.algorithms.mozo.config import BALLS, CONTRACTS, POOLS, Config, Numbers, check
from ariel_jax.algorithms.mozo.decoding import Answer, MixedDecoder
from ariel_jax.algorithms.mozo.demos import Demonstration, Encoded, PromptFormat, encode, load
from ariel_jax.algorithms.mozo.generate import Generation, Session, generate
from ariel_jax.algorithms.mozo.planning import calibrate, largest_h, plan_for
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.algorithms.mozo.report import PrivacyReport
from ariel_jax.algorithms.mozo.synthesis import Synthetic, synthesize

__all__ = [
    "BALLS",
    "CONTRACTS",
    "POOLS",
    "Answer",
    "Config",
    "Demonstration",
    "Encoded",
    "Generation",
    "MixedDecoder",
    "Numbers",
    "Plan",
    "PrivacyReport",
    "PromptFormat",
    "Session",
    "Synthetic",
    "calibrate",
    "check",
    "encode",
    "generate",
    "largest_h",
    "load",
    "plan_for",
    "synthesize",
]
