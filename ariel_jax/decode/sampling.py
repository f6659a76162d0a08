"""Sampling as a chain of transforms over logits, per-request settings included.

Order of the standard chain, as in transformers: repetition penalty, minimum length, temperature,
top-k, top-p, min-p, draw. The draw is coupled: arg-max of log-probabilities plus Gumbel noise that
depends on the request's key and the token's position alone, so batch, slot, capacity, segment
length and drafting cannot change a token.
"""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ariel_jax._checks import in_range, seed, whole_number
from ariel_jax.errors import ConfigError, UnsafeTransformError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request is sampled; host side.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k likeliest; 0 keeps all.
        top_p: keep the likeliest tokens up to this mass, in (0, 1].
        min_p: keep tokens at least this fraction as likely as the likeliest, in [0, 1].
        repetition_penalty: above 1 makes tokens of the prompt and output less likely (Keskar et
            al. 2019, arXiv 1909.05858).
        min_new: no end of sequence before this many new tokens.
        seed: below 2**32, fixes the request's randomness whatever batch it is in; None derives
            it from the call's key and the request's place in the list.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_new: int = 0
    seed: int | None = None

    def check(self) -> None:
        """Raise ConfigError unless every setting is in its range."""
        in_range(0, float(np.finfo(np.float32).max), temperature=self.temperature)
        in_range(0, 1, ends="(]", top_p=self.top_p)
        in_range(0, 1, ends="[]", min_p=self.min_p)
        in_range(
            0,
            float(np.finfo(np.float32).max),
            ends="(]",
            repetition_penalty=self.repetition_penalty,
        )
        whole_number(0, 2**31 - 1, top_k=self.top_k, min_new=self.min_new)
        seed(seed=self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerKind:
    """What the compiled program must be able to do; static. Leaner kinds compile to less work."""

    draws: bool = False  # some row has temperature > 0
    truncates: bool = False  # top-k, top-p or min-p somewhere
    penalises: bool = False  # repetition penalty somewhere
    has_min_new: bool = False
    top_logprobs: int | None = None  # None: no log-probabilities are kept


class SamplingRows(struct.PyTreeNode):
    """Per-request settings as arrays, so that one program serves mixed requests."""

    temperature: jax.Array  # [B] f32
    top_p: jax.Array  # [B] f32
    min_p: jax.Array  # [B] f32
    repetition_penalty: jax.Array  # [B] f32
    top_k: jax.Array  # [B] int32
    min_new: jax.Array  # [B] int32
    eos: jax.Array  # [B, E] int32, padded with -1
    kind: SamplerKind = struct.field(pytree_node=False, default=SamplerKind())


def make_rows(
    params: Sequence[SamplingParams], eos: Sequence[int], *, top_logprobs: int | None = None
) -> SamplingRows:
    """SamplingRows of a batch of requests.

    Args:
        params: one per request.
        eos: token ids that end a request (may be empty).
        top_logprobs: how many top log-probabilities are kept per token; None for none at all.

    Raises:
        ConfigError: a setting out of range.
    """
    for p in params:
        p.check()
    kind = SamplerKind(
        draws=any(p.temperature > 0 for p in params),
        truncates=any(p.top_k or p.top_p < 1 or p.min_p > 0 for p in params),
        penalises=any(p.repetition_penalty != 1 for p in params),
        has_min_new=any(p.min_new for p in params),
        top_logprobs=top_logprobs,
    )

    def floats(name: str) -> jax.Array:
        return jnp.asarray(np.array([getattr(p, name) for p in params], np.float32))

    ids = np.tile(np.array(list(eos) or [-1], np.int32), (len(params), 1))
    return SamplingRows(
        temperature=floats("temperature"),
        top_p=floats("top_p"),
        min_p=floats("min_p"),
        repetition_penalty=floats("repetition_penalty"),
        top_k=jnp.asarray(np.array([p.top_k for p in params], np.int32)),
        min_new=jnp.asarray(np.array([p.min_new for p in params], np.int32)),
        eos=jnp.asarray(ids),
        kind=kind,
    )


class SamplingContext(struct.PyTreeNode):
    """What a transform may look at beside the logits of one token per row."""

    rows: SamplingRows
    keys: jax.Array  # [B] typed request keys
    position: jax.Array  # [B] int32 position of the token to be chosen
    n_new: jax.Array  # [B] int32 tokens generated before it
    seen: jax.Array | None  # [B, V] bool tokens of the row's history; None unless penalised


class Stage(enum.IntEnum):
    """Where in a chain a transform may stand; a chain's stages never decrease, one DRAW ends it.

    PUBLIC looks at no private data. CONTRACT bounds what a private row can say, POOL mixes bounded
    rows: nothing but the draw may follow, or the bound would no longer hold.
    """

    PUBLIC = 0
    CONTRACT = 1
    POOL = 2
    DRAW = 3


@dataclasses.dataclass(frozen=True)
class SamplingTransform:
    """`init(batch) -> state` and `update(values, state, context) -> (values, state)`.

    Values are logits [B, V] until the DRAW link, which returns tokens int32; links that belong together
    may hand other trees to one another in between.

    Attributes:
        name: for messages.
        stage: where it may stand.
        init: makes its state.
        update: applies it.
        is_fresh_draw: of a DRAW link: it always draws from the law that it is given, with noise of its
            own. Only such a draw may follow a POOL; one that can be greedy is none.
    """

    name: str
    stage: Stage
    init: Callable[[int], Any]
    update: Callable[[Any, Any, SamplingContext], tuple[Any, Any]]
    is_fresh_draw: bool = False


def chain(*links: SamplingTransform) -> SamplingTransform:
    """One transform that applies the links in order.

    Raises:
        UnsafeTransformError: a POOL, and after it anything but a fresh draw, or no CONTRACT before it.
        ConfigError: stages out of order, or a draw that is missing or not last.
    """
    stages = [link.stage for link in links]
    names = [link.name for link in links]
    _check_pool(links)
    if stages != sorted(stages) or stages.count(Stage.DRAW) != 1:
        raise ConfigError(
            f"chain got {names} with stages {[s.name for s in stages]}; stages must not decrease "
            "(PUBLIC, CONTRACT, POOL, DRAW) and exactly one DRAW must end the chain. Reorder them."
        )

    def init(batch: int) -> Any:
        return tuple(link.init(batch) for link in links)

    def update(values: Any, state: Any, context: SamplingContext) -> tuple[Any, Any]:
        new = []
        for link, link_state in zip(links, state, strict=True):
            values, link_state = link.update(values, link_state, context)
            new.append(link_state)
        return values, tuple(new)

    return SamplingTransform("chain", Stage.DRAW, init, update)


def _check_pool(links: Sequence[SamplingTransform]) -> None:
    """Refuses what would undo the bound of a pool of private rows."""
    places = [place for place, link in enumerate(links) if link.stage is Stage.POOL]
    if not places:
        if any(link.stage is Stage.CONTRACT for link in links):
            raise UnsafeTransformError(
                "chain got a CONTRACT and no POOL: contracted rows are private, and a token drawn from "
                "one of them has no price. Add the POOL that belongs to it."
            )
        return
    before, after = links[: places[0]], links[places[0] + 1 :]
    if not any(link.stage is Stage.CONTRACT for link in before):
        raise UnsafeTransformError(
            f"chain got the POOL {links[places[0]].name!r} of rows that no CONTRACT before it has "
            "bounded. Add one."
        )
    wrong = [link.name for link in after if not link.is_fresh_draw]
    if wrong:
        raise UnsafeTransformError(
            f"chain got {wrong} after the POOL, which only a fresh draw may follow: a temperature there "
            "divides the guarantee, and a filter (top-k, top-p, min-p), a greedy choice or a ranking by "
            "private scores leaves none. Use tau0 or a bias on the zero-shot row, which are free, or "
            "the pool's own pool_temperature, which is priced."
        )


def stateless(
    name: str, stage: Stage, fun: Callable[[jax.Array, SamplingContext], jax.Array]
) -> SamplingTransform:
    """A transform without state from `fun(values, context)`."""
    return SamplingTransform(
        name, stage, lambda batch: (), lambda values, state, context: (fun(values, context), state)
    )


def _column(values: jax.Array, like: jax.Array) -> jax.Array:
    return values.astype(like.dtype)[:, None]


def _penalty(logits: jax.Array, context: SamplingContext) -> jax.Array:
    assert context.seen is not None
    penalty = _column(context.rows.repetition_penalty, logits)
    scaled = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(context.seen, scaled, logits)


def _min_new(logits: jax.Array, context: SamplingContext) -> jax.Array:
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    is_eos = (context.rows.eos[:, :, None] == ids[None, None, :]).any(1)
    early = context.n_new < context.rows.min_new
    return jnp.where(is_eos & early[:, None], -jnp.inf, logits)


def _temperature(logits: jax.Array, context: SamplingContext) -> jax.Array:
    temperature = _column(context.rows.temperature, logits)
    return logits / jnp.where(temperature > 0, temperature, 1)


def _cut(logits: jax.Array, threshold: jax.Array) -> jax.Array:
    return jnp.where(logits >= threshold[:, None], logits, -jnp.inf)


def _top_k(logits: jax.Array, context: SamplingContext) -> jax.Array:
    V = logits.shape[-1]
    k = jnp.where(context.rows.top_k > 0, jnp.minimum(context.rows.top_k, V), V)
    return _cut(logits, _threshold(logits, jnp.ones_like(logits), k.astype(logits.dtype)))


def _top_p(logits: jax.Array, context: SamplingContext) -> jax.Array:
    probabilities = jax.nn.softmax(logits, axis=-1)
    top_p = context.rows.top_p.astype(logits.dtype)
    cut = _cut(logits, _threshold(logits, probabilities, top_p))
    return jnp.where(top_p[:, None] < 1, cut, logits)


def _min_p(logits: jax.Array, context: SamplingContext) -> jax.Array:
    min_p = context.rows.min_p.astype(logits.dtype)
    return _cut(logits, jnp.max(logits, axis=-1) + jnp.log(min_p))


def _threshold(values: jax.Array, weight: jax.Array, target: jax.Array) -> jax.Array:
    """The largest value t of each row whose `sum(weight[values >= t])` reaches `target`.

    A bisection over the ordered bit patterns of the floats: exact, and some ten times cheaper than
    sorting a vocabulary on a CPU. Falls to the smallest float where the sum never gets there.
    """
    bits = 64 if values.dtype == jnp.float64 else 32
    integer = jnp.int64 if bits == 64 else jnp.int32
    raw = jax.lax.bitcast_convert_type(values, integer)
    flip = jnp.asarray(np.iinfo(integer).max, integer)
    order = jnp.where(raw < 0, raw ^ flip, raw)  # compares as the floats do
    low = jnp.full(values.shape[:1], np.iinfo(integer).min, integer)
    high = jnp.full(values.shape[:1], np.iinfo(integer).max, integer)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # rounds up, cannot overflow
        mass = jnp.sum(jnp.where(order >= middle[:, None], weight, 0), axis=-1)
        enough = mass >= target
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    low, _ = jax.lax.fori_loop(0, bits, halve, (low, high))
    reached = low > np.iinfo(integer).min
    raw = jnp.where(low < 0, low ^ flip, low)
    found = jax.lax.bitcast_convert_type(raw, values.dtype)
    return jnp.where(reached, found, -jnp.inf)


def gumbel_noise(keys: jax.Array, position: jax.Array, n_vocab: int) -> jax.Array:
    """[B, V] float32 standard Gumbel noise keyed by request and position alone."""

    def row(key: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(key, position), (n_vocab,), jnp.float32)

    return jax.vmap(row)(keys, position)


def _noisy(logits: jax.Array, context: SamplingContext) -> jax.Array:
    if not context.rows.kind.draws:
        return logits
    noise = gumbel_noise(context.keys, context.position, logits.shape[-1])
    draws = context.rows.temperature[:, None] > 0
    return logits + jnp.where(draws, noise, 0).astype(logits.dtype)


def _draw(logits: jax.Array, context: SamplingContext) -> jax.Array:
    return jnp.argmax(_noisy(logits, context), axis=-1).astype(jnp.int32)


repetition_penalty = stateless("repetition_penalty", Stage.PUBLIC, _penalty)
min_new = stateless("min_new", Stage.PUBLIC, _min_new)
temperature = stateless("temperature", Stage.PUBLIC, _temperature)
top_k = stateless("top_k", Stage.PUBLIC, _top_k)
top_p = stateless("top_p", Stage.PUBLIC, _top_p)
min_p = stateless("min_p", Stage.PUBLIC, _min_p)
draw = stateless("draw", Stage.DRAW, _draw)


def _public_links(kind: SamplerKind) -> list[SamplingTransform]:
    """The links that a kind needs before the draw, in transformers' order."""
    links = [repetition_penalty] if kind.penalises else []
    links += [min_new] if kind.has_min_new else []
    links += [temperature] if kind.draws else []
    links += [top_k, top_p, min_p] if kind.truncates and kind.draws else []
    return links


def standard_chain(kind: SamplerKind) -> SamplingTransform:
    """The links that a kind needs, in transformers' order, ended by the coupled draw."""
    return chain(*_public_links(kind), draw)


def processed(logits: jax.Array, context: SamplingContext) -> jax.Array:
    """Logits [B, V] after every link of `standard_chain` but the draw."""
    for link in _public_links(context.rows.kind):
        logits, _ = link.update(logits, link.init(logits.shape[0]), context)
    return logits


def perturbed(logits: jax.Array, context: SamplingContext) -> jax.Array:
    """[B, V] values whose arg-max is what `standard_chain` draws."""
    return _noisy(processed(logits, context), context)


def seen_tokens(tokens: jax.Array, n_known: jax.Array, n_vocab: int) -> jax.Array:
    """[B, V] bool: which tokens occur among the first n_known [B] of tokens [B, Nmax]."""
    B, N = tokens.shape
    known = jnp.arange(N, dtype=jnp.int32)[None, :] < n_known[:, None]
    index = jnp.where(known, tokens, n_vocab)
    lead = jnp.arange(B, dtype=jnp.int32)[:, None]
    return jnp.zeros((B, n_vocab), bool).at[lead, index].set(True, mode="drop")
