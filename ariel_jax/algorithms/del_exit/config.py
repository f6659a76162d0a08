"""Settings of DEL: what is fixed while a program runs, and the numbers that a user tunes."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ariel_jax._checks import in_range, one_of, positive_int, whole_number
from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig

EXIT_RULES = ("score", "given")
LENGTH_RULES = ("confidence", "planned", "given", "finite_state", "draft_verify")
MOST_DRAFTS = 31  # a step verifies at most 32 rows

CONTROLLERS: dict[str, dict[str, str]] = {
    "del": {"exit_rule": "score", "length_rule": "confidence"},
    "del-e": {"exit_rule": "score", "length_rule": "planned"},
    "del-gamma": {"exit_rule": "given", "length_rule": "confidence"},
    "fixed": {"exit_rule": "given", "length_rule": "given"},
    "finite-state": {"exit_rule": "given", "length_rule": "finite_state"},
    "draft-verify": {"exit_rule": "given", "length_rule": "draft_verify"},
}
"""The methods of the literature by name: the paper's, its two ablations, and three with a fixed exit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is fixed while a program runs.

    Attributes:
        exits: layers after which drafting may end, rising.
        max_draft: most drafts in a round; the authors' code allows 18.
        exit_rule: `score` takes the exit of best score; `given` always that of `Tuning.exit`.
        length_rule: when a draft ends. `confidence`: when the exit is less sure than its threshold
            (the paper's method); `planned`: after as many tokens as the score was best for (its
            ablation DEL-E); `given`: after `Tuning.length` tokens (LayerSkip); `finite_state`: one
            more after a round in which all held, else one fewer; `draft_verify`: at a threshold that
            follows the share of drafts that hold (Zhang et al. 2024, arXiv 2309.08168).
        allow_zero_draft: under `confidence` and `planned` a round may draft nothing where nothing
            promises more. Not in the paper: on a model whose intermediate layers cannot be read it
            falls back to plain decoding.
        row_buckets: numbers of rows that a verification may have, rising, the last one
            `max_draft + 1`; a round takes the smallest that holds its drafts. Each compiles the
            layers once more. Empty: that last one alone.
        n_prompt: last positions of a prompt from which the first estimates come.
        n_trace: rounds of each request that are written down, see `tracing.Trace`; 0 for none.
    """

    exits: tuple[int, ...]
    max_draft: int = 7
    exit_rule: str = "score"
    length_rule: str = "confidence"
    allow_zero_draft: bool = True
    row_buckets: tuple[int, ...] = ()
    n_prompt: int = 32
    n_trace: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(max_draft=self.max_draft, n_prompt=self.n_prompt)
        whole_number(1, MOST_DRAFTS, max_draft=self.max_draft)
        whole_number(0, 2**20, n_trace=self.n_trace)
        positive_int(**{f"exits[{i}]": e for i, e in enumerate(self.exits)})
        one_of(EXIT_RULES, exit_rule=self.exit_rule)
        one_of(LENGTH_RULES, length_rule=self.length_rule)
        if not self.exits or list(self.exits) != sorted(set(self.exits)):
            raise ConfigError(
                f"exits={self.exits} is not allowed: name at least one layer, rising, none twice."
            )
        rows = list(self.row_buckets)
        if rows and (rows != sorted(set(rows)) or rows[0] < 2 or rows[-1] != self.rows):
            raise ConfigError(
                f"row_buckets={self.row_buckets} is not allowed: name rising numbers of rows from 2 "
                f"on, the last one max_draft + 1 = {self.rows}, or none."
            )

    @property
    def rows(self) -> int:
        """Rows that a round may verify: the pending token and all drafts."""
        return self.max_draft + 1

    @property
    def buckets(self) -> tuple[int, ...]:
        """Numbers of rows that a verification may have."""
        return self.row_buckets or (self.rows,)

    @property
    def looks(self) -> bool:
        """Whether the controller needs to know what each exit would have drafted."""
        return self.exit_rule == "score" or self.length_rule in ("confidence", "planned")

    def check(self, n_layers: int) -> None:
        """Checks the exits against a model.

        Raises:
            ConfigError: one is not below the number of layers.
        """
        if self.exits[-1] >= n_layers:
            raise ConfigError(
                f"exits={self.exits}: the model has {n_layers} layers, so an exit lies between 1 and "
                f"{n_layers - 1}."
            )


def named(name: str, **options: Any) -> Config:
    """The `Config` of a method by name.

    Args:
        name: a key of `CONTROLLERS`.
        **options: of `Config`.

    Raises:
        ConfigError: no such method, or a setting out of range.
    """
    one_of(CONTROLLERS, controller=name)
    fields: dict[str, Any] = {**CONTROLLERS[name], **options}
    return Config(**fields)


class Costs(struct.PyTreeNode):
    """Time of the parts of a round, in any unit.

    A round of d drafts at exit k takes `d draft[k] + verify[k, d] + shadow`; one without drafts takes
    `plain`.
    """

    draft: jax.Array  # [K] of one drafted token
    verify: jax.Array  # [K, D + 1] of the last draft's row and the other layers, by drafts
    shadow: jax.Array  # [] of reading all exits once
    plain: jax.Array  # [] of a round without drafts


def layer_costs(cfg: Config, n_layers: int, *, head: float = 0.0) -> Costs:
    """Costs in layers loaded: a round of d drafts at exit E loads L + d E of them.

    Args:
        cfg: the settings.
        n_layers: of the model.
        head: how many layers reading the head once is worth, see `head_in_layers`. The paper leaves
            it out (0); with a large vocabulary it decides.
    """
    draft = np.asarray(cfg.exits, np.float32) + np.float32(head)
    return Costs(
        draft=jnp.asarray(draft),
        verify=jnp.full((len(cfg.exits), cfg.rows), n_layers + head, jnp.float32),
        shadow=jnp.zeros((), jnp.float32),
        plain=jnp.asarray(n_layers + head, jnp.float32),
    )


def head_in_layers(cfg: DecoderConfig) -> float:
    """Weights of the head over those of a layer: what a draft adds to the layers that it loads."""
    attention = cfg.d_model * cfg.head_dim * 2 * (cfg.n_heads + cfg.n_kv_heads)
    feed_forward = cfg.d_model * cfg.d_ff * (3 if cfg.gated else 2)
    return cfg.vocab_size * (cfg.embed_dim or cfg.d_model) / (attention + feed_forward)


def speedup(costs: Costs, exit: int, drafts: int, tokens_per_round: float) -> float:
    """Tokens per time over those of plain decoding, as the costs predict it.

    Args:
        costs: in any unit.
        exit: index of the exit.
        drafts: of each round.
        tokens_per_round: emitted on average.
    """
    if not drafts:
        return tokens_per_round
    seconds = drafts * float(costs.draft[exit]) + float(costs.verify[exit, drafts])
    return tokens_per_round * float(costs.plain) / seconds


def look_every(costs: Costs) -> int:
    """Rounds between two looks at all exits, 1 to 16, so that they take a tenth of a plain round."""
    return int(np.clip(math.ceil(10 * float(costs.shadow) / float(costs.plain)), 1, 16))


def idle_every(costs: Costs) -> int:
    """Rounds between two looks while nothing is drafted, 32 to 512, so that they take a hundredth."""
    return int(np.clip(math.ceil(100 * float(costs.shadow) / float(costs.plain)), 32, 512))


def default_exits(n_layers: int) -> tuple[int, ...]:
    """Up to five exits over the first two thirds of a model, denser where drafts are cheap.

    Raises:
        ConfigError: a model of one layer has none.
    """
    if n_layers < 2:
        raise ConfigError(
            f"a model of {n_layers} layer has no exit before its last layer: it cannot draft for itself."
        )
    found = {round(n_layers * part) for part in (1 / 12, 1 / 6, 1 / 3, 1 / 2, 2 / 3)}
    return tuple(sorted({min(max(layer, 1), n_layers - 1) for layer in found}))


class Tuning(struct.PyTreeNode):
    """The numbers that a user tunes: arrays, so that another value compiles nothing anew."""

    costs: Costs
    omega: jax.Array  # [] f32 weight of the past at each round
    shadow_every: jax.Array  # [] int32 rounds with drafts between two looks at all exits
    idle_every: jax.Array  # [] int32 rounds without drafts between two looks
    exit: jax.Array  # [] int32 index into the exits, for exit_rule `given`
    length: jax.Array  # [] int32 drafts, for `given`; the first number for `finite_state`
    threshold: jax.Array  # [] f32 the first one, for `draft_verify`
    target: jax.Array  # [] f32 share of drafts that shall hold, for `draft_verify`


def tuning(
    cfg: Config,
    n_layers: int,
    *,
    costs: Costs | None = None,
    omega: float = 0.95,
    shadow_every: int = 1,
    idle_every: int = 32,
    exit: int | None = None,
    length: int | None = None,
    threshold: float = 0.6,
    target: float = 0.8,
) -> Tuning:
    """`Tuning` for a model; it is the strategy's `extra`.

    Args:
        cfg: the settings.
        n_layers: of the model.
        costs: of the parts of a round; default layers loaded, as in the paper.
        omega: weight of the past at each round; 0.95 remembers about 20 rounds.
        shadow_every: rounds between two looks at all exits. Where the vocabulary is large beside
            the layers a look is dear.
        idle_every: the same while nothing is drafted; see `idle_every` for measured costs.
        exit: layer at which a given exit lies; default the first of `cfg.exits`.
        length: drafts of a given length, at most `cfg.max_draft`; default that.
        threshold: at which `draft_verify` begins.
        target: share of drafts that shall hold under `draft_verify`.

    Raises:
        ConfigError: exits that the model does not have, or a number out of range.
    """
    cfg.check(n_layers)
    in_range(0, 1, ends="(]", omega=omega)
    in_range(0, 1, threshold=threshold, target=target)
    whole_number(1, 2**20, shadow_every=shadow_every, idle_every=idle_every)
    length = cfg.max_draft if length is None else length
    whole_number(0, cfg.max_draft, length=length)
    exit = cfg.exits[0] if exit is None else exit
    one_of(cfg.exits, exit=exit)
    costs = layer_costs(cfg, n_layers) if costs is None else costs
    K = len(cfg.exits)
    if costs.draft.shape != (K,) or costs.verify.shape != (K, cfg.rows):
        raise ConfigError(
            f"costs of draft {list(costs.draft.shape)} and verify {list(costs.verify.shape)} do not "
            f"fit {K} exits and up to {cfg.max_draft} drafts: pass [{K}] and [{K}, {cfg.rows}]."
        )
    return Tuning(
        costs=costs,
        omega=jnp.asarray(omega, jnp.float32),
        shadow_every=jnp.asarray(shadow_every, jnp.int32),
        idle_every=jnp.asarray(idle_every, jnp.int32),
        exit=jnp.asarray(cfg.exits.index(exit), jnp.int32),
        length=jnp.asarray(length, jnp.int32),
        threshold=jnp.asarray(threshold, jnp.float32),
        target=jnp.asarray(target, jnp.float32),
    )
