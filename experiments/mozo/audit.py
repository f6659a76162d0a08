"""Steps held against their price, exactly, and faults that must be found; what sampled texts show.

    python -m experiments.mozo.audit --scale cpu --out results
    python -m experiments.mozo.audit --scale cpu --model nano --out results

Each case `exact` audits one mechanism on random rows, demonstrations that come or go or are replaced, and on
rows that were moved, step by step, to where it comes nearest to its price; with `--model` also on rows of a model, which reads lines of its own as
demonstrations. At least 10,000 audits in all. `faults, exact` does the same to planted faults. `texts`: 20,000
texts of 20 tokens with and without a canary, judged by likelihood ratios and by membership. Expected: no
violation of the right code; every fault found exactly; by texts only the lambda that is forced to 1, not the
hidden temperature. About eight minutes on two cores.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax import load_pretrained
from ariel_jax.algorithms.mozo import Config, Numbers, audit, oracle
from ariel_jax.decode import programs
from ariel_jax.privacy import renyi
from experiments import runner
from experiments.runner import Case, Figure, Settings

K, N, DELTA = 50, 4, 1e-3
MECHANISMS = {
    "scale, h=0.1": (Config(), Numbers(eta=0.4, weight=0.25)),
    "scale, h=1": (Config(), Numbers(eta=4.0, weight=0.25)),
    "clip, h=0.5": (Config(contract="clip"), Numbers(eta=2.0, weight=0.25, tau0=0.8)),
    "linear, weight 1": (Config(contract="linear"), Numbers(eta=0.5, weight=1.0)),
    "renyi, product": (
        Config(contract="renyi", alpha=8), Numbers(eta=0, weight=0.25, renyi_c=0.4, kl_cap=0.05),
    ),
    "renyi, arithmetic": (
        Config(contract="renyi", pool="arithmetic", alpha=4),
        Numbers(eta=0, weight=0.25, renyi_c=0.3),
    ),
    "renyi_linear, product": (
        Config(contract="renyi_linear", alpha=8),
        Numbers(eta=0, weight=0.25, renyi_c=0.4, kl_cap=0.05),
    ),
    "renyi_linear, arithmetic": (
        Config(contract="renyi_linear", pool="arithmetic", alpha=4),
        Numbers(eta=0, weight=0.25, renyi_c=0.3),
    ),
}  # fmt: skip
TEXTS = {
    "right": (audit.laws_of, 0.1, False),
    "lambda forced to 1": (audit.no_contract, 0.1, True),
    "hidden temperature": (audit.hidden_temperature, 0.3, False),
}
LINES = (
    "the total is 12", "see table 4", "name: Ada Lovelace", "error: file not found",
    "for i in range(10):", "Paris, 14 July", "it was a bright cold day", "def main():",
)  # fmt: skip


def cases(settings: Settings) -> Sequence[Case]:
    """Mechanisms, faults, texts."""
    tiny = settings.is_tiny
    size = {"audits": 12 if tiny else 2000, "seed": settings.seed}
    names = list(MECHANISMS)[: 1 if tiny else None]
    exact = [Case(name=f"exact: {name}", config=size, expected_s=30.0) for name in names]
    faults = [
        Case(name=f"fault, exact: {name}", config={"audits": 20 if tiny else 200}, expected_s=5.0)
        for name in list(audit.FAULTS)[: 1 if tiny else None]
    ]
    texts = [
        Case(name=f"texts: {name}", config={"texts": 2000 if tiny else 20_000}, expected_s=5.0)
        for name in list(TEXTS)[: 1 if tiny else None]
    ]
    return [*exact, *faults, *texts]


def rows(rng: np.random.Generator) -> np.ndarray:
    """Logits [N + 1, 2 K], from nearly alike to far apart."""
    spread = rng.choice([0.03, 0.5, 3.0, 20.0])
    shared = rng.standard_normal(2 * K) * rng.choice([0.3, 3.0, 20.0])
    return rng.standard_normal((N + 1, 2 * K)) * spread + shared


def model_rows(name: str, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Logits [N + 1, V] of a model at the ends of texts, row 0 without a demonstration."""
    model = load_pretrained(name)
    for _ in range(n):
        *shown, query = rng.permutation(LINES)[: N + 1]
        ids = [model.tokenizer.encode(text) for text in (query, *(f"{d}\n{query}" for d in shown))]
        ids = [[model.generation.bos_id or 0, *row] for row in ids]
        tokens = np.zeros((N + 1, 32), np.int32)
        for place, row in enumerate(ids):
            tokens[place, : len(row)] = row
        positions = jnp.tile(jnp.arange(32, dtype=jnp.int32)[None], (N + 1, 1))
        out = programs.forward(model.cfg, model.params, jnp.asarray(tokens), positions)
        yield np.asarray(out)[np.arange(N + 1), [len(row) - 1 for row in ids]]


