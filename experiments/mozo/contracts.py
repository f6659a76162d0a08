"""What each contract keeps of the demonstrations at equal cost, and what a step costs in time.

    python -m experiments.mozo.contracts --scale cpu --out results

Cases `N=..., h=...`: made-up rows on 100 tokens (a Zipf-like anchor; rows that share a shift of standard
deviation 1 and have 0.7 of their own), every contract set to the same bound R(4; h) on a token's Renyi
divergence of order 4. Figure: how much of the divergence of the rows' geometric mean from the zero-shot row
is still missing; 0 is not private, 1 says nothing. Cases `time`: support, contract, pool and draw on logits
that are there, 200 steps in one program; with 100 tokens beside a step of nano, and with a vocabulary of
256,000. Expected: `clip` loses least, the renyi contracts most at 16 rows; at most 2 % of a step of nano; at
most 5 ms with the whole vocabulary. About five minutes on two cores.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import decode, load_pretrained, testing
from ariel_jax.algorithms.mozo import Config, Numbers, bits, oracle, sampling
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.measure.timing import timed
from experiments import runner
from experiments.runner import Case, Figure, Settings

ORDER = 4
PAIRS = ((4, 0.2), (4, 0.5), (4, 1.0), (16, 0.05), (16, 0.2))
NAMES = (
    "scale", "linear", "clip", "renyi, product", "renyi, arithmetic", "renyi_linear, product",
    "renyi_linear, arithmetic",
)  # fmt: skip


def cases(settings: Settings) -> Sequence[Case]:
    """The pairs of rows and influence, and the timings."""
    tiny = settings.is_tiny
    problems = {"problems": 3 if tiny else 100, "k": 20 if tiny else 100}
    pairs = [
        Case(name=f"N={N}, h={h}", config=problems | {"N": N, "h": h}, expected_s=20.0)
        for N, h in (PAIRS[:1] if tiny else PAIRS)
    ]
    steps = {"steps": 10 if tiny else 200, "n_runs": 1 if tiny else 7}
    sizes = (
        ("time, k=100", 1000, 100, NAMES[:1] if tiny else NAMES),
        ("time, whole vocabulary", 2000 if tiny else 256_000, None, ("clip",) if tiny else NAMES),
    )
    times = [
        Case(name=name, config=steps | {"V": V, "k": k, "contracts": list(timed)}, expected_s=60.0)
        for name, V, k, timed in sizes
    ]
    return [*pairs, *times]


def settings_of(name: str, N: int, h: float) -> tuple[Config, Numbers]:
    """A contract whose price at order 4 is that of a range h after pooling."""
    weight, limit = 1 / N, oracle.bounded_range(ORDER, h)
    if name in ("scale", "linear", "clip"):
        return Config(n_slots=N, contract=name), Numbers(eta=h / weight, weight=weight)
    contract, pool = name.split(", ")
    config = Config(n_slots=N, contract=contract, pool=pool, alpha=ORDER)
    if pool == "product":  # c = beta alpha and G = beta
        beta = limit / (weight * ORDER + ORDER / (ORDER - 1))
        return config, Numbers(eta=0.0, weight=weight, renyi_c=beta * ORDER, kl_cap=beta)
    c = math.log1p(math.expm1((ORDER - 1) * limit) / weight) / (ORDER - 1)
    return config, Numbers(eta=0.0, weight=weight, renyi_c=c)


def problem(rng: np.random.Generator, N: int, k: int) -> np.ndarray:
    """Logits [N + 1, k] of a zero-shot row and of N one-shot rows."""
    zero_shot = -np.log(np.arange(1, k + 1)) + 0.3 * rng.standard_normal(k)
    rows = zero_shot + rng.standard_normal(k) + 0.7 * rng.standard_normal((N, k))
    return np.concatenate([zero_shot[None], rows])


def utility(case: Case, settings: Settings) -> Iterator[Figure]:
    """The share that is missing, by contract."""
    N, h = case.config["N"], case.config["h"]
    rng, missing = np.random.default_rng(settings.seed), {name: 0.0 for name in NAMES}
    for _ in range(case.config["problems"]):
        logits, mask = problem(rng, N, case.config["k"]), np.ones(N, bool)
        free = Numbers(eta=math.inf, weight=1 / N)
        order, aim = oracle.law(logits, mask, Config(n_slots=N), free)
        whole = oracle.divergence(aim, oracle.log_softmax(logits[0])[order], 1)
        for name in NAMES:
            _, law = oracle.law(logits, mask, *settings_of(name, N, h))
            missing[name] += oracle.divergence(aim, law, 1) / whole / case.config["problems"]
    least = min(missing, key=lambda name: missing[name])
    most = max(missing, key=lambda name: missing[name])
    for name in NAMES:
        judged: dict[str, Any] = {}
        if name == "clip":
            judged = runner.judge(least == name, "the least", due=not settings.is_tiny)
        elif name == "renyi, product" and N == 16:
            is_ball = most.endswith(", product")
            judged = runner.judge(is_ball, "a ball in a product the most", due=not settings.is_tiny)
        yield Figure(
            metric=f"{name}: missing", value=round(missing[name], 3), unit="1", kind="simulated",
            **judged,
        )  # fmt: skip


def step_s(logits: np.ndarray, config: Config, numbers: Numbers, n: int, n_runs: int) -> float:
    """Median seconds of a step, of n in one program; each step's logits hang on the last token."""
    held, mask = parameters(config, numbers), jnp.ones(config.n_slots, bool)

    def step(t: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits, token = carry
        logits = logits.at[0, 0].add(token.astype(jnp.float32) * 1e-9)
        found, _ = sampling.step(logits, mask, bits.fold_in(key, t), config, held)
        return logits, found

    key = jax.random.key(0)
    program = jax.jit(lambda logits: jax.lax.fori_loop(0, n, step, (logits, jnp.int32(0)))[1])
    return timed(program, jnp.asarray(logits, jnp.float32), n_runs=n_runs).median_s / n


def plain_step_s(settings: Settings, n_runs: int) -> tuple[float, int]:
    """Median seconds of a decoding step of nano with one row and no demonstrations; its vocabulary."""
    model = testing.tiny_model() if settings.is_tiny else load_pretrained("nano")
    short, long = (2, 10) if settings.is_tiny else (16, 272)

    def spent(n: int) -> float:
        begin = time.perf_counter()
        decode.generate(model, [[1, 2, 3]], max_new=n, ignore_eos=True)
        return time.perf_counter() - begin

    both = [[spent(n) for _ in range(n_runs + 1)][1:] for n in (short, long)]
    least = [float(np.median(times)) for times in both]
    return max(least[1] - least[0], 1e-9) / (long - short), model.cfg.vocab_size


def times(case: Case, settings: Settings) -> Iterator[Figure]:
    """Of a step of every contract."""
    n, runs, V, k = (case.config[name] for name in ("steps", "n_runs", "V", "k"))
    beside, due = 0.0, not settings.is_tiny
    if k is not None:
        beside, V = plain_step_s(settings, runs)
        yield Figure(
            metric="step of nano, one row", value=round(1e3 * beside, 4), unit="ms", kind="measured"
        )
    else:
        n = max(n // 10, 1)
    logits = np.random.default_rng(settings.seed).standard_normal((5, V)) * 3
    for name in case.config["contracts"]:
        config, numbers = settings_of(name, 4, 1.0)
        config = Config(**{**vars(config), "top_k": k})
        spent = step_s(logits, config, numbers, n, runs)
        ours = due and name == "scale"
        yield Figure(
            metric=f"{name}: step", value=round(1e3 * spent, 4), unit="ms", kind="measured",
            **runner.judge(spent <= 5e-3, "at most 5", due=ours and k is None, otherwise="MISSED"),
        )  # fmt: skip
        if beside:
            share = spent / beside
            yield Figure(
                metric=f"{name}: share of a step of nano", value=round(share, 4), unit="1",
                kind="measured",
                **runner.judge(share <= 0.02, "at most 0.02", due=ours, otherwise="MISSED"),
            )  # fmt: skip


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The figures of one case."""
    yield from (times if case.name.startswith("time") else utility)(case, settings)


EXPERIMENT = runner.Experiment(
    name="mozo.contracts",
    title="Contracts at equal cost, and the time of a step",
    cases=cases,
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
