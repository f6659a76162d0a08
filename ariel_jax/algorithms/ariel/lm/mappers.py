"""Mappers that ask a local language model or encoder; each chooses a node or none, and nothing else."""

import pathlib
from typing import Literal

import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import in_range, one_of, positive_int
from ariel_jax.algorithms.ariel.gate import VERSION as GATE
from ariel_jax.algorithms.ariel.lm import programs
from ariel_jax.algorithms.ariel.lm.scoring import Chooser
from ariel_jax.algorithms.ariel.mapper import (
    MARGIN,
    LexiconMapper,
    Mapping,
    Nodes,
    choose,
    gated,
)
from ariel_jax.algorithms.ariel.prompts import NONE, map_prompt, prompts_hash
from ariel_jax.algorithms.ariel.text import clean, redact
from ariel_jax.algorithms.ariel.types import SLOTS
from ariel_jax.errors import CheckpointError, MapperUnavailableError, ModelOutputError
from ariel_jax.models.encoder import EncoderConfig
from ariel_jax.models.hf import EncoderModel, Model, load_encoder
from ariel_jax.models.hf.tokenizer import Tokenizer


class LMMapper:
    """Asks a decoder which of the nearest names a text means.

    The names offered are those of the nodes with most letters in common (or all), and `none`. What is not
    offered cannot be chosen, whatever the text says. What the gate refuses (`gate.refusal`) it is not asked.

    Args:
        model: with a tokenizer.
        nodes: by slot, as `Ontology.nodes`.
        tau: probability below which it abstains; find it with `calibration.calibrate` on mappings made
            with 0. There is no default, because it depends on the model.
        margin: between the best two.
        method: `score` compares the names' probabilities, less those under an empty text; `walk` decodes
            greedily along their tokens, and its score is the probability of that walk.
        n_names: offered at most; None: all of the slot, which takes a model with thousands of positions.

    Raises:
        ConfigError: a value is not allowed, or the model has no tokenizer.
    """

    def __init__(
        self,
        model: Model,
        nodes: Nodes,
        *,
        tau: float,
        margin: float = MARGIN,
        method: Literal["score", "walk"] = "score",
        n_names: int | None = 16,
    ) -> None:
        in_range(0, 1, tau=tau, margin=margin)
        one_of(("score", "walk"), method=method)
        if n_names is not None:
            positive_int(n_names=n_names)
        self._chooser = Chooser(model)
        self._lexicon = LexiconMapper(nodes, tau=1.0, stages=())
        self.tau, self.margin, self.method, self.n_names = tau, margin, method, n_names

    @property
    def name(self) -> str:
        """With method, threshold, prompts and gate."""
        return f"lm@{self.method}:{self.tau:g}:{prompts_hash()}:gate{GATE}"

    def map(self, slot: str, text: str) -> Mapping:
        """The node that `text` means in `slot`, by the model; values in it are not shown to it, nor what the gate refuses.

        Raises:
            ConfigError: no such slot, or the model has too few positions.
            InvalidRequestError: text is no string.
        """
        one_of(SLOTS, slot=slot)
        read, flags = clean(text)
        refused = gated(slot, read, flags, self._lexicon.index(slot))
        if refused is not None:
            return refused
        names = self._lexicon.offered(slot, read, self.n_names)
        offered = [*names, NONE]
        prompt = map_prompt(slot, list(names), self._chooser.harmless(redact(read)))
        try:
            if self.method == "walk":
                number, logprob = self._chooser.walk(prompt, offered)
                weight = np.where(np.arange(len(offered)) == number, np.exp(logprob), 0.0)
            else:
                empty = map_prompt(slot, list(names), "")
                weight = self._chooser.probabilities(prompt, empty, offered)
        except ModelOutputError:
            return Mapping(slot=slot, text=read, node=None, reason="mapper_failed", flags=flags)
        return pick(slot, read, list(names.values()), weight, self.tau, self.margin, "lm", flags)


