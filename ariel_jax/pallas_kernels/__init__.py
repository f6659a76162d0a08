"""Operations that have more than one implementation, and the table that picks one.

One folder per operation: `api.py` (the public function), `reference.py` (plain jnp, defines the
meaning) and `specs.py` (named shapes for tests and benchmarks). `dispatch.py` chooses.
"""
