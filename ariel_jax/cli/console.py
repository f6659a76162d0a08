"""What a command says beside its result."""

import sys


def say(text: str) -> None:
    """Prints a line on stderr, at once: standard output is for results."""
    print(text, file=sys.stderr, flush=True)
