"""Pure functions that transformers are made of; none of them knows what a cache is for."""
