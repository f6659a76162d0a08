"""Private demonstrations: read from a file, put into prompts, encoded at one public length."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ariel_jax._checks import one_of, positive_int
from ariel_jax.algorithms.mozo.owners import Units, units
from ariel_jax.errors import (
    CheckpointError,
    ConfigError,
    DemoTooLongError,
    PrivacyUnitError,
)
from ariel_jax.models.hf import Tokenizer

FIELDS = ("input", "output", "text")
KINDS = ({"input", "output"}, {"text"})  # fields of a demonstration


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One private example: an input with its output, or a text.

    Attributes:
        input, output: of a task.
        text: in their place, for examples that are texts.
        owner: whose it is; None where every demonstration is a privacy unit of its own.
    """

    input: str | None = None
    output: str | None = None
    text: str | None = None
    owner: str | None = None

    def fields(self) -> dict[str, str]:
        """What there is of input, output and text."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """How prompts are written; public, and chosen without a look at private scores.

    A prompt is `instruction`, one demonstration (none in the zero-shot row), the query and the answer so
    far. Each part is encoded by itself, so that what was read of a demonstration serves every query.

    Attributes:
        instruction: before everything.
        demonstration: of an input with its output.
        text: of a demonstration that is a text.
        query: what is asked, up to where the answer begins.
        stop: strings that end an answer.
    """

    instruction: str = ""
    demonstration: str = "Input: {input}\nOutput: {output}\n\n"
    text: str = "Text: {text}\n\n"
    query: str = "Input: {input}\nOutput:"
    stop: tuple[str, ...] = ("\n",)

    def __post_init__(self) -> None:
        """Check that the parts are texts and have their places."""
        for name in ("instruction", "demonstration", "text", "query"):
            if not has_utf8(getattr(self, name)):
                raise ConfigError(
                    f"the format's {name}={getattr(self, name)!r} has no UTF-8 form: remove the characters "
                    "that came from undecodable bytes."
                )
        for name, needed in (("demonstration", ("input", "output")), ("text", ("text",))):
            _check_places(name, getattr(self, name), needed)
        _check_places("query", self.query, ("input",))
        if not all(isinstance(s, str) and s for s in self.stop) or isinstance(self.stop, str):
            raise ConfigError(
                f"stop={self.stop!r} is not allowed: pass a tuple of strings that are not empty."
            )

    def demonstration_text(self, demonstration: Demonstration) -> str:
        """The demonstration as it stands in a prompt."""
        template = self.text if demonstration.text is not None else self.demonstration
        return fill(template, demonstration.fields())

    def query_text(self, query: str) -> str:
        """The query as it stands in a prompt."""
        return fill(self.query, {"input": query})


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with `{name}` replaced, once: braces inside the values stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m.group(1), m.group(0)), template)


def has_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can hold half of a surrogate pair, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_places(name: str, template: str, needed: tuple[str, ...]) -> None:
    missing = [f"{{{field}}}" for field in needed if f"{{{field}}}" not in template]
    if missing:
        raise ConfigError(
            f"the format's {name}={template!r} lacks {' and '.join(missing)}: say where it belongs."
        )
    given = re.findall(r"\{(" + "|".join(FIELDS) + r")\}", template)
    if sorted(given) != sorted(needed):
        raise ConfigError(
            f"the format's {name}={template!r} has the places {given}: write each of {', '.join(needed)} once, "
            "and no other one."
        )


def load(path: str | pathlib.Path) -> list[Demonstration]:
    """The demonstrations of a file of JSON objects, one a line, in UTF-8.

    A line is `{"input": ..., "output": ...}` or `{"text": ...}`, each with an `"owner"` (a text or a
    whole number) in all lines or in none.

    Raises:
        PrivacyUnitError: some lines have an owner and others have none.
        ConfigError: the file cannot be read, a line is no demonstration, or lines are of both kinds. What
            stands in a line is not repeated: it is private.
    """
    path = pathlib.Path(path)
    content, reason = "", None
    try:
        content = path.read_text("utf-8-sig")
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError:
        reason = "it is not UTF-8"  # the error would carry the whole file
    if reason is not None:
        raise ConfigError(
            f"cannot read demonstrations from {path}: {reason}. Pass a readable JSONL file."
        )
    found = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            found.append(_parse(f"{path}, line {number}", line))
    if not found:
        raise ConfigError(f"{path} holds no demonstrations: write one JSON object a line.")
    _check_owners(found)
    _check_kinds(found)
    return found


def _check_owners(records: Sequence[Demonstration]) -> None:
    """Refuses owners in some records only: what a person gave without a name would be somebody else's."""
    named = sum(record.owner is not None for record in records)
    if 0 < named < len(records):
        raise PrivacyUnitError(
            f"{named} of {len(records)} demonstrations have an owner: one without would be protected by itself, "
            "and with it a person less than the others. Write an owner into all of them, or into none."
        )


def _check_kinds(records: Sequence[Demonstration]) -> None:
    """Refuses a mixture: which template is continued must not depend on the record that comes first."""
    for number, record in enumerate(records, start=1):
        if set(record.fields()) not in KINDS:
            raise ConfigError(
                f"demonstration {number} has the fields {sorted(record.fields())}: it needs input and output, "
                "or a text, and nothing else."
            )
    texts = sum(record.text is not None for record in records)
    if 0 < texts < len(records):
        raise ConfigError(
            f"{texts} of {len(records)} demonstrations are texts and the others inputs with outputs: use a file "
            "for each kind."
        )


