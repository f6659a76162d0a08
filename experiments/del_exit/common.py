"""What the DEL scripts share: models, held-out prompts in three domains, and counting a method."""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ariel_jax import load_pretrained, testing
from ariel_jax.algorithms import del_exit
from ariel_jax.decode import Autoregressive, Strategy, Upfront, programs, start
from ariel_jax.errors import ConfigError
from experiments.nano import corpus
from experiments.runner import Case, Settings

DOMAINS = ("code", "english", "templates")
EXITS = (1, 2, 5, 8)
MAX_DRAFT = 7
TWIN = pathlib.Path(__file__).parents[1] / "nano" / "twin"
N_PROMPT, N_NEW, N_PROMPTS = 96, 128, 20
CAPACITY = 256


def config(settings: Settings) -> dict[str, Any]:
    """The numbers that every case depends on."""
    tiny = settings.is_tiny
    return {
        "n_prompts": 2 if tiny else N_PROMPTS,
        "n_prompt": 24 if tiny else N_PROMPT,
        "n_new": 20 if tiny else N_NEW,
        "exits": [1, 2] if tiny else list(EXITS),
        "max_draft": 3 if tiny else MAX_DRAFT,
    }


@functools.cache
def model(name: str, is_tiny: bool) -> Any:
    """`nano`, its plain `twin`, or for tiny settings a random model of four layers."""
    if not is_tiny:
        return load_pretrained("nano" if name == "nano" else TWIN)
    with tempfile.TemporaryDirectory() as folder:
        testing.write_toy_checkpoint(f"{folder}/toy", n_layers=4, seed=len(name), max_positions=256)
        return load_pretrained(f"{folder}/toy")


@functools.cache
def _heldout() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {domain: [] for domain in DOMAINS}
    for document in corpus.collect():
        if document.split == "heldout":
            found[document.domain].extend(document.parts)
    return found


def by_domain(settings: Settings, config: dict[str, Any], *, expected_s: float) -> list[Case]:
    """One case per domain; at the smallest scale the first one only."""
    names = DOMAINS[: 1 if settings.is_tiny else len(DOMAINS)]
    return [Case(name=name, config=config, expected_s=expected_s) for name in names]


def prompts(case: dict[str, Any], loaded: Any, domain: str, *, is_tiny: bool) -> list[list[int]]:
    """The first tokens of held-out documents of a domain, after the start token.

    Args:
        case: a case's config.
        loaded: the model.
        domain: one of `DOMAINS`.
        is_tiny: a fixed text instead of the corpus, which takes half a minute to collect.

    Raises:
        ConfigError: this Python's library has too few documents of that length.
    """
    texts = [f"{domain} {i}: one two one two one two {i}" for i in range(9)]
    texts = texts if is_tiny else _heldout()[domain]
    n, start_id = case["n_prompt"], loaded.generation.bos_id
    found = []
    for text in texts:
        ids = loaded.tokenizer.encode(text[: 12 * n])
        if len(ids) >= n - 1 or (domain == "templates" and len(ids) >= n // 4):
            found.append([start_id, *ids[: n - 1]])
        if len(found) == case["n_prompts"]:
            return found
    raise ConfigError(
        f"only {len(found)} held-out documents of {domain} have {n} tokens, {case['n_prompts']} are "
        "needed: run with another Python's standard library, or fewer prompts."
    )


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


def count(
    loaded: Any,
    texts: Sequence[Sequence[int]],
    n_new: int,
    strategy: Strategy | None = None,
    extra: Any = None,
) -> Counted:
    """Decodes each prompt alone, greedily, to its full length."""
    strategy = strategy or Autoregressive()
    rows: list[tuple[Any, ...]] = []
    for prompt in texts:
        run = start(
            loaded.cfg,
            loaded.params,
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
    """The strategy and the numbers of a controller by name."""
    D = case["max_draft"]
    rows = tuple(r for r in (2, 4) if r < D + 1)
    how = del_exit.named(
        name,
        exits=tuple(case["exits"]),
        max_draft=D,
        row_buckets=(*rows, D + 1),
        n_trace=case.get("n_trace", 0),
    )
    return del_exit.SelfSpeculative(how), del_exit.tuning(how, n_layers, **numbers)


def interval(ours: Counted, base: Counted, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval over prompts of the ratio of tokens per layer load."""
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, len(ours.tokens), (2000, len(ours.tokens)))

    def rate(counted: Counted) -> np.ndarray:
        return counted.tokens[pick].sum(1) / counted.loads[pick].sum(1)

    low, high = np.percentile(rate(ours) / rate(base), [2.5, 97.5])
    return float(low), float(high)
