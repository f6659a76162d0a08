"""Generated documents of the nano corpus: arithmetic, copying, JSON, short stories, dialogues.

Every answer is computed, not looked up, so it is right by construction. A shard is a function of
its seed alone, on every machine and Python version: `Draw` uses only `random.Random.random`, the
one method whose sequence Python promises to keep.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from experiments.nano import words

SHARD_SIZE = 200
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"

T = TypeVar("T")
Turn = tuple[str, str]


class Draw:
    """Random choices with a sequence that never changes between Python versions.

    Args:
        seed: Any integer; each gives its own sequence.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, n: int) -> int:
        """An integer from 0 to n - 1."""
        return int(self._random.random() * n)

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]


def chat(turns: Sequence[Turn]) -> str:
    """A dialogue in the chat format of the tokenizer, as its chat template writes it."""
    return "".join(f"{USER}{asked}{END}{ASSISTANT}{said}{END}" for asked, said in turns)


def add_steps(a: int, b: int) -> str:
    """The column addition of two numbers below 100, in words."""
    ones, tens = a % 10 + b % 10, a // 10 + b // 10
    if a < 10 and b < 10:
        return f"{a} + {b} = {a + b}."
    carry = ones // 10
    extra = " + 1" if carry else ""
    return (
        f"Ones: {a % 10} + {b % 10} = {ones}. "
        f"Tens: {a // 10} + {b // 10}{extra} = {tens + carry}. So {a} + {b} = {a + b}."
    )


def subtract_steps(a: int, b: int) -> str:
    """The difference of two numbers, a >= b, by going over the tens."""
    tens = b // 10 * 10
    if not tens or tens == b:
        return f"{a} - {b} = {a - b}."
    return (
        f"{a} - {tens} = {a - tens}, and {a - tens} - {b - tens} = {a - b}. So {a} - {b} = {a - b}."
    )


def multiply_steps(a: int, b: int) -> str:
    """The product of a number below 100 and one below 10, by tens and ones."""
    tens = a // 10 * 10
    if not tens or tens == a:
        return f"{a} * {b} = {a * b}."
    return (
        f"{tens} * {b} = {tens * b}, {a - tens} * {b} = {(a - tens) * b}, "
        f"and {tens * b} + {(a - tens) * b} = {a * b}. So {a} * {b} = {a * b}."
    )


def arithmetic_turn(draw: Draw) -> Turn:
    """A sum, difference or product of small numbers, or a comparison, with the worked answer."""
    kind = draw.below(5)
    if kind == 0:
        a, b, sign, steps = draw.below(100), draw.below(100), "+", add_steps
    elif kind == 1:
        a, b, sign, steps = draw.below(10), draw.below(10), "+", add_steps
    elif kind == 2:
        a = draw.below(100)
        b, sign, steps = draw.below(a + 1), "-", subtract_steps
    elif kind == 3:
        a, b, sign, steps = draw.below(20), draw.below(10), "*", multiply_steps
    else:
        a, b = draw.below(100), draw.below(100)
        relation = "equal to" if a == b else "greater than" if a > b else "less than"
        asked = draw.pick(("Compare {a} and {b}.", "Which is greater, {a} or {b}?"))
        return asked.format(a=a, b=b), f"{a} is {relation} {b}."
    forms = (
        "What is {a} {s} {b}?",
        "Compute {a} {s} {b}.",
        "{a} {s} {b} = ?",
        "How much is {a} {s} {b}?",
    )
    return draw.pick(forms).format(a=a, s=sign, b=b), steps(a, b)


def word_problem_turn(draw: Draw) -> Turn:
    """A one-step word problem."""
    who, other = draw.some(words.NAMES, 2)
    fruit, a, b = draw.pick(words.FRUITS), draw.between(2, 50), draw.between(2, 50)
    if draw.below(2):
        asked = f"{who} has {a} {fruit}. {other} gives {who} {b} more. How many {fruit} does {who} have?"
        return asked, f"{add_steps(a, b)} {who} has {a + b} {fruit}."
    a, b = max(a, b), min(a, b)
    asked = f"{who} has {a} {fruit} and gives {b} of them to {other}. How many are left?"
    return asked, f"{subtract_steps(a, b)} {who} has {a - b} {fruit} left."


