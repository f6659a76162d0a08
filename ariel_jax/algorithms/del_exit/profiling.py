"""Measures what drafts, verifications and looks take here, and remembers it.

The paper counts layers. That leaves out the head, which every draft reads once, and takes rows for
free, which they are not on a processor; measured times have both in them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ariel_jax import measure
from ariel_jax._checks import positive_int
from ariel_jax.algorithms.del_exit import programs
from ariel_jax.algorithms.del_exit.config import Config, Costs, tuning
from ariel_jax.algorithms.del_exit.strategy import SelfSpeculative
from ariel_jax.decode import Run, Upfront, rollback, start
from ariel_jax.decode.workload import workload_key
from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams

PROMPT = 16  # tokens
N_STEPS = 8  # rounds for each timing

Say = Callable[[str], None]


def measured_costs(
    cfg: DecoderConfig,
    params: DecoderParams,
    how: Config,
    *,
    batch: int = 1,
    capacity: int = 512,
    n_runs: int = 5,
    store: measure.ProfileStore | None = None,
    remeasure: bool = False,
    say: Say = lambda text: None,
) -> Costs:
    """Seconds of the parts of a round, for one model and batch on this device.

    Args:
        cfg: the decoder.
        params: its weights.
        how: the settings; exits, most drafts and row buckets count.
        batch: requests decoded at once.
        capacity: rows of the cache; attention goes over all of them.
        n_runs: timings of each, in turn; the fastest counts, which nothing but other work on the
            machine slows down.
        store: where results are kept and looked up; None keeps nothing.
        remeasure: measure again even if there is an earlier result.
        say: told what is going on.

    Returns:
        The costs; their sum is the time of a whole round as it was measured, for every exit and
        number of drafts.

    Cost:
        One compilation and, for each exit and number of drafts, `n_runs` x 8 rounds.

    Raises:
        ConfigError: too few rows or positions for the timings, or exits that the model does not have.
    """
    positive_int(batch=batch, capacity=capacity, n_runs=n_runs)
    how.check(cfg.n_layers)
    longest = PROMPT + N_STEPS * how.rows + 1
    if capacity < longest + how.rows or cfg.max_positions < longest:
        raise ConfigError(
            f"capacity={capacity} and the model's {cfg.max_positions} positions must be at least "
            f"{longest + how.rows}: pass a larger capacity or a smaller max_draft."
        )
    key = {
        "what": "del_exit costs",
        "exits": list(how.exits),
        "max_draft": how.max_draft,
        "row_buckets": list(how.buckets),
        "capacity": capacity,
        **workload_key(cfg, params, batch=batch, capacity=capacity, rows=how.rows),
    }
    found = store.get(key) if store is not None and not remeasure else None
    if found is not None and (known := _from_json(found, how)) is not None:
        return known
    say(f"measuring {len(how.exits)} exits with up to {how.max_draft} drafts")
    rounds_s = _rounds_s(cfg, params, how, batch, capacity, n_runs)
    result = _parts(how, rounds_s, _look_s(cfg, params, how, batch, n_runs))
    if store is not None:
        numbers = {name: np.asarray(value).tolist() for name, value in vars(result).items()}
        store.keep(key, numbers, "the costs are")
    return result


def _rounds_s(
    cfg: DecoderConfig,
    params: DecoderParams,
    how: Config,
    batch: int,
    capacity: int,
    n_runs: int,
) -> np.ndarray:
    """[K, D + 1] seconds of a round by exit and drafts, without looks; one program for all."""
    fixed = dataclasses.replace(how, exit_rule="given", length_rule="given", n_trace=0)
    strategy = SelfSpeculative(fixed)
    prompt = [i % cfg.vocab_size for i in range(PROMPT)]
    run = start(
        cfg,
        params,
        [prompt] * batch,
        max_new=N_STEPS * how.rows + 1,
        strategy=strategy,
        capacity=Upfront(capacity),
    )
    state, seconds = run.state, np.full((len(how.exits), how.rows), math.inf)
    for number in range(n_runs + 1):  # the first one compiles and warms
        for k, exit in enumerate(how.exits):
            for drafts in range(how.rows):
                if drafts == 0 and k:
                    continue  # no exit takes part in a plain round
                extra = tuning(fixed, cfg.n_layers, exit=exit, length=drafts)
                run = Run(cfg, params, state, strategy=strategy, extra=extra)
                run.state = state.replace(aux=strategy.init(cfg, params, extra, state))
                run.advance(N_STEPS)
                if number and run.report.decode_steps:
                    seconds[k, drafts] = min(seconds[k, drafts], run.report.s_per_step)
                state = rollback(run.state, [PROMPT + 1] * batch)
    seconds[:, 0] = seconds[0, 0]
    return seconds


def _look_s(
    cfg: DecoderConfig, params: DecoderParams, how: Config, batch: int, n_runs: int
) -> float:
    """Seconds of a look at all exits: the mean over the numbers of rows that it may have."""
    dtype, times = params.precision.dtype("compute"), []
    for rows in how.buckets:
        hidden = jnp.ones((len(how.exits), batch, rows, cfg.d_model), dtype)
        look = functools.partial(programs.likeliest, cfg, params, hidden)
        times.append(measure.timed(look, n_runs=n_runs).min_s)
    return float(np.mean(times))


def _parts(how: Config, rounds_s: np.ndarray, look_s: float) -> Costs:
    """Rounds taken apart: what one more draft adds where the rows verified stay the same."""
    last = max(1, how.buckets[-2]) if len(how.buckets) > 1 else 1
    if last >= how.max_draft:
        last = 1
    draft = (rounds_s[:, -1] - rounds_s[:, last]) / max(how.max_draft - last, 1)
    drafts = np.arange(how.rows)[None, :]
    return Costs(
        draft=jnp.asarray(draft, jnp.float32),
        verify=jnp.asarray(rounds_s - drafts * draft[:, None], jnp.float32),
        shadow=jnp.asarray(look_s, jnp.float32),
        plain=jnp.asarray(rounds_s[0, 0], jnp.float32),
    )


def _from_json(found: dict[str, Any], how: Config) -> Costs | None:
    """The stored costs; None if they have another form."""
    try:
        costs = Costs(**{name: jnp.asarray(value, jnp.float32) for name, value in found.items()})
    except (TypeError, ValueError):
        return None
    K = len(how.exits)
    fits = costs.draft.shape == (K,) and costs.verify.shape == (K, how.rows)
    return costs if fits and costs.shadow.shape == costs.plain.shape == () else None
