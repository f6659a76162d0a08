"""Text in, text out: the one-call `generate`, streaming and stop strings."""

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import numpy as np

from ariel_jax._checks import positive_int
from ariel_jax.decode.capacity import CapacityPolicy
from ariel_jax.decode.engine import NO_STEP_LIMIT, Report, Run, start
from ariel_jax.decode.requests import check_stop
from ariel_jax.decode.sampling import SamplingParams
from ariel_jax.decode.strategy import Strategy
from ariel_jax.errors import ConfigError
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf.tokenizer import NoTokenizer
from ariel_jax.models.params import DecoderParams

OnText = Callable[[int, str], None]
"""`on_text(request, new_text)`: called as text becomes final."""


OnProgress = Callable[[Run], None]
"""`on_progress(run)`: may look at the run, and must leave it as it is."""


class TextModel(Protocol):
    """What `generate` needs of a model; `load_pretrained` returns one."""

    @property
    def cfg(self) -> DecoderConfig:
        """The decoder."""
        ...

    @property
    def params(self) -> DecoderParams:
        """Its weights."""
        ...

    @property
    def tokenizer(self) -> Any:
        """With `encode(text) -> list[int]` and `decode(ids) -> str`."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """One request's result.

    Attributes:
        text: generated text, without end-of-sequence tokens and without the stop string; empty
            where the model has no tokenizer.
        tokens: generated ids; includes the end-of-sequence id or the tokens of the stop string.
        finish_reason: `eos`, `stop` (a stop string) or `length`.
        n_prompt: tokens of the prompt.
        logprobs: log-probability of each token under the model itself, or None.
        top_logprobs: for each token the k likeliest (id, log-probability), or None.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: Literal["eos", "stop", "length"]
    n_prompt: int
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Results of a call, in the order of the prompts, and what it cost."""

    completions: tuple[Completion, ...]
    report: Report

    @property
    def texts(self) -> list[str]:
        """The generated texts."""
        return [c.text for c in self.completions]


class Detokenizer:
    """Text of a growing token sequence, never half a character.

    The pieces of `add` and the one of `finish`, joined, equal `tokenizer.decode` of all ids. Bytes
    that are no character are held back until a character follows, or the end. One exception: a
    tokenizer with byte fallback (Llama 2, Mistral, Gemma) makes a whole run of byte tokens
    unreadable when one of them is no part of a character; characters that were complete before
    it came stay as they were handed out.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # decoding starts here: blanks before a word depend on the one before
        self._sent = 0  # ids whose text was handed out

    def _decode(self, start: int, stop: int | None = None) -> str:
        return self._tokenizer.decode(self._ids[start:stop])

    def add(self, token: int) -> str:
        """The text that is certain after one more token; may be empty."""
        self._ids.append(token)
        before, now = self._decode(self._context, self._sent), self._decode(self._context)
        if len(now) <= len(before) or now.endswith("\ufffd"):
            return ""
        self._context, self._sent = self._sent, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """The rest, once no token follows; an unfinished character is U+FFFD."""
        before, now = self._decode(self._context, self._sent), self._decode(self._context)
        self._context = self._sent = len(self._ids)
        return now[len(before) :]


class _NoText:
    """Stands for a tokenizer that is not there, where nobody asks for text."""

    def decode(self, ids: Sequence[int]) -> str:
        return ""


class _Row:
    """Turns one row's growing token list into final text, watching for stop strings."""

    def __init__(
        self,
        tokenizer: Any,
        stop: tuple[str, ...],
        *,
        eos: frozenset[int],
        hidden: frozenset[int],
    ) -> None:
        self.stop, self.eos, self.hidden = stop, eos, hidden
        self.reason: Literal["eos", "stop", "length"] = "length"
        self.text = ""
        self.tokens: list[int] = []
        self._pieces = Detokenizer(tokenizer)
        self._ends: list[int] = []  # characters of the text after each token
        self._sent = 0  # characters handed out

    def update(self, tokens: list[int], *, is_last: bool) -> tuple[str, int | None]:
        """(text that became final, number of tokens to keep if a stop string was found)."""
        searched = len(self.text)
        for token in tokens[len(self._ends) :]:
            if token not in self.hidden:
                self.text += self._pieces.add(token)
            self._ends.append(len(self.text))
        if is_last:
            self.text += self._pieces.finish()
        self.tokens, keep = tokens, None
        found = self._first_stop(searched)
        if found is not None:
            keep, cut = found
            self.tokens, self.text, self.reason = tokens[:keep], self.text[:cut], "stop"
        elif tokens and tokens[-1] in self.eos:
            self.reason = "eos"
        final = len(self.text) if is_last or keep is not None else self._certain()
        new, self._sent = self.text[self._sent : final], max(self._sent, final)
        return new, keep

    def _first_stop(self, searched: int) -> tuple[int, int] | None:
        """(tokens through it, where it begins) of the stop string that is whole first."""
        found = []
        for stop in self.stop:
            at = self.text.find(stop, max(0, searched - len(stop) + 1))
            if at >= 0:
                through = bisect.bisect_left(self._ends, at + len(stop)) + 1
                found.append((min(through, len(self._ends)), at))
        return min(found, default=None)

    def _certain(self) -> int:
        """Characters that no stop string can take back any more."""
        for n in range(max(map(len, self.stop), default=1) - 1, 0, -1):
            if any(s.startswith(self.text[-n:]) for s in self.stop if len(self.text) >= n):
                return len(self.text) - n
        return len(self.text)


