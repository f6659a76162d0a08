"""ARIEL: a privacy judge that shares, withholds or asks, with a proof (arXiv 2512.05065)."""
