"""Experiments on text under a privacy budget."""
