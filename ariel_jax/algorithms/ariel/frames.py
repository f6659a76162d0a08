"""What may stand around a name without changing what it means: closed lists. Host only.

A text is taken for a name only where every other word of it is in the list of its slot. No list has a
word that denies, excepts, joins or adds, or that says whose something is but for the user's own.
"""

import re

DETERMINERS = frozenset("a an the this that these those my our your".split())
"""Articles, and possessives of the user (`your` where the user is spoken to)."""
_COMMON = DETERMINERS | frozenset("some any one please kindly just only it is".split())
FRAMES = {
    "data": _COMMON
    | frozenset(
        """share send give tell provide show enter submit supply confirm need needs needed want wants
        required me us we i to be what of for""".split()
    ),
    "recipient": _COMMON | frozenset("to for with goes go sent send shared share will be".split()),
    "purpose": _COMMON
    | frozenset(
        """to for in order so i we can want wish need needed would like because purpose be used use
        me""".split()
    ),
    "principle": frozenset(
        """a the this that it is be will must shall has to only just if please provided as long under on
        condition""".split()
    ),
    "subject": _COMMON | frozenset("about of for data concerns concerning regarding".split()),
    "sender": _COMMON | frozenset("from by sent sends comes provided given shared".split()),
}
"""Words that may stand around a name, by slot."""
_TITLES = {
    "data": "data|field|item|input",
    "subject": "subject|person",
    "sender": "sender|source|from",
    "recipient": "recipient|receiver|addressee|to",
    "purpose": "purpose|reason|task|goal",
    "principle": "principle|terms|condition",
}
_TITLE = {slot: re.compile(rf"(?:{names})s?\s*:\s*") for slot, names in _TITLES.items()}
_ROLE = r"(?:the|this|our) (?:user|account holder|customer|applicant)"
_WHOSE = re.compile(rf"^{_ROLE}'s |^user's | of {_ROLE}$")
_MAIL = re.compile(r"(.+?)(?:\s*[:=]\s*|\s+|\s*\()([\w.+-]+@[\w-]+(?:\.[\w-]+)+)\)?")
_CALL = re.compile(r"(.+?)(?:\s*[:=]\s*|\s+|\s*\()(\+?\d[\d ().-]*\d)\)?")
_MAIL_NAME = re.compile(r"\be-?mail\b")
_CALL_NAME = re.compile(r"\b(?:phone|telephone|mobile|cell)\b")


def bare(text: str, slot: str) -> str:
    """A cleaned text in lower case, without what certainly says nothing about its node.

    Taken off: one pair of brackets or quotes around all of it, the slot's own title before a colon,
    one mark at the end, in `data` words for the user as the owner, and there a telephone number or an
    address of mail behind a name for such. A question mark stays in `principle`: what is asked is not
    promised.
    """
    left = text.casefold().replace("’", "'").strip()
    left = re.sub(r"^\((.*)\)$|^\[(.*)\]$|^\"(.*)\"$", _inside, left).strip()
    left = _TITLE[slot].sub("", left, count=1) if _TITLE[slot].match(left) else left
    marks = r"\s*[.!*]$" if slot == "principle" else r"\s*[.!*?]$"
    left = re.sub(marks, "", left)
    if slot == "data":
        left = _WHOSE.sub("", _without_value(left))
    return left.strip()


def _inside(found: re.Match[str]) -> str:
    inner = next(group for group in found.groups() if group is not None)
    return found[0] if set(inner) & set('()[]"') else inner


def _without_value(text: str) -> str:
    mail, call = _MAIL.fullmatch(text), _CALL.fullmatch(text)
    if mail and _MAIL_NAME.search(mail[1]):
        return mail[1]
    digits = sum(letter.isdigit() for letter in call[2]) if call else 0
    if call and 7 <= digits <= 13 and _CALL_NAME.search(call[1]):
        return call[1]
    return text


def pieces(text: str) -> tuple[tuple[int, int, str], ...] | None:
    """(begin, end, word) of every word of a `bare` text; None where it has a mark, number or address."""
    found = tuple((m.start(), m.end(), m[0]) for m in _PIECE.finditer(text))
    between = _PIECE.sub("", text)
    return None if between.strip() or any(c.isdigit() for c in text) else found


_PIECE = re.compile(r"[^\W_]+(?:['-][^\W_]+)*(?:(?<=s)'(?= ))?")
