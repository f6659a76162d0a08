"""What language models are asked, as packaged data with a hash for proofs. Host only."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

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
JUDGED = ("appropriate", "inappropriate")
"""The answers to `judge_prompt`."""


@functools.cache
def _templates() -> dict[str, Any]:
    return asset("prompts.json")


def prompts_hash() -> str:
    """The first 16 digits of the SHA-256 of all prompts of mappers and proposals; part of the name of a mapper.

    Prompts of baselines do not count: another wording there makes no other mapper.
    """
    told = {task: text for task, text in _templates().items() if task != "evaluation"}
    text = json.dumps(told, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def map_prompt(slot: str, names: list[str], text: str) -> str:
    """Asks which of `names` a cleaned text means; the text stands last, between marks."""
    return _fill(
        _templates()["map"], what=WHAT[slot], names="; ".join([*names, NONE]), text=_quoted(text)
    )


def read_prompt(ids: dict[str, list[str]], text: str) -> str:
    """Asks for one id a slot, as JSON."""
    listed = "; ".join(f"{slot}: {', '.join([*found, NONE])}" for slot, found in ids.items())
    return _fill(_templates()["read"], ids=listed, text=_quoted(text))


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
    return _fill(_templates()[edge_type], **parts)


def request_words(names: Mapping[str, str]) -> str:
    """A request in words: each slot with its name in quotes that the name cannot end.

    Args:
        names: of the nodes, by what their slots are called, on one line each.
    """
    return "; ".join(f"{slot} {_named(name)}" for slot, name in names.items())


def judge_prompt(judgements: Iterable[tuple[str, bool]], request: str) -> str:
    """Asks whether a request is appropriate, after judgements of the same user: in-context judging.

    Reconstructed, as no wording of the paper is known. Only a baseline asks it
    (`lm.in_context`); no verdict does.

    Args:
        judgements: requests in words (`request_words`) and whether they were appropriate, oldest first.
        request: in words.
    """
    wording = _templates()["evaluation"]
    told = [
        _fill(wording["judgement"], request=words, answer=JUDGED[0 if yes else 1])
        for words, yes in judgements
    ]
    return _fill(wording["judge"], judgements="".join(told), request=request)


def _fill(template: str, **parts: str) -> str:
    """Puts every part in once; what looks like a placeholder inside of a part stays as it is."""
    out, rest = [], template
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


def _named(name: str) -> str:
    return '"' + name.replace('"', "'") + '"'
