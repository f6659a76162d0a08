"""Text as it arrives from an agent, made harmless and comparable. Host only."""

import re
import unicodedata

from ariel_jax.errors import InvalidRequestError

LIMIT = 500
"""Characters of a text that are read; the rest is cut, and the mapping says so."""

FUNCTION_WORDS = frozenset(
    """a an the this that these those some any my mine your yours his her hers its our ours their theirs
    i me you he him she it we us they them myself yourself himself herself themselves own user owner
    holder person people one client's who whom whose which what where when how
    of for to from in on at by with about as into onto via per and or plus also
    is are was were be been being am do does did has have had having will would shall should can could
    may might must please kindly thank thanks hello hi dear so just only now here there then not
    share sharing send sending give giving tell telling disclose disclosing provide providing hand
    show showing reveal revealing pass passing submit submitting supply supplying enter entering
    know knowing need needs needed needing want wants wanted wanting like ask asks asked asking request
    requests requested requesting require requires get getting let see looking look take using use
    purpose order reason sake because regarding concerning namely called being currently current
    information info detail data field value item piece copy namely following under condition going
    goes go received receiver recipient sender subject behalf question term""".split()
)
"""Words that carry a phrase and say nothing about which node is meant."""

_VALUES = re.compile(r"\S+@\S+|https?://\S+|www\.\S+|#\S+|[+(]?\d[\d\s().:/+-]*\d|\d+")
_WORDS = re.compile(r"[^\W_]+")
_SPELLINGS = (
    (re.compile(r"isation$"), "ization"),
    (re.compile(r"(?<=[a-z]{2})ise(?=$|[drs]$|rs$)"), "ize"),
    (re.compile(r"(?<=[a-z]{3})our(?=$|s$|ed$|ite$|ites$|ing$)"), "or"),
    (re.compile(r"cence$"), "cense"),
    (re.compile(r"programme"), "program"),
    (re.compile(r"(?<=[a-z])tre$"), "ter"),
    (re.compile(r"enrol(?!l)"), "enroll"),
    (re.compile(r"ll(?=ed$|ing$|er$)"), "l"),
    (re.compile(r"(?<=judg|nowl)ement"), "ment"),
)


def clean(text: str) -> tuple[str, tuple[str, ...]]:
    """A text without what a reader would not see, and what was done to it.

    Args:
        text: as it arrived.

    Returns:
        (text, flags): in NFKC, without control and format characters (zero width, bidirectional
        marks), blanks joined, cut to `LIMIT` characters. Flags are `controls` where something
        invisible was taken out and `cut` where it was too long.

    Raises:
        InvalidRequestError: it is no text.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"text={text!r} is not allowed: pass a string.")
    flags = []
    head = text[: 4 * LIMIT]
    seen, hidden = [], False
    for letter in unicodedata.normalize("NFKC", head):
        if letter.isspace():
            seen.append(" ")
        elif unicodedata.category(letter)[0] == "C":
            hidden = True
        else:
            seen.append(letter)
    if hidden:
        flags.append("controls")
    joined = " ".join("".join(seen).split())
    if len(joined) > LIMIT or len(text) > len(head):
        flags.append("cut")
    return joined[:LIMIT].rstrip(), tuple(flags)


def redact(text: str) -> str:
    """A cleaned text in which numbers, addresses of mail and of the web stand as `[value]`."""
    return " ".join(_VALUES.sub(" [value] ", text).split())


def words(text: str) -> tuple[str, ...]:
    """Words of a cleaned text in one spelling: lower case, singular, American, no values.

    Values (numbers, addresses of mail and of the web) are no words, unless nothing else is there.
    """
    lowered = text.casefold().replace("’", "'")
    lowered = re.sub(r"'s\b|s'(?=\s|$)", lambda m: "" if m[0] == "'s" else "s", lowered)
    lowered = re.sub(r"\b(e|wi|check|co|sign|log)-(?=[a-z])", r"\1", lowered)
    found = _WORDS.findall(_VALUES.sub(" ", lowered)) or _WORDS.findall(lowered)
    return tuple(_one_spelling(word) for word in found)


def content_words(found: tuple[str, ...]) -> tuple[str, ...]:
    """`words` without those that only carry a phrase."""
    return tuple(word for word in found if word not in _CARRIERS)


def _one_spelling(word: str) -> str:
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith(("sses", "ches", "shes", "xes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for pattern, other in _SPELLINGS:
        word = pattern.sub(other, word)
    return word


_CARRIERS = FUNCTION_WORDS | {_one_spelling(word) for word in FUNCTION_WORDS}
