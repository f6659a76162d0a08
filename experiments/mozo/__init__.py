"""Experiments of private few-shot text by mixing one-shot with zero-shot outputs."""
