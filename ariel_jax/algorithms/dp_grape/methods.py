"""DP-GRAPE and what it is compared with, each as arguments of `training.train`."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from ariel_jax._checks import known_keys, non_negative_int, one_of, positive, positive_int
from ariel_jax.algorithms.dp_grape import adapters, zeroth
from ariel_jax.algorithms.dp_grape.config import Config, Specs, make_specs
from ariel_jax.algorithms.dp_grape.galore import galore
from ariel_jax.algorithms.dp_grape.sums import GhostGrad, Loss, MeanGrad
from ariel_jax.algorithms.dp_grape.training import (
    PrivateGrad,
    PrivateSource,
    key_words,
    private_optimizer,
)
from ariel_jax.algorithms.dp_grape.transform import transform
from ariel_jax.errors import ConfigError
from ariel_jax.models.paths import flatten
from ariel_jax.privacy.ghost import GhostClippedSum, linear_weights
from ariel_jax.training.step import GradFn

Tree = Any
Inner = Callable[[float], optax.GradientTransformation]

# The options of each method beside the arguments of all.
OPTIONS: dict[str, tuple[str, ...]] = {
    "dp-grape": ("inner", "ids"),
    "dp-adam": ("inner",),
    "ghost": ("inner", "materialized"),
    "dp-galore": ("inner", "refresh_every"),
    "dp-lora": ("inner", "rank", "head"),
    "dp-bitfit": ("inner", "head"),
    "dpzero": ("smoothing",),
    "adam": ("inner",),
}
METHODS: tuple[str, ...] = tuple(OPTIONS)
PRIVATE: tuple[str, ...] = tuple(name for name in METHODS if name != "adam")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Arguments of `training.train`, beside the source, the folder and the length of the run.

    Attributes:
        name: one of `METHODS`.
        is_private: False for `adam` alone.
        params: what is trained; with adapters in place for `dp-lora`.
        grad_fn: of a `PrivateSource`'s batches.
        tx: noise on the sum, division by the expected batch, and the optimiser.
        n_trained: numbers that a step releases (for `adam`: that it trains).
    """

    name: str
    is_private: bool
    params: Tree
    grad_fn: GradFn
    tx: optax.GradientTransformation
    n_trained: int

    def merged(self, params: Tree) -> Tree:
        """Trained parameters as a tree of the model's own shape: adapters are added to their weights."""
        return adapters.merged(params)


def build(
    name: str,
    *,
    params: Tree,
    loss: Loss,
    source: PrivateSource,
    noise_multiplier: float | None,
    learning_rate: float,
    cfg: Config,
    projection_key: jax.Array,
    noise_key: jax.Array | None = None,
    microbatch: int | None = None,
    **options: Any,
) -> Method:
    """One method, ready to train.

    Args:
        name: one of `METHODS`.
        params: the model's tree; leaves that `cfg.frozen` finds are trained by no method.
        loss: `loss(params, example, key) -> scalar` of one example; hashable.
        source: of the batches of the run; those of one with other rows or another clip norm are refused.
        noise_multiplier: sigma; the noise on the sum has the standard deviation sigma C. None or 0 for `adam`.
        learning_rate: of the optimiser.
        cfg: which weights are projected, adapted or decomposed, at which rank, and how often anew.
        projection_key: [] typed key, public: of projections, of the first adapters, of DPZero's directions.
        noise_key: [] typed key, secret and for this run alone; None draws one.
        microbatch: examples at once.
        **options: those of the method:
            `inner`: learning rate -> optimiser; `optax.adam` where it is not given (all but `dpzero`);
            `ids`: of `dp-grape`, the rows that an example looks up, see `training.PrivateGrad`;
            `materialized`: regular expressions of linear weights that `ghost` treats like other leaves;
            `refresh_every`: of `dp-galore`, that of `cfg` where it is not given;
            `rank`: of `dp-lora`, likewise;
            `head`: regular expressions of what `dp-lora` and `dp-bitfit` train in full besides, a classifier
            (`adapters.HEAD`) where it is not given;
            `smoothing`: s of `dpzero`, 1e-3.

    Raises:
        ConfigError: an unknown method, an option that it does not take, no noise where it is private, noise
            where it is not, or a model that it cannot train.

    Guarantees:
        Every private method releases one sum a step, whose change by one record is bounded by C, plus noise of
        sigma C on each of its numbers: a plan and its price hold for all of them alike.
    """
    one_of(METHODS, name=name)
    known_keys(f"method {name!r}", OPTIONS[name], options)
    positive(learning_rate=learning_rate)
    given: dict[str, Any] = {"loss": loss, "microbatch": microbatch}
    inner = options.get("inner", optax.adam)(learning_rate) if name != "dpzero" else None
    if name == "adam":
        return _adam(params, cfg, given, inner, noise_multiplier, projection_key)
    made = _made(name, params, cfg, given, inner, options, learning_rate, projection_key)
    tx = private_optimizer(
        made.inner,
        cfg,
        made.specs,
        noise_multiplier=noise_multiplier,  # pyright: ignore[reportArgumentType] None is refused there
        source=source,
        projection_key=projection_key,
        noise_key=noise_key,
    )
    return Method(
        name=name,
        is_private=True,
        params=made.params,
        grad_fn=dataclasses.replace(made.grad, rows=source.draws.rows, clip_norm=source.clip_norm),
        tx=tx,
        n_trained=1 if name == "dpzero" else made.specs.n_trained(made.params),
    )


