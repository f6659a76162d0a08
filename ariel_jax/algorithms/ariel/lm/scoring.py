"""A local decoder that chooses among labels: by their probability, or by a walk through their trie."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms.ariel.lm import programs
from ariel_jax.algorithms.ariel.lm.trie import Trie
from ariel_jax.errors import ConfigError, ModelOutputError
from ariel_jax.models.hf import Model
from ariel_jax.models.hf.tokenizer import Tokenizer

END = "\n"
"""Ends every label, so that none is the beginning of another."""


class Chooser:
    """Asks one model; prompts and labels are padded to powers of two, so few programs are compiled.

    Args:
        model: with a tokenizer, such as `load_pretrained` gives.

    Raises:
        ConfigError: the model has no tokenizer.
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model.tokenizer, Tokenizer):
            raise ConfigError(
                f"the model of {model.source} has no tokenizer.json: it cannot read text. Pass one "
                "that has."
            )
        self.model = model
        self.tokenizer = model.tokenizer
        found = self.tokenizer.backend.get_added_tokens_decoder().values()
        self._special = sorted((token.content for token in found), key=len, reverse=True)

    def harmless(self, text: str) -> str:
        """The text without anything that the tokenizer would take for a mark of its own.

        Until nothing is left: what stands around a mark may form another one.
        """
        before = None
        while text != before:
            before = text
            for mark in self._special:
                text = text.replace(mark, " ") if mark.strip() else text
        return text

    def read(self, prompt: str, room: int) -> programs.Read:
        """Reads a prompt into a cache with `room` more rows.

        Raises:
            ConfigError: the prompt and the room exceed the model's positions.
        """
        ids = self.tokenizer.encode(prompt)
        most = self.model.cfg.max_positions
        if not ids or len(ids) + room > most:
            raise ConfigError(
                f"a prompt of {len(ids)} tokens and {room} to come: the model has {most} positions. "
                "Offer fewer names, or use a model with more."
            )
        T = _bucket(len(ids), 64)
        tokens = np.zeros((1, T), np.int32)
        tokens[0, : len(ids)] = ids
        return programs.read_program()(
            self.model.cfg,
            self.model.params,
            jnp.asarray(tokens),
            jnp.asarray([len(ids)], jnp.int32),
            capacity=_bucket(len(ids) + room, 64),
        )

    def tokens(self, labels: Sequence[str]) -> list[list[int]]:
        """Token ids of every label, with the blank before it and the mark behind it.

        Raises:
            ConfigError: there is no label.
        """
        if not labels:
            raise ConfigError("labels=() is not allowed: pass at least one.")
        return [
            self.tokenizer.encode(f" {self.harmless(label)}{END}", add_special_tokens=False)
            for label in labels
        ]

    def logprobs(self, prompt: str, labels: Sequence[str]) -> np.ndarray:
        """Mean log-probability of a label's tokens behind the prompt, which is read once.

        Returns:
            [n] float32.

        Raises:
            ConfigError: no label, or a prompt that is too long.
            ModelOutputError: a logit is no number.
        """
        total, lengths = self._scored(prompt, self.tokens(labels))
        return total / lengths

    def totals(self, prompt: str, labels: Sequence[str]) -> np.ndarray:
        """Log-probability of each whole label behind the prompt: `logprobs` summed instead of averaged.

        Returns:
            [n] float32.

        Raises:
            ConfigError: no label, or a prompt that is too long.
            ModelOutputError: a logit is no number.
        """
        return self._scored(prompt, self.tokens(labels))[0]

    def room(self, labels: Sequence[str]) -> int:
        """Tokens that a prompt may have when these labels are to be scored behind it.

        Raises:
            ConfigError: there is no label.
        """
        return self.model.cfg.max_positions - _label_room(self.tokens(labels))

    def _scored(self, prompt: str, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Sums of log-probabilities and numbers of tokens, [n] float32 and [n] int32."""
        T = _label_room(rows)
        padded = np.zeros((_bucket(len(rows), 2), T), np.int32)
        lengths = np.ones(len(padded), np.int32)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
            lengths[number] = len(row)
        read = self.read(prompt, T)
        total = programs.label_program()(
            self.model.cfg, self.model.params, read, jnp.asarray(padded), jnp.asarray(lengths)
        )
        found = np.asarray(total)[: len(rows)]
        if not np.isfinite(found).all():
            raise _not_finite()
        return found, lengths[: len(rows)]

    def probabilities(self, prompt: str, empty: str, labels: Sequence[str]) -> np.ndarray:
        """How likely each label is, beyond what it is without anything to name.

        Args:
            prompt: with the text.
            empty: the same prompt without it; its scores are taken off, so that a label is not
                chosen because it is common.
            labels: to choose among.

        Returns:
            [n] float64 with sum 1: softmax of the differences of `logprobs`.
        """
        score = self.logprobs(prompt, labels) - self.logprobs(empty, labels)
        weight = np.exp(np.float64(1) * (score - score.max()))
        return weight / weight.sum()

    def walk(self, prompt: str, labels: Sequence[str]) -> tuple[int, float]:
        """The label that greedy decoding reaches when every token must go on with a label.

        Returns:
            (number of the label, log-probability of the choices on the way). Some label is reached
            whatever the weights are.

        Raises:
            ConfigError: no label, two alike, or a prompt that is too long.
            ModelOutputError: a logit is no number; then the label means nothing.
        """
        trie = Trie.of(self.tokens(labels))
        found = programs.walk_program()(
            self.model.cfg,
            self.model.params,
            self.read(prompt, trie.depth),
            jnp.asarray(trie.moves),
            jnp.asarray(trie.tokens),
            jnp.asarray(trie.label >= 0),
        )
        if not bool(found.is_finite):
            raise _not_finite()
        return int(trie.label[int(found.state)]), float(found.logprob)


def _label_room(rows: list[list[int]]) -> int:
    return _bucket(max(len(row) for row in rows), 8)


def _bucket(n: int, smallest: int) -> int:
    return max(smallest, 1 << (n - 1).bit_length())


def _not_finite() -> ModelOutputError:
    return ModelOutputError(
        "the model's logits are no numbers; check its weights, or use a wider precision."
    )
