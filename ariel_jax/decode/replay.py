"""What drafts from the text would have brought, told from the text that there is. Host only.

Drafts from the text depend on it alone, and a verified text does not depend on drafts. So how many
steps any number of drafts would have needed can be counted afterwards, without trying it.
"""

from collections.abc import Sequence


class NGramReplay:
    """One request's text, and for each length of it where its suffix last occurred before.

    Finds what `speculative.lookup` finds for one branch, a token at a time.
    """

    def __init__(self, longest: int, shortest: int) -> None:
        """Looks for suffixes of `shortest` to `longest` tokens in a text that is empty so far."""
        self._sizes = range(longest, shortest - 1, -1)
        self._last: dict[tuple[int, ...], int] = {}  # n-gram -> where it last ended
        self.tokens: list[int] = []
        self._ends = [-1]  # by number of known tokens; -1: no suffix of it occurred before

    def extend(self, tokens: Sequence[int]) -> None:
        """Adds tokens to the text."""
        for token in tokens:
            self.tokens.append(int(token))
            n = len(self.tokens)
            grams = [tuple(self.tokens[n - m :]) for m in self._sizes if m <= n]
            self._ends.append(next((self._last[g] for g in grams if g in self._last), -1))
            for gram in grams:
                self._last[gram] = n - 1

    def steps(self, first: int, k: int) -> int:
        """Steps that k drafts each would have taken from token `first` to the end of the text."""
        at, taken, text = first, 0, self.tokens
        while at < len(text):
            end, held = self._ends[at], 0
            if end >= 0:
                period = at - 1 - end
                while held < k and at + held < len(text):
                    if text[end + 1 + held % period] != text[at + held]:
                        break
                    held += 1
            at += held + 1
            taken += 1
        return taken
