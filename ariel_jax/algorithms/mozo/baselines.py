"""What dps-mozo is compared with, as functions with the arguments and results of `sampling.step`.

Each takes `(logits, mask, key, config, parameters, bias=None)` and returns `(token, info)`, so that one
program decodes with any of them; `parameters` is the tree that the function names. `Config.n_slots` and
`Config.top_k` count where a function says so; the contract and the pool never do.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ariel_jax._checks import in_range, positive, positive_int, whole_number
from ariel_jax._typing import Array, Bool, Float, Int, Key, typed
from ariel_jax.algorithms.mozo import curves
from ariel_jax.algorithms.mozo.config import Config
from ariel_jax.algorithms.mozo.contract import is_present, log_ratios
from ariel_jax.algorithms.mozo.parameters import Parameters
from ariel_jax.algorithms.mozo.pool import mean, product
from ariel_jax.algorithms.mozo.sampling import StepInfo, Support, draw, step_info, support
from ariel_jax.errors import PrivacyBudgetError
from ariel_jax.privacy import renyi

Result = tuple[Int[Array, ""], StepInfo]


@typed
def zero_shot(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
    config: Config,
    parameters: Parameters,
    bias: Float[Array, " V"] | None = None,
) -> Result:
    """The zero-shot row alone: no demonstration has any influence. Uses `top_k`, tau0, pool temperature.

    Its tokens are those of `sampling.step` with `product` and no demonstration, bit for bit.
    """
    found = support(logits[:1], config, parameters, bias)
    none = jnp.zeros((0, len(found.ids)), found.logp0.dtype)
    logp = product(found.logp0, none, jnp.zeros(0, bool), parameters)
    return _drawn(found, logp, logits, mask[:0], key)


@typed
def product_of_one_shots(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
    config: Config,
    parameters: Parameters,
    bias: Float[Array, " V"] | None = None,
) -> Result:
    """The pool of dps-mozo without a contract, as if eta were infinite; **not private**.

    Uses `top_k`, the weight and both temperatures.
    """
    found = support(logits, config, parameters, bias)
    ratios = log_ratios(found.logits0, found.logits, found.logp0 > -jnp.inf)
    return _drawn(found, product(found.logp0, ratios, mask, parameters), logits, mask, key)


class InkParameters(struct.PyTreeNode):
    """Of `invisible_ink`: C, the clip of a logit's difference to the public one, and tau."""

    clip: jax.Array  # [] f32
    temperature: jax.Array  # [] f32


@typed
def invisible_ink(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
    config: Config,
    parameters: InkParameters,
    bias: Float[Array, " V"] | None = None,
) -> Result:
    """Logits clipped to +-C around the public row's, averaged over N slots, drawn at a temperature.

    An empty slot counts as the public row, which is what its price is for. `top_k` is the original's
    top-k+: tokens whose public logit is at least the k-th less 2 C / N. Price: `invisible_ink_price`.

    References:
        Vinod, Pillutla, Thakurta, 2025, arXiv 2507.02974, and the code of its experiments, where the
        batch counts the public row and the mean is over the others.
    """
    V, N = logits.shape[1], logits.shape[0] - 1
    public = logits[0].astype(jnp.float32)
    if bias is not None:
        public = public + bias.astype(jnp.float32)
    inside = public > -jnp.inf
    if config.top_k is not None and config.top_k < V:
        last = jax.lax.top_k(public, config.top_k)[0][-1]
        inside = inside & (public >= last - 2 * parameters.clip / N)
    moved = logits[1:].astype(jnp.float32) - logits[0].astype(jnp.float32)[None, :]
    good = mask & is_present(logits[1:], inside)
    moved = jnp.clip(jnp.where(inside[None, :], moved, 0), -parameters.clip, parameters.clip)
    average = public + jnp.sum(jnp.where(good[:, None], moved, 0), axis=0) / N
    logp = jax.nn.log_softmax(jnp.where(inside, average / parameters.temperature, -jnp.inf))
    found = Support(jnp.arange(V, dtype=jnp.int32), logits[0], logp, logits[1:])
    return _drawn(found, logp, logits, mask, key)


