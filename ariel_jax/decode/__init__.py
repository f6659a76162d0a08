"""Decoding: states, strategies, sampling and the one jitted program."""
