"""Synthetic demonstrations: paid for once, then used in ordinary prompts for as many queries as wanted."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from ariel_jax._checks import positive_int
from ariel_jax.algorithms.mozo.decoding import Answer
from ariel_jax.algorithms.mozo.demos import FIELDS, Demonstration, Encoded, PromptFormat
from ariel_jax.algorithms.mozo.generate import Session
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.algorithms.mozo.report import PrivacyReport
from ariel_jax.decode.stream import TextModel
from ariel_jax.errors import ConfigError
from ariel_jax.privacy.ledger import Ledger


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Demonstrations that a session has made up.

    Attributes:
        demonstrations: those that have all their parts.
        texts: everything that was released, usable or not.
        privacy: what they guarantee, whatever they are used for.
    """

    demonstrations: tuple[Demonstration, ...]
    texts: tuple[str, ...]
    privacy: PrivacyReport


def synthesize(
    model: TextModel,
    encoded: Encoded,
    m: int,
    plan: Plan,
    ledger: Ledger,
    *,
    kind: str = "demonstration",
    on_answer: Callable[[int, Answer], None] | None = None,
    **options: Any,
) -> Synthetic:
    """Lets the model write m more demonstrations, as dps-mozo answers m queries.

    The query is the beginning of a demonstration, as the format writes it. What comes out may be shown and
    used without limit: nothing more is charged (differential privacy under post-processing).

    Args:
        model: as for `Session`.
        encoded: as for `Session`.
        m: how many.
        plan: as for `Session`, of each.
        ledger: as for `Session`.
        kind: `demonstration` (input and output) or `text`, which of the format's templates is continued.
        on_answer: called with (number, answer) after each.
        **options: of `Session`.

    Raises:
        ConfigError: the template begins with what is to be written, so that there is no query; or as for
            `Session`.
        BudgetExceededError: the budget does not cover m answers; nothing was computed.
    """
    positive_int(m=m)
    shape = _Shape.of(encoded.format, kind)
    opening = encoded.tokenizer.encode(shape.opening, add_special_tokens=False)
    if not opening:
        raise ConfigError(
            f"the format's {kind} begins with what is to be written, so there is nothing to ask with: begin "
            'it with a word, such as "Input: {input}".'
        )
    stops = dataclasses.replace(encoded.format, stop=shape.stop)
    answers = []
    with Session(
        model, dataclasses.replace(encoded, format=stops), plan, ledger, n_queries=m, **options
    ) as session:
        for number in range(m):
            answers.append(session.answer(opening))
            if on_answer is not None:
                on_answer(number, answers[-1])
    found = [shape.parse(answer.text) for answer in answers]
    return Synthetic(
        demonstrations=tuple(Demonstration(**fields) for fields in found if fields),
        texts=tuple(answer.text for answer in answers),
        privacy=session.report(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shape:
    """A template cut at its places.

    Attributes:
        opening: before the first place; what the model continues.
        pattern: of opening and answer.
        stop: what follows the last place, where there is something.
    """

    opening: str
    pattern: re.Pattern[str]
    stop: tuple[str, ...]

    @classmethod
    def of(cls, format: PromptFormat, kind: str) -> "_Shape":
        templates: Mapping[str, str] = {
            "demonstration": format.demonstration,
            "text": format.text,
        }
        if kind not in templates:
            raise ConfigError(f"kind={kind!r} is not allowed: pass one of {sorted(templates)}.")
        parts = re.split(r"\{(" + "|".join(FIELDS) + r")\}", templates[kind])
        literals, names = parts[::2], parts[1::2]
        # Blanks at the edges of a place belong to the next token and may be missing.
        pattern = re.escape(literals[0].strip())
        for name, after in zip(names, [*literals[1:-1], ""], strict=True):
            pattern += rf"\s*(?P<{name}>\S.*?)\s*" + re.escape(after.strip())
        return cls(
            opening=literals[0].rstrip(),
            pattern=re.compile(pattern, re.DOTALL),
            stop=(literals[-1],) if literals[-1] else (),
        )

    def parse(self, text: str) -> dict[str, str] | None:
        """The fields of a text behind the opening; None where one is missing."""
        match = self.pattern.fullmatch(f"{self.opening.strip()} {text}".strip())
        return match.groupdict() if match else None
