"""A language whose every probability is known: styles are tables of which token follows which.

The public model has seen all styles and knows none of the private texts: without a demonstration it
predicts by how likely each style is after the text so far. A demonstration says which style it is, and the
model copies from it: with a share `COPY` it predicts what followed the last token there. That copying
is what could leak the one private token that every demonstration holds.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from ariel_jax.algorithms.mozo import Config, Numbers, sampling
from ariel_jax.algorithms.mozo.parameters import parameters

STYLES, VOCAB, PRIVATE = 8, 64, 8  # the last 8 tokens are private
LENGTH = 24  # tokens of a demonstration
COPY, RARE = 0.2, 1e-3  # RARE: probability of all private tokens together, in every style
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Language:
    """Styles, and demonstrations of one of them.

    Attributes:
        tables: [M, V, V] probability of the next token after each token, by style.
        style: of the demonstrations.
        demonstrations: [n, LENGTH] int64, one private token in each.
        evidence: [n, M] log-likelihood of each demonstration in each style.
    """

    tables: Floats
    style: int
    demonstrations: npt.NDArray[np.int64]
    evidence: Floats


def language(rng: np.random.Generator, n: int) -> Language:
    """Draws styles and n demonstrations."""
    known = VOCAB - PRIVATE
    tables = np.empty((STYLES, VOCAB, VOCAB))
    tables[..., :known] = (1 - RARE) * rng.dirichlet(np.full(known, 0.3), (STYLES, VOCAB))
    tables[..., known:] = RARE / PRIVATE
    tables = np.maximum(tables, 1e-9)  # Dirichlet's smallest shares are zero in float32
    tables /= tables.sum(-1, keepdims=True)
    style = int(rng.integers(STYLES))
    texts = walk(rng, tables[style], rng.integers(0, known, n), LENGTH)
    texts[np.arange(n), rng.integers(1, LENGTH - 1, n)] = rng.integers(known, VOCAB, n)
    logs = np.log(tables)
    evidence = sum(logs[:, texts[:, i], texts[:, i + 1]].T for i in range(LENGTH - 1))
    return Language(tables=tables, style=style, demonstrations=texts, evidence=np.asarray(evidence))


def walk(
    rng: np.random.Generator, table: Floats, first: npt.NDArray[np.int64], length: int
) -> npt.NDArray[np.int64]:
    """[n, length] texts of a style, from their first tokens [n]."""
    edges = np.cumsum(table, axis=-1)
    texts = np.empty((first.size, length), np.int64)
    texts[:, 0] = first
    for i in range(1, length):
        drawn = (rng.random((first.size, 1)) > edges[texts[:, i - 1]]).sum(-1)
        texts[:, i] = np.minimum(drawn, table.shape[0] - 1)
    return texts


def rows(
    language: Language, so_far: Floats, last: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """[Q, N + 1, V] logits of the next token: without a demonstration, and with each of those drawn.

    Args:
        language: the language.
        so_far: [Q, M] log-likelihood of each text so far in each style.
        last: [Q] token.
        drawn: [Q, N] demonstrations.
    """
    Q, N = drawn.shape
    evidence = np.concatenate(
        [np.zeros((Q, 1, STYLES)), language.evidence[drawn]], axis=1
    )  # fmt: skip
    posterior = so_far[:, None] + evidence
    posterior = np.exp(posterior - posterior.max(-1, keepdims=True))
    posterior /= posterior.sum(-1, keepdims=True)
    mixed = np.einsum("qnm,mqv->qnv", posterior, language.tables[:, last])
    texts = language.demonstrations[drawn]  # [Q, N, LENGTH]
    follows = texts[..., :-1] == last[:, None, None]
    copied = np.zeros((Q, N, VOCAB))
    q, n, i = np.nonzero(follows)
    np.add.at(copied, (q, n, texts[q, n, i + 1]), 1.0)
    total = copied.sum(-1, keepdims=True)
    share = np.where(total > 0, COPY, 0.0)
    mixed[:, 1:] = (1 - share) * mixed[:, 1:] + share * copied / np.maximum(total, 1)
    return np.log(mixed).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """What was generated, and what was seen on the way.

    Attributes:
        tokens: [Q, T] int64.
        log_likelihood: [Q] mean per token, under the style of the demonstrations.
        private: [Q] share of private tokens.
        steps: some `(logits [N + 1, V], mask [N])`, for an audit.
    """

    tokens: npt.NDArray[np.int64]
    log_likelihood: Floats
    private: Floats
    steps: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]


def generate(
    language: Language,
    config: Config,
    numbers: Numbers,
    *,
    expected: float,
    redraw_every: int,
    n_tokens: int,
    n_texts: int,
    seed: int,
) -> Texts:
    """Texts of the private decoder, many at a time.

    Draws and keys come from `seed`: such texts can be made again and protect nobody.

    Args:
        language: the language.
        config: of the step; draws beyond `n_slots` are cut.
        numbers: of the step.
        expected: demonstrations in a Poisson draw.
        redraw_every: tokens between draws.
        n_tokens: T.
        n_texts: Q, from first tokens that `seed` draws alike for every other argument.
        seed: of everything.
    """
    rng = np.random.default_rng([seed, 1])
    n, N = len(language.demonstrations), config.n_slots
    traced, key = parameters(config, numbers), jax.random.key(seed)
    last = rng.integers(0, VOCAB - PRIVATE, n_texts)
    so_far = np.zeros((n_texts, STYLES))
    log_likelihood, found, steps = np.zeros(n_texts), [], []
    drawn, mask = np.zeros((n_texts, N), np.int64), np.zeros((n_texts, N), bool)
    for t in range(n_tokens):
        if t % redraw_every == 0:
            counts = np.minimum(rng.binomial(n, expected / n, n_texts), N)
            mask = np.arange(N) < counts[:, None]
            for q in range(n_texts):
                drawn[q, : counts[q]] = rng.choice(n, counts[q], replace=False)
        logits = rows(language, so_far, last, drawn)
        if mask[t % n_texts].any():
            steps.append((logits[t % n_texts].copy(), mask[t % n_texts].copy()))
        keys = jax.random.split(jax.random.fold_in(key, t), n_texts)
        token = np.asarray(_step(logits, mask, keys, traced, config=config))
        log_likelihood += np.log(language.tables[language.style, last, token])
        so_far += np.log(language.tables[:, last, token]).T
        last = token.astype(np.int64)
        found.append(last)
    tokens = np.stack(found, axis=1)
    return Texts(
        tokens=tokens,
        log_likelihood=log_likelihood / n_tokens,
        private=(tokens >= VOCAB - PRIVATE).mean(1),
        steps=steps,
    )


@functools.partial(jax.jit, static_argnames=("config",))
def _step(
    logits: jax.Array, mask: jax.Array, keys: jax.Array, traced: Any, *, config: Config
) -> jax.Array:
    """[Q] tokens of `mozo`'s step."""

    def one(logits: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
        return sampling.step(logits, mask, key, config, traced)[0]

    return jax.vmap(one)(logits, mask, keys)
