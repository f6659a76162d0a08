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
# # A decoding state is a value
# Everything a batch needs to go on is one pytree, the `DecodeState`: cache, tokens, random keys,
# sampling settings, counters. So a generation can be stopped, looked at, copied, branched and
# rolled back from Python, and the device program that continues it does not know the difference.
#
# Runs on a CPU in about a minute, with the model that ships in the package.

# %%
import os

import jax
import numpy as np
from matplotlib import pyplot as plt

from ariel_jax.decode import (
    Arithmetic,
    Run,
    SamplingParams,
    Upfront,
    fork,
    rekey,
    rollback,
    start,
)
from ariel_jax.models.hf import load_pretrained

is_smoke = os.environ.get("ARIEL_JAX_SCALE") == "smoke"
n_new = 48 if is_smoke else 192

model = load_pretrained("nano")
prompt = model.tokenizer.encode("def read_lines(path):\n")
sampling = SamplingParams(temperature=0.8, top_p=0.95, seed=1)


def text(run, row=0):
    """What a row has generated so far."""
    return model.tokenizer.decode(run.new_tokens(row))


# %% [markdown]
# ## Stop in the middle and look
# `start` reads the prompt and draws the first token; `advance(n)` takes n more steps on the device.
# One token is always *pending*: known, but not in the cache yet. Hence `known = cache.length + 1`.

# %%
run = start(model.cfg, model.params, [prompt], max_new=n_new, sampling=sampling)
run.advance(15)
state = run.state
print("prompt tokens  ", len(prompt))
print("known tokens   ", int(state.n_known()[0]))
print("rows in cache  ", int(state.cache.length[0]), "of", state.cache.capacity)
print("pending token  ", repr(model.tokenizer.decode([int(state.pending()[0])])))
print("one layer's k  ", state.cache.k[0].shape, "= [batch, kv heads, capacity, head size]")
print("cache          ", state.cache.nbytes, "bytes")
print("steps taken    ", int(state.stats.steps[0]))
assert int(state.n_known()[0]) == len(prompt) + 16
print("\n" + text(run))

# %% [markdown]
# ## Branch it
# `fork` copies rows into a new, independent state. The copies share the request's key, so they go
# on alike; `rekey` gives them other keys. A token's randomness depends on the request's key and the
# token's position, on nothing else: not on the batch, the slot or the number of steps at a time.

# %%
branches = fork(state, [0, 0, 0])
keys = jax.numpy.stack([state.keys[0], jax.random.key(11), jax.random.key(12)])
branches = rekey(branches, keys)
branched = Run(model.cfg, model.params, branches)
branched.advance(24)
run.advance(24)
for row in range(3):
    print(f"--- branch {row}\n{text(branched, row)}\n")

same_key, other_key = branched.new_tokens(0), branched.new_tokens(1)
assert same_key == run.new_tokens(0), "the branch with the old key is the run itself"
assert other_key[:16] == same_key[:16], "what was known when the state was forked is shared"
assert other_key != same_key, "another key draws other tokens"

# %% [markdown]
# ## Roll it back
# Forgetting is a smaller length: nothing is copied or erased. From the same state and key the same
# tokens come again.

# %%
before = run.new_tokens(0)
again = Run(model.cfg, model.params, rollback(run.state, [len(prompt) + 5]))
print("after rolling back:", len(again.new_tokens(0)), "generated tokens are known")
again.advance(len(before) - 5)
assert again.new_tokens(0) == before
print("decoded again:     ", len(again.new_tokens(0)), "and they are the same")

# %% [markdown]
# ## How full is the cache?
# `Upfront` reserves once for the longest that the request can become. `Arithmetic(r)` reserves r
# spare rows and grows by r when they are used up: less memory early on, and shorter attention on a
# CPU, for one copy of the cache (and, the first time, one compilation) per growth.


# %%
def occupancy(policy):
    """(known rows, capacity) after every 8 steps."""
    run = start(
        model.cfg,
        model.params,
        [prompt],
        max_new=n_new,
        sampling=sampling,
        capacity=policy,
        eos=(),
    )
    seen = [(int(run.length[0]), run.state.cache.capacity)]
    while run.advance(8):
        seen.append((int(run.length[0]), run.state.cache.capacity))
    seen.append((int(run.length[0]), run.state.cache.capacity))
    return np.array(seen), run


policies = {"Upfront()": Upfront(), "Arithmetic(32)": Arithmetic(32, granularity=32)}
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
texts = []
for axis, (name, policy) in zip(axes, policies.items(), strict=True):
    seen, done = occupancy(policy)
    steps = 8 * np.arange(len(seen))
    axis.step(steps, seen[:, 1], where="post", label="capacity")
    axis.fill_between(steps, seen[:, 0], alpha=0.4, label="rows in use")
    axis.set_title(f"{name}: {done.report.growths} growths")
    axis.set_xlabel("step")
    texts.append(done.new_tokens(0))
axes[0].set_ylabel("cache rows")
axes[0].legend(loc="lower right")
plt.show()
assert texts[0] == texts[1], "how the cache grows changes no token"
