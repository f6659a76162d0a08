"""Private text from a language whose every probability is known: what a budget buys, and what it hides.

    python -m experiments.mozo.oracle_lm --scale cpu --out results

Eight styles of 64 tokens, 10,000 demonstrations of one of them with a private token in each, and a model
that copies a fifth of what it says from its demonstration (`bigrams`). Poisson draws of 4 on average, 200
texts of 50 tokens from one budget, delta 1e-5. About 2 minutes on one core. Expected: the log-likelihood in
the demonstrations' style rises with epsilon from the zero-shot text's to that of the one-shots' geometric
mean; the rate of private tokens, high with one demonstration and no bound, is the zero-shot text's; drawing
anew every 5 tokens is better than once a text at every epsilon; and no step tells more than it is charged.
"""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ariel_jax.algorithms.mozo import Config, Numbers, audit
from ariel_jax.algorithms.mozo.planning import plan_for
from experiments import runner
from experiments.mozo import bigrams
from experiments.runner import Case, Figure, Settings

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
EXPECTED, DELTA = 4.0, 1e-5
SLOTS = 16  # a draw beyond it, which is rarer than 1e-5, is cut; plans have more
ONE = "one demonstration drawn (not private)"
ERRORS = 2.0  # standard errors by which a comparison may miss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is: `n_queries` are paid for by a budget, `n_texts` are made."""

    n: int = 10_000
    n_queries: int = 200
    n_texts: int = 1_000
    n_tokens: int = 50
    redraw_every: int = 5
    epsilons: tuple[float, ...] = EPSILONS


TINY = Sizes(n=2_000, n_queries=8, n_texts=16, n_tokens=6, epsilons=(1.0, 2.0))


def cases(settings: Settings) -> Sequence[Case]:
    """A curve for each number of draws, their comparison, private tokens, and the audit."""
    config = dataclasses.asdict(TINY if settings.is_tiny else Sizes())
    names = ("redraw every 5 tokens", "one draw a text", "audit")
    return [Case(name=name, config=config, expected_s=20.0) for name in names]


@functools.cache
def _language(n: int, seed: int) -> bigrams.Language:
    return bigrams.language(np.random.default_rng([seed, 0]), n)


