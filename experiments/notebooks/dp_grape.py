# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Private training in a few columns
# Training under differential privacy clips every example's gradient and adds noise to the sum. Holding
# those gradients is what makes it expensive. DP-GRAPE (Mulrooney et al. 2025, arXiv 2506.15588) multiplies
# each by a small random matrix *while it is formed*: what is clipped, noised and optimised has a few
# columns instead of a weight's width. This notebook shows that this is true, buys a budget, trains under
# a ledger, attacks the result, and puts DP-Adam beside it.
#
# Runs on a CPU in about a minute; needs `pip install "ariel-jax[privacy,plot]"`. The data are made up, so
# losses may be shown here; those of real records may not.

# %%
import dataclasses
import itertools
import os
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape import canaries, methods
from ariel_jax.algorithms.dp_grape.trainer import Settings, fit, plan_for, prepare
from ariel_jax.errors import PrivacyBudgetError
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.models.paths import flatten
from ariel_jax.privacy import Ledger, Terms
from ariel_jax.training import read_metrics

is_smoke = os.environ.get("ARIEL_JAX_SCALE") == "smoke"
n_records, n_canaries, steps = (200, 64, 8) if is_smoke else (1000, 500, 200)
D, WIDTH, CLASSES, RANK = 64, 128, 10, 8

# %% [markdown]
# ## A model and a loss of one example
# The loss sees one example: that is what clipping bounds. Weights that shall be projected go through
# `layers.linear.linear`, and that is all the library asks of a model.

# %%
rng = np.random.default_rng(0)
centres = 0.5 * rng.standard_normal((CLASSES, D))


def records_of(n):
    y = rng.integers(0, CLASSES, n).astype(np.int32)
    return {"x": (centres[y] + rng.standard_normal((n, D))).astype(np.float32), "y": y}


def weights(*widths):
    draw = np.random.default_rng(1).standard_normal
    return {
        f"layer{i}": Linear(
            w=jnp.asarray(draw((m, n)) * (2 / n) ** 0.5, jnp.float32), b=jnp.zeros(m)
        )
        for i, (n, m) in enumerate(itertools.pairwise(widths))
    }


def logits(params, x):
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(linear(x, layer))
    return linear(x, last)


def loss(params, example, key):
    return -jax.nn.log_softmax(logits(params, example["x"]))[example["y"]]


def accuracy(params):
    named = jnp.argmax(logits(params, jnp.asarray(test["x"])), -1)
    return float(jnp.mean(named == test["y"]))


train, test = records_of(n_records), records_of(2000)
cfg = dp_grape.Config(rank=RANK, refresh_every=50, project=(r"layer[01]\.w$",), frozen=())
fresh = lambda: weights(D, WIDTH, WIDTH, CLASSES)

# %% [markdown]
# ## A tap's gradient is the projected gradient
# With P random and Q zero, a layer computes `x @ W.T + (x @ P) @ Q.T`: nothing changes, but the gradient of
# Q is that of W times P. So Q is differentiated and W never is, and no array of W's size exists for any
# example.

# %%
params = fresh()
specs = dp_grape.make_specs(params, cfg)
drawn = dp_grape.projections(jax.random.key(1), 0, specs, cfg)
example, key = {name: jnp.asarray(array[0]) for name, array in train.items()}, jax.random.key(0)

tapped = dp_grape.tapped_loss(loss, specs)
by_tap = jax.grad(tapped)(dp_grape.trained_leaves(params, specs), (params, drawn), example, key)
whole = flatten(jax.grad(loss)(params, example, key))
for spec in specs.projected:
    after = dp_grape.project(spec, whole[spec.path], drawn[spec.path])
    gap = float(jnp.max(jnp.abs(after - by_tap[spec.path])))
    print(
        f"{spec.path}: {whole[spec.path].shape} -> {by_tap[spec.path].shape}, largest gap {gap:.1e}"
    )
    assert gap < 1e-5

# %% [markdown]
# ## A plan, and what it costs
# The price depends on noise, sampling and steps alone: neither rank nor model enters. `plan_for` finds the
# least noise for a budget, before any record is read. For the audit below, some records are *canaries*:
# nobody's, each in the data by a secret coin. They are counted like everybody.

# %%
epsilon, delta, probability = 4.0, 1e-5, 1 / 8
n = n_records + n_canaries
plan, rows = plan_for(
    about=n, probability=probability, steps=steps, epsilon=epsilon, delta=delta, microbatch=8
)
print(plan.describe())
print(
    f"epsilon {plan.epsilon(delta):.4f}; by privacy loss distributions {plan.tight_epsilon(delta):.4f}"
)
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
at = np.unique(np.linspace(1, steps, 10).astype(int))
for scale in (1.0, 1.5):
    other = plan.replace(noise_multiplier=scale * plan.noise_multiplier)
    spent = [other.replace(steps=int(s)).epsilon(delta) for s in at]
    axis.plot(at, spent, "o-", label=f"noise multiplier {other.noise_multiplier:.2f}")
