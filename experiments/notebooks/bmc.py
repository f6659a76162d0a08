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
# # How much cache to reserve
# Under XLA a key-value cache has a capacity, and a step's attention costs what the capacity costs. All
# of it at once is slow and large; one row at a time copies the cache for every token. BMC
# (Ramachandran et al. 2025, arXiv 2511.12031) grows it by r rows at a time. This notebook counts what
# that costs, measures it on this machine, and lets drafts ride in the spare rows.
#
# Runs on a CPU in about a minute, with the model that ships in the package.

# %%
import os

import numpy as np
from matplotlib import pyplot as plt

from ariel_jax.algorithms import bmc
from ariel_jax.decode import (
    Arithmetic,
    DraftModel,
    Geometric,
    NGram,
    Speculative,
    Sqrt,
    Upfront,
    start,
)
from ariel_jax.models.hf import load_pretrained

is_smoke = os.environ.get("ARIEL_JAX_SCALE") == "smoke"
model = load_pretrained("nano")

# %% [markdown]
# ## Count
# `simulate` runs a policy over a text and counts growths, rows copied, and spare rows that steps
# computed on. With a copied row twice as dear as a spare one (it is read and written), 64 rows at a
# time are best for 1,920 tokens after a prompt of 128; the closed form says 66.

# %%
costs = bmc.Costs(copy_s=2.0, redundant_s=1.0)  # in units of a spare row in one step
policies = {
    "all at once": Upfront(granularity=1),
    "doubling": Geometric(2.0, granularity=1),
    "64 at a time": Arithmetic(64, granularity=1),
    "sqrt": Sqrt(granularity=1),
}
for name, policy in policies.items():
    work = bmc.simulate(
        policy, prompt=128, steps=1920, first=128 if name != "all at once" else None
    )
    print(f"{name:>13}: {work.growths:3d} growths, overhead {work.overhead_s(costs):>11,.0f}")
print("closed form: r =", round(bmc.best_rows(costs, prompt=128, steps=1920), 1))

# %%
rows = np.arange(8, 513, 8)
overhead = [
    bmc.simulate(Arithmetic(int(r), 1), prompt=128, steps=1920, first=128).overhead_s(costs)
    for r in rows
]
best = int(rows[np.argmin(overhead)])
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.plot(rows, overhead)
axis.axvline(best, color="black", linewidth=0.8, label=f"r = {best}")
axis.set_xscale("log", base=2)
axis.set_xlabel("rows added by a growth")
axis.set_ylabel("overhead (counted)")
axis.legend()
plt.show()
assert best == 64

# %% [markdown]
# ## Measure and plan
# `profile` times growths and steps of this model on this machine, `plan` compares policies with these
# times and says which to take and why. For a model as small as nano on a CPU that may well be "all at
# once": then its spare rows are cheap beside its weights.

# %%
profile = bmc.profile(
    model.cfg,
    model.params,
    capacities=(192, 512, 1024) if is_smoke else bmc.default_capacities(1024),
    n_runs=1 if is_smoke else 5,
)
plan = bmc.plan(profile, prompt=64, steps=899)
for row in plan.rows:
    print(f"{row.name:>26}: {row.allocations:4d} allocations, {row.predicted_s:6.2f} s predicted")
print("\n" + plan.why)

# %% [markdown]
# ## No policy changes a token
# Capacities only decide what is copied and what is masked. Here the same text under three policies,
# while the cache is grown under its feet.

# %%
prompt = model.tokenizer.encode("def read_lines(path):\n")
n_new = 48 if is_smoke else 192
texts = {}
for name, policy in {
    "upfront": Upfront(),
    "arithmetic": Arithmetic(32, 32),
    "auto": bmc.Auto(profile),
}.items():
    run = start(model.cfg, model.params, [prompt], max_new=n_new, capacity=policy)
    while run.advance(16):
        pass
    texts[name] = run.new_tokens(0)
    print(
        f"{name:>10}: {run.report.growths} growths, {run.report.cache_bytes / 1e6:.1f} MB at the end"
    )
assert texts["upfront"] == texts["arithmetic"] == texts["auto"]

# %% [markdown]
# ## Drafts in the spare rows
# A step over several rows costs more than one over a single row, but less than as many steps. `NGram`
# drafts what followed the current words earlier in the text; `DraftModel` asks a smaller model, here
# the first layers of nano itself. Drafts may form a tree: then one of several continuations can hold.
# Whatever drafts, the text is that of plain decoding, token for token.

# %%
log = "".join(
    f"12:{i:02d}:07 INFO worker {i % 3} finished job {40 + i} in 0.12 s\n" for i in range(12)
)
n_layers = max(1, model.cfg.n_layers // 4)
shallow = model.cfg.replace(n_layers=n_layers)
first_layers = model.params.replace(layers=model.params.layers[:n_layers])
ways = {
    "plain": (None, None),
    "n-gram, 4 drafts": (Speculative(NGram(k=4)), None),
    "n-gram, 2 branches of 4": (Speculative(NGram(k=4, branches=2)), None),
    "first layers draft 4": (Speculative(DraftModel(shallow, k=4)), first_layers),
    "first layers draft a tree": (
        Speculative(DraftModel(shallow, k=4, alternatives=1)),
        first_layers,
    ),
}
found = {}
for name, (strategy, extra) in ways.items():
    for _ in range(2):  # the first one compiles
        run = start(
            model.cfg,
            model.params,
            [model.tokenizer.encode(log)],
            max_new=n_new,
            strategy=strategy,
            extra=extra,
        )
        run.advance()
    report = run.report
    found[name] = run.new_tokens(0)
    print(
        f"{name:>24}: {report.decode_tokens / report.decode_steps:.2f} tokens a step, "
        f"{report.tokens_per_s:.0f} tokens/s"
    )
assert all(tokens == found["plain"] for tokens in found.values())
