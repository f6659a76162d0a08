"""Experiments on DEL, drafting with the first layers of the same model."""
