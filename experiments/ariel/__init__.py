"""Experiments of ARIEL: personal privacy judgements by entailment."""