class _Made(NamedTuple):
    """What makes a private method, before its noise."""

    params: Tree
    specs: Specs
    grad: Any
    inner: Any


def _made(
    name: str,
    params: Tree,
    cfg: Config,
    given: dict[str, Any],
    inner: Any,
    options: dict[str, Any],
    learning_rate: float,
    projection_key: jax.Array,
) -> _Made:
    words, head = key_words(projection_key), options.get("head", adapters.HEAD)
    specs = _everything(params, cfg)
    if name == "ghost":
        return _Made(
            params, specs, _ghost(params, specs, given, options.get("materialized", ())), inner
        )
    if name == "dpzero":
        smoothing = options.get("smoothing", 1e-3)
        grad = zeroth.SlopeGrad(trained=specs.full, key_data=words, smoothing=smoothing, **given)
        return _Made(params, specs, grad, zeroth.along(learning_rate, words))
    if name == "dp-grape":
        specs = make_specs(params, cfg)
    elif name == "dp-galore":
        every = options.get("refresh_every", cfg.refresh_every)
        non_negative_int(refresh_every=every)
        inner = galore(inner, make_specs(params, cfg), refresh_every=every)
    elif name == "dp-lora":
        rank = options.get("rank", cfg.rank)
        positive_int(rank=rank)
        params, adapted = adapters.with_adapters(params, cfg, rank=rank, key=projection_key)
        specs = adapters.of_lora(params, adapted, cfg, head)
    elif name == "dp-bitfit":
        specs = adapters.of_bitfit(params, cfg, head)
    given = given | {"specs": specs, "cfg": cfg, "key_data": words, "ids": options.get("ids")}
    return _Made(params, specs, PrivateGrad(**given), inner)


def _everything(params: Tree, cfg: Config) -> Specs:
    """All leaves that are not frozen, in full."""
    return adapters.only(params, {p for p in flatten(params) if cfg.mode(p) != "frozen"})


def _ghost(
    params: Tree, specs: Specs, given: dict[str, Any], materialized: tuple[str, ...]
) -> GhostGrad:
    weights = [path for path in linear_weights(params) if path in specs.full]
    left = [p for p in weights if not any(re.search(pattern, p) for pattern in materialized)]
    return GhostGrad(summed=GhostClippedSum(ghosted=tuple(left), **given), trained=specs.full)


def _adam(
    params: Tree,
    cfg: Config,
    given: dict[str, Any],
    inner: Any,
    noise_multiplier: float | None,
    key: jax.Array,
) -> Method:
    if noise_multiplier:
        raise ConfigError(
            f"adam adds no noise and is not private; noise_multiplier={noise_multiplier} would be ignored. "
            "Pass None, or choose dp-adam."
        )
    specs = _everything(params, cfg)
    return Method(
        name="adam",
        is_private=False,
        params=params,
        grad_fn=MeanGrad(trained=specs.full, **given),
        tx=transform(inner, cfg, specs, key=key),
        n_trained=specs.n_trained(params),
    )
