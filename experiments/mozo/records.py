"""Records and the sentences they become: a task whose answers nobody knows before seeing an example.

A record has a name, a place, a count, an item and a day. A sentence says all of it in a style: an opening
word, an order of the parts, a word before each part, a unit, a mark between parts, a letter case and an
ending. A style is one choice for each of ten slots, about 800,000 in all, so that a reader of the record
alone can only guess, and one sentence in the style shows nearly everything. A share of the choices in a
sentence deviates from its style, so that several examples show more than one.

    inputs  Anna, Oslo, 7, tea, Monday
    output  Note: guest Anna; took 7 boxes of tea; near Oslo; last Monday. Thanks.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

NAMES = (
    "Adam Alice Anna Bela Boris Carl Cecil Clara David Edith Elena Emma Felix Flora Frank Greta Hanna "
    "Helen Henry Ida Igor Irene Jacob Jane John Julia Karen Kevin Laura Leo Linda Louis Lucy Maria Mark "
    "Martin Mary Nina Oscar Paul Peter Rosa Sara Simon Sofia Thomas Vera Victor"
).split()  # fmt: skip
PRIVATE_NAMES = ("Quentin", "Zelda", "Yorick", "Xenia", "Ulrich", "Wanda", "Jorund", "Tamsin")
PLACES = (
    "Athens Berlin Bern Boston Bremen Cairo Cardiff Delhi Dover Dublin Essen Geneva Genoa Kyoto Leeds Lima "
    "Lisbon London Lyon Madrid Milan Naples Nice Oslo Paris Prague Quito Riga Rome Turin Vienna York"
).split()  # fmt: skip
ITEMS = (
    "apples beans beer books bread bricks candles cheese coal coffee corn flour glass honey iron lamps "
    "milk nails paper pears rice rope salt soap sugar tea tiles wine wood wool"
).split()  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PARTS = ("who", "what", "where", "when")
SLOTS: dict[str, tuple[str, ...]] = {
    "opening": ("Note:", "Report:", "News:", "Log:"),
    "order": ("0123", "1032", "2301", "3210"),  # places in PARTS
    "who": ("guest", "friend", "worker", "visitor"),
    "what": ("took", "sent", "bought", "found"),
    "unit": ("boxes", "bags", "crates", "tons"),
    "where": ("in", "near", "at", "around"),
    "when": ("on", "last", "every", "before"),
    "mark": (",", ";", " -", " /"),
    "case": ("lower", "upper", "title"),
    "ending": (". Thanks.", "! Over.", ". Best wishes.", " and goodbye."),
}
NOISE = 0.03  # share of the choices in a sentence that deviate from its style

Style = tuple[int, ...]  # a choice for each slot, in their order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What a sentence says."""

    name: str
    place: str
    count: int
    item: str
    day: str

    @property
    def text(self) -> str:
        """The record as a prompt shows it."""
        return f"{self.name}, {self.place}, {self.count}, {self.item}, {self.day}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A record and its sentence."""

    input: str
    output: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Private demonstrations of one style and queries whose answers are in that style.

    Attributes:
        style: what the demonstrations have in common.
        demonstrations: sentences that deviate from the style as `NOISE` says; one in four is about a
            person of `PRIVATE_NAMES`.
        queries: records of others.
        references: their sentences in the style.
    """

    style: Style
    demonstrations: tuple[Demonstration, ...]
    queries: tuple[str, ...]
    references: tuple[str, ...]


def draw_style(rng: np.random.Generator) -> Style:
    """A style, all of them equally likely."""
    return tuple(int(rng.integers(len(choices))) for choices in SLOTS.values())


def deviate(rng: np.random.Generator, style: Style, noise: float = NOISE) -> Style:
    """A style in which each choice is drawn anew with probability `noise`."""
    other, moved = draw_style(rng), rng.random(len(style)) < noise
    return tuple(b if m else a for a, b, m in zip(style, other, moved, strict=True))


def draw_record(rng: np.random.Generator, names: Sequence[str] = NAMES) -> Record:
    """A record about one of the names."""
    name, place, item, day = (
        words[int(rng.integers(len(words)))] for words in (names, PLACES, ITEMS, DAYS)
    )
    return Record(name=name, place=place, count=int(rng.integers(2, 100)), item=item, day=day)


def write(record: Record, style: Style) -> str:
    """The sentence of a record in a style."""
    chosen = {slot: SLOTS[slot][i] for slot, i in zip(SLOTS, style, strict=True)}

    def cased(word: str) -> str:
        return getattr(word, chosen["case"])()

    parts = {
        "who": f"{cased(chosen['who'])} {record.name}",
        "what": f"{cased(chosen['what'])} {record.count} {cased(chosen['unit'])} of {record.item}",
        "where": f"{cased(chosen['where'])} {record.place}",
        "when": f"{cased(chosen['when'])} {record.day}",
    }
    order = [parts[PARTS[int(i)]] for i in chosen["order"]]
    return f"{chosen['opening']} {(chosen['mark'] + ' ').join(order)}{chosen['ending']}"


def episode(rng: np.random.Generator, n: int, noise: float = NOISE) -> list[Demonstration]:
    """Some demonstrations in one style, about anybody."""
    style = draw_style(rng)
    return [
        Demonstration(input=record.text, output=write(record, deviate(rng, style, noise)))
        for record in (draw_record(rng, (*NAMES, *PRIVATE_NAMES)) for _ in range(n))
    ]


def draw_task(seed: int, *, n_demonstrations: int, n_queries: int, noise: float = NOISE) -> Task:
    """A task with a style of its own.

    Args:
        seed: The same one gives the same task.
        n_demonstrations: Private demonstrations.
        n_queries: Queries, no two about the same record.
        noise: Share of deviating choices in the demonstrations.
    """
    rng = np.random.default_rng([seed, 7])
    style = draw_style(rng)
    demonstrations = []
    for _ in range(n_demonstrations):
        record = draw_record(rng, PRIVATE_NAMES if rng.random() < 0.25 else NAMES)
        sentence = write(record, deviate(rng, style, noise))
        demonstrations.append(Demonstration(input=record.text, output=sentence))
    queries: dict[Record, str] = {}
    while len(queries) < n_queries:
        record = draw_record(rng)
        queries[record] = write(record, style)
    return Task(
        style=style,
        demonstrations=tuple(demonstrations),
        queries=tuple(record.text for record in queries),
        references=tuple(queries.values()),
    )
