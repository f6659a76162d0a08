"""The gate before every mapper that guesses: what negates, excepts or names several things stays out. Host only.

A model that is asked what "not my phone number" means says the phone number. So such texts never reach
one: they are asked about. The gate reads English, and what it cannot read does not pass either. It is
weaker than `frames`: there every word must be in a list, here no word may be in one. So a denial in words
that no list has passes, and then the model's threshold is all there is.
"""

import functools
import unicodedata

from ariel_jax.algorithms.ariel.frames import bare, pieces
from ariel_jax.algorithms.ariel.lexicon import SlotIndex, one_letter_apart

VERSION = 1
"""Of these rules; part of the name of each mapper behind the gate, and so of every proof."""
NEGATES = frozenset(
    """no not non none nor never neither nobody nothing nowhere cannot without except excepted excepting
    exception exceptions exclude excludes excluded excluding besides but unless instead rather apart minus
    omit omits omitted omitting skip skipping ignore ignores ignored ignoring disregard forget drop avoid
    withhold withheld refuse refused deny denied forbid forbidden lack lacks lacking absent missing
    hardly barely scarcely rarely seldom almost nearly maybe perhaps possibly
    fake faked false bogus evil former formerly ex late previous pretend pretends pretended pretending
    impersonate impersonates impersonating impersonator pose poses posing posed alleged allegedly supposed
    supposedly opposite unlike contrary anti versus vs less only
    nicht kein keine keinen keiner nie ohne ausser pas sans sauf jamais aucun sin excepto salvo nunca
    senza eccetto mai niente niet geen zonder behalve nooit sem exceto""".split()
)
"""Words that deny, except, pretend or doubt."""
JOINS = frozenset(
    """and or plus also then too both either each every all everything everyone everybody anything anyone
    anybody whatever whoever whomever whichever whole entire several more other others another else
    otherwise together along alongside additionally moreover furthermore including include includes included
    incl etc besides beyond further extra und oder et ou""".split()
)
"""Words that add a thing, or widen one to many."""
FAKES = frozenset(
    """dummy invented fictitious imaginary imitation counterfeit phony phoney sham impostor impostors imposter
    imposters lookalike lookalikes clone clones cloned phisher phishers phishing scam scams scammer scammers
    spoof spoofed spoofing forged pseudo socalled unofficial unverified hacker hackers hacked stolen""".split()
)
"""Words that say that something is not what it is called."""
WITHDRAWS = frozenset(
    """stop stopped stopping hide hides hidden hiding conceal conceals concealed concealing remove
    removes removed removing delete deletes deleted deleting erase erases erased erasing prohibit prohibits
    prohibited prohibiting ban bans banned banning block blocks blocked blocking refrain refrains prevent
    prevents prevented preventing cease ceases halt revoke revokes revoked revoking redact redacted""".split()
)
"""In `data` and `recipient`: verbs that take back; purposes and rules may be about nothing else."""
OTHERS = frozenset(
    """he him his she her hers they them their theirs somebody someone wife wives husband husbands spouse
    partner girlfriend boyfriend fiance fiancee son sons daughter daughters child children kid kids
    mother father mom mum mam dad parent parents brother brothers sister sisters sibling siblings grandmother
    grandfather grandma grandpa granny grandparent grandparents grandson granddaughter aunt uncle cousin cousins
    niece nephew family relative relatives friend friends buddy pal mate flatmate flatmates roommate roommates
    housemate housemates neighbour neighbours neighbor neighbors guest guests visitor visitors colleague
    colleagues coworker coworkers teammate teammates boss manager supervisor employee employees staff client
    clients customer customers patient patients tenant tenants landlord landlady student students pupil pupils
    teacher stranger strangers bystander bystanders companion companions""".split()
)
"""In `data`: words for somebody who is not the user."""
_DOUBTS = frozenset(
    "if when was were had might may could would should whether until mostly usually".split()
)
"""In `principle`: what held once, or may hold, is not promised."""
_OF_SLOT = {"data": WITHDRAWS, "recipient": WITHDRAWS, "principle": _DOUBTS}
_MENDED = ("except", *sorted(w for w in NEGATES | JOINS if len(w) >= 7))
_REAL = frozenset(
    """shipping packing backing locking racking tacking sacking hacking licking lacing slacking blacking slipping
    clipping snipping skimping resides reused refuted recused possible emitted emitting remitted noting farther""".split()
)
"""Words of one's own that are one letter from a word of the lists."""
_CONTRACTED = [
    word + "nt"
    for word in "do does did is are was were has have had wo ca could would should must might need sha ai".split()
]
_NOT_SHORT = frozenset((*_CONTRACTED, "nto", "ont"))


def refusal(slot: str, text: str, index: SlotIndex | None = None) -> str:
    """Why no model may map a text; empty where one may.

    Words inside of a name of the slot's nodes say what that name says: "without telling me" denies
    nothing that its node does not.

    Args:
        slot: it stands in.
        text: cleaned (`text.clean`), not blank.
        index: of the slot's nodes; None: names are not looked for.

    Returns:
        `marks`: it has a comma, another mark, a number or an address, and so may name more than one thing
        (one mark at the end, quotes around it, the slot's title before a colon, a telephone number behind
        a name for such do not count). `unreadable`: letters that are not Latin, or stand alone.
        `negates`: a word of `NEGATES` or `FAKES`, `n't` with or without its mark, a slip of one letter in a
        long word of `NEGATES` or `JOINS`, in `data` and `recipient` a word of `WITHDRAWS`, in `principle` a
        doubt ("if", "may").
        `several`: a word of `JOINS`, or names of two nodes. `others`: a possessive, or in `data` a word
        of `OTHERS`.
    """
    row = pieces(bare(text, slot))
    if not row:
        return "marks"
    found = [_plain(word) for _, _, word in row]
    if not all(word.isascii() and (len(word) > 1 or word in "ai") for word in found):
        return "unreadable"  # spelt out or drawn with other letters, a word is in no list
    nodes, inside = (set(), set()) if index is None else index.names_in(tuple(found))
    outside = [word for at, word in enumerate(found) if at not in inside]
    parts = {part for word in outside for part in (word, *word.replace("'", "-").split("-"))}
    denied = parts & (NEGATES | FAKES) or any(map(_is_denial, parts))
    if denied or parts & _OF_SLOT.get(slot, frozenset()):
        return "negates"
    if parts & JOINS or len(nodes) > 1:
        return "several"
    if any(word.endswith(("'s", "s'")) for word in outside) or (slot == "data" and parts & OTHERS):
        return "others"
    return ""


@functools.lru_cache(maxsize=1024)
def _plain(word: str) -> str:
    """Without accents: they would hide a word from the lists."""
    apart = unicodedata.normalize("NFKD", word)
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _is_denial(word: str) -> bool:
    """Words that end in n't, and long words of the lists with one letter wrong."""
    if word in _NOT_SHORT or word.endswith("n't"):
        return True
    return (
        len(word) >= 5
        and word not in _REAL
        and any(one_letter_apart(word, known) for known in _MENDED)
    )