def list_turn(draw: Draw) -> Turn:
    """A task on a short list of words or numbers: repeat, reverse, sort, index, count."""
    count = draw.between(2, 5)
    if draw.below(2):
        items = draw.some(draw.pick((words.THINGS, words.COLOURS, words.ANIMALS)), count)
        kind, ordered = "words", sorted(items)
    else:
        numbers = draw.some(range(100), count)
        items, kind = [str(n) for n in numbers], "numbers"
        ordered = [str(n) for n in sorted(numbers)]
    text = ", ".join(items)
    task = draw.below(6)
    if task == 0:
        return f"Repeat these {kind}: {text}", text
    if task == 1:
        return f"Reverse these {kind}: {text}", ", ".join(reversed(items))
    if task == 2:
        return f"Sort these {kind}: {text}", ", ".join(ordered)
    if task == 3:
        place = draw.below(count)
        return f"Which is the {words.ORDINALS[place]} of these {kind}: {text}?", f"{items[place]}"
    if task == 4:
        return f"How many {kind} are in this list: {text}?", f"There are {count} {kind}."
    return f"Write these {kind} as a Python list: {text}", str(
        items if kind == "words" else [int(n) for n in items]
    )


def copy_turn(draw: Draw) -> Turn:
    """A task that copies or spells a text."""
    word = draw.pick(words.THINGS + words.ANIMALS + words.COLOURS)
    task = draw.below(5)
    if task == 0:
        return f"Spell the word {word}.", "-".join(word)
    if task == 1:
        return f"Write {word} in upper case.", word.upper()
    if task == 2:
        times = draw.between(2, 6)
        return f"Say {word} {times} times.", " ".join([word] * times)
    code = "".join(draw.pick("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(draw.between(3, 8)))
    if task == 3:
        return f"Repeat the code {code}.", code
    return f"The code is {code}. What is the code?", f"The code is {code}."


def record(draw: Draw) -> tuple[dict[str, object], str]:
    """A record with two to four fields and the sentence that says the same."""
    name, age = draw.pick(words.NAMES), draw.between(18, 80)
    if draw.below(2):
        data: dict[str, object] = {"name": name, "age": age}
        parts = [f"{name} is {age} years old"]
        country = draw.pick(tuple(words.CAPITALS))
        job, pet = draw.pick(words.JOBS), draw.pick(words.ANIMALS)
        if draw.below(2):
            data["city"] = words.CAPITALS[country]
            parts.append(f"lives in {words.CAPITALS[country]}")
        if draw.below(2):
            data["job"] = job.split(" ", 1)[1]
            parts.append(f"works as {job}")
        if draw.below(3) == 0:
            data["pet"] = pet
            parts.append(f"has {'an' if pet == 'owl' else 'a'} {pet}")
        text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
        return data, text + "."
    thing, colour, price = draw.pick(words.THINGS), draw.pick(words.COLOURS), draw.between(1, 99)
    stock = draw.below(50)
    data = {"item": thing, "colour": colour, "price": price, "stock": stock}
    amount = f"{stock} are" if stock != 1 else "1 is"
    return data, f"The {colour} {thing} costs {price} euros and {amount} in stock."


def json_turn(draw: Draw) -> Turn:
    """Record to JSON, JSON to sentence, or the value of one field."""
    data, sentence = record(draw)
    text = json.dumps(data)
    task = draw.below(3)
    if task == 0:
        return f"Write as JSON: {sentence}", text
    if task == 1:
        return f"Write as a sentence: {text}", sentence
    field = draw.pick(tuple(data))
    return f"What is the {field} in {text}?", f"The {field} is {data[field]}."


def fact_turn(draw: Draw) -> Turn:
    """A question about capitals, opposites, days, months, units or simple terms."""
    task = draw.below(6)
    if task == 0:
        country = draw.pick(tuple(words.CAPITALS))
        city = words.CAPITALS[country]
        if draw.below(3):
            return f"What is the capital of {country}?", f"The capital of {country} is {city}."
        return f"Which country has the capital {city}?", f"{city} is the capital of {country}."
    if task == 1:
        one, other = draw.pick(words.OPPOSITES)
        return f"What is the opposite of {one}?", f"The opposite of {one} is {other}."
    if task == 2:
        cycle, unit = draw.pick(((words.DAYS, "day"), (words.MONTHS, "month")))
        at, step = draw.below(len(cycle)), draw.pick((1, -1))
        where = "after" if step > 0 else "before"
        return (
            f"Which {unit} comes {where} {cycle[at]}?",
            f"{cycle[(at + step) % len(cycle)]} comes {where} {cycle[at]}.",
        )
    if task == 3:
        small, large, factor = draw.pick(words.UNITS)
        n = draw.between(1, 9)
        article = "an" if large == "hour" else "a"
        if n == 1:
            return (
                f"How many {small} are in {article} {large}?",
                f"There are {factor} {small} in {article} {large}.",
            )
        return (
            f"How many {small} are in {n} {large}s?",
            f"One {large} has {factor} {small}, so {n} {large}s have {n} * {factor} = {n * factor} {small}.",
        )
    if task == 4:
        term = draw.pick(tuple(words.DEFINITIONS))
        return f"What is {term}?", words.DEFINITIONS[term]
    step, start = draw.between(1, 10), draw.between(0, 20)
    shown = ", ".join(str(start + step * i) for i in range(4))
    return f"Continue: {shown}", ", ".join(str(start + step * i) for i in range(4, 7))


def code_turn(draw: Draw) -> Turn:
    """A request for a small Python function."""
    name, args, does, body = draw.pick(words.SNIPPETS)
    asked = draw.pick(
        (
            f"Write a Python function that {does}.",
            f"Write a function {name} that {does}.",
            f"How do I write a function that {does}?",
        )
    )
    doc = f'    """{does[0].upper()}{does[1:]}."""\n' if draw.below(2) else ""
    return asked, f"def {name}({args}):\n{doc}    {body}"


def talk(draw: Draw) -> list[Turn]:
    """A short conversation in which the assistant has to remember what was said."""
    name, job, country = (
        draw.pick(words.NAMES),
        draw.pick(words.JOBS),
        draw.pick(tuple(words.CAPITALS)),
    )
    hello = draw.pick(("Hello", "Hi", "Good morning", "Good evening"))
    greeting = draw.pick(("What can I do for you?", "How can I help you?"))
    turns = [(f"{hello}, my name is {name}.", f"{hello}, {name}. {greeting}")]
    if draw.below(2):
        turns.append(
            (f"I am {job} and I live in {country}.", f"It is nice to meet {job} from {country}.")
        )
    turns.append(draw.pick(TURNS)(draw))
    if len(turns) == 3 and draw.below(2):
        turns.append(
            draw.pick(
                (
                    ("Where do I live?", f"You live in {country}."),
                    ("What is my job?", f"You are {job}."),
                )
            )
        )
    if draw.below(2):
        turns.append(("What is my name?", f"Your name is {name}."))
    if draw.below(2):
        turns.append((draw.pick(("Thank you.", "Thanks!")), f"You are welcome, {name}."))
    return turns


def story(draw: Draw) -> str:
    """Three to six plain sentences about two people, a thing and an animal."""
    who, friend = draw.some(words.NAMES, 2)
    thing, colour, animal = (
        draw.pick(words.THINGS),
        draw.pick(words.COLOURS),
        draw.pick(words.ANIMALS),
    )
    place, elsewhere = draw.some(words.PLACES, 2)
    day, job = draw.pick(words.DAYS), draw.pick(words.JOBS)
    the = f"the {colour} {thing}"
    a = f"{'an' if colour == 'orange' else 'a'} {colour} {thing}"
    opening = draw.pick(
        (
            f"On {day} {who} lost {a} {place}.",
            f"{who}, {job}, lost {a} {place} on {day}.",
            f"One {day} morning {who} could not find {the}. It had been {place}.",
        )
    )
    search = draw.pick(
        (
            f"{who} looked for it everywhere but did not see it.",
            f"{who} asked {friend} for help, and they looked for it together.",
            f"{friend} had not seen it either.",
        )
    )
    found = draw.pick(
        (
            f"In the end a small {animal} showed them where it was: {elsewhere}.",
            f"Later {friend} found it {elsewhere}, next to a sleeping {animal}.",
            f"After an hour {friend} saw it {elsewhere}.",
        )
    )
    closing = draw.pick(
        (
            f"{who} was happy to have {the} again.",
            f'"Thank you," said {who}, and took {the} home.',
            f"{who} and {friend} laughed and went home.",
        )
    )
    middle = [
        draw.pick(
            (
                f"It was {draw.pick(('a cold', 'a warm', 'a rainy', 'a windy'))} day.",
                f"It was a present from {friend}.",
                "",
            )
        )
    ]
    sentences = [opening, *middle, search, found, closing]
    return " ".join(sentence for sentence in sentences if sentence) + "\n"


TURNS: tuple[Callable[[Draw], Turn], ...] = (
    arithmetic_turn,
    arithmetic_turn,
    word_problem_turn,
    list_turn,
    copy_turn,
    json_turn,
    fact_turn,
    code_turn,
)


def document(draw: Draw) -> str:
    """One generated document: a dialogue, a page of questions and answers, or a story."""
    kind = draw.below(10)
    if kind < 4:
        return chat([draw.pick(TURNS)(draw) for _ in range(draw.between(1, 4))])
    if kind < 6:
        return chat(talk(draw))
    if kind < 9:
        turn = draw.pick(TURNS)
        pairs = [turn(draw) for _ in range(draw.between(1, 6))]
        return "\n".join(f"Q: {asked}\nA: {said}\n" for asked, said in pairs)
    return story(draw)


def shard(seed: int, size: int = SHARD_SIZE) -> tuple[str, ...]:
    """The documents of one seed.

    Args:
        seed: Seed of the shard; different seeds give different documents.
        size: Number of documents.

    Returns:
        `size` texts. A text may occur in several shards: the space of small sums is small.
    """
    draw = Draw(seed)
    return tuple(document(draw) for _ in range(size))
