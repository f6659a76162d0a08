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
# # Share, withhold or ask
# An agent that fills in forms for you meets the same question again and again: may this go there? ARIEL
# (Flemings et al. 2025, arXiv 2512.05065; the rules are reconstructed here) decides from what you decided
# before, and only where one earlier decision entails the new one. Everything else is asked. This notebook
# judges a restaurant's question, shows what goes wrong when one hierarchy serves yes and no, judges made-up
# users in bulk, and puts entailment beside a statistical model.
#
# Runs on a CPU in under a minute, without weights and without data.

# %%
import os
import time

import jax
import numpy as np
from matplotlib import pyplot as plt

from ariel_jax.algorithms.ariel import baselines, bulk, metrics, synthetic
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import judge
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Judgement, Policy, Request

is_smoke = os.environ.get("ARIEL_JAX_SCALE") == "smoke"
n_users, n_requests = (20, 1000) if is_smoke else (200, 1 << 18)

# %% [markdown]
# ## One decision entails another
# You approved your full address for the restaurant. An address already reveals the city, so the city may
# go there too; the address says nothing about your whole movements.

# %%
core = Ontology.core()
closures = Closures(core)
place = {
    "recipient": "commerce.restaurant",
    "purpose": "dining.book_table",
    "principle": "onward.none",
}
history = [
    Judgement(id=1, request=Request(data=("location.address",), **place), value="appropriate")
]
for data in ("location.city", "location.address", "location.trace"):
    said = judge(Request(data=(data,), **place), history, closures)
    print(f"{data:18s} {said.verdict:8s} {said.rule or said.reason}")

# %% [markdown]
# A denial goes the other way: who may not know the city may not know the address.

# %%
history = [
    Judgement(id=1, request=Request(data=("location.city",), **place), value="inappropriate")
]
for data in ("location.country", "location.city", "location.address"):
    said = judge(Request(data=(data,), **place), history, closures)
    print(f"{data:18s} {said.verdict:8s} {said.rule or said.reason}")

# %% [markdown]
# ## Users who are not consistent
# A lattice of made-up preferences, with exceptions and wrong labels. Bare entailment repeats each mistake;
# the strict filter drops a premise that contradicts another judgement of the same user.

# %%
rates = []
for noise in (0.0, 0.03, 0.1):
    knobs = synthetic.Knobs(family="lattice", n_users=n_users, exceptions=2 * noise, noise=noise)
    users = synthetic.users(knobs)
    for policy in (Policy(reliability="off"), Policy()):
        histories = []
        for u in range(n_users):
            approve = users.order(u)
            deny = [a.T for a in approve]
            packed = bulk.compile_history(approve, deny, users.history[u], users.said[u])
            keep = bulk.reliable(packed, policy)
            histories.append(
                bulk.compile_history(approve, deny, users.history[u], users.said[u], keep=keep)
            )
        found = bulk.judge_users(bulk.stack(histories), users.asked, policy)
        report = metrics.evaluate(np.asarray(found.verdict).ravel(), users.appropriate.ravel())
        rates.append((noise, policy.reliability, report))
        print(
            f"noise {noise:.2f}, {policy.reliability:6s}: decides {report.coverage:.2f}, "
            f"of these rightly {report.accuracy:.3f}; false shares {report.false_share}"
        )
assert rates[0][2].accuracy == 1.0  # true orders, no noise

# %% [markdown]
# ## Beside a statistical model that may ask too
# A logit with other users' prior abstains where it is unsure. At every share of requests that is decided it
# errs less often than bare entailment; what entailment has is a reason for each verdict. So the two are
# combined: the score may turn a verdict into a question, and never makes one.

# %%
half = n_users // 2
told = users.said[:half].ravel() == synthetic.APPROPRIATE
others = np.repeat(np.arange(half), knobs.n_history)
model = baselines.norm(others, users.history[:half].reshape(-1, 4), told, knobs.sizes)
scores = []
for u in range(half, n_users):
    yes = users.said[u] == synthetic.APPROPRIATE
    own = baselines.personal_logit(users.history[u], yes, knobs.sizes, population=model)
    scores.append(own.score(users.asked[u]))
truth = users.appropriate[half:].ravel()
coverage, risk = metrics.risk_coverage(np.concatenate(scores), truth)
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot(coverage, risk, label="logit that abstains")
for policy, style in (
    (Policy(reliability="off"), "o"),
    (Policy(), "s"),
    (Policy.profile("standard"), "^"),
    (Policy.profile("cautious"), "v"),
):
    parts = []
    for u in range(half, n_users):
        approve = baselines.order(model)
        deny = [a.T for a in approve]
        packed = bulk.compile_history(approve, deny, users.history[u], users.said[u])
        keep = bulk.reliable(packed, policy)
        packed = bulk.compile_history(approve, deny, users.history[u], users.said[u], keep=keep)
        parts.append(
            bulk.judge_batch(packed, users.asked[u], policy, score=scores[u - half]).verdict
        )
    report = metrics.evaluate(np.concatenate(parts), truth)
    name = f"{policy.reliability}, vetoes {policy.veto_share}, {policy.veto_withhold}"
    axis.plot(report.coverage, 1 - report.accuracy, style, label=name)
axis.set(xlabel="share of requests decided", ylabel="wrong among those")
axis.legend(fontsize=7)
plt.show()

# %% [markdown]
# ## A policy table of millions
# Premises are bits, so a sweep over every request that could be made takes no time worth mentioning.

# %%
rng = np.random.default_rng(0)
weights = rng.standard_normal((4, 256))
approve = [w[:, None] >= w[None, :] for w in weights]
packed = bulk.compile_history(
    approve, [a.T for a in approve], rng.integers(0, 256, (1000, 4)), rng.integers(0, 2, 1000)
)
requests = jax.numpy.asarray(rng.integers(0, 256, (n_requests, 4)), jax.numpy.int32)
jax.block_until_ready(bulk.judge_batch(packed, requests, repeats=False))
begin = time.perf_counter()
found = jax.block_until_ready(bulk.judge_batch(packed, requests, repeats=False))
spent = time.perf_counter() - begin
print(f"{n_requests:,} requests against 1,000 premises in {1e3 * spent:.1f} ms")
