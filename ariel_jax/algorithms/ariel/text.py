"""Text as it arrives from an agent, made harmless and comparable. Host only."""

import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any

from ariel_jax.errors import ConfigError, InvalidRequestError

LIMIT = 500
"""Characters of a text that are read; the rest is cut, and the mapping says so."""

STRUCTURE = frozenset(
    """a an the this that these those some any my mine your yours his her hers its our ours their theirs
    me you him she it us we they them i he myself yourself himself herself themselves own
    who whom whose which what where when how whether
    of for to from in on at by with about as into onto via per and or if so then
    is are was were be been being am do does did has have had having would shall should can could
    may might must just only now here there will
    whichever whatever one each every another certain same particular specific given respective
    current currently""".split()
)
"""Words that join others."""
FUNCTION_WORDS = STRUCTURE | frozenset(
    """please kindly thank thanks hello hi dear
    share shares shared sharing hands send sends sent sending give gives giving tell tells told telling
    disclose disclosed disclosing provide provides provided providing supply supplied submit submitted
    show shows shown reveal revealed pass passed passing enter entered hand handed
    know knowing need needs needed want wants wanted wish wishes like ask asks asked asking
    request requests requested require requires required get gets let see use uses used using
    purpose reason sake because regarding concerning called namely behalf belongs
    come comes go goes going out say says said promise promises promised fine ok okay""".split()
)
"""Words that carry a phrase and say nothing about which node is meant."""
WEAK_WORDS = frozenset(("info", "information", "detail", "data"))
"""Nouns that many names end with; left out where that leaves one node."""
_FOR_RULES = frozenset(
    """a an the it its this that i you he she we they is are was be been being will shall would must if only and please
    then said say says promise promises fine ok okay always""".split()
)
KEPT = {
    "data": frozenset("given one will going who where how whether use used".split()),
    "recipient": frozenset(("own",)),
    "purpose": frozenset(("one", "use")),
    "principle": FUNCTION_WORDS - _FOR_RULES,
    "subject": frozenset("me i myself own".split()),
    "sender": frozenset("me i myself own".split()),
}
"""Carriers that say something in one slot; in a rule for handling data nearly every word does."""
_UNSEEN = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180F, 0x2800, 0x3164, 0xFFA0))
) | frozenset(map(chr, (*range(0x180B, 0x180E), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
"""Drawn as nothing, though Unicode calls them letters, marks or signs."""
_VALUES = re.compile(r"\S+@\S+|https?://\S+|www\.\S+|#\S+|[+(]?\d[\d\s().:/+-]*\d|\d+")
_WORDS = re.compile(r"[^\W_]+")
_SPELLINGS = (
    (re.compile(r"isation$"), "ization"),
    (re.compile(r"(?<=[a-z]{2})ise(?=$|[drs]$|rs$)"), "ize"),
    (re.compile(r"(?<=[a-z]{3})our(?=$|s$|ed$|ite$|ites$|ing$)"), "or"),
    (re.compile(r"cence$"), "cense"),
    (re.compile(r"programme"), "program"),
    (re.compile(r"(?<=[a-z]t)re$"), "er"),
    (re.compile(r"enrol(?!l)"), "enroll"),
    (re.compile(r"ll(?=ed$|ing$|er$)"), "l"),
    (re.compile(r"(?<=dg)e(?=men)"), ""),
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
        elif unicodedata.category(letter)[0] == "C" or letter in _UNSEEN:
            hidden = True
        else:
            seen.append(letter)
    if hidden:
        flags.append("controls")
    joined = " ".join("".join(seen).split())
    if len(joined) > LIMIT or len(text) > len(head):
        flags.append("cut")
    return joined[:LIMIT].rstrip(), tuple(flags)


def is_blank(text: str) -> bool:
    """Whether a text says nothing: no letter, digit or sign of it is one that a reader would see.

    Zero-width characters, bidirectional marks, fillers and accents on nothing are not seen. Such a
    text counts as not given. Half of a surrogate pair is no character and not nothing either: it is left
    to who refuses it.

    Raises:
        InvalidRequestError: it is no text.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"text={text!r} is not allowed: pass a string.")
    if text.isascii():
        return not any("!" <= letter <= "~" for letter in text)
    return not any(
        (unicodedata.category(letter)[0] in "LNPS" and letter not in _UNSEEN)
        or "\ud800" <= letter <= "\udfff"
        for letter in unicodedata.normalize("NFKC", text)
    )


def new_text_key() -> bytes:
    """32 random bytes for `keyed_digest`."""
    return secrets.token_bytes(32)


def keyed_digest(text: str, key: bytes) -> str:
    """HMAC-SHA256 of a text in hexadecimal digits, empty for no text.

    Who has not the key cannot even check a guess. Half of a surrogate pair has a digest too.
    """
    return hmac.new(key, _encoded(text), hashlib.sha256).hexdigest() if text else ""


def text_digest(text: str, previous_hash: str, key: bytes) -> str:
    """What a proof has of a text: `keyed_digest` of it behind the hash of the decision before.

    So equal texts of one log differ in their digests, and say nothing about one another.
    """
    return keyed_digest(previous_hash + text, key) if text else ""


def is_text_of(proof: Mapping[str, Any], text: str, key: bytes | None) -> bool:
    """Whether a proof is of a request that came with this text.

    Args:
        proof: of `proof.build`; one of version 1 has a plain SHA-256 and needs no key.
        text: to check.
        key: that the proof was built with; None: it is not known, and then only no text can be told.

    Raises:
        ConfigError: it is no proof, or its text needs a key.
    """
    request, previous = proof.get("request"), proof.get("prev_decision_hash", "")
    if not isinstance(request, Mapping) or not isinstance(previous, str):
        raise ConfigError("this is no proof: pass the one of a decision.")
    if "text_sha256" in request:
        known, found = request["text_sha256"], hashlib.sha256(_encoded(text)).hexdigest()
    elif "text_hmac" in request:
        known = request["text_hmac"]
        if known and key is None:
            raise ConfigError(
                "the text of a proof cannot be checked without its key: pass the key."
            )
        found = text_digest(text, previous, key or b"")
    else:
        raise ConfigError(
            "this request of a proof has no digest of a text: pass that of a decision."
        )
    if not isinstance(known, str) or not known.isascii():
        raise ConfigError(
            "the digest of the text in this proof is none: pass the one of a decision."
        )
    return hmac.compare_digest(known, found if text else "")


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


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


def content_words(found: tuple[str, ...], slot: str) -> tuple[str, ...]:
    """`words` without those that only carry a phrase in `slot`; all of them where none is left."""
    return tuple(word for word in found if word not in _CARRIERS[slot]) or found


def core_words(found: tuple[str, ...], slot: str) -> tuple[str, ...]:
    """`content_words` without weak nouns."""
    bare = content_words(found, slot)
    return tuple(word for word in bare if word not in WEAK_WORDS) or bare


def is_carrier(word: str, slot: str) -> bool:
    """Whether a word only carries a phrase in `slot`."""
    adverb = len(word) > 5 and word.endswith("ly") and word not in ("family", "supply", "assembly")
    return adverb or word in _CARRIERS[slot] or _one_spelling(word) in _CARRIERS[slot]


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


def joins(words_left_out: set[str]) -> bool:
    """Whether words only join others, or are weak nouns: a name without them is still that name."""
    return all(word in _JOINING for word in words_left_out)


_JOINING = STRUCTURE | WEAK_WORDS | frozenset(map(_one_spelling, STRUCTURE))
_CARRIERS = {
    slot: frozenset(map(_one_spelling, FUNCTION_WORDS - kept)) | (FUNCTION_WORDS - kept)
    for slot, kept in KEPT.items()
}
