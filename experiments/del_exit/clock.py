"""The clock part of `methods`: tokens per second, and what an aim that is missed would have taken."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ariel_jax.algorithms import del_exit
from ariel_jax.decode import NGram, Speculative
from experiments import runner
from experiments.del_exit import common, counting
from experiments.del_exit.common import DOMAINS
from experiments.del_exit.counting import PLAIN
from experiments.runner import Case, Figure, Settings

AIM = 1.4
SHARES = (0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.0)
N_EMULATED = 5  # prompts


def measure(case: Case, loaded: Any, texts: dict[str, Any], settings: Settings) -> Iterator[Figure]:
    """Medians of tokens/s over plain's; where the aim is missed, the reasons in further rows."""
    L, n_new, n_rounds = loaded.cfg.n_layers, case.config["n_new"], case.config["n_rounds"]
    how = counting.method("del", case.config, L)[0].config
    costs = del_exit.measured_costs(
        loaded.cfg, loaded.params, how, capacity=common.CAPACITY, n_runs=n_rounds
    )
    every = common.look_every(settings, costs)
    ways = {"plain": PLAIN}
    for name in ("del",) if settings.is_tiny else ("del", "del-e"):
        numbers = {
            "costs": costs,
            "shadow_every": every,
            "idle_every": del_exit.idle_every(costs),
        }
        ways[f"{name}, measured costs"] = counting.method(name, case.config, L, **numbers)
    ours = "del, measured costs"
    if not settings.is_tiny:
        ways["n-gram, 4 drafts"] = (Speculative(NGram(k=4)), None)
    good, alphas = 0, {}
    for domain in (name for name in texts if name in DOMAINS):
        ratios, found = counting.in_turn(loaded, texts[domain], n_new, ways, n_rounds)
        for name in list(ways)[1:]:
            value, spread = counting.middle(ratios[name])
            good += name == ours and value >= AIM
            yield Figure(
                metric=f"{domain}, {name}: tokens/s over plain {spread}", value=round(value, 4),
                unit="1", kind="measured",
            )  # fmt: skip
        same = counting.agreement(loaded, texts[domain], found[ours], found["plain"])
        yield Figure(
            metric=f"{domain}, {ours}: texts equal to plain decoding's, but for ties", value=same,
            unit="1", kind="measured", **runner.judge(same == 1, "1"),
        )  # fmt: skip
        seen = [del_exit.acceptance(aux.control.seen)[0] for aux in found[ours].aux]
        alphas[domain] = np.mean(np.asarray(seen), axis=0)
    yield Figure(
        metric=f"domains in which del has at least {AIM} times plain's tokens/s", value=float(good),
        unit="1", kind="measured",
        **runner.judge(good >= 2, "at least 2", due=not settings.is_tiny, otherwise="MISSED"),
    )  # fmt: skip
    if good < 2:
        yield from _why(how, costs, every, alphas)
        yield from _emulated(case, loaded, texts["code"], ways[ours], AIM, settings.is_tiny)


def _why(
    how: del_exit.Config, costs: del_exit.Costs, every: int, alphas: dict[str, np.ndarray]
) -> Iterator[Figure]:
    """The table of round costs, what it promises in each domain, and the acceptance it asks for."""
    table = counting.round_table(costs)
    look = float(costs.shadow) / float(costs.plain) / every
    for k, exit in enumerate(how.exits):
        for d in range(1, how.rows):
            yield Figure(
                metric=f"E{exit}-d{d}: time of a round over a plain one",
                value=round(float(table[k, d]), 4), unit="1", kind="measured",
            )  # fmt: skip
    yield Figure(
        metric=f"looks every {every} rounds: time of a look in each, over a plain round",
        value=round(look, 4), unit="1", kind="measured",
    )  # fmt: skip
    for domain, alpha in alphas.items():
        speeds = counting.predicted_speeds(table, alpha, look)
        k, d = np.unravel_index(np.argmax(speeds), speeds.shape)
        yield Figure(
            metric=f"{domain}: tokens/s over plain that these costs and the acceptance at the end predict "
            f"(E{how.exits[k]}-d{d}, acceptance {alpha[k]:.2f})",
            value=round(float(speeds[k, d]), 4), unit="1", kind="simulated",
        )  # fmt: skip
    grid = np.linspace(0, 1, 201)
    best = [counting.predicted_speeds(table, np.full(len(how.exits), a), look).max() for a in grid]
    yield Figure(
        metric="predicted tokens/s over plain where every draft holds", value=round(best[-1], 4),
        unit="1", kind="simulated",
    )  # fmt: skip
    enough = next((a for a, speed in zip(grid, best, strict=True) if speed >= AIM), None)
    if enough is not None:
        yield Figure(
            metric=f"predicted acceptance at every exit from which on {AIM} is reached",
            value=round(float(enough), 4), unit="1", kind="simulated",
        )  # fmt: skip


def calmed(params: Any, first: int, share: float) -> Any:
    """The weights with what the layers from `first` on add scaled, so that exits are right more often."""

    def calm(block: Any) -> Any:
        down, out = block.mlp.down, block.attn.o
        return block.replace(
            mlp=block.mlp.replace(down=down.replace(w=down.w * share)),
            attn=block.attn.replace(o=out.replace(w=out.w * share)),
        )

    layers = params.layers
    return params.replace(layers=(*layers[:first], *map(calm, layers[first:])))


def _emulated(
    case: Case, loaded: Any, texts: Any, way: counting.Way, aim: float, is_tiny: bool
) -> Iterator[Figure]:
    """Runs at higher and higher acceptance, until the aim is reached.

    Every layer runs as before and takes as long; the layers behind the first exit add less, so that
    drafts hold more often. Plain decoding beside it has the same weights.
    """
    met, first = 0.0, case.config["exits"][0]
    for share in SHARES[-1:] if is_tiny else SHARES:
        ratios, found = counting.in_turn(
            loaded, texts[:N_EMULATED], case.config["n_new"], {"plain": PLAIN, "del": way},
            case.config["n_rounds"], params=calmed(loaded.params, first, share),
        )  # fmt: skip
        value, spread = counting.middle(ratios["del"])
        yield Figure(
            metric=f"layers behind exit {first} add {share} of what they did, {found['del'].held:.2f} of "
            f"the drafts hold: tokens/s over plain {spread}",
            value=round(value, 4), unit="1", kind="emulated",
        )  # fmt: skip
        met = found["del"].held
        if value >= aim:
            yield Figure(
                metric=f"share of drafts that hold in the first of these runs that reaches {aim}",
                value=round(met, 4), unit="1", kind="emulated",
            )  # fmt: skip
            return
    yield Figure(
        metric=f"share of drafts that hold in the last of these runs, which does not reach {aim}",
        value=round(met, 4), unit="1", kind="emulated",
    )  # fmt: skip
