"""Experiments of ARIEL, the privacy judge."""