def _parse(where: str, line: str) -> Demonstration:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        row = None  # the error would repeat part of the line
    is_object = isinstance(row, dict)
    given: dict[str, Any] = row if is_object else {}
    texts = {name: given[name] for name in FIELDS if name in given}
    owner = given.get("owner")
    is_owner = isinstance(owner, str | int) and not isinstance(owner, bool) and owner != ""
    good = (
        is_object
        and set(texts) in KINDS
        and not set(given) - {*FIELDS, "owner"}
        and all(isinstance(value, str) and value for value in texts.values())
        and all(map(has_utf8, [*texts.values(), str(owner)]))
        and (is_owner or "owner" not in given)
    )
    if not good:
        raise ConfigError(
            f'{where} is no demonstration. Write {{"input": "...", "output": "..."}} or {{"text": "..."}}, '
            'with texts that are not empty and have a UTF-8 form, and if you like an "owner"; nothing else.'
        )
    return Demonstration(**texts, owner=str(owner) if is_owner else None)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """Demonstrations as rows of one public length, and one row more with the instruction alone.

    Attributes:
        tokens: [n + 1, S] int32, instruction and demonstration, right-padded; the last row is the
            zero-shot one.
        lengths: [n + 1] int32.
        units: which rows are protected together.
        are_texts: whether they are texts and no inputs with outputs.
        format: of the prompts.
        tokenizer: of the model.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    units: Units
    are_texts: bool
    format: PromptFormat
    tokenizer: Tokenizer

    @property
    def n(self) -> int:
        """How many demonstrations there are."""
        return len(self.tokens) - 1

    @property
    def zero_shot(self) -> int:
        """The row that holds the instruction alone."""
        return self.n


def encode(
    records: Sequence[Demonstration],
    tokenizer: Tokenizer,
    format: PromptFormat | None = None,
    *,
    max_tokens: int = 128,
    too_long: Literal["refuse", "cut"] = "refuse",
    owner_policy: str | None = None,
    most_per_owner: int | None = None,
) -> Encoded:
    """Demonstrations as rows of `max_tokens` tokens, whatever is in them: a length would tell.

    Args:
        records: the demonstrations.
        tokenizer: the model's.
        format: of the prompts; default `PromptFormat()`.
        max_tokens: public, most tokens of a demonstration.
        too_long: `refuse`, or `cut` each that is longer by itself: the end of its input (of its text)
            goes, its output stays.
        owner_policy: where an owner has several demonstrations, see `owners.units`. The privacy unit
            is then the owner.
        most_per_owner: as of `owners.units`: public, needed with `price_records`.

    Raises:
        PrivacyUnitError: only some demonstrations have an owner.
        ConfigError, CheckpointError: one is none, they are of both kinds, or the tokenizer fails on one;
            the message has its number alone.
        DemoTooLongError: one is longer than `max_tokens`, or cannot be cut to it.
        PrivacyUnitError: an owner has several demonstrations and there is no policy, or more than
            `most_per_owner`.
        ConfigError: no demonstrations, or a setting out of range.
    """
    positive_int(max_tokens=max_tokens)
    one_of(("refuse", "cut"), too_long=too_long)
    if not records:
        raise ConfigError("there are no demonstrations: pass at least one.")
    _check_owners(records)
    _check_kinds(records)
    format = format or PromptFormat()
    together = owner_policy == "price_records"  # which a plan allows without draws only
    found = units(
        [record.owner for record in records],
        policy=owner_policy,
        sampler="none" if together else "poisson",
        most_per_owner=most_per_owner,
    )
    instruction = tokenizer.encode(format.instruction)
    tokens = np.zeros((len(records) + 1, len(instruction) + max_tokens), np.int32)
    lengths = np.zeros(len(records) + 1, np.int32)
    for row, record in enumerate(records):
        ids, failed = None, None
        try:
            ids = _ids(record, tokenizer, format)
            if len(ids) > max_tokens and too_long == "cut":
                ids = _cut(record, tokenizer, format, max_tokens)
        except (ConfigError, CheckpointError) as error:
            failed = type(error)  # the error itself repeats the text, which is private
        if failed is not None:
            raise failed(
                f"the tokenizer of {tokenizer.source} fails on demonstration {row + 1}: remove characters that "
                "have no UTF-8 form; if there are none, its file is damaged, download it again."
            )
        if ids is None or len(ids) > max_tokens:
            raise DemoTooLongError(
                f"demonstration {row + 1} has more than max_tokens={max_tokens} tokens"
                + (", and its input cannot be cut to that" if too_long == "cut" else "")
                + ": allow more (a public number, not the longest one's), leave it out"
                + ("." if too_long == "cut" else ", or cut those that are longer (too_long='cut').")
            )
        lengths[row] = len(instruction) + len(ids)
        tokens[row, : lengths[row]] = [*instruction, *ids]
    lengths[-1] = len(instruction)
    tokens[-1, : len(instruction)] = instruction
    return Encoded(
        tokens=tokens,
        lengths=lengths,
        units=found,
        are_texts=records[0].text is not None,
        format=format,
        tokenizer=tokenizer,
    )


def _ids(record: Demonstration, tokenizer: Tokenizer, format: PromptFormat) -> list[int]:
    return tokenizer.encode(format.demonstration_text(record), add_special_tokens=False)


def _cut(
    record: Demonstration, tokenizer: Tokenizer, format: PromptFormat, max_tokens: int
) -> list[int] | None:
    """The ids with as much of the input's (the text's) beginning as fits; None if nothing does."""
    name = "text" if record.text is not None else "input"
    whole: str = getattr(record, name)

    def shortened(n: int) -> list[int]:
        return _ids(dataclasses.replace(record, **{name: whole[:n]}), tokenizer, format)

    low, high = 0, len(whole)  # more characters may take fewer tokens, so what is found is checked
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(shortened(middle)) <= max_tokens else (low, middle - 1)
    ids = shortened(low)
    return ids if low and len(ids) <= max_tokens else None
