"""What the BMC scripts share: the model with random weights, and timing a text under a policy."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ariel_jax.algorithms import bmc
from ariel_jax.decode import CapacityPolicy, Report, start
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.testing import tiny_params
from experiments.runner import Settings


def random_model(settings: Settings, *, n_kv_heads: int = 8) -> tuple[DecoderConfig, Any]:
    """A decoder of 4 layers of width 512 and 4,096 tokens, or a tiny one; random float32 weights.

    No time depends on the weights, and no text here is meant to be read.
    """
    tiny = settings.is_tiny
    cfg = DecoderConfig.create(
        family="llama",
        n_layers=2 if tiny else 4,
        d_model=32 if tiny else 512,
        n_heads=2 if tiny else 8,
        n_kv_heads=2 if tiny else n_kv_heads,
        head_dim=16 if tiny else 64,
        d_ff=48 if tiny else 1536,
        vocab_size=256 if tiny else 4096,
        max_positions=4096,
        rope=RopeConfig(theta=10000.0),
    )
    return cfg, tiny_params(cfg, seed=settings.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """One text under one policy.

    Attributes:
        tokens_per_s: of all requests together, growths included, prefill and compiling excluded.
        report: the engine's own.
    """

    tokens_per_s: float
    report: Report


def decode(
    model: tuple[DecoderConfig, Any],
    policy: CapacityPolicy,
    *,
    prompt: int,
    new: Sequence[int],
    told: int | None = None,
    **options: Any,
) -> Decoded:
    """Decodes random prompts of one length.

    Args:
        model: decoder and weights.
        policy: how the cache grows.
        prompt: tokens of each prompt.
        new: tokens that each request really generates.
        told: tokens that the policy is told each may generate; None tells it `new`.
        **options: of `decode.start`.
    """
    cfg, params = model
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, cfg.vocab_size, (len(new), prompt)).tolist()
    most = list(new) if told is None else [told] * len(new)
    run = start(cfg, params, prompts, max_new=most, capacity=policy, **options)
    if told is not None:  # the run keeps what it was told; its rows end earlier
        limit = jnp.asarray([prompt + n for n in new], jnp.int32)
        done = run.state.done | (run.state.n_known() >= limit)
        run.state = run.state.replace(limit=limit, done=done)
    while run.advance():
        pass
    report = run.report
    return Decoded(tokens_per_s=report.tokens_per_s, report=report)


def rounds(
    model: tuple[DecoderConfig, Any],
    policies: dict[str, CapacityPolicy],
    *,
    n_rounds: int,
    **options: Any,
) -> dict[str, tuple[float, Report]]:
    """Median tokens/s and the last report of each policy, all measured in turn `n_rounds` times.

    The first round compiles too; compiling is in no report's times.
    """
    speeds: dict[str, list[float]] = {name: [] for name in policies}
    reports: dict[str, Report] = {}
    for number in range(n_rounds):
        order = list(policies) if number % 2 == 0 else list(policies)[::-1]
        for name in order:
            found = decode(model, policies[name], **options)
            speeds[name].append(found.tokens_per_s)
            reports[name] = found.report
    return {name: (statistics.median(speeds[name]), reports[name]) for name in policies}


def profile(
    model: tuple[DecoderConfig, Any], *, batch: int, limit: int, reuse: float | None = None
) -> bmc.Profile:
    """A profile measured now, kept nowhere; with `reuse`, programs serve that many requests."""
    capacities = bmc.default_capacities(limit)
    if limit <= 320:  # the ends are enough for a tiny model
        capacities = capacities[:: len(capacities) - 1]
    found = bmc.profile(*model, batch=batch, capacities=capacities)
    return found if reuse is None else dataclasses.replace(found, reuse=reuse)
