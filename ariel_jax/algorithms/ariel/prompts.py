"""What language models are asked, as packaged data with a hash for proofs. Host only."""

import functools
import hashlib
import json

from ariel_jax.algorithms.ariel.mapper import asset
from ariel_jax.algorithms.ariel.types import Node

NONE = "none"
"""The answer for a text that no node means."""
WHAT = {
    "data": "kind of personal data",
    "subject": "person whose data it is",
    "sender": "sender of data",
    "recipient": "recipient of data",
    "purpose": "purpose",
    "principle": "rule for handling data",
}


@functools.cache
def _templates() -> dict[str, str]:
    return asset("prompts.json")


def prompts_hash() -> str:
    """The first 16 digits of the SHA-256 of all prompts; part of the name of a mapper that uses them."""
    text = json.dumps(_templates(), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def map_prompt(slot: str, names: list[str], text: str) -> str:
    """Asks which of `names` a cleaned text means; the text stands last, between marks."""
    return _fill("map", what=WHAT[slot], names="; ".join([*names, NONE]), text=_quoted(text))


def read_prompt(ids: dict[str, list[str]], text: str) -> str:
    """Asks for one id a slot, as JSON."""
    listed = "; ".join(f"{slot}: {', '.join([*found, NONE])}" for slot, found in ids.items())
    return _fill("read", ids=listed, text=_quoted(text))


def edge_prompt(edge_type: str, x: Node | None, y: Node | None) -> str:
    """Asks whether an edge from x to y holds; with None for both, the same question about nothing."""
    parts = {"x": "", "y": "", "x_definition": "", "y_definition": ""}
    if x is not None and y is not None:
        parts = {
            "x": x.label,
            "y": y.label,
            "x_definition": x.definition,
            "y_definition": y.definition,
        }
    return _fill(edge_type, **parts)


def _fill(task: str, **parts: str) -> str:
    """Puts every part in once; what looks like a placeholder inside of a part stays as it is."""
    out, rest = [], _templates()[task]
    while rest:
        at, name = min(
            ((rest.find("{" + n + "}"), n) for n in parts if "{" + n + "}" in rest),
            default=(-1, ""),
        )
        if at < 0:
            break
        out += [rest[:at], parts[name]]
        rest = rest[at + len(name) + 2 :]
    return "".join([*out, rest])


def _quoted(text: str) -> str:
    """A text that cannot end the marks around it."""
    return text.replace("<<<", "< < <").replace(">>>", "> > >")