def pick(
    slot: str,
    text: str,
    offered: list[str],
    weight: np.ndarray,
    tau: float,
    margin: float,
    by: str,
    flags: tuple[str, ...],
) -> Mapping:
    """The best of the nodes `offered`, whose weights are followed by that of `none`, or none."""
    *scores, nothing = (float(w) for w in weight)
    ranked = sorted(zip(offered, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    if not ranked or nothing >= ranked[0][1]:
        return Mapping(
            slot=slot,
            text=text,
            node=None,
            score=nothing,
            candidates=tuple(ranked[:3]),
            reason="below_threshold",
            flags=flags,
        )
    with_none = sorted([*ranked, ("", nothing)], key=lambda pair: (-pair[1], pair[0]))
    found = choose(slot, text, with_none, tau, margin, by=by, flags=flags)
    kept = tuple(pair for pair in found.candidates if pair[0])
    return Mapping(
        slot=slot,
        text=text,
        node=found.node,
        score=found.score,
        by=found.by,
        candidates=kept,
        reason=found.reason,
        flags=flags,
    )


class EncoderMapper:
    """Maps by the cosine of sentence vectors: mean over the tokens, length 1.

    Such vectors hardly see a "not": what the gate refuses (`gate.refusal`) is mapped to none.

    Args:
        model: an encoder of texts with a tokenizer (MiniLM is one).
        nodes: by slot; every name and every definition gets a vector.
        tau: cosine below which it abstains; find it with `calibration.calibrate`.
        margin: between the best two nodes.
        batch: texts that are read at once.

    Raises:
        ConfigError: tau or margin is not in [0, 1], or no positive batch.
        CheckpointError: the model reads no text.

    References:
        Reimers and Gurevych 2019, arXiv 1908.10084 (mean pooling).
    """

    def __init__(
        self,
        model: EncoderModel,
        nodes: Nodes,
        *,
        tau: float,
        margin: float = MARGIN,
        batch: int = 32,
    ) -> None:
        in_range(0, 1, tau=tau, margin=margin)
        positive_int(batch=batch)
        if not isinstance(model.cfg, EncoderConfig) or not isinstance(model.tokenizer, Tokenizer):
            raise CheckpointError(
                f"the encoder of {model.source} reads no text: pass a BERT or RoBERTa with a "
                "tokenizer.json."
            )
        self.tau, self.margin, self._batch = tau, margin, batch
        self._cfg, self._params, self._tokenizer = model.cfg, model.params, model.tokenizer
        self._lexicon = LexiconMapper(nodes, tau=1.0, stages=())
        self._ids = {slot: [node.id for node in nodes[slot]] for slot in SLOTS}
        rows = [
            (slot, number, text)
            for slot in SLOTS
            for number, node in enumerate(nodes[slot])
            for text in (node.label, *node.aliases, node.definition)
            if text
        ]
        vectors = self.encode([text for _, _, text in rows])
        self._vectors, self._owner = {}, {}
        for slot in SLOTS:
            mine = [n for n, row in enumerate(rows) if row[0] == slot]
            self._vectors[slot] = vectors[mine]
            self._owner[slot] = np.array([rows[n][1] for n in mine], np.int64)

    @classmethod
    def from_folder(
        cls, folder: str | pathlib.Path, nodes: Nodes, *, tau: float, margin: float = MARGIN
    ) -> "EncoderMapper":
        """With the encoder of a local folder; nothing is downloaded.

        Raises:
            MapperUnavailableError: the folder holds no encoder that can be read.
        """
        try:
            return cls(load_encoder(folder), nodes, tau=tau, margin=margin)
        except CheckpointError as error:
            raise MapperUnavailableError(
                f"No encoder can be read from {folder}: {error}"
            ) from error

    @property
    def name(self) -> str:
        """With threshold and gate."""
        return f"encoder@1:{self.tau:g}:gate{GATE}"

    def encode(self, texts: list[str]) -> np.ndarray:
        """[n, D] float32 of length 1; texts longer than the encoder are cut."""
        rows = [self._tokenizer.encode(text)[: self._cfg.max_positions] for text in texts]
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
        out = np.zeros((len(rows), self._cfg.d_model), np.float32)
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            longest = max(len(rows[n]) for n in part)
            T = min(max(16, 1 << (longest - 1).bit_length()), self._cfg.max_positions)
            ids = np.zeros((self._batch, T), np.int32)
            mask = np.zeros((self._batch, T), bool)
            for row, n in enumerate(part):
                ids[row, : len(rows[n])] = rows[n]
                mask[row, : len(rows[n])] = True
            found = programs.embed_program()(
                self._cfg, self._params, jnp.asarray(ids), jnp.asarray(mask)
            )
            out[part] = np.asarray(found)[: len(part)]
        return out

    def map(self, slot: str, text: str) -> Mapping:
        """The node whose nearest name or definition is nearest to `text`, or none; none where the gate refuses.

        Raises:
            ConfigError: no such slot.
            InvalidRequestError: text is no string.
        """
        one_of(SLOTS, slot=slot)
        read, flags = clean(text)
        refused = gated(slot, read, flags, self._lexicon.index(slot))
        if refused is not None:
            return refused
        cosine = self._vectors[slot] @ self.encode([redact(read)])[0]
        best = np.full(len(self._ids[slot]), -1.0)
        np.maximum.at(best, self._owner[slot], cosine)
        order = sorted(range(len(best)), key=lambda n: (-best[n], self._ids[slot][n]))
        ranked = [(self._ids[slot][n], max(0.0, min(1.0, float(best[n])))) for n in order]
        return choose(slot, read, ranked, self.tau, self.margin, by="encoder", flags=flags)
