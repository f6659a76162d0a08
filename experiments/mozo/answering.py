"""What `tiny_lm` measures: answers of the small model to one task, in private and otherwise, and their scores."""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ariel_jax import load_pretrained
from ariel_jax.algorithms.mozo import Config, Numbers, sampling
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.algorithms.mozo.planning import plan_for
from ariel_jax.models.config import Precision
from experiments.mozo import batched, records
from experiments.mozo.rouge import rouge_l

MODEL = pathlib.Path(__file__).parent / "tiny"
DELTA = 1e-5
SLOTS = 8  # slots are a multiple of it: fewer programs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large an experiment is.

    Attributes:
        n_demonstrations: that are private.
        n_queries: answered, in each seed.
        max_tokens: of an answer; priced whether they are used or not.
        n_layers: of the model that are used; None for all.
        round_to: prompts are padded to a multiple of it.
        seeds: each with a style, demonstrations, queries, draws and tokens of its own.
    """

    n_demonstrations: int = 10_000
    n_queries: int = 200
    max_tokens: int = 50
    n_layers: int | None = None
    round_to: int = 16
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to answer in private; the defaults are the certified ones.

    Attributes:
        epsilon: of the budget; infinity for influence without bound, which is not private.
        n_paid: queries that the budget pays for.
        subset: demonstrations in a draw, on average (`sampler` poisson).
        top_k: tokens that can be drawn; None for all.
        redraw_every: tokens; None for one draw a query.
        contract, pool, alpha, sampler: as in `mozo`.
        weight: of a demonstration in the pool; None for 1 / subset. The budget allows the same influence
            h = weight * eta whatever it is.
    """

    epsilon: float = 2.0
    n_paid: int = 200
    subset: int = 4
    top_k: int | None = 100
    redraw_every: int | None = 5
    contract: str = "scale"
    pool: str = "product"
    alpha: int | None = None
    sampler: str = "poisson"
    weight: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one way to answer.

    Attributes:
        rouge: [seeds] mean ROUGE-L.
        exact: [seeds] share of answers that are the reference.
        private: [seeds] share of answers with a name that only demonstrations hold.
    """

    rouge: np.ndarray
    exact: np.ndarray
    private: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A token by `mozo`'s step."""

    config: Config

    def __call__(self, logits: jax.Array, mask: jax.Array, key: jax.Array, numbers: Any) -> Any:
        """The token of one query's rows."""
        return sampling.step(logits, mask, key, self.config, numbers)[0]


def weights_sha256() -> str:
    """Of the model, so that results of other weights are not taken for its own."""
    return hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()


@functools.cache
def _model(n_layers: int | None) -> Any:
    model = load_pretrained(MODEL, precision=Precision.f32())
    if n_layers is None:
        return model
    cfg = dataclasses.replace(model.cfg, n_layers=n_layers)
    params = model.params.replace(layers=model.params.layers[:n_layers])
    return dataclasses.replace(model, cfg=cfg, params=params)


@functools.cache
def subject(sizes: Sizes, seed: int) -> tuple[batched.Subject, tuple[str, ...]]:
    """Prompts of a seed's task, and the references."""
    task = records.draw_task(
        seed, n_demonstrations=sizes.n_demonstrations, n_queries=sizes.n_queries
    )
    made = batched.subject(_model(sizes.n_layers), task.demonstrations, task.queries)
    return made, task.references


@functools.cache
def plan(setting: Setting, sizes: Sizes) -> Any:
    """The plan of a setting, with the largest influence that its budget allows."""
    config = Config(
        top_k=setting.top_k, contract=setting.contract, pool=setting.pool, alpha=setting.alpha
    )
    is_private = setting.epsilon < math.inf
    found = plan_for(
        config,
        n_demonstrations=sizes.n_demonstrations,
        epsilon=setting.epsilon if is_private else 8.0,
        delta=DELTA,
        n_queries=setting.n_paid,
        max_tokens=sizes.max_tokens,
        sampler=setting.sampler,
        subset=setting.subset,
        redraw_every=setting.redraw_every,
    )
    weight = setting.weight or found.numbers.weight
    if not is_private:
        return found.replace(numbers=Numbers(eta=math.inf, weight=weight))
    if weight == found.numbers.weight:
        return found
    numbers = dataclasses.replace(found.numbers, eta=found.numbers.h / weight, weight=weight)
    return found.replace(numbers=numbers)


