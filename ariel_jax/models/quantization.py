"""Weight-only quantisation: small whole numbers and float32 scales in place of the weights."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import one_of, positive_int
from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear, dequantize
from ariel_jax.models import paths
from ariel_jax.models.params import BlockParams, DecoderParams
from ariel_jax.pallas_kernels.linear import pack_int4
from ariel_jax.pallas_kernels.linear.packing import BLOCK, n_inputs

BITS = (8, 4)
DEFAULT_GROUP: dict[int, int | None] = {8: None, 4: 64}
# Numbers of 4 bits on which the largest weight of a group may fall. Beyond 8 it is cut off, which
# pays where it stands alone: all other weights of the group then have finer steps.
_FALLS_ON = (7.0, 7.5, 8.0, 8.5, 9.5, 10.5)
_AT_ONCE = 1 << 18  # weights that are worked on at one time; the temporaries then stay in cache
_LARGEST = 1e38  # a scale times a number stays finite in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """What stands for which weights.

    Attributes:
        bits: 8 or 4, of the projections.
        group: neighbouring inputs of a projection that share a scale; None for all of them.
        vocab_bits: 8 or 4, of the weights with a row per token: embedding and output head.
        vocab_group: as `group`, of those.
    """

    bits: int = 8
    group: int | None = None
    vocab_bits: int = 8
    vocab_group: int | None = None

    def __post_init__(self) -> None:
        one_of(BITS, bits=self.bits, vocab_bits=self.vocab_bits)
        groups = {"group": self.group, "vocab_group": self.vocab_group}
        positive_int(**{name: value for name, value in groups.items() if value is not None})

    def bits_of(self, path: str) -> int:
        """Bits of the weight at a path."""
        return self.vocab_bits if is_vocabulary(path) else self.bits

    def n_groups(self, path: str, n_in: int) -> int:
        """Scales in a row of the weight at a path.

        Raises:
            ConfigError: it cannot be stored so.
        """
        group = self.vocab_group if is_vocabulary(path) else self.group
        if self.bits_of(path) == 4 and n_in % BLOCK:
            raise ConfigError(
                f"{path} has {n_in} inputs: 4 bits are for multiples of {BLOCK}. Use 8 bits."
            )
        if group is None:
            return 1
        if n_in % group:
            fit = [g for g in range(16, min(n_in, 1024) + 1) if n_in % g == 0]
            raise ConfigError(
                f"{path} has {n_in} inputs, which are no multiple of group={group}. Pass a group "
                f"that divides the inputs of every weight; here {fit[:8]} do."
            )
        return n_in // group

    def stored_shape(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the numbers that stand for the weight of `shape` at a path."""
        return (shape[0], shape[1] // 2 if self.bits_of(path) == 4 else shape[1])

    def dtypes(self, leaves: Iterable[str]) -> dict[str, np.dtype]:
        """Dtypes of numbers and scales among leaves by path; the others are of any float dtype."""
        weights = [path for path in leaves if is_weight(path)]
        packed = {path: self.bits_of(path) == 4 for path in weights}
        numbers = {path: np.dtype(np.uint8 if packed[path] else np.int8) for path in weights}
        return numbers | {scale_path(path): np.dtype(np.float32) for path in weights}


def is_weight(path: str) -> bool:
    """Whether the leaf at a path is one of those that are quantised."""
    return path == "embed" or path.endswith(".w")


def is_vocabulary(path: str) -> bool:
    """Whether the weight at a path has a row for each token."""
    return path in ("embed", "unembed.w")


def scale_path(path: str) -> str:
    """Where the scales of the weight at a path are."""
    return "embed_quant_scale" if path == "embed" else path.removesuffix(".w") + ".scale"


def is_quantized(params: DecoderParams) -> bool:
    """Whether any weight is quantised."""
    linears = jax.tree.leaves(params, is_leaf=_is_linear)
    return params.embed_quant_scale is not None or any(
        _is_linear(leaf) and leaf.scale is not None for leaf in linears
    )


def check_not_quantized(params: Any, purpose: str) -> None:
    """Checks that a tree is not the weights of a quantised decoder.

    Args:
        params: any tree.
        purpose: what it is wanted for, as the subject of a sentence.

    Raises:
        ConfigError: it is.
    """
    if isinstance(params, DecoderParams) and is_quantized(params):
        raise ConfigError(
            f"{purpose} got quantised weights and needs those that they were made from: whole "
            "numbers have no gradient and cannot be rounded again. Load the original model."
        )


def quantize(
    params: DecoderParams, *, bits: int = 8, group: int | None = None, vocab_bits: int = 8
) -> DecoderParams:
    """Replaces every projection and the token embedding by whole numbers and scales.

    A weight becomes the nearest multiple of the scale of its group. With 8 bits the largest weight
    of a group falls on 127, so that no weight is off by more than half a scale. With 4 bits numbers
    go from -8 to 7, and of six scales per group (the largest weight on 7 to 10.5, what lies beyond
    the range cut off), each with either sign (which says where the eighth step lies), the one with
    the least squared error is taken.

    The token embedding and the output head keep 8 bits by default, for quality: every token passes
    through both, and no later layer can make up for an error of the head. Norms, biases and learned
    positions stay as they are, and so does `precision`, whose `param` from then on is the dtype of
    these.

    Args:
        params: float weights, `layers` as a tuple, each on one device. They are worked on one by
            one on the host; beside them and the result, the largest weight in 8 bits is all that is
            needed.
        bits: 8 or 4, of the projections.
        group: neighbouring inputs that share a scale, for weights of `bits`. None is the whole row
            for 8 bits and 64 for 4. The native kernels take the row and multiples of 32.
        vocab_bits: 8 or 4, of embedding and output head; where it differs from `bits`, with the
            default group of its own.

    Returns:
        The same tree with `scale` beside every `w`, and `embed_quant_scale`.

    Raises:
        ConfigError: other bits, a group that does not divide the inputs of a weight, or weights
            that are quantised already, stacked, spread over devices, not float or not finite.
    """
    one_of(BITS, bits=bits, vocab_bits=vocab_bits)
    how = Quantization(
        bits=bits,
        group=DEFAULT_GROUP[bits] if group is None else group,
        vocab_bits=vocab_bits,
        vocab_group=group
        if group is not None and vocab_bits == bits
        else DEFAULT_GROUP[vocab_bits],
    )
    check_not_quantized(params, "quantize")
    if isinstance(params.layers, BlockParams):
        raise ConfigError(
            "quantize got stacked layers: pass them as a tuple, see models.params.unstack_layers."
        )
    leaves = paths.flatten(params)
    for path, leaf in leaves.items():  # all that can be refused is, before the work
        if is_weight(path):
            _check(path, leaf)
            how.n_groups(path, leaf.shape[1])

    def replaced(at: Any, leaf: Any) -> Any:
        if not _is_linear(leaf):
            return leaf
        path = jax.tree_util.keystr(at, simple=True, separator=".") + ".w"
        w, scale = _quantized(how, path, leaf.w)
        return leaf.replace(w=w, scale=scale)

    tree = jax.tree_util.tree_map_with_path(replaced, params, is_leaf=_is_linear)
    embed, scale = _quantized(how, "embed", params.embed)
    return tree.replace(embed=embed, embed_quant_scale=scale)


def _is_linear(leaf: Any) -> bool:
    return isinstance(leaf, Linear)


def _check(path: str, w: Any) -> None:
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise ConfigError(f"{path} is {w.dtype}: quantize takes float weights. Load them as such.")
    if len(w.sharding.device_set) > 1:
        raise ConfigError(
            f"{path} is spread over {len(w.sharding.device_set)} devices: quantize takes weights "
            "on one. Load the model without mesh=."
        )


def _quantized(how: Quantization, path: str, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    source = np.asarray(w)
    wide = np.promote_types(source.dtype, np.float32)
    n_out, n_in = source.shape
    n_groups, bits = how.n_groups(path, n_in), how.bits_of(path)
    q = np.empty((n_out, n_in), np.int8)
    scale = np.empty((n_out, n_groups), np.float32)
    step = max(1, _AT_ONCE // n_in)
    for first in range(0, n_out, step):
        here = slice(first, first + step)
        rows = source[here].astype(wide).reshape(-1, n_groups, n_in // n_groups)
        top = np.max(np.abs(rows), axis=-1)
        if not np.all(top < _LARGEST):  # nor is it where there is a NaN
            raise ConfigError(
                f"{path} holds numbers that are not finite, or not below {_LARGEST:.1g}: no float32 "
                "scale fits. Check the model."
            )
        scale[here] = _usable(top / 127) if bits == 8 else _best_of_4_bits(rows, top)
        q[here] = _nearest(rows, scale[here], bits).reshape(-1, n_in)
    numbers = jax.device_put(q, w.sharding)
    return pack_int4(numbers) if bits == 4 else numbers, jax.device_put(scale, w.sharding)


def _usable(scale: np.ndarray) -> np.ndarray:
    """As float32, with 1 where float32 has no exact ones: all numbers of that group become 0."""
    scale = scale.astype(np.float32)
    return np.where(np.abs(scale) < np.finfo(np.float32).tiny, np.float32(1), scale)


def _nearest(rows: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    return np.clip(np.rint(rows / scale[..., None]), low, high)


def _best_of_4_bits(rows: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The scale of each group: rows [R, groups, n] whose largest magnitudes are top [R, groups]."""
    unit = rows / np.where(top == 0, 1, top)[..., None]
    best = np.full(top.shape, _FALLS_ON[0], rows.dtype)
    least = np.full(top.shape, np.inf, rows.dtype)
    for number in (*_FALLS_ON, *(-n for n in _FALLS_ON)):
        off = np.clip(np.rint(unit * number), -8, 7) / number - unit
        error = np.sum(off * off, axis=-1)
        best = np.where(error < least, number, best)
        least = np.minimum(error, least)
    return _usable(top / best)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerError:
    """What quantising did to one weight.

    Attributes:
        path: of the weight, such as `layers.3.attn.q.w`.
        relative_error: norm of the difference over the norm of the weight (Frobenius).
        max_abs_error: largest absolute difference.
        bytes_before, bytes_after: of the weight; after, with its scales.
    """

    path: str
    relative_error: float
    max_abs_error: float
    bytes_before: int
    bytes_after: int


def report(params: DecoderParams, quantized: DecoderParams) -> tuple[LayerError, ...]:
    """What quantising did to each weight, in the order of the tree.

    Args:
        params: the weights before.
        quantized: what `quantize` made of them.

    Raises:
        ConfigError: the two are not of one decoder, or nothing in `quantized` is quantised.
    """
    before, after = paths.flatten(params), paths.flatten(quantized)
    errors = []
    for path, w in after.items():
        if not is_weight(path) or scale_path(path) not in after:
            continue
        shape = (w.shape[0], n_inputs(w))
        source, scale = before.get(path), after[scale_path(path)]
        if source is None or source.shape != shape or scale_path(path) in before:
            raise ConfigError(
                f"report: before, there is no float weight {path} of shape {list(shape)}. Pass the "
                "weights that were quantised, and what quantize made of them."
            )
        errors.append(_error(path, source, w, scale))
    if not errors:
        raise ConfigError("report: nothing is quantised. Pass what quantize returned as second.")
    return tuple(errors)


def _error(path: str, source: jax.Array, w: jax.Array, scale: jax.Array) -> LayerError:
    squares, differences, largest = 0.0, 0.0, 0.0
    step = max(1, _AT_ONCE // source.shape[1])
    host = [np.asarray(array) for array in (source, w, scale)]
    for first in range(0, source.shape[0], step):
        rows, numbers, scales = (array[first : first + step] for array in host)
        rows = rows.astype(np.float64)
        off = rows - np.asarray(dequantize(jnp.asarray(numbers), jnp.asarray(scales), jnp.float32))
        squares += float(np.sum(rows * rows))
        differences += float(np.sum(off * off))
        largest = max(largest, float(np.max(np.abs(off))))
    return LayerError(
        path=path,
        relative_error=math.sqrt(differences / squares) if squares else 0.0,
        max_abs_error=largest,
        bytes_before=source.nbytes,
        bytes_after=w.nbytes + scale.nbytes,
    )
