"""How much noise a budget takes: as charged (Rényi) and by loss distributions, against the published table.

    python -m experiments.dp_grape.accounting --scale cpu --out results

For eight runs (sampling probability, steps, delta, epsilon): the least noise multiplier that the library's
calibration finds, the one by privacy loss distributions, and what the run then costs by either. Expected:
the multipliers of dp-accounting 0.6 to 0.001, and a calibrated run that ends at its last step. About
3 minutes on two cores.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ariel_jax.privacy import Plan, calibrate
from experiments import runner
from experiments.runner import Case, Figure, Settings

# (q, steps, delta, epsilon, sigma by Rényi divergence, by loss distributions): dp-accounting 0.6.0.
TABLE = (
    (0.02, 3000, 2e-5, 1.0, 4.354, 4.005),
    (0.02, 3000, 2e-5, 2.0, 2.410, 2.241),
    (0.02, 3000, 2e-5, 4.0, 1.435, 1.354),
    (0.02, 3000, 2e-5, 8.0, 0.962, 0.920),
    (0.0625, 1000, 1e-5, 2.0, 4.362, 4.050),
    (0.0625, 1000, 1e-5, 6.0, 1.797, 1.695),
    (0.008, 2000, 1e-5, 2.0, 1.062, 1.005),
    (0.008, 2000, 1e-5, 6.0, 0.690, 0.658),
)


def cases(settings: Settings) -> Sequence[Case]:
    """One per row of the table."""
    return [
        Case(
            name=f"q {q}, {steps} steps, delta {delta}, epsilon {epsilon}",
            config={
                "q": q,
                "steps": steps,
                "delta": delta,
                "epsilon": epsilon,
                "rdp": rdp,
                "pld": pld,
            },
            expected_s=2.0 if settings.is_tiny else 20.0,
        )
        for q, steps, delta, epsilon, rdp, pld in TABLE[: 1 if settings.is_tiny else None]
    ]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Noise multipliers, what they cost, and where the run ends. Computed, nothing is timed."""
    c = case.config
    start = Plan(noise_multiplier=1.0, steps=c["steps"], sampling_probability=c["q"])
    plan = calibrate(start, epsilon=c["epsilon"], delta=c["delta"])
    off = abs(plan.noise_multiplier - c["rdp"])
    yield Figure(
        metric="noise multiplier, as charged", value=round(plan.noise_multiplier, 4), unit="1",
        kind="simulated", baseline=c["rdp"], **runner.judge(off <= 1e-3, f"{c['rdp']} to 0.001"),
    )  # fmt: skip
    more = plan.replace(steps=c["steps"] + 1).epsilon(c["delta"])
    yield Figure(
        metric="epsilon of the run, as charged", value=round(plan.epsilon(c["delta"]), 5), unit="1",
        kind="simulated",
        **runner.judge(
            plan.epsilon(c["delta"]) <= c["epsilon"] < more, "within the budget, and not with a step more"
        ),
    )  # fmt: skip
    if settings.is_tiny:
        return
    tight = plan.replace(noise_multiplier=c["pld"]).tight_epsilon(c["delta"])
    yield Figure(
        metric=f"epsilon by loss distributions with noise {c['pld']}", value=round(tight, 4), unit="1",
        kind="simulated",
        **runner.judge(abs(tight / c["epsilon"] - 1) <= 2e-3, f"{c['epsilon']} within 0.2 %"),
    )  # fmt: skip
    yield Figure(
        metric="epsilon by loss distributions with the noise that is charged",
        value=round(plan.tight_epsilon(c["delta"]), 4), unit="1", kind="simulated",
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Noise multipliers by epsilon."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    found = [row for row in rows if row["metric"] == "noise multiplier, as charged"]
    epsilons = [float(row["case"].rsplit(" ", 1)[1]) for row in found]
    axis.plot(epsilons, [row["value"] for row in found], "o", label="as charged (computed)")
    axis.set_xlabel("epsilon")
    axis.set_ylabel("noise multiplier")
    axis.legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="dp_grape.accounting",
    title="Noise for a budget",
    cases=cases,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
