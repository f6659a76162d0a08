"""dps-mozo: few-shot text under differential privacy, by mixing one-shot with zero-shot outputs (arXiv 2501.19287)."""

from ariel_jax.algorithms.mozo.config import CONTRACTS, POOLS, Config, Numbers, check

__all__ = ["CONTRACTS", "POOLS", "Config", "Numbers", "check"]
