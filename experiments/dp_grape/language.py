"""The docstring task for a language model: it reads a docstring and says a letter for the module."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import load_pretrained, testing
from ariel_jax.models import decoder
from ariel_jax.models.config import Precision
from ariel_jax.models.paths import flatten
from ariel_jax.training.attention import training_attend
from experiments.dp_grape import docstrings
from experiments.dp_grape.tasks import Records, Task

ASKED = "\nModule:"
LETTERS = "ABCDEFGHIJKL"
FROZEN = (r"^embed", r"^pos_embed$", r"^unembed")


@functools.cache
def task(n_tokens: int, *, tiny: bool = False) -> Task:
    """The model nano on `docstrings.MODULES`, in float32; embeddings and head stay as they are.

    Args:
        n_tokens: of an example; longer docstrings lose their ends.
        tiny: a random model of two layers and few records.
    """
    model = testing.tiny_model() if tiny else load_pretrained("nano", precision=Precision.f32())
    cfg, encode = model.cfg, model.tokenizer.encode
    asked = encode(ASKED)
    letters = jnp.asarray([encode(letter)[-1] for letter in LETTERS], jnp.int32)
    labels, rows = list(docstrings.MODULES), docstrings.labelled(docstrings.collect())

    def records(part: list[docstrings.Docstring], n: int) -> Records:
        part = part[:n] if tiny else part
        x = np.full((len(part), n_tokens), -1, np.int32)  # -1 behind the end
        for row, example in zip(x, part, strict=True):
            head = [model.generation.bos_id, *encode(example.text)][: n_tokens - len(asked)]
            row[: len(head) + len(asked)] = [*head, *asked]
        return {"x": x, "y": np.asarray([labels.index(e.module) for e in part], np.int32)}

    def logits(params: Any, x: jax.Array) -> jax.Array:
        attend = training_attend(cfg.attention, n_tokens)
        # A row of padding of a batch has no tokens: it reads its first.
        last = jnp.maximum(jnp.sum(x >= 0, dtype=jnp.int32) - 1, 0)
        tokens, places = jnp.maximum(x, 0)[None], jnp.arange(n_tokens, dtype=jnp.int32)[None]
        found, _ = decoder.apply(cfg, params, tokens, places, attend, None, logits_at=last[None])
        return found[0, letters]

    train = [row for row in rows if row.split == "train"]
    kept = [row for row in train if docstrings.share(row.name, "validation") < 1 / 6]
    shapes = {path: leaf.shape for path, leaf in flatten(model.params).items()}
    return Task(
        name="nano", train=records([row for row in train if row not in kept], 40),
        validation=records(kept, 10), test=records([r for r in rows if r.split == "test"], 10),
        init=lambda seed: model.params, logits=logits, head=(), frozen=FROZEN,
        widths={
            path: min(shape) for path, shape in shapes.items()
            if path.startswith("layers.") and len(shape) == 2
        },
    )  # fmt: skip
