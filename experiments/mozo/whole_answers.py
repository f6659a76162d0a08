"""DP-ICL on the task of `tiny_lm`: whole answers of members, aggregated by keywords or by embeddings.

Each member is one demonstration, drawn by a coin of its own for every query, and answers without privacy
(Wu et al. show four to each of about a hundred members). The model here was never told to use words that are
suggested to it: keywords are favoured in its zero-shot row by a fixed bias instead. Embeddings are bags of
tokens. What is released once is a few keywords, or a noisy sum, for each query.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ariel_jax import privacy
from ariel_jax.algorithms.mozo import Config, Numbers, aggregation
from ariel_jax.algorithms.mozo.parameters import parameters
from experiments.mozo import answering, batched
from experiments.mozo.answering import DELTA, Mixed, Scores, Sizes

BIAS = 4.0  # nats, on each keyword that was released
PLAIN = Config(n_slots=1, top_k=None)


@functools.cache
def keywords(members: int, n_keywords: int, epsilon: float, sizes: Sizes) -> Scores:
    """Zero-shot answers whose likeliest words were voted for by members' answers."""
    influence = aggregation.keywords_influence(
        n_keywords=n_keywords,
        n_queries=sizes.n_queries,
        probability=members / sizes.n_demonstrations,
        epsilon=epsilon,
        delta=DELTA,
    )

    def answered(made: batched.Subject, seed: int) -> list[list[int]]:
        V, generator = made.model.cfg.vocab_size, np.random.default_rng([seed, 17])
        bias = np.zeros((len(made.queries), V), np.float32)
        for q, answers in enumerate(_members(made, members, sizes, seed)):
            # What the query says already suggests nothing; the end is no word. Both are public.
            allowed = np.ones(V, bool)
            allowed[made.queries[q]] = allowed[made.end] = False
            drawn = aggregation.draw_keywords(
                aggregation.votes(answers, V), n_keywords, influence, generator, allowed=allowed
            )
            bias[q, drawn] = BIAS
        return _plainly(made, sizes, seed, bias)

    return answering.scores_of(sizes, answered)


@functools.cache
def embeddings(members: int, n_candidates: int, epsilon: float, sizes: Sizes) -> Scores:
    """Of several zero-shot answers the one that is nearest to a noisy sum of members' answers."""
    noise = embedding_noise(members, epsilon, sizes)

    def answered(made: batched.Subject, seed: int) -> list[list[int]]:
        V, generator = made.model.cfg.vocab_size, np.random.default_rng([seed, 19])
        embed = functools.partial(aggregation.bag_of_words, n_words=V)
        again = dataclasses.replace(
            made, queries=tuple(query for query in made.queries for _ in range(n_candidates))
        )
        candidates, found = _plainly(again, sizes, seed + 1000), []
        for q, answers in enumerate(_members(made, members, sizes, seed)):
            shown = np.array([embed(ids) for ids in answers]).reshape(-1, V)
            direction = aggregation.noisy_sum(shown, noise, generator)
            own = candidates[q * n_candidates : (q + 1) * n_candidates]
            found.append(own[aggregation.nearest([embed(ids) for ids in own], direction)])
        return found

    return answering.scores_of(sizes, answered)


def embedding_noise(members: int, epsilon: float, sizes: Sizes) -> float:
    """The smallest noise multiplier with which one noisy sum for each query keeps to a budget."""
    plan = privacy.Plan(
        noise_multiplier=1.0,
        steps=sizes.n_queries,
        sampling_probability=members / sizes.n_demonstrations,
    )
    return privacy.calibrate(plan, epsilon=epsilon, delta=DELTA).noise_multiplier


def _members(made: batched.Subject, members: int, sizes: Sizes, seed: int) -> list[list[list[int]]]:
    """Per query, the answers of its members."""
    n, generator = sizes.n_demonstrations, np.random.default_rng([seed, 13])
    drawn = [
        generator.choice(n, generator.binomial(n, members / n), replace=False) for _ in made.queries
    ]
    prompts = tuple(
        np.concatenate([made.demonstrations[d], query])
        for query, chosen in zip(made.queries, drawn, strict=True)
        for d in chosen
    )
    if not prompts:
        return [[] for _ in made.queries]
    answers = iter(_plainly(dataclasses.replace(made, queries=prompts), sizes, seed))
    return [[next(answers) for _ in chosen] for chosen in drawn]


def _plainly(
    made: batched.Subject, sizes: Sizes, seed: int, bias: np.ndarray | None = None
) -> list[list[int]]:
    """An answer to each prompt, without other rows."""

    def none(rng: np.random.Generator, query: int) -> Sequence[int]:
        return np.zeros(0, np.int64)

    schedule = batched.Schedule(
        max_tokens=sizes.max_tokens, redraw_every=None, slots=1, round_to=sizes.round_to
    )
    traced = parameters(PLAIN, Numbers(eta=0.0, weight=1.0))
    return batched.answers(
        made, Mixed(PLAIN), traced, schedule=schedule, draw=none, seed=seed, bias=bias
    )
