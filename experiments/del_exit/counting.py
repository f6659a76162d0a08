"""What the DEL scripts count and time: a method over prompts, and how sure its figures are."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms import del_exit
from ariel_jax.decode import Autoregressive, Strategy, Upfront, programs, start
from experiments.del_exit.common import CAPACITY

Way = tuple[Strategy | None, Any]
PLAIN: Way = (None, None)


@dataclasses.dataclass(frozen=True)
class Counted:
    """A method over the prompts of a domain; arrays have an entry for each prompt.

    Attributes:
        texts: what was generated.
        tokens: after the first one of each prompt, which prefill draws.
        loads: layers loaded.
        rounds, proposed, accepted: of all rounds.
        seconds: decoding, without prefill and compiling.
        aux: the strategy's state at the end; None for plain decoding.
    """

    texts: list[list[int]]
    tokens: np.ndarray
    loads: np.ndarray
    rounds: np.ndarray
    proposed: np.ndarray
    accepted: np.ndarray
    seconds: np.ndarray
    aux: list[Any]

    @property
    def tokens_per_load(self) -> float:
        """Of all prompts together."""
        return float(self.tokens.sum() / self.loads.sum())

    @property
    def tokens_per_s(self) -> float:
        """Of all prompts together."""
        return float(self.tokens.sum() / self.seconds.sum())

    @property
    def held(self) -> float:
        """Share of the drafts."""
        return float(self.accepted.sum() / max(self.proposed.sum(), 1))


def count(
    loaded: Any,
    texts: Sequence[Sequence[int]],
    n_new: int,
    strategy: Strategy | None = None,
    extra: Any = None,
    *,
    params: Any = None,
) -> Counted:
    """Decodes each prompt alone, greedily, to its full length; `params` in place of the model's."""
    strategy = strategy or Autoregressive()
    rows: list[tuple[Any, ...]] = []
    for prompt in texts:
        run = start(
            loaded.cfg,
            loaded.params if params is None else params,
            [list(prompt)],
            max_new=n_new,
            strategy=strategy,
            extra=extra,
            capacity=Upfront(CAPACITY),
        )
        while run.advance():
            pass
        report, aux, steps = run.report, run.state.aux, run.report.decode_steps
        loads = steps * loaded.cfg.n_layers if aux is None else int(aux.loads[0])
        counts = (report.decode_tokens, loads, steps, report.proposed, report.accepted)
        rows.append((run.new_tokens(0), *counts, report.decode_s, aux))
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)]
    arrays = [np.asarray(column) for column in columns[1:7]]
    return Counted(columns[0], *arrays, columns[7])  # pyright: ignore[reportCallIssue] six arrays


def pooled(parts: Sequence[Counted]) -> Counted:
    """The prompts of several domains together."""
    arrays = ("tokens", "loads", "rounds", "proposed", "accepted", "seconds")
    joined = [np.concatenate([getattr(p, name) for p in parts]) for name in arrays]
    texts, aux = ([x for p in parts for x in getattr(p, name)] for name in ("texts", "aux"))
    return Counted(texts, *joined, aux)  # pyright: ignore[reportCallIssue] six arrays


def in_turn(
    loaded: Any,
    texts: Sequence[Sequence[int]],
    n_new: int,
    ways: Mapping[str, Way],
    n_rounds: int,
    *,
    params: Any = None,
) -> tuple[dict[str, list[float]], dict[str, Counted]]:
    """Tokens per second of each way over the first one's, all in turn, every other time backwards.

    Returns:
        (ratios of each way, one per round after the first, which compiles; what was counted last).
    """
    base = next(iter(ways))
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Counted] = {}
    for number in range(n_rounds + 1):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name] = count(loaded, texts, n_new, *ways[name], params=params)
        for name in ways if number else ():
            ratios[name].append(found[name].tokens_per_s / found[base].tokens_per_s)
    return ratios, found


def middle(values: Sequence[float]) -> tuple[float, str]:
    """The median, and the least and the largest in words."""
    return statistics.median(values), f"[{min(values):.2f}, {max(values):.2f}]"


def agreement(loaded: Any, prompts: list[list[int]], ours: Counted, plain: Counted) -> float:
    """Share of texts that are plain decoding's, up to the first place where float32 has a tie.

    There the two likeliest tokens must be closer than 1e-4 of the largest logit: a product of one row
    and one of several may differ in the last bits.
    """
    good = 0
    positions = jnp.arange(CAPACITY, dtype=jnp.int32)[None]
    for prompt, a, b in zip(prompts, ours.texts, plain.texts, strict=True):
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if at is None:
            good += len(a) == len(b)
            continue
        text = np.zeros((1, CAPACITY), np.int32)
        n = len(prompt) + at
        text[0, :n] = [*prompt, *b[:at]]
        row = np.asarray(
            programs.forward(loaded.cfg, loaded.params, jnp.asarray(text), positions)[0, n - 1]
        )
        second, best = np.sort(row)[-2:]
        good += bool(best - second < 1e-4 * np.abs(row).max())
    return good / len(prompts)


def method(
    name: str, case: dict[str, Any], n_layers: int, **numbers: Any
) -> tuple[del_exit.SelfSpeculative, Any]:
    """The strategy and the numbers of a controller by name; omega is the case's, if not given."""
    numbers.setdefault("omega", case.get("omega", 0.95))
    how = del_exit.named(
        name,
        exits=tuple(case["exits"]),
        max_draft=case["max_draft"],
        row_buckets=tuple(case["row_buckets"]),
        n_trace=case.get("n_trace", 0),
    )
    return del_exit.SelfSpeculative(how), del_exit.tuning(how, n_layers, **numbers)


def interval(ours: Counted, base: Counted, seed: int) -> str:
    """95 % bootstrap interval over prompts of the ratio of tokens per layer load, in words."""
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, len(ours.tokens), (2000, len(ours.tokens)))

    def rate(counted: Counted) -> np.ndarray:
        return counted.tokens[pick].sum(1) / counted.loads[pick].sum(1)

    low, high = np.percentile(rate(ours) / rate(base), [2.5, 97.5])
    return f"[{low:.2f}, {high:.2f}]"


def round_table(costs: del_exit.Costs) -> np.ndarray:
    """[K, D + 1] time of a round by exit and drafts, over that of a plain one; 1 without drafts."""
    drafts = np.arange(costs.verify.shape[1])
    whole = drafts[None] * np.asarray(costs.draft)[:, None] + np.asarray(costs.verify)
    table = whole / float(costs.plain)
    table[:, 0] = 1.0
    return table


def predicted_speeds(table: np.ndarray, alpha: np.ndarray, look: float = 0.0) -> np.ndarray:
    """[K, D + 1] tokens/s over plain that acceptances alpha [K] promise.

    Args:
        table: of `round_table`.
        alpha: of each exit, every draft of it independent of the others.
        look: what looks add to a round with drafts, in plain rounds.
    """
    drafts = np.arange(table.shape[1])
    tokens = np.cumsum(np.asarray(alpha, np.float64)[:, None] ** drafts[None], axis=1)
    return tokens / (table + look * (drafts > 0))