def generate(
    model: TextModel,
    prompts: str | Sequence[str] | Sequence[Sequence[int]],
    *,
    max_new: int = 128,
    strategy: Strategy | None = None,
    capacity: CapacityPolicy | None = None,
    sampling: SamplingParams | Sequence[SamplingParams] | None = None,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
    logprobs: int | None = None,
    on_text: OnText | None = None,
    on_progress: OnProgress | None = None,
    stream_every: int = 16,
    key: jax.Array | None = None,
    extra: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    mem_limit: int | None = None,
    compile_ahead: bool = False,
) -> Generation:
    """Continue each prompt.

    Args:
        model: from `load_pretrained`.
        prompts: a text, texts, or token ids; lengths may differ.
        max_new: tokens per request at most.
        strategy: how tokens are found; default one at a time.
        capacity: how cache rows are reserved; default all that may be needed, at once.
        sampling: for all or one per request; default greedy.
        stop: strings that end a text; neither they nor what follows is returned.
        ignore_eos: go on after an end-of-sequence token (for benchmarks).
        logprobs: keep log-probabilities, and this many of the largest per token.
        on_text: called with (request, new text) while decoding.
        on_progress: called with the run whenever it has paused, and when it is done.
        stream_every: steps between two pauses, where `on_text`, `on_progress` or `stop` needs them.
        key: typed key of the whole call; a request's own `seed` wins over it.
        extra: the strategy's read-only arrays.
        mesh: devices to spread over, axes `data` and `tensor`.
        mem_limit: bytes that the cache may take, a growth's copies included; None for no limit.
        compile_ahead: compile the next capacity's program while this one's runs; worth it where a
            processor is to spare.

    Raises:
        ConfigError: bad prompts or settings, see `engine.start`.
    """
    positive_int(stream_every=stream_every)
    stop = check_stop(stop)
    texts: Sequence[Any] = [prompts] if isinstance(prompts, str) else prompts
    ids: list[Any] = [model.tokenizer.encode(p) if isinstance(p, str) else p for p in texts]
    eos = () if ignore_eos else model.eos_ids
    run = start(
        model.cfg,
        model.params,
        ids,
        max_new=max_new,
        strategy=strategy,
        capacity=capacity,
        sampling=sampling,
        eos=eos,
        top_logprobs=logprobs,
        key=key,
        extra=extra,
        mesh=mesh,
        mem_limit=mem_limit,
        compile_ahead=compile_ahead,
    )
    tokenizer = model.tokenizer
    if isinstance(tokenizer, NoTokenizer) and not stop and on_text is None:
        tokenizer = _NoText()
    hidden = frozenset(model.eos_ids)  # never part of the text, also where they do not end it
    rows = [_Row(tokenizer, stop, eos=frozenset(eos), hidden=hidden) for _ in ids]
    pauses = on_text is not None or bool(stop) or on_progress is not None
    steps = stream_every if pauses else NO_STEP_LIMIT
    _to_the_end(run, rows, on_text, on_progress, steps, len_prompts=[len(p) for p in ids])
    return Generation(
        completions=tuple(_completion(run, i, row, len(ids[i])) for i, row in enumerate(rows)),
        report=run.report,
    )


def _to_the_end(
    run: Run,
    rows: list[_Row],
    on_text: OnText | None,
    on_progress: OnProgress | None,
    steps: int,
    len_prompts: list[int],
) -> None:
    ended = [False] * len(rows)
    while True:
        _watch(run, rows, ended, on_text, len_prompts)
        if on_progress is not None:
            on_progress(run)
        if run.done.all():
            return
        run.advance(steps)


def _watch(
    run: Run, rows: list[_Row], ended: list[bool], on_text: OnText | None, len_prompts: list[int]
) -> None:
    for i, row in enumerate(rows):
        if ended[i]:
            continue
        is_last = bool(run.done[i])
        new, keep = row.update(run.new_tokens(i), is_last=is_last)
        if keep is not None:
            run.stop_row(i, len_prompts[i] + keep)
        ended[i] = is_last or keep is not None
        if on_text is not None and new:
            on_text(i, new)


def _completion(run: Run, i: int, row: _Row, n_prompt: int) -> Completion:
    logprobs = top = None
    if run.state.logprobs is not None:
        span = slice(n_prompt, n_prompt + len(row.tokens))
        kept = jax.device_get(jax.tree.map(lambda leaf: leaf[i, span], run.state.logprobs))
        logprobs = tuple(float(x) for x in kept.token)
        top = tuple(
            tuple(zip(ids.tolist(), values.tolist(), strict=True))
            for ids, values in zip(np.asarray(kept.top_ids), np.asarray(kept.top), strict=True)
        )
    return Completion(
        text=row.text,
        tokens=tuple(row.tokens),
        finish_reason=row.reason,
        n_prompt=n_prompt,
        logprobs=logprobs,
        top_logprobs=top,
    )


def from_padded(tokens: Any, mask: Any) -> list[list[int]]:
    """Prompts of a padded batch, whichever side it is padded on (left as transformers does).

    Args:
        tokens: [B, T] integers, as transformers' tokenizers return them.
        mask: [B, T], 1 where a token is real.

    Returns:
        One list of ids per row, without padding.

    Raises:
        ConfigError: shapes differ, or a mask with holes.
    """
    tokens, mask = np.asarray(tokens), np.asarray(mask).astype(bool)
    if tokens.shape != mask.shape or tokens.ndim != 2:
        raise ConfigError(
            f"tokens {list(tokens.shape)} and mask {list(mask.shape)} must both be [B, T]."
        )
    if (np.abs(np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) > 2).any():
        raise ConfigError(
            "the attention mask has holes; real tokens must be one run per row, padded left or right."
        )
    return [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)]
