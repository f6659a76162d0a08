"""What the script on drafts decodes: texts, strategies, and the yardstick that copies every row."""

import dataclasses
import inspect
import json.decoder
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ariel_jax.decode import (
    Autoregressive,
    DraftModel,
    NGram,
    SamplingParams,
    Speculative,
    Strategy,
    start,
)

PROSE = (
    "The function returns a new object each time it is called. If the argument is not given, the "
    "current working directory is used instead, and an error is raised when it does not exist."
)


def texts() -> dict[str, str]:
    """Prompts by name."""
    lines = (
        f"2026-01-{1 + i // 9:02d} 12:{i:02d}:07 INFO worker {i % 3} finished job {40 + i} in 0.12 s"
        for i in range(10)
    )
    return {
        "log": "\n".join(lines) + "\n",
        "code": inspect.getsource(json.decoder.JSONDecoder.raw_decode) * 2,
        "prose": PROSE,
    }


def shallow(model: Any, n_layers: int) -> tuple[Any, Any]:
    """The first layers of a model as a model of its own: (decoder, weights), nothing copied."""
    cfg = model.cfg.replace(n_layers=n_layers)
    return cfg, model.params.replace(layers=model.params.layers[:n_layers])


def strategies(model: Any, ks: Sequence[int]) -> dict[str, tuple[Strategy, Any]]:
    """Plain decoding and every fixed way to draft, each with what it reads beside the weights.

    Args:
        model: a loaded one.
        ks: numbers of drafts from the text in a chain.
    """
    cfg, params = shallow(model, max(1, model.cfg.n_layers // 4))
    return {
        "plain": (Autoregressive(), None),
        **{f"{k} drafts": (Speculative(NGram(k=k)), None) for k in ks},
        "2 x 4 drafts": (Speculative(NGram(k=4, branches=2)), None),
        "draft model": (Speculative(DraftModel(cfg, k=4)), params),
        "draft tree": (Speculative(DraftModel(cfg, k=4, alternatives=1)), params),
    }


@dataclasses.dataclass(frozen=True)
class Text:
    """A decoded text.

    Attributes:
        tokens: what was generated.
        tokens_per_s: growths included.
        tokens_per_step: after the first one.
        held: share of the drafts that held; 0 without any.
        drafts_at_end: how many drafts a step took at the end.
    """

    tokens: list[int]
    tokens_per_s: float
    tokens_per_step: float
    held: float = 0.0
    drafts_at_end: int = 0


def decode(
    model: Any,
    prompt: list[int],
    n_new: int,
    strategy: Strategy,
    extra: Any,
    *,
    temperature: float = 0.0,
    **options: Any,
) -> Text:
    """One request under a strategy; `options` of `decode.start`."""
    sampling = SamplingParams(temperature=temperature, seed=1)
    run = start(
        model.cfg,
        model.params,
        [prompt],
        max_new=n_new,
        strategy=strategy,
        extra=extra,
        sampling=sampling,
        **options,
    )
    while run.advance():
        pass
    report = run.report
    return Text(
        run.new_tokens(0),
        report.tokens_per_s,
        report.decode_tokens / report.decode_steps,
        report.accepted / max(report.proposed, 1),
        run.strategy.rows - 1,
    )


def step_by_step(
    model: Any, prompt: list[int], n_new: int, strategy: Strategy, extra: Any, *, copies: bool
) -> Text:
    """The same request, but every step goes back to the host.

    With `copies` it copies all rows that are known: what growing by a row a token does, emulated, as
    each step runs the program of the full capacity. Without, it shows what the way back costs alone.
    """
    run = start(model.cfg, model.params, [prompt], max_new=n_new, strategy=strategy, extra=extra)
    steps, begin = 0, time.perf_counter()
    while run.advance(1):
        steps += 1
        known = int(run.length[0])
        for leaf in (*run.state.cache.k, *run.state.cache.v) if copies else ():
            np.array(np.asarray(leaf)[:, :, :known])
    spent = time.perf_counter() - begin
    tokens = run.new_tokens(0)
    return Text(tokens, (len(tokens) - 1) / spent, (len(tokens) - 1) / (steps + 1))
