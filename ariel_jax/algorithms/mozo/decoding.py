"""An answer from N + 1 rows at once, block by block: the device's part, which spends nothing."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax._checks import positive_int
from ariel_jax.algorithms.mozo import programs, sampling
from ariel_jax.algorithms.mozo.config import Config, Numbers, check
from ariel_jax.algorithms.mozo.demos import Encoded
from ariel_jax.algorithms.mozo.draws import Draw
from ariel_jax.algorithms.mozo.parameters import parameters as traced
from ariel_jax.algorithms.mozo.programs import Prefixes, Step
from ariel_jax.algorithms.mozo.store import Place, build
from ariel_jax.decode.engine import bucket
from ariel_jax.decode.stream import TextModel
from ariel_jax.errors import ConfigError, RowCouplingError

SUFFIX = 16  # tokens: the unit of the shortest queries that programs are compiled for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What was released for a query.

    Attributes:
        text: without the token or string that ended it.
        tokens: all that were drawn, the end included.
        finish_reason: `eos`, `stop` or `length`.
        blocks: that were started.
        is_private: False where no demonstration was used (`on_exhausted="public"`).
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: Literal["eos", "stop", "length"]
    blocks: int
    is_private: bool = True


class MixedDecoder:
    """Decodes answers whose every token is drawn from a mixture of one-shot rows with the zero-shot one.

    It keeps no account: whoever calls it has to pay. `Session` does.

    Guarantees:
        Shapes and the number of passes of the model depend on the query, on the public sizes and on the
        released tokens, and on nothing else. Row 0 is the same computation whatever is drawn.
    """

    def __init__(
        self,
        model: TextModel,
        encoded: Encoded,
        config: Config,
        numbers: Numbers,
        *,
        max_tokens: int,
        redraw_every: int | None = None,
        place: Place = "auto",
        most_bytes: int = 2 << 30,
        step: Step = sampling.step,
        parameters: Any = None,
    ) -> None:
        """A decoder; nothing private is read before `read` or the first answer.

        Args:
            model: with tokenizer and weights.
            encoded: the demonstrations.
            config: the mixture.
            numbers: of the mixture.
            max_tokens: most tokens of an answer.
            redraw_every: tokens of a block, for which one draw serves; None: all of them.
            place: where keys and values of the demonstrations are kept, see `store.build`.
            most_bytes: of a store that `place="auto"` makes.
            step: what draws a token, dps-mozo's or one of `baselines`; nothing but dps-mozo's has a price.
            parameters: of another `step`; None: those of `numbers`.

        Raises:
            ConfigError: sizes out of range, or more tokens than the model has positions.
            PrivacyConfigError, UnprovenMechanismError: as for `config.check`.
        """
        positive_int(max_tokens=max_tokens)
        if redraw_every is not None:
            positive_int(redraw_every=redraw_every)
        check(config, numbers)
        self.model, self.encoded, self.config = model, encoded, config
        self.max_tokens, self.size = max_tokens, min(redraw_every or max_tokens, max_tokens)
        self.n_prefix = encoded.tokens.shape[1]
        self._place: Place = place
        self._most_bytes = most_bytes
        self._store = None
        self._checked: set[tuple[int, ...]] = set()  # sizes of programs whose rows are independent
        self.ends = end_tokens(model, encoded.format.stop)
        self._ends = jnp.asarray(self.ends)
        self._step, self.numbers = step, numbers
        if parameters is not None:
            self._parameters = parameters

    @property
    def numbers(self) -> Numbers:
        """Of the mixture. Setting others compiles nothing."""
        return self._numbers

    @numbers.setter
    def numbers(self, numbers: Numbers) -> None:
        check(self.config, numbers)
        self._numbers = numbers
        self._parameters = traced(self.config, numbers)

    def read(self) -> None:
        """Reads all demonstrations into the store, where there is one: a private pass."""
        if self._store is None:
            self._store = build(
                self.model.cfg,
                self.model.params,
                self.encoded,
                place=self._place,
                most_bytes=self._most_bytes,
            )

    def suffix(self, query: str | Sequence[int]) -> list[int]:
        """`suffix_tokens` for this decoder."""
        return suffix_tokens(self.model, self.encoded, query, max_tokens=self.max_tokens)

    def answer(
        self,
        query: str | Sequence[int],
        draws: Callable[[int], Draw],
        key: jax.Array,
        *,
        on_start: Callable[[int], None] | None = None,
        on_block: Callable[[list[int]], None] | None = None,
        is_private: bool = True,
    ) -> Answer:
        """One answer.

        Args:
            query: a text for the format's `query`, or token ids.
            draws: the demonstrations of a block, by its number.
            key: [] typed key of this query's tokens; used once.
            on_start: called with the number of blocks before each is computed.
            on_block: called with the new tokens after each block.
            is_private: False where `draws` holds no demonstration: then nothing private is read.

        Raises:
            ConfigError: as for `suffix_tokens`.
            ModelOutputError: the zero-shot row has NaN or infinite logits.
            RowCouplingError: in this model rows are not independent.
        """
        ids = self.suffix(query)
        tokens: list[int] = []
        text, reason, blocks = "", "length", 0
        while len(tokens) < self.max_tokens and reason == "length":
            blocks += 1
            if on_start is not None:
                on_start(blocks)
            new, done = self._block(ids, tokens, draws(blocks - 1), key, is_private=is_private)
            tokens += new
            text, reason = self._text(tokens, done=done)
            if on_block is not None:
                on_block(new)
        return Answer(
            text=text,
            tokens=tuple(tokens),
            finish_reason=reason,
            blocks=blocks,
            is_private=is_private,
        )

    def _block(
        self, ids: list[int], tokens: list[int], draw: Draw, key: jax.Array, *, is_private: bool
    ) -> tuple[list[int], bool]:
        """New tokens, and whether the last one ends the answer."""
        cfg, params = self.model.cfg, self.model.params
        room = rounded_up(len(ids) + self.max_tokens)
        T = rounded_up(len(ids) + len(tokens))
        if (T, room) not in self._checked:
            self._check_rows(T, room)
            self._checked.add((T, room))
        known = [*ids, *tokens]
        padded = np.zeros(T, np.int32)
        padded[: len(known)] = known
        prefixes, index = self._rows(draw, is_private=is_private)
        cache, logits = programs.begin()(
            cfg,
            params,
            prefixes,
            index,
            jnp.asarray(padded),
            jnp.int32(len(known)),
            capacity=self.n_prefix + room,
        )
        limit = min(self.size, self.max_tokens - len(tokens))
        _, block = self._decode(cache, logits, draw.mask, key, len(tokens), limit)
        # The one transfer of a block; the logits stay where they are.
        out, n, done, flags = jax.device_get((block.tokens, block.n, block.done, block.flags))
        sampling.raise_for(int(flags))
        return out[: int(n)].tolist(), bool(done)

    def _decode(
        self,
        cache: Any,
        logits: jax.Array,
        mask: np.ndarray,
        key: jax.Array,
        start: int,
        limit: int,
    ) -> tuple[Any, programs.Block]:
        return programs.block()(
            self.model.cfg,
            self.model.params,
            cache,
            logits,
            jnp.asarray(mask),
            key,
            jnp.int32(start),
            jnp.int32(limit),
            self._ends,
            self._parameters,
            config=self.config,
            size=self.max_tokens,
            step=self._step,
        )

    def _rows(self, draw: Draw, *, is_private: bool) -> tuple[Prefixes, jax.Array]:
        """Prefixes and the index of each row: the zero-shot one first, and in empty slots."""
        cfg, params, zero = self.model.cfg, self.model.params, self.encoded.zero_shot
        rows = np.array([zero, *(zero if row < 0 else row for row in draw.rows.tolist())])
        if is_private:
            self.read()
        if self._store is None:  # only the instruction is read, by the same kind of pass
            alone = np.full(len(rows), zero)
            tokens, lengths = self.encoded.tokens[alone], self.encoded.lengths[alone]
            found = programs.read_prefixes()(cfg, params, jnp.asarray(tokens), jnp.asarray(lengths))
            return found, jnp.arange(len(rows), dtype=jnp.int32)
        if self._store.place == "none" and (len(rows),) not in self._checked:
            self._check_reading(len(rows))
            self._checked.add((len(rows),))
        return self._store.gather(cfg, params, rows)

    def _text(
        self, tokens: list[int], *, done: bool
    ) -> tuple[str, Literal["eos", "stop", "length"]]:
        """Text without its end, and why it ended."""
        eos = frozenset(self.model.eos_ids)
        is_eos = bool(tokens) and tokens[-1] in eos
        text = self.encoded.tokenizer.decode([t for t in tokens if t not in eos])
        found = [at for stop in self.encoded.format.stop if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)], "stop"
        return text, "eos" if is_eos else "stop" if done else "length"

    def _check_rows(self, T: int, room: int) -> None:
        """Refuses a model in which one row's logits change with another's content; nothing private is read.

        Both programs run at the sizes they will have, on made-up rows, and again with every second private
        row replaced. What stays must stay to the bit, on every platform: no price has room for less.
        """
        N, cfg, params = self.config.n_slots, self.model.cfg, self.model.params
        generator = np.random.default_rng(0)
        dtype = params.precision.dtype("cache")
        shape = (N + 1, cfg.n_kv_heads, self.n_prefix, cfg.head_dim)

        def made(scale: float) -> list[np.ndarray]:
            leaves = [
                scale * generator.standard_normal(shape, np.float32)
                for _ in range(2 * cfg.n_layers)
            ]
            return [*leaves, generator.integers(1, self.n_prefix, N + 1, endpoint=True)]

        def logits(leaves: list[np.ndarray]) -> list[np.ndarray]:
            arrays = [jnp.asarray(leaf.astype(dtype)) for leaf in leaves[:-1]]
            prefixes = Prefixes(
                k=tuple(arrays[::2]),
                v=tuple(arrays[1::2]),
                length=jnp.asarray(leaves[-1].astype(np.int32)),
            )
            suffix = jnp.asarray(np.arange(T) % cfg.vocab_size, np.int32)
            index = jnp.arange(N + 1, dtype=jnp.int32)
            options = {"capacity": self.n_prefix + room}
            cache, first = programs.begin()(
                cfg, params, prefixes, index, suffix, jnp.int32(T), **options
            )
            before = np.asarray(first)
            limit = min(2, self.size)
            # Nothing but row 0 is drawn from: all rows go on with the same tokens.
            mask = np.zeros(N, bool)
            _, block = self._decode(cache, first, mask, jax.random.key(0), 0, limit)
            return [before, np.asarray(block.logits)]

        # Outliers, which move what is shared the most.
        _check_independent(logits, made(1.0), made(30.0))

    def _check_reading(self, B: int) -> None:
        """The same for the program that reads B demonstrations at once, where none is stored."""
        cfg, params = self.model.cfg, self.model.params
        generator = np.random.default_rng(0)

        def made() -> list[np.ndarray]:
            tokens = generator.integers(0, cfg.vocab_size, (B, self.n_prefix), np.int32)
            return [tokens, generator.integers(1, self.n_prefix, B, np.int32, endpoint=True)]

        def read(leaves: list[np.ndarray]) -> list[np.ndarray]:
            found = programs.read_prefixes()(cfg, params, *map(jnp.asarray, leaves))
            return [np.asarray(leaf) for leaf in (*found.k, *found.v)]

        _check_independent(read, made(), made())


def _check_independent(
    run: Callable[[list[np.ndarray]], list[np.ndarray]],
    base: list[np.ndarray],
    other: list[np.ndarray],
) -> None:
    """Refuses what `run` makes of rows if one of them moves by a bit when others are replaced."""
    expected = run(base)
    for parity in (1, 2):
        changed = [np.array(leaf) for leaf in base]
        for leaf, new in zip(changed, other, strict=True):
            leaf[parity::2] = new[parity::2]
        kept = np.ones(len(base[-1]), bool)
        kept[parity::2] = False
        pairs = zip(run(changed), expected, strict=True)
        moved = max(_moved(new[kept], old[kept]) for new, old in pairs)
        if moved > 0:
            raise RowCouplingError(
                f"what is computed of a row changed by {moved:.3g} when other rows got other content: a "
                "demonstration would act through rows that no bound holds. Experts that drop tokens, "
                "scales over a whole tensor and other operations across a batch do this: use a model "
                "and kernels whose rows are independent."
            )


def rounded_up(n: int) -> int:
    """A length that programs are compiled for: at most 15, or half, more than `n`."""
    unit = max(SUFFIX, bucket(n, SUFFIX) // 4)
    return -(-n // unit) * unit


def _moved(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; NaN in both is none, NaN in one is infinite."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.nan_to_num(np.where(same, 0, np.abs(a - b)), nan=np.inf).max())


def suffix_tokens(
    model: TextModel, encoded: Encoded, query: str | Sequence[int], *, max_tokens: int
) -> list[int]:
    """The query's tokens as they stand in every row; token ids are taken as they are.

    Raises:
        ConfigError: there are none, or too many for the model with prefix and answer.
    """
    cfg, n_prefix = model.cfg, encoded.tokens.shape[1]
    if isinstance(query, str):
        text = encoded.format.query_text(query)
        ids = encoded.tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = [int(i) for i in query]
    if not ids or min(ids) < 0 or max(ids) >= cfg.vocab_size:
        raise ConfigError(
            f"the query has {len(ids)} tokens, or one outside 0..{cfg.vocab_size - 1}: pass a text, or ids of "
            "this model's tokenizer."
        )
    total = n_prefix + len(ids) + max_tokens
    if total > cfg.max_positions:
        raise ConfigError(
            f"instruction and demonstration have up to {n_prefix} tokens, the query {len(ids)} and the answer "
            f"up to {max_tokens}: together {total}, and the model has {cfg.max_positions} positions. Shorten "
            "one of them."
        )
    return ids


def end_tokens(model: TextModel, stop: Sequence[str]) -> np.ndarray:
    """[V] bool: ids that end a text, and tokens whose own text holds a stop string.

    A stop string that is spread over several tokens is found when its block has ended.
    """
    found = np.zeros(model.cfg.vocab_size, bool)
    found[list(model.eos_ids)] = True
    for token in range(model.tokenizer.vocab_size if stop else 0):
        text = model.tokenizer.decode([token])
        found[token] |= any(s in text for s in stop)
    return found
