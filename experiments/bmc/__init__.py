"""Experiments on how much cache to reserve."""