@functools.cache
def texts(
    c: Sizes, seed: int, epsilon: float, redraw_every: int, expected: float = EXPECTED
) -> tuple[bigrams.Texts, Config, Numbers]:
    """Of a budget, with its settings; 0 for zero-shot texts, infinity for no bound."""
    priced = epsilon if 0 < epsilon < math.inf else 1.0
    plan = plan_for(
        Config(top_k=None), n_demonstrations=c.n, epsilon=priced, delta=DELTA,
        n_queries=c.n_queries, max_tokens=c.n_tokens, subset=EXPECTED,
        redraw_every=redraw_every if redraw_every < c.n_tokens else None,
    )  # fmt: skip
    numbers = plan.numbers
    if epsilon != priced:
        numbers = dataclasses.replace(numbers, eta=epsilon, weight=1 / expected)
    # As many slots for every budget, so that one program serves all.
    config = dataclasses.replace(plan.config, n_slots=SLOTS if expected > 1 else SLOTS // 2)
    made = bigrams.generate(
        _language(c.n, seed), config, numbers, expected=expected, redraw_every=redraw_every,
        n_tokens=c.n_tokens, n_texts=c.n_texts, seed=seed,
    )  # fmt: skip
    return made, config, numbers


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """What the case's name says."""
    c, seed = (TINY if settings.is_tiny else Sizes()), settings.seed
    if case.name == "audit":
        yield from _audit(c, seed)
        return
    redraw_every = c.redraw_every if case.name.startswith("redraw") else c.n_tokens
    budgets = [0.0, *c.epsilons, math.inf]
    found = [texts(c, seed, epsilon, redraw_every)[0] for epsilon in budgets]
    due = not settings.is_tiny
    for epsilon, text in zip(budgets, found, strict=True):
        yield _row(f"log-likelihood in the style, {_name(epsilon)}", text.log_likelihood, "nats")
        yield _row(f"private tokens, {_name(epsilon)}", text.private, "1")
    one = texts(c, seed, math.inf, redraw_every, expected=1.0)[0]
    yield _row(f"log-likelihood in the style, {ONE}", one.log_likelihood, "nats")
    yield _row(f"private tokens, {ONE}", one.private, "1")
    gains = [_gain(b.log_likelihood, a.log_likelihood) for a, b in itertools.pairwise(found)]
    yield _simulated(
        "smallest gain from one budget to the next, in standard errors", min(gains), "1",
        **runner.judge(min(gains) >= -ERRORS, f"at least -{ERRORS:g}", due=due),
    )  # fmt: skip
    if redraw_every < c.n_tokens:
        leak = _gain(one.private, found[0].private)
        yield _simulated(
            f"private tokens with {ONE} above zero-shot, in standard errors", leak, "1",
            **runner.judge(leak > ERRORS, f"above {ERRORS:g}", due=due),
        )  # fmt: skip
        excess = _gain(found[1].private, found[0].private)
        yield _simulated(
            f"private tokens at epsilon {c.epsilons[0]:g} above zero-shot, in standard errors", excess,
            "1", **runner.judge(excess <= ERRORS, f"at most {ERRORS:g}", due=due),
        )  # fmt: skip
        return
    for epsilon, one in zip(budgets[1:-1], found[1:-1], strict=True):
        often = texts(c, seed, epsilon, c.redraw_every)[0]
        gain = _gain(often.log_likelihood, one.log_likelihood)
        yield _simulated(
            f"redrawing over one draw, {_name(epsilon)}, in standard errors", gain, "1",
            **runner.judge(gain >= -ERRORS, f"at least -{ERRORS:g}", due=due),
        )  # fmt: skip


def _audit(c: Sizes, seed: int) -> Iterator[Figure]:
    """The exact divergences of steps that were taken, over what is charged for them."""
    for epsilon in c.epsilons:
        text, config, numbers = texts(c, seed, epsilon, c.redraw_every)
        laws = jax.jit(audit.laws_of(config, numbers))
        found = [
            audit.audit_step(logits, mask, config, numbers, laws=laws).worst
            for logits, mask in text.steps
        ]
        yield _simulated(
            f"largest divergence over its price in {len(found)} steps, {_name(epsilon)}", max(found), "1",
            **runner.judge(max(found) <= 1 + audit.TOLERANCE, "at most 1"),
        )  # fmt: skip


def _name(epsilon: float) -> str:
    named = {0.0: "zero-shot", math.inf: "geometric mean of one-shots (not private)"}
    return named.get(epsilon, f"epsilon {epsilon:g}")


def _gain(better: np.ndarray, worse: np.ndarray) -> float:
    """The difference of two means in its standard errors."""
    spread = math.sqrt(better.var() / better.size + worse.var() / worse.size)
    return float((better.mean() - worse.mean()) / spread) if spread > 0 else 0.0


def _row(metric: str, values: np.ndarray, unit: str) -> Figure:
    error = float(values.std() / math.sqrt(values.size))
    return _simulated(f"{metric}, standard error {error:.2g}", float(values.mean()), unit)


def _simulated(metric: str, value: float, unit: str, **more: Any) -> Figure:
    return Figure(metric=metric, value=float(f"{value:.5g}"), unit=unit, kind="simulated", **more)


def plot(rows: list[dict[str, Any]]) -> Any:
    """Log-likelihood by budget."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    for case in sorted({row["case"] for row in rows} - {"audit"}):
        shown = [r for r in rows if r["case"] == case and r["metric"].startswith("log-likelihood")]
        labels = [r["metric"].split(", ")[1].removeprefix("epsilon ").split(" (")[0] for r in shown]
        axis.plot(labels, [r["value"] for r in shown], "o-", label=case)
    axis.set(xlabel="epsilon", ylabel="log-likelihood in the style, nats a token")
    axis.tick_params(axis="x", labelrotation=30)
    axis.legend(fontsize=7)
    return figure


EXPERIMENT = runner.Experiment(
    name="mozo.oracle_lm", title="Private text where every probability is known", cases=cases,
    measure=measure, plot=plot,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
