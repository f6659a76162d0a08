"""The form that reports of private computations have in common. Host only."""

import math
from collections.abc import Sequence
from typing import Any


def json_values(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for, in dictionaries within, too."""
    if isinstance(value, dict):
        return {name: json_values(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(
    title: str,
    guarantee: str,
    rows: Sequence[tuple[str, str]],
    *,
    assumptions: Sequence[str],
    not_protected: Sequence[str],
    warnings: Sequence[str] = (),
) -> str:
    """A report in Markdown.

    Args:
        title: of the page.
        guarantee: in words.
        rows: of the table, name and value.
        assumptions: what must be true for it.
        not_protected: what it does not cover.
        warnings: what weakens it; without any there is no such part.
    """
    return "\n".join(
        [
            f"# {title}",
            guarantee,
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            *(["## Warnings", *(f"- {line}" for line in warnings), ""] if warnings else []),
            "## It holds if",
            *(f"- {line}" for line in assumptions),
            "",
            "## It does not cover",
            *(f"- {line}" for line in not_protected),
            "",
        ]
    )
