"""Decoder configurations, weights and the forward pass."""
