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
# # A model that drafts for itself
# The first layers of a model that was trained for it can guess its next tokens; the other layers then
# verify all guesses in one pass. DEL (Entezari Zarch et al. 2025, arXiv 2504.05598) chooses, round by
# round, after which layer to leave and how many tokens to guess. This notebook shows that the text stays
# what it was, watches the choice while it happens, and draws it over a text that changes its domain.
#
# Runs on a CPU in about a minute, with the model that ships in the package.

# %%
import os

import numpy as np
from matplotlib import pyplot as plt

from ariel_jax.algorithms import del_exit
from ariel_jax.decode import Run, Upfront, start
from ariel_jax.models.hf import load_pretrained

is_smoke = os.environ.get("ARIEL_JAX_SCALE") == "smoke"
n_new = 32 if is_smoke else 96

model = load_pretrained("nano")
how = del_exit.Config(
    exits=(1, 5) if is_smoke else (1, 2, 5, 8), max_draft=3 if is_smoke else 7, n_trace=256
)
strategy = del_exit.SelfSpeculative(how)
capacity = Upfront(512)


def begin(text, **options):
    """A run over a text of at most 512 tokens; one compiled program serves them all."""
    return start(
        model.cfg, model.params, [text], max_new=480 - len(text), capacity=capacity, **options
    )


# %% [markdown]
# ## The same text, in fewer passes
# Both runs below take the likeliest token each time. A pass of plain decoding emits one token; a round of
# drafting emits those drafts that the whole model would have chosen too, and one more. What is saved is
# counted in *layers loaded*: a round of d drafts at exit E of L layers loads L + d E of them. Whether that
# is time, too, depends on the machine: `experiments/del_exit` measures it.

# %%
beginning = "def count_words(text):\n    words = {}\n    for"
code = [model.generation.bos_id, *model.tokenizer.encode(beginning)]
plain = begin(code)
plain.advance(n_new)
drafted = begin(code, strategy=strategy)
while len(drafted.new_tokens(0)) < n_new:
    drafted.advance(4)
    print(del_exit.progress(how, drafted.state).line(model.cfg.n_layers))
assert drafted.new_tokens(0)[:n_new] == plain.new_tokens(0)[:n_new]
print(f"\n{n_new} tokens, and they are the same:\n")
print(beginning + model.tokenizer.decode(plain.new_tokens(0)[:n_new]))

# %% [markdown]
# ## What the controller knows
# After a round it looks which exits would have named the verified tokens: matches and mismatches, of which
# the past counts 0.95 a round. From these come the acceptance of each exit, the threshold at which drafting
# stops, and the score, tokens per layer load, for every exit and number of drafts.

# %%
control = drafted.state.aux.control
alpha = np.asarray(del_exit.acceptance(control.seen))
tuning = del_exit.tuning(how, model.cfg.n_layers)
scores = np.asarray(del_exit.scores(how, tuning, alpha, np.ones(1, bool))) * model.cfg.n_layers
print("exit   acceptance   threshold   tokens per layer load over plain with 0, 1, 2, ... drafts")
for k, exit in enumerate(how.exits):
    stop = float(del_exit.threshold(control.seen)[0, k])
    print(f"{exit:4d}   {alpha[0, k]:10.2f}   {stop:9.2f}   {np.round(scores[k], 2)}")

# %% [markdown]
# ## A text that changes its domain
# nano goes on with code, then a piece of English is appended, then questions and answers. The controller's
# sums are carried across the changes, so it has to unlearn: watch exit, drafts and acceptance move.

# %%
pieces = {
    "code": code,
    "English": model.tokenizer.encode("\nThe function returns a list of all names that"),
    "questions": model.tokenizer.encode("\nQ: Spell the word lamp.\nA: l-a-m-p\n\nQ: Spell the"),
}
text, control, rounds, changes = [], None, [], []
for piece in pieces.values():
    text = text + piece
    run = begin(text, strategy=strategy)
    if control is not None:
        aux = run.state.aux.replace(control=control)
        run = Run(model.cfg, model.params, run.state.replace(aux=aux), strategy=strategy)
    while len(run.new_tokens(0)) < n_new:
        run.advance(4)
    aux, control = run.state.aux, run.state.aux.control
    text = text + run.new_tokens(0)
    names = ("exit", "proposed", "accepted", "alpha")
    trace = np.stack([np.asarray(getattr(aux.trace, n))[0] for n in names], axis=1)
    rounds.extend(trace[: int(aux.rounds[0])])
    changes.append(len(rounds))
rounds = np.stack(rounds)
layers = np.array([*how.exits, 0])[
    rounds[:, 0].astype(int)
]  # a round without drafts leaves nowhere
assert (rounds[:, 2] <= rounds[:, 1]).all()
assert ((rounds[:, 3] >= 0) & (rounds[:, 3] <= 1)).all()

# %%
figure, axes = plt.subplots(3, 1, figsize=(7, 5), sharex=True, layout="constrained")
axes[0].step(range(len(rounds)), layers, where="mid")
axes[0].set_ylabel("exit layer")
axes[1].bar(range(len(rounds)), rounds[:, 1], color="lightgrey", label="drafts")
axes[1].bar(range(len(rounds)), rounds[:, 2], label="that held")
axes[1].set_ylabel("tokens")
axes[1].legend(fontsize=8)
axes[2].plot(rounds[:, 3])
axes[2].set_ylabel("estimated acceptance")
axes[2].set_xlabel("round")
for axis in axes:
    for change in changes[:-1]:
        axis.axvline(change - 0.5, color="black", linewidth=0.8, linestyle=":")
axes[0].set_title(", then ".join(pieces))
plt.show()
for name, part in zip(pieces, np.split(rounds, changes[:-1]), strict=True):
    held, drafts = part[:, 2].sum(), part[:, 1].sum()
    print(f"{name:>10}: {len(part):3d} rounds, {held:3.0f} of {drafts:3.0f} drafts held")