def exact(case: Case, settings: Settings) -> Iterator[Figure]:
    """One mechanism as it is."""
    config, numbers = MECHANISMS[case.name.partition(": ")[2]]
    config = Config(**{**vars(config), "top_k": K})
    laws = jax.jit(audit.laws_of(config, numbers))
    rng, n = np.random.default_rng(settings.seed), case.config["audits"]
    alphas = (2.0, float(config.alpha or 8))
    how: dict[str, Any] = {"laws": laws, "alphas": alphas}
    kinds: dict[str, list[float]] = {"random": [], "replaced": [], "moved": [], "model": []}
    for turn in range(n // 2):
        mask = rng.permutation(N) < rng.integers(1, N + 1)
        logits = rows(rng)
        kinds["random"].append(audit.audit_step(logits, mask, config, numbers, **how).worst)
        if turn % 4 == 0:  # by another row, or by one that says the opposite
            others = rows(rng)[1:] if turn % 8 else 2 * logits[0] - logits[1:]
            found = audit.audit_step(logits, mask, config, numbers, others=others, **how)
            kinds["replaced"].append(found.worst)
    each, tried, hardest = max(n // 10, 1), 0, 0.0
    for _ in range(5):
        start = rows(rng)
        _, best, worst = audit.hill_climb(
            start, np.ones(N, bool), config, numbers, rng, steps=each, **how
        )
        kinds["moved"].append(worst)
        tried, hardest = tried + each + 1, max(hardest, best.worst_divergence)
    if name := settings.flags["model"]:
        for logits in model_rows(name, n // 10, rng):
            mask = np.ones(N, bool)
            kinds["model"].append(audit.audit_step(logits, mask, config, numbers, **how).worst)
    audits = tried + sum(len(kinds[kind]) for kind in ("random", "replaced", "model"))
    yield Figure(metric="audits", value=audits, unit="1", kind="measured")
    for kind, found in kinds.items():
        if found:
            yield Figure(
                metric=f"{kind} rows: most of the price that was used", value=round(max(found), 5),
                unit="1", kind="measured",
                **runner.judge(max(found) <= 1 + audit.TOLERANCE, "at most 1"),
            )  # fmt: skip
    yield Figure(
        metric="moved rows: most of the divergence's price", value=round(hardest, 4), unit="1",
        kind="measured",
    )  # fmt: skip


def fault(case: Case, settings: Settings) -> Iterator[Figure]:
    """One planted fault under the exact audit."""
    config, numbers = Config(top_k=K), Numbers(eta=1.2, weight=0.25)
    planted = jax.jit(audit.FAULTS[case.name.partition(": ")[2]](config, numbers))
    rng, found = np.random.default_rng(settings.seed), []
    for _ in range(case.config["audits"]):
        mask = rng.permutation(N) < rng.integers(1, N + 1)
        found.append(audit.audit_step(rows(rng), mask, config, numbers, laws=planted))
    share = float(np.mean([one.refutes for one in found]))
    yield Figure(
        metric="share of steps that refute the price", value=round(share, 3), unit="1",
        kind="measured", **runner.judge(share > 0, "above 0"),
    )  # fmt: skip


def texts(case: Case, settings: Settings) -> Iterator[Figure]:
    """What the second and third level see of one mechanism."""
    make, h, shows = TEXTS[case.name.partition(": ")[2]]
    laws = jax.jit(make(Config(top_k=None), Numbers(eta=h / 0.25, weight=0.25)))
    rng = np.random.default_rng(settings.seed + 5)
    masks = jnp.asarray(np.stack([np.ones(N, bool), np.arange(N) > 0]))
    pairs = []
    for _ in range(20):
        logits = jnp.asarray(rng.standard_normal((N + 1, K)), jnp.float32)
        pairs.append(np.asarray(laws(logits, masks), np.float64))
    inside, outside = np.stack(pairs, axis=1)
    n, claim = case.config["texts"], {"delta": DELTA}
    curve = [20 * oracle.bounded_range(float(a), h) for a in renyi.ORDERS]
    claim["epsilon"] = renyi.epsilon(curve, DELTA)[0]
    there, back = (
        audit.losses(inside, outside, n, rng), audit.losses(outside, inside, n, rng)
    )  # fmt: skip
    ratio = audit.audit_likelihood(there, back, **claim)
    member = audit.audit_membership(there, -back, **claim)
    due, wanted = not settings.is_tiny, "refutes the claim" if shows else "does not see it"
    yield Figure(
        metric="epsilon claimed", value=round(claim["epsilon"], 4), unit="1", kind="simulated"
    )
    yield Figure(
        metric="delta that likelihood ratios prove", value=round(ratio.lower_bound, 4), unit="1",
        kind="measured", **runner.judge(ratio.refutes == shows, wanted, due=due),
    )  # fmt: skip
    yield Figure(
        metric="epsilon that membership proves", value=round(member.attack.lower_bound, 4),
        unit="1", kind="measured", **runner.judge(member.refutes == shows, wanted, due=due),
    )  # fmt: skip
    auroc, tpr = round(member.attack.auroc, 4), round(member.tpr, 4)
    yield Figure(metric="area under the curve", value=auroc, unit="1", kind="measured")
    yield Figure(metric="found where 1 % are wrong", value=tpr, unit="1", kind="measured")


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The figures of one case."""
    kinds = {"exact": exact, "fault, exact": fault, "texts": texts}
    yield from kinds[case.name.partition(": ")[0]](case, settings)


EXPERIMENT = runner.Experiment(
    name="mozo.audit",
    title="Private steps, attacked",
    cases=cases,
    measure=measure,
    flags={"model": ""},
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