def invisible_ink_price(*, clip: float, temperature: float, n_slots: int) -> renyi.Price:
    """Of one token of `invisible_ink`: C^2 / (2 N^2 tau^2) of concentrated differential privacy.

    A demonstration that is there or counts as the public row (`zero_out`) moves log-ratios within a
    range of h = 2 C / (N tau), and h^2 / 8 is this number.
    """
    positive(clip=clip, temperature=temperature)
    positive_int(n_slots=n_slots)
    rho = clip**2 / (2 * n_slots**2 * temperature**2)
    return renyi.Price(
        rdp=tuple((rho * renyi.ORDERS).tolist()),
        relation="zero_out",
        what=f"a token of InvisibleInk with clip {clip:g}, temperature {temperature:g}",
    )


class MixedParameters(struct.PyTreeNode):
    """Of `pmixed`: the radius beta alpha of the ball around the public row.

    One for all draws, or [N + 1], a radius for each number of rows that are there: the authors solve for
    beta once they know how many were drawn (`pmixed_beta`).
    """

    radius: jax.Array  # [] or [N + 1] f32


@typed
def pmixed(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
    config: Config,
    parameters: MixedParameters,
    bias: Float[Array, " V"] | None = None,
) -> Result:
    """Rows mixed with the public one in probability, each inside a Renyi ball, and averaged.

    Order and support are `Config.alpha` (2 where it is None) and `top_k`. As in the authors' code:
    twenty halvings for each row and the last interval's middle, which may lie outside the ball; the
    mean is over the rows that are there, and without any it is the public row. Its claimed loss is
    `pmixed_claim`.

    References:
        Flemings, Razaviyayn, Annavaram, 2024, arXiv 2403.15638, and the code released with it.
    """
    found = support(logits, config, _plain(), bias)
    alpha = config.alpha or 2
    rows = _one_shot_rows(found)
    radius = parameters.radius
    if radius.ndim == 1:
        radius = radius[jnp.sum(mask, dtype=jnp.int32)]

    def mixed(scale: jax.Array) -> jax.Array:
        return _mixed(found.logp0, rows, scale[:, None])

    def is_inside(scale: jax.Array) -> jax.Array:
        return _apart(mixed(scale), found.logp0, alpha) <= radius

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = (ends[0] + ends[1]) / 2
        good = is_inside(middle)
        return jnp.where(good, middle, ends[0]), jnp.where(good, ends[1], middle)

    ones = jnp.ones(rows.shape[0], rows.dtype)
    low, high = jax.lax.fori_loop(0, 20, halve, (0 * ones, ones))
    scale = jnp.where(is_inside(ones), ones, (low + high) / 2)
    return _drawn(found, _average(found, mixed(scale), mask), logits, mask, key)


class ScreenedParameters(struct.PyTreeNode):
    """Of `adapmixed`: the ball, and what screens a token before it is used."""

    radius: jax.Array  # [] or [N + 1] f32, as of `pmixed`
    share: jax.Array  # [] f32, lambda of the screen, of every row
    noise: jax.Array  # [] f32, standard deviation on each probability of the screen
    threshold: jax.Array  # [] f32, of the divergence beyond which the public row answers


