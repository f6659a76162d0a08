"""JSON from a local decoder that keeps a JSON schema, token by token (package llguidance).

For what the trie cannot say: several fields in one answer, or lists. The mask is made on the host.
"""

import json
from collections.abc import Mapping as Table
from typing import Any

import jax.numpy as jnp

from ariel_jax._checks import positive_int
from ariel_jax.algorithms.ariel.lm import programs
from ariel_jax.algorithms.ariel.lm.scoring import Chooser
from ariel_jax.algorithms.ariel.mapper import LexiconMapper, Mapping, Nodes
from ariel_jax.algorithms.ariel.prompts import NONE, read_prompt
from ariel_jax.algorithms.ariel.text import clean, redact
from ariel_jax.algorithms.ariel.types import SLOTS
from ariel_jax.errors import ConfigError, ModelOutputError, missing_extra


def generate_json(
    chooser: Chooser, prompt: str, schema: Table[str, Any], *, max_tokens: int = 256
) -> Any:
    """A value that keeps `schema`, chosen greedily by the model.

    Args:
        chooser: with the model.
        prompt: ends where the JSON is to begin.
        schema: JSON Schema. Bound every string and list in it: a model that never closes one runs into
            `max_tokens`.
        max_tokens: of the answer.

    Returns:
        The parsed value.

    Raises:
        ConfigError: the schema is not understood, or the prompt too long.
        ModelOutputError: the answer was not complete after `max_tokens`, or is no JSON.
        MissingExtraError: llguidance is not installed.
    """
    positive_int(max_tokens=max_tokens)
    try:
        import llguidance
        import llguidance.numpy as masks
    except ImportError as error:
        raise missing_extra("llguidance", "structured", "JSON from a local model") from error
    V = chooser.model.cfg.vocab_size
    backend = llguidance.LLTokenizer(chooser.tokenizer.backend.to_str(), n_vocab=V)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(schema), defaults={"whitespace_flexible": False}
    )
    matcher = llguidance.LLMatcher(backend, grammar)
    _check(matcher, "the schema is not understood")
    bits = masks.allocate_token_bitmask(1, V)
    now = chooser.read(prompt, max_tokens)
    answer: list[int] = []
    while not matcher.is_stopped() and len(answer) < max_tokens:
        masks.fill_next_token_bitmask(matcher, bits, 0)
        token, now = programs.masked_program()(
            chooser.model.cfg, chooser.model.params, now=now, bits=jnp.asarray(bits[0])
        )
        answer.append(int(token))
        matcher.consume_token(answer[-1])
        _check(matcher, "a token that the grammar allows was refused")
    if not matcher.is_accepting() and not matcher.is_stopped():
        raise ModelOutputError(
            f"the answer was not complete after {max_tokens} tokens: bound the strings and lists of "
            "the schema, or allow more."
        )
    text = chooser.tokenizer.decode(answer)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelOutputError(
            f"the model's answer is no JSON ({len(text)} characters)."
        ) from error


def _check(matcher: Any, what: str) -> None:
    if matcher.is_error():
        raise ConfigError(f"{what}: {matcher.get_error()}")


class LMReader:
    """Reads all slots of a request from one text, as ids among the nearest and `none`.

    Args:
        chooser: with the model.
        nodes: by slot.
        n_ids: offered for each slot.
    """

    def __init__(self, chooser: Chooser, nodes: Nodes, *, n_ids: int = 6) -> None:
        positive_int(n_ids=n_ids)
        self._chooser, self._n_ids = chooser, n_ids
        self._lexicon = LexiconMapper(nodes, tau=1.0, stages=())

    def read(self, text: str) -> dict[str, Mapping]:
        """A mapping for each slot; its score is 0, because greedy decoding knows none.

        So no threshold lets it through: show it to the user as a suggestion. Where the model fails every
        slot says `mapper_failed`.

        Raises:
            InvalidRequestError: text is no string.
            ConfigError: the model has too few positions.
            MissingExtraError: llguidance is not installed.
        """
        read, flags = clean(text)
        offered = {
            slot: [node for node, _ in self._lexicon.ranked(slot, read)[: self._n_ids]]
            for slot in SLOTS
        }
        prompt = read_prompt(offered, self._chooser.harmless(redact(read)))
        try:
            answer = generate_json(self._chooser, prompt, request_schema(offered))
        except ModelOutputError:
            return {
                slot: Mapping(slot=slot, text=read, node=None, reason="mapper_failed", flags=flags)
                for slot in SLOTS
            }
        return {
            slot: Mapping(
                slot=slot,
                text=read,
                node=None,
                candidates=((answer[slot], 0.0),) if answer[slot] in offered[slot] else (),
                reason="below_threshold",
                flags=flags,
            )
            for slot in SLOTS
        }


def request_schema(offered: Table[str, list[str]]) -> dict[str, Any]:
    """One id for each slot, or `none`: all required, nothing else."""
    return {
        "type": "object",
        "properties": {slot: {"enum": [*ids, NONE]} for slot, ids in offered.items()},
        "required": list(offered),
        "additionalProperties": False,
    }
