"""What a private token costs: N + 1 rows beside plain decoding, and redraws beside their formula.

    python -m experiments.mozo.speed --scale cpu --out results

Scale `cpu`: nano, answers of 50 tokens, no text ends early; medians of seven, all ways in turn. A step of
N + 1 rows and a prefill (a draw, the stored demonstrations gathered, the query read, one token) are measured
from answers with one draw for all tokens and with one for every token; an answer with a draw for five is then
predicted: ms/token = (prefill + 4 steps) / 5. Poisson rows are those that 10,000 demonstrations, a draw of 4
on average, 200 queries of 50 tokens, epsilon 2 and delta 1e-5 need. Kernels are those
that this machine's records choose (`ariel-jax kernels bench`). About 5 minutes on two cores.
Expected: N = 4 without redraw at most 2.5 times plain decoding; redraws within 20 % of the formula.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import decode, testing
from ariel_jax.algorithms import mozo
from ariel_jax.algorithms.mozo import bits, sampling
from ariel_jax.algorithms.mozo.draws import Draw
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.models import hf
from ariel_jax.models.hf.model import GenerationDefaults
from experiments import runner
from experiments.runner import Case, Figure, Settings

FORMAT = mozo.PromptFormat(
    instruction="# One line of Python for each request.\n",
    demonstration="# {input}\n{output}\n\n",
    query="# {input}\n",
    stop=(),
)
QUERY = "return the sum of the squares of the numbers in the list"
NUMBERS = mozo.Numbers(eta=4.0, weight=0.25)
REDRAW = 5


def cases(settings: Settings) -> Sequence[Case]:
    """A fixed number of rows, and those of a Poisson draw."""
    full = {"n_tokens": 50, "n_runs": 7, "n_demonstrations": 200, "demo_tokens": 48, "slots": 4}
    if settings.is_tiny:  # as many rows as the store has: programs are compiled once
        tiny = {
            "n_tokens": REDRAW,
            "n_runs": 1,
            "n_demonstrations": 6,
            "demo_tokens": 48,
            "slots": 7,
        }
        return [Case(name="fixed", config=tiny, expected_s=5.0)]
    plan = mozo.plan_for(
        n_demonstrations=10_000, epsilon=2.0, delta=1e-5, n_queries=200, max_tokens=50,
        redraw_every=REDRAW,
    )  # fmt: skip
    poisson = full | {"slots": plan.config.n_slots}
    return [
        Case(name="fixed", config=full, expected_s=100.0),
        Case(name="poisson", config=poisson, expected_s=200.0),
    ]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Milliseconds a token of each way, and their ratios."""
    is_tiny = settings.is_tiny
    if is_tiny:
        loaded = testing.tiny_model(n_layers=1, max_positions=256)
    else:
        loaded = hf.load_pretrained("nano")
    model = dataclasses.replace(loaded, generation=GenerationDefaults())  # no text ends early
    T, N = case.config["n_tokens"], case.config["slots"]
    encoded = _demonstrations(model, case.config)
    config = mozo.Config(n_slots=N, top_k=100)
    prompt = encoded.tokens[-1, : encoded.lengths[-1]].tolist()
    decoders = {
        r: mozo.MixedDecoder(model, encoded, config, NUMBERS, max_tokens=T, redraw_every=r)
        for r in (1, REDRAW, T)
    }
    prompt += decoders[1].suffix(QUERY)
    generator = np.random.default_rng(0)

    def draws(block: int) -> Draw:
        rows = np.full(N, -1, np.int64)
        n = N if case.name == "fixed" else int(generator.binomial(10_000, 4e-4))
        n = min(n, N, encoded.n)
        rows[generator.permutation(N)[:n]] = generator.permutation(encoded.n)[:n]
        return Draw(rows=rows)

    ways: dict[str, Callable[[], Any]] = {
        f"r={r}": lambda d=decoder: d.answer(QUERY, draws, jax.random.key(1))
        for r, decoder in decoders.items()
    }
    greedy: list[float] = []

    def plain() -> None:
        run = decode.start(model.cfg, model.params, [prompt], max_new=T)
        begin = time.perf_counter()
        run.advance()
        greedy.append(1e3 * (time.perf_counter() - begin) / (T - 1))

    seconds = _in_turn(ways | {"plain": plain}, case.config["n_runs"])
    plain_ms = statistics.median(greedy[1:])
    prefill = 1e3 * seconds["r=1"] / T
    step = (1e3 * seconds[f"r={T}"] - prefill) / (T - 1)
    due = not is_tiny
    for metric, value, unit in (
        ("plain decoding, greedy: a step", plain_ms, "ms"),
        (f"a step of {N + 1} rows", step, "ms"),
        (f"a prefill of {N + 1} rows, with its draw and first token", prefill, "ms"),
    ):
        yield Figure(metric=metric, value=round(value, 4), unit=unit, kind="measured")
    yield Figure(
        metric=f"a step of {N + 1} rows over one of plain decoding",
        value=round(step / plain_ms, 3), unit="1", kind="measured",
        **runner.judge(step <= 2.5 * plain_ms, "at most 2.5", due=due and N == 4),
    )  # fmt: skip
    whole = seconds[f"r={T}"] / seconds["plain"]
    yield Figure(
        metric=f"a whole answer of {T} tokens over plain decoding's, prompts included",
        value=round(whole, 3), unit="1", kind="measured",
    )  # fmt: skip
    blocks = -(-T // REDRAW)
    predicted = (blocks * prefill + (T - blocks) * step) / T
    found = 1e3 * seconds[f"r={REDRAW}"] / T
    yield Figure(
        metric=f"a token with a redraw every {REDRAW}", value=round(found, 4), unit="ms",
        kind="measured", baseline=round(predicted, 4),
    )  # fmt: skip
    yield Figure(
        metric="the same over what step and prefill predict", value=round(found / predicted, 3),
        unit="1", kind="measured",
        **runner.judge(0.8 <= found / predicted <= 1.2, "0.8 to 1.2", due=due),
    )  # fmt: skip
    if not is_tiny:  # `contracts` times a step's own work at smoke
        yield _drawing(model, config, step, case.config["n_runs"])


def _demonstrations(model: hf.Model, config: dict[str, Any]) -> mozo.Encoded:
    """Made-up ones, of different lengths."""
    records = [
        mozo.Demonstration(input=f"print number {n}" + " and again" * (n % 3), output=f"print({n})")
        for n in range(config["n_demonstrations"])
    ]
    return mozo.encode(records, model.tokenizer, FORMAT, max_tokens=config["demo_tokens"])


def _in_turn(ways: dict[str, Callable[[], Any]], n_runs: int) -> dict[str, float]:
    """Median seconds of each, after one that compiles."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(n_runs + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if run:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in times.items()}


def _drawing(model: hf.Model, config: Any, step: float, n_runs: int) -> Figure:
    """Contract, pool and draw alone, over a step of all rows."""
    generator = np.random.default_rng(0)
    shape = (config.n_slots + 1, model.cfg.vocab_size)
    logits = jnp.asarray(generator.standard_normal(shape), jnp.float32)
    mask = jnp.ones(config.n_slots, bool)
    n, key = 200, jax.random.key(0)

    @jax.jit
    def many(logits: jax.Array, key: jax.Array) -> jax.Array:
        numbers = parameters(config, NUMBERS)

        def one(i: jax.Array, carry: jax.Array) -> jax.Array:
            # The logits hang on the token before, so that no turn can be left out.
            now = logits + carry.astype(jnp.float32) * 1e-9
            return sampling.step(now, mask, bits.fold_in(key, i), config, numbers)[0]

        return jax.lax.fori_loop(0, n, one, jnp.int32(0))

    seconds = _in_turn({"draw": lambda: many(logits, key).block_until_ready()}, n_runs)["draw"]
    share = 1e3 * seconds / n / step
    return Figure(
        metric=f"support, contract, pool and draw at k = {config.top_k}, over a step",
        value=round(share, 4), unit="1", kind="measured",
        **runner.judge(share <= 0.02, "at most 0.02", due=config.n_slots == 4),
    )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="mozo.speed",
    title="What a private token costs",
    cases=cases,
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
