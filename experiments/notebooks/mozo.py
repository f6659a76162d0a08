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
# # Few-shot answers that no demonstration can be read from
# A model that sees examples of a task answers in their way, and repeats what is in them. dps-mozo (Flemings
# et al. 2025, arXiv 2501.19287; weights and proofs are reconstructed here) asks the model once without an
# example and once with each of a few, bounds how far each of these rows may lean away from the first, mixes
# them and draws a token. The draw itself is the noise of differential privacy. This notebook bounds a row,
# buys a budget, answers queries under a ledger, and checks a step exactly.
#
# Runs on a CPU in about a minute, in a checkout of the repository, which holds the small model and its task;
# needs `pip install "ariel-jax[privacy,plot]"`. The demonstrations are made up, so draws and laws may be
# shown here; those of real people may not.

# %%
import os
import pathlib
import tempfile

import jax
import numpy as np
from matplotlib import pyplot as plt

from ariel_jax import load_pretrained
from ariel_jax.algorithms import mozo
from ariel_jax.algorithms.mozo import audit
from ariel_jax.algorithms.mozo.contract import contract_rows
from ariel_jax.algorithms.mozo.draws import Draw
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.errors import BudgetExceededError, UnprovenMechanismError
from ariel_jax.privacy import Ledger, Terms
from experiments.mozo import records
from experiments.mozo.rouge import rouge_l

is_smoke = os.environ.get("ARIEL_JAX_SCALE") == "smoke"
n_demonstrations, n_queries, n_audits = (200, 2, 20) if is_smoke else (10_000, 20, 500)
MODEL = pathlib.Path(records.__file__).parent / "tiny"
DELTA = 1e-5

# %% [markdown]
# ## What one row may say
# A row's *log-ratio* is how much likelier each token is with the demonstration than without. A contract
# shrinks it until largest and smallest differ by at most `eta`, and looks at nobody else's row to do so. Then
# the pool multiplies what is left, to the power of a fixed weight, onto the row without a demonstration.

# %%
rng = np.random.default_rng(0)
k = 12
zero_shot = rng.normal(size=k).astype(np.float32)
one_shot = (zero_shot + 2 * rng.normal(size=k)).astype(np.float32)
anchor = jax.nn.log_softmax(zero_shot)
figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
axis.bar(np.arange(k) - 0.4, jax.nn.softmax(zero_shot), 0.2, label="no demonstration")
for i, eta in enumerate((0.5, 2.0)):
    config = mozo.Config(n_slots=1, top_k=None)
    numbers = mozo.Numbers(eta=eta, weight=1.0)
    log_r = contract_rows(anchor, zero_shot, one_shot[None], config, parameters(config, numbers))
    assert np.ptp(log_r) <= eta
    axis.bar(
        np.arange(k) - 0.2 * (1 - i), jax.nn.softmax(anchor + log_r[0]), 0.2, label=f"eta {eta}"
    )
axis.bar(np.arange(k) + 0.2, jax.nn.softmax(one_shot), 0.2, label="the demonstration, unbounded")
axis.set(xlabel="token", ylabel="probability")
axis.legend(fontsize=7)
plt.show()

# %% [markdown]
# What has no proof has no price, and is refused when it is configured:

# %%
try:
    mozo.check(
        mozo.Config(n_slots=4, contract="renyi", alpha=2),
        mozo.Numbers(eta=0.0, weight=1.0, renyi_c=0.01, kl_cap=0.01),
    )
except UnprovenMechanismError as error:
    print(error)

# %% [markdown]
# ## What a budget buys
# A plan says how demonstrations are drawn, how often anew, and how many tokens are made; `h` is the largest
# influence of one demonstration on one token that the budget then allows. Whoever is drawn rarely and for few
# tokens may say more, which is why redrawing is worth its prefills.


# %%
def plan(epsilon, redraw_every):
    return mozo.plan_for(
        n_demonstrations=n_demonstrations,
        epsilon=epsilon,
        delta=DELTA,
        n_queries=n_queries,
        max_tokens=50,
        redraw_every=redraw_every,
    )


plans = {(e, r): plan(e, r) for e in (1.0, 2.0, 8.0) for r in (None, 5)}
for (epsilon, redraw_every), found in plans.items():
    print(
        f"epsilon {epsilon:g}, {'one draw a query' if redraw_every is None else 'a draw every 5 tokens'}: "
        f"h = {found.numbers.h:.2f} nats, {found.config.n_slots} rows for 4 demonstrations on average"
    )

# %% [markdown]
# ## Answers under a ledger
# The model is a small one that writes records out as sentences in a style that only demonstrations show. All
# queries are paid for before a demonstration is read; what was not used comes back.

# %%
model = load_pretrained(MODEL)
task = records.draw_task(0, n_demonstrations=n_demonstrations, n_queries=n_queries)
private = [mozo.Demonstration(input=d.input, output=d.output) for d in task.demonstrations]
encoded = mozo.encode(private, model.tokenizer, max_tokens=64)
chosen = plans[2.0, 5]
folder = pathlib.Path(tempfile.mkdtemp())
terms = Terms(account="sentences", relation=chosen.relation, epsilon=2.0, delta=DELTA)

with Ledger(folder / "ledger.sqlite", terms) as ledger:
    with mozo.Session(model, encoded, chosen, ledger, n_queries=n_queries) as session:
        answers = [session.answer(query).text.strip() for query in task.queries]
    print(session.report().markdown())
    try:
        mozo.Session(model, encoded, chosen, ledger, n_queries=n_queries)
    except BudgetExceededError as error:
        print("A second time:", error)

# %%
nothing = mozo.MixedDecoder(
    model, encoded, chosen.config, mozo.Numbers(eta=0.0, weight=0.25), max_tokens=50
)
nobody = Draw(rows=np.full(chosen.config.n_slots, -1))
without = [
    nothing.answer(query, lambda block: nobody, jax.random.key(i), is_private=False).text.strip()
    for i, query in enumerate(task.queries)
]
for name, texts in (("without demonstrations", without), ("in private, epsilon 2", answers)):
    score = np.mean([rouge_l(a, b) for a, b in zip(texts, task.references, strict=True)])
    print(f"{name}: ROUGE-L {score:.2f}, such as {texts[0]!r}")
print("the style:", repr(task.references[0]))

# %% [markdown]
# ## An exact check
# The law of a token is explicit, so that what one demonstration changes can be computed instead of estimated:
# the law with it against the law without it, in float64, for every demonstration. Below, on random rows that
# disagree strongly, for the step as it is and for one with a temperature hidden behind the pool, which no
# statistical attack at this size would notice.

# %%
config = mozo.Config(n_slots=4, top_k=50)
numbers = mozo.Numbers(eta=2.0, weight=0.25)
for name, laws in (
    ("as it is", audit.laws_of(config, numbers)),
    ("a hidden temperature of 0.5", audit.hidden_temperature(config, numbers)),
):
    laws, worst = jax.jit(laws), 0.0
    for _ in range(n_audits):
        found = audit.audit_step(
            4 * rng.normal(size=(5, 200)), np.ones(4, bool), config, numbers, laws=laws
        )
        worst = max(worst, float(found.ranges.max()))
    print(f"{name}: largest range of a log-ratio {worst:.3f}, priced {numbers.h:.3f}")
