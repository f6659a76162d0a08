"""How often each exit names the token that the whole model takes, with and without LayerSkip.

    python -m experiments.del_exit.acceptance --scale cpu --out results

Scale `cpu`: nano and its plain twin (or `--model FOLDER --twin FOLDER`), 20 held-out prompts of each of three domains, 128 tokens each,
decoded plainly; at every position the likeliest token of each exit is compared with the text. About 4
minutes on two cores. Expected: at the first exit at least twice as often with the recipe as without.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.layers.attention import causal
from ariel_jax.models import decoder
from experiments import runner
from experiments.del_exit import common, counting
from experiments.runner import Case, Figure, Settings


def cases(settings: Settings) -> Sequence[Case]:
    """One per domain."""
    return common.by_domain(settings, common.config(settings), expected_s=80.0)


@functools.partial(jax.jit, static_argnames=("cfg",))
def _likeliest(cfg: Any, params: Any, tokens: jax.Array) -> tuple[jax.Array, ...]:
    """[L, T] likeliest token behind each layer, at each position of one text."""
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    x, kept = decoder.embed(cfg, params, tokens, positions), []
    for layer in range(cfg.n_layers):
        x, _ = decoder.trunk(
            cfg, params, x, positions, causal(cfg.attention), None, first=layer, last=layer + 1
        )
        kept.append(decoder.top1(cfg, params, x[0])[0])
    return tuple(kept)


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Shares by exit for the models that there are."""
    shares: dict[str, np.ndarray] = {}
    twin = common.twin(settings)
    models = {"model": common.model(settings)} | ({} if twin is None else {"twin": twin})
    for name, loaded in models.items():
        texts = common.prompts(case.config, loaded, case.name, settings)
        plain = counting.count(loaded, texts, case.config["n_new"])
        hits = []
        for prompt, new in zip(texts, plain.texts, strict=True):
            whole = np.zeros(common.CAPACITY, np.int32)
            whole[: len(prompt) + len(new)] = [*prompt, *new]
            found = np.stack(_likeliest(loaded.cfg, loaded.params, jnp.asarray(whole[None])))
            at = slice(len(prompt) - 1, len(prompt) + len(new) - 1)
            hits.append(found[:, at] == np.asarray(new)[None])
        shares[name] = np.concatenate(hits, axis=1).mean(axis=1)
        for layer, share in enumerate(shares[name][:-1], 1):
            yield Figure(
                metric=f"{name}: exit {layer} names the model's token", value=round(float(share), 4),
                unit="1", kind="measured",
            )  # fmt: skip
        last = float(shares[name][-1])
        yield Figure(
            metric=f"{name}: last layer", value=round(last, 4), unit="1", kind="measured",
            **runner.judge(last > 0.999, "above 0.999: the decoded text is greedy"),
        )  # fmt: skip
    if twin is None:
        return
    ratio = float(shares["model"][0] / max(shares["twin"][0], 1e-9))
    yield Figure(
        metric="exit 1: with the recipe over without", value=round(ratio, 3), unit="1",
        kind="measured", **runner.judge(ratio >= 2, "at least 2", due=not settings.is_tiny),
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Any:
    """Share by exit, a panel for each domain."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3.2), squeeze=False,
                                   sharey=True, layout="constrained")  # fmt: skip
    for axis, name in zip(axes[0], names, strict=True):
        for model in ("model", "twin"):
            shares = [
                r["value"] for r in rows if r["case"] == name and f"{model}: exit" in r["metric"]
            ]
            if not shares:
                continue
            axis.plot(range(1, len(shares) + 1), shares, "o-", label=model)
        axis.set_title(name)
        axis.set_xlabel("exit after layer")
        axis.set_ylim(0, 1)
    axes[0][0].set_ylabel("share of the model's tokens (measured)")
    axes[0][0].legend()
    return figure


EXPERIMENT = runner.Experiment(
    name="del_exit.acceptance",
    title="What each exit would have drafted",
    cases=cases,
    measure=measure,
    plot=plot,
    flags=common.WITH_TWIN,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