axis.axhline(epsilon, color="grey", linewidth=0.8)
axis.set_xlabel("steps")
axis.set_ylabel("epsilon")
axis.legend()
plt.show()
assert plan.epsilon(delta) <= epsilon < plan.replace(steps=steps + 1).epsilon(delta)

# %% [markdown]
# ## A run under a ledger
# `fit` reserves the whole price before the first gradient and settles it after the last step. A kill in
# between leaves a folder that the same call goes on with, to the same bits, and nothing is paid twice.

# %%
folder = pathlib.Path(tempfile.mkdtemp())
planted = {
    "x": rng.standard_normal((n_canaries, D)).astype(np.float32),
    "y": rng.integers(0, CLASSES, n_canaries).astype(np.int32),
}
records = canaries.appended(train, planted)


def trained(name, method="dp-grape", fault=None):
    """What `fit` gives, and its seconds; with a fault, so much of the noise alone is made."""
    settings = Settings(
        clip_norm=1.0,
        expected_batch=probability * n,
        rows=rows,
        learning_rate=3e-3,
        method=method,
        cfg=cfg,
        microbatch=8,
        canaries=n_canaries,
    )
    run = prepare(fresh(), loss=loss, records=records, plan=plan, settings=settings)
    if fault is not None:
        wrong = methods.build(
            method,
            params=run.method.params,
            loss=loss,
            source=run.source,
            noise_multiplier=fault * plan.noise_multiplier,
            learning_rate=3e-3,
            cfg=cfg,
            projection_key=jax.random.key(0),
            microbatch=8,
        )
        run = dataclasses.replace(run, method=wrong)
    print(f"{name}: {run.method.n_trained:,} numbers for each example")
    terms = Terms(account=name, relation="zero_out", epsilon=epsilon, delta=delta)
    with Ledger(folder / f"{name}.sqlite", terms) as account:
        begin = time.perf_counter()
        fitted = fit(run, account, folder / name, log_every=1, log_private_stats=True)
        return fitted, time.perf_counter() - begin


grape, grape_s = trained("grape")
print(grape.report.guarantee)
with Ledger(folder / "grape.sqlite") as account:
    print(account.report())

# %% [markdown]
# The budget of this account is spent. Another run on the same data is refused before it computes anything.

# %%
terms = Terms(account="grape", relation="zero_out", epsilon=epsilon, delta=delta)
with Ledger(folder / "grape.sqlite", terms) as account:
    try:
        account.reserve(plan.price())
    except PrivacyBudgetError as error:
        print(error)
    else:
        raise AssertionError("the budget was spent twice")

# %% [markdown]
# ## The curve
# Epsilon grows with every step, whatever is learned. Its numbers are public; the losses are not, and
# are here only because `log_private_stats` asked for them.

# %%
rows_of_log = read_metrics(folder / "grape" / "metrics.jsonl")
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.plot([row["step"] for row in rows_of_log], [row["epsilon"] for row in rows_of_log])
axis.set_xlabel("step")
axis.set_ylabel("epsilon spent")
losses = axis.twinx()
losses.plot(
    [row["step"] for row in rows_of_log], [row["loss"] for row in rows_of_log], color="tab:orange"
)
losses.set_ylabel("loss (not private)", color="tab:orange")
plt.show()
print(f"test accuracy {accuracy(grape.params):.3f}, {grape_s:.1f} s")

# %% [markdown]
# ## The audit
# An attacker who has the canaries and the model, but not the coins, guesses who was in: those whose loss
# fell. By how well that goes, epsilon is bounded from below (Steinke, Nasr, Jagielski 2023, arXiv
# 2305.08846). A bound above the claim would show a fault; one below it proves nothing. So that we know
# that the attack can see at all, here is a run that claims the same and makes next to no noise.

# %%
before = canaries.losses(loss, fresh(), planted, at_once=64)
faulty, _ = trained("no-noise", fault=1e-6)
audits = {}
for name, fitted in {"as claimed": grape, "no noise": faulty}.items():
    after = canaries.losses(loss, fitted.params, planted, at_once=64)
    audits[name] = canaries.audit(
        canaries.falls(before, after), fitted.canaries, epsilon=epsilon, delta=delta
    )
    print(f"{name:>10}: {fitted.report.with_audit(audits[name]).audited()}")
assert not audits["as claimed"].refutes
assert is_smoke or audits["no noise"].auroc > 0.7

# %% [markdown]
# The bound of the run without noise may still lie below 4: so few canaries cannot show more than the number
# at the end of its line. Its area under the curve says enough.
#
# ## DP-Adam beside it
# The same draws, clip norm, noise and price, with every gradient whole. On a model this small it may well
# be as fast, and it learns more in as many steps; what it needs for each example is what grows
# with the model.

# %%
adam, adam_s = trained("dp-adam", method="dp-adam")
for name, fitted, seconds in (("DP-GRAPE", grape, grape_s), ("DP-Adam", adam, adam_s)):
    print(
        f"{name:>8}: accuracy {accuracy(fitted.params):.3f}, {seconds:.1f} s, "
        f"epsilon {fitted.report.epsilon:.4f}"
    )
assert adam.report.epsilon == grape.report.epsilon
