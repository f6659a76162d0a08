"""Experiments on plain decoding."""
