"""DP-ICL's aggregation of whole answers, to compare with: keywords by votes, or the nearest to a noisy mean.

Every member of an ensemble writes an answer with demonstrations of its own, without privacy. What is released
of all of them is a few words, or a noisy sum of embeddings; an answer is then made of that and of public text,
at no further cost. Host only, NumPy; draws are repeatable, so that runs of it protect nobody.

References:
    Wu, Panda, Wang, Mittal, "Privacy-Preserving In-Context Learning for Large Language Models", 2023,
    arXiv 2305.01639, and the notebook released with it. Its keywords are drawn by a joint exponential
    mechanism or by propose-test-release (recalled); here each is drawn by an exponential mechanism of its own,
    which bounded ranges price tightly.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ariel_jax._checks import in_range, positive, positive_int
from ariel_jax.algorithms.mozo import curves
from ariel_jax.errors import ConfigError, PrivacyBudgetError
from ariel_jax.privacy import renyi

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def votes(answers: Iterable[Sequence[int]], n_words: int) -> Counts:
    """How many answers have each word; a word counts once in an answer.

    Args:
        answers: words of each member's answer, as numbers below `n_words`.
        n_words: of the vocabulary, which is public.

    Returns:
        [n_words] int64. One answer more or less changes a count by at most 1, and all in one direction.

    Raises:
        ConfigError: a word outside the vocabulary.
    """
    positive_int(n_words=n_words)
    counts = np.zeros(n_words, np.int64)
    for words in answers:
        said = np.unique(np.asarray(words, np.int64))
        if said.size and not 0 <= said[0] <= said[-1] < n_words:
            raise ConfigError(
                f"an answer has a word outside 0 .. {n_words - 1}: pass numbers of the public vocabulary."
            )
        counts[said] += 1
    return counts


def draw_keywords(
    counts: Counts,
    n_keywords: int,
    influence: float,
    generator: np.random.Generator,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> Counts:
    """Draws words one after the other, each with probability proportional to e^(influence votes).

    Args:
        counts: [n_words] from `votes`.
        n_keywords: how many.
        influence: h, the most that one answer changes the log-ratio of two words by.
        generator: of the draws.
        allowed: [n_words] words that can be drawn, chosen by public data; None for all.

    Returns:
        [n_keywords] int64, in the order in which they were drawn, no word twice.

    Raises:
        ConfigError: numbers out of range, or fewer words than are to be drawn.
    """
    positive_int(n_keywords=n_keywords)
    positive(influence=influence)
    words = np.arange(len(counts)) if allowed is None else np.flatnonzero(allowed)
    if len(words) < n_keywords:
        raise ConfigError(
            f"n_keywords={n_keywords} of {len(words)} words cannot be drawn: ask for fewer, or allow more."
        )
    # The largest of scores with Gumbel noise, once for all of them, is the same law as drawing in turn.
    noisy = influence * counts[words] + generator.gumbel(size=len(words))
    return words[np.argsort(-noisy, kind="stable")[:n_keywords]].astype(np.int64)


def keywords_price(
    *, n_keywords: int, influence: float, n_queries: int = 1, probability: float = 1.0
) -> renyi.Price:
    """Of the keywords of so many queries, where each member enters each query by a secret coin.

    Each word is drawn by an exponential mechanism whose log-ratio an answer moves within a range of
    `influence` (Theorem A of the docs), so that a query costs `n_keywords` of them before sampling.

    Raises:
        ConfigError: numbers out of range.
    """
    positive_int(n_keywords=n_keywords, n_queries=n_queries)
    positive(influence=influence)
    in_range(0, 1, ends="(]", probability=probability)
    if probability < 1:
        block = n_keywords * curves.bounded_range(curves.MOMENTS, influence)
        curve = curves.poisson(block, probability)
    else:
        curve = n_keywords * curves.bounded_range(renyi.ORDERS, influence)
    return renyi.Price(
        rdp=tuple((n_queries * curve).tolist()),
        relation="add_remove",
        what=f"{n_keywords} keywords of influence {influence:g} for each of {n_queries} queries",
    )


def keywords_influence(
    *, n_keywords: int, n_queries: int, probability: float, epsilon: float, delta: float
) -> float:
    """The largest influence, up to 64, whose `keywords_price` keeps to a budget.

    Raises:
        PrivacyBudgetError: not even an influence of 1e-6 fits.
        ConfigError: numbers out of range.
    """

    def fits(influence: float) -> bool:
        price = keywords_price(
            n_keywords=n_keywords,
            influence=influence,
            n_queries=n_queries,
            probability=probability,
        )
        return price.epsilon(delta) <= epsilon

    positive(epsilon=epsilon)
    low, high = 1e-6, 64.0
    if not fits(low):
        raise PrivacyBudgetError(
            f"epsilon={epsilon:g} at delta={delta:g} does not cover {n_keywords} keywords of {n_queries} "
            "queries, however little an answer counts: ask for fewer."
        )
    while high / low > 1 + 1e-6:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def noisy_sum(
    embeddings: npt.ArrayLike, noise_multiplier: float, generator: np.random.Generator
) -> Floats:
    """The sum of members' embeddings, each scaled to a length of at most 1, with Gaussian noise.

    Args:
        embeddings: [M, d] of the members' answers; M may be 0. One that is not finite counts as zero.
        noise_multiplier: standard deviation of the noise in each direction.
        generator: of the noise.

    Returns:
        [d]. `renyi.gaussian` of the noise multiplier is its price, for a member that comes or goes.

    Raises:
        ConfigError: a shape or a number out of range.
    """
    found = np.asarray(embeddings, np.float64)
    positive(noise_multiplier=noise_multiplier)
    if found.ndim != 2:
        raise ConfigError(f"embeddings have the shape {found.shape}: pass one row for each member.")
    found = np.where(np.isfinite(found).all(-1, keepdims=True), found, 0)
    largest = np.abs(found).max(-1, keepdims=True, initial=0)
    found = found / np.where(largest > 1, largest, 1)  # so that no square overflows
    found = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1)
    return found.sum(axis=0) + noise_multiplier * generator.standard_normal(found.shape[1])


def nearest(candidates: npt.ArrayLike, direction: npt.ArrayLike) -> int:
    """The number of the public candidate [C, d] whose angle to a released direction [d] is smallest."""
    public = np.asarray(candidates, np.float64)
    lengths = np.linalg.norm(public, axis=-1)
    scores = public @ np.asarray(direction, np.float64) / np.where(lengths > 0, lengths, 1)
    return int(np.argmax(np.where(lengths > 0, scores, -np.inf)))


def bag_of_words(words: Sequence[int], n_words: int) -> Floats:
    """[n_words] counts of an answer's words as a direction of length 1; zeros for no words.

    The simplest embedding that knows nothing of the data, for models that come without an encoder.
    """
    counts = np.bincount(np.asarray(words, np.int64), minlength=n_words).astype(np.float64)
    return counts / max(float(np.linalg.norm(counts)), 1.0)