def slots_for(setting: Setting, sizes: Sizes) -> int:
    """Rows of a query: as many as a draw has at most, or for `poisson` four times the expected number.

    A draw beyond that, which is rarer than 1e-5, is cut here; the plan's own slots are more.
    """
    needed = plan(setting, sizes).config.n_slots
    if setting.sampler != "poisson":
        return needed
    return min(-(-needed // SLOTS), -(-4 * setting.subset // SLOTS)) * SLOTS


@functools.cache
def private(setting: Setting, sizes: Sizes) -> Scores:
    """Of a setting of `mozo`."""
    planned = plan(setting, sizes)
    config = dataclasses.replace(planned.config, n_slots=slots_for(setting, sizes))
    schedule = batched.Schedule(
        max_tokens=sizes.max_tokens,
        redraw_every=setting.redraw_every,
        slots=config.n_slots,
        round_to=sizes.round_to,
    )
    n = sizes.n_demonstrations

    def draw(rng: np.random.Generator, query: int) -> np.ndarray:
        count = setting.subset
        if planned.sampler == "poisson":
            count = min(int(rng.binomial(n, setting.subset / n)), config.n_slots)
        return rng.choice(n, count, replace=False)

    traced = parameters(planned.config, planned.numbers)
    return scored(sizes, Mixed(config), traced, schedule, draw)


@functools.cache
def shots(n: int, sizes: Sizes) -> Scores:
    """Of n demonstrations before the query, without privacy; 0 for zero-shot."""
    config = Config(n_slots=1, top_k=None)
    schedule = batched.Schedule(
        max_tokens=sizes.max_tokens, redraw_every=None, slots=1, round_to=sizes.round_to
    )
    traced = parameters(config, Numbers(eta=0.0, weight=1.0))

    def none(rng: np.random.Generator, query: int) -> np.ndarray:
        return np.zeros(0, np.int64)

    def some(rng: np.random.Generator, query: int) -> np.ndarray:
        return rng.choice(sizes.n_demonstrations, n, replace=False)

    return scored(sizes, Mixed(config), traced, schedule, none, some if n else None)


def scored(
    sizes: Sizes,
    method: batched.Method,
    traced: Any,
    schedule: batched.Schedule,
    draw: batched.Draw,
    before: batched.Draw | None = None,
) -> Scores:
    """Of answers by any method; the arguments are those of `batched.answers`."""

    def answered(made: batched.Subject, seed: int) -> list[list[int]]:
        return batched.answers(
            made, method, traced, schedule=schedule, draw=draw, seed=seed, shots=before
        )

    return scores_of(sizes, answered)


def scores_of(
    sizes: Sizes, answered: Callable[[batched.Subject, int], Sequence[Sequence[int]]]
) -> Scores:
    """Of the answers, as token ids, that `answered(subject, seed)` gives to a seed's queries."""
    found = []
    for seed in sizes.seeds:
        made, references = subject(sizes, seed)
        pairs = list(zip(map(made.text, answered(made, seed)), references, strict=True))
        names = [any(name in text for name in records.PRIVATE_NAMES) for text, _ in pairs]
        rouge = np.mean([rouge_l(text, reference) for text, reference in pairs])
        exact = np.mean([text == reference for text, reference in pairs])
        found.append((rouge, exact, np.mean(names)))
    rouges, exacts, privates = (np.asarray(part) for part in zip(*found, strict=True))
    return Scores(rouge=rouges, exact=exacts, private=privates)