@typed
def adapmixed(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
    config: Config,
    parameters: ScreenedParameters,
    bias: Float[Array, " V"] | None = None,
) -> Result:
    """`pmixed` where a noisy look at the rows finds them near the public one, else the public row.

    The look: every row mixed at one small share and averaged, Gaussian noise on each probability of the
    public top-k, moved up by the size of the least one and normalised; its divergence from the public row, the larger of
    both directions, is held against the threshold. The screen's claimed loss is `adapmixed_screen_claim`;
    for tokens that pass, the authors charge the *realised* divergence of leaving a row out, a private number
    that is no guarantee and that nothing here returns.

    References:
        Flemings, Razaviyayn, Annavaram, 2024, arXiv 2410.02016, and the code released with PMixED.
    """
    found = support(logits, config, _plain(), bias)
    alpha = config.alpha or 2
    for_noise, for_token = jax.random.split(key)
    near = jnp.exp(
        _average(found, _mixed(found.logp0, _one_shot_rows(found), parameters.share), mask)
    )
    noise = jax.random.normal(for_noise, near.shape, jnp.float32).astype(near.dtype)
    inside = found.logp0 > -jnp.inf
    seen = jnp.where(inside, near + parameters.noise * noise, 0)
    seen = jnp.where(inside, seen + jnp.abs(jnp.min(jnp.where(inside, seen, jnp.inf))), 0)
    # The token whose probability became 0 counts on neither side, as in the authors' code.
    public_there = jnp.where(seen > 0, found.logp0, -jnp.inf)
    divergence = _apart(jnp.log(seen / jnp.sum(seen))[None], public_there, alpha)[0]
    is_far = ~(divergence <= parameters.threshold)
    mixed, info = pmixed(
        logits, mask, for_token, config, MixedParameters(radius=parameters.radius), bias
    )
    public = found.ids[draw(found.logp0, for_token)]
    return jnp.where(is_far, public, mixed), info


def _one_shot_rows(found: Support) -> jax.Array:
    """[N, k] log-probabilities of the one-shot rows on the support; absent rows are the public one."""
    inside = found.logp0 > -jnp.inf
    rows = found.logp0[None, :] + log_ratios(found.logits0, found.logits, inside)
    return jax.nn.log_softmax(rows, axis=-1)


def _mixed(logp0: jax.Array, rows: jax.Array, scale: jax.Array) -> jax.Array:
    """log(scale row + (1 - scale) p_0)."""
    return jnp.logaddexp(jnp.log1p(-scale) + logp0[None, :], jnp.log(scale) + rows)


def _apart(p: jax.Array, logq: jax.Array, alpha: int) -> jax.Array:
    """[N] the larger Renyi divergence of rows p [N, k] and q [k], plainly."""
    inside, q = (logq > -jnp.inf)[None, :], logq[None, :]
    far = [
        jax.nn.logsumexp(jnp.where(inside, alpha * a + (1 - alpha) * b, -jnp.inf), -1)
        for a, b in ((p, q), (q, p))
    ]
    return jnp.maximum(*far) / (alpha - 1)


def _average(found: Support, rows: jax.Array, mask: jax.Array) -> jax.Array:
    """[k] the mean of the rows that are there, or the public one."""
    there = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1).astype(rows.dtype)
    ratios = jnp.where((found.logp0 > -jnp.inf)[None, :], rows - found.logp0[None, :], 0)
    return mean(found.logp0, ratios, mask, 1 / there)


def pmixed_claim(*, alpha: int, beta: float, members: int) -> float:
    """The loss per token at order alpha that PMixED's authors claim for `members` rows, unsampled.

    It is not proven here: its constant 4 comes from a triangle inequality that needs the ball at order
    2 alpha, which the mechanism does not enforce (reconstructed). To compare settings with, not to
    charge.
    """
    whole_number(2, 1024, alpha=alpha)
    positive(beta=beta)
    whole_number(0, 2**31 - 1, members=members)
    if members < 2:
        return members * beta * alpha
    power = (alpha - 1) * 4 * beta * alpha
    if power > 30:  # where e^power may have no float
        grown = power - math.log(members) + math.log1p((members - 1) * math.exp(-power))
        return grown / (alpha - 1)
    return math.log1p(math.expm1(power) / members) / (alpha - 1)


def pmixed_beta(
    *, alpha: int, epsilon: float, delta: float, n_tokens: int, members: int, probability: float
) -> float:
    """The largest beta, up to 5, with which PMixED's authors would claim a budget for so many tokens.

    The budget's Renyi divergence at order alpha is shared out to tokens alike; a token's is the claim for
    `members` rows under Poisson sampling, by the forward formula, with the claim at order alpha for every
    order below it. Twenty halvings of [0, 5] as theirs, but the end that keeps to the claim. 0 for no rows.

    Args:
        alpha: order of the ball, above 1.
        epsilon: of the whole budget ...
        delta: ... at this delta.
        n_tokens: that it is for.
        members: rows that were drawn.
        probability: of each to be drawn.

    Raises:
        PrivacyBudgetError: the conversion at this order alone takes more than epsilon.
        ConfigError: numbers out of range.
    """
    whole_number(2, curves.WHOLE[-1], alpha=alpha)
    positive(epsilon=epsilon)
    in_range(0, 1, ends="()", delta=delta)
    positive_int(n_tokens=n_tokens)
    in_range(0, 1, ends="(]", probability=probability)
    total = epsilon - math.log1p(-1 / alpha) + math.log(delta * alpha) / (alpha - 1)
    if total <= 0:
        raise PrivacyBudgetError(
            f"epsilon={epsilon:g} at delta={delta:g} leaves nothing at order alpha={alpha}: take a larger "
            "order or budget."
        )
    if members == 0:
        return 0.0
    at = int(np.searchsorted(curves.WHOLE, alpha))

    def fits(beta: float) -> bool:
        claim = pmixed_claim(alpha=alpha, beta=beta, members=members)
        block = np.where(curves.MOMENTS <= alpha, claim, math.inf)
        return bool(curves.poisson_forward(block, probability)[at] <= total / n_tokens)

    low, high = 0.0, 5.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def adapmixed_screen_claim(*, alpha: float, share: float, noise: float, members: int) -> float:
    """The loss of one look at order alpha that AdaPMixED's authors claim: alpha (share / (members noise))^2."""
    positive(alpha=alpha, share=share, noise=noise)
    positive_int(members=members)
    return alpha * (share / (members * noise)) ** 2


class NoiseParameters(struct.PyTreeNode):
    """Of `noisy_average`: the noise multiplier."""

    noise_multiplier: jax.Array  # [] f32


@typed
def noisy_average(
    logits: Float[Array, "R V"],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
    config: Config,
    parameters: NoiseParameters,
    bias: Float[Array, " V"] | None = None,
) -> Result:
    """Rows' probabilities over the public top-k, summed over N, Gaussian noise, the largest token.

    A row's probabilities have a norm of at most 1, so the noise of a sum has that multiplier itself;
    an empty slot adds nothing. `top_k` is the public support.

    References:
        Tang, Shin, Inan, Manoel, Mireshghallah, Lin, Gopi, Kulkarni, Sim, 2024, arXiv 2309.11765, and
        the code released with it (Gaussian form). There a slot holds a prompt of several examples.
    """
    found = support(logits, config, _plain(), bias)
    inside = found.logp0 > -jnp.inf
    good = mask & is_present(found.logits, inside)
    rows = jax.nn.softmax(jnp.where(inside[None, :] & good[:, None], found.logits, -jnp.inf), -1)
    total = jnp.sum(jnp.where(good[:, None], rows, 0), axis=0)
    noise = jax.random.normal(key, total.shape, jnp.float32)
    noisy = total.astype(jnp.float32) + parameters.noise_multiplier * noise
    place = jnp.argmax(jnp.where(inside, noisy, -jnp.inf))
    return found.ids[place], step_info(found, logits, mask)


def noisy_average_price(*, noise_multiplier: float) -> renyi.Price:
    """Of one token of `noisy_average`, a demonstration added or removed."""
    return renyi.gaussian(noise_multiplier=noise_multiplier, relation="add_remove")


def _drawn(
    found: Support, logp: jax.Array, logits: jax.Array, mask: jax.Array, key: jax.Array
) -> Result:
    return found.ids[draw(logp, key)], step_info(found, logits, mask)


def _plain() -> Parameters:
    """Numbers that leave the zero-shot row as it is."""
    return Parameters(*(jnp.float32(value) for value in (0, 1, 0, 0, 1, 1)))
