"""When two texts name the same class or folder: the one rule for all of the package.

Names are the same if they are equal in Unicode's composed form (NFC), upper and lower case alike, with underscores, hyphens
and runs of white space read as one space. A name that is equal without changes always goes before one that is equal by this
rule, and where two known names are equal by it, neither is chosen.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_SEPARATORS = re.compile(r"[_\-\s]+")
_INVISIBLE = dict.fromkeys((0x00AD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF))


def clean(text: str) -> str:
    """A name as a person reads it: composed (NFC), without invisible characters, one space between words."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text.translate(_INVISIBLE))).split())


@lru_cache(maxsize=1 << 16)
def fold(text: str) -> str:
    """What texts that name the same class have in common."""
    folded = clean(unicodedata.normalize("NFC", clean(text).casefold()))
    return " ".join(_SEPARATORS.split(folded)).strip() or folded


class Known:
    """Names that exist, and which of them another text means."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._exact = frozenset(self.names)
        self._folded: dict[str, str | None] = {}
        for name in dict.fromkeys(self.names):
            key = fold(name)
            self._folded[key] = None if key in self._folded else name

    def __contains__(self, text: str) -> bool:
        return self.find(text) is not None

    def find(self, text: str) -> str | None:
        """The known name that `text` means, or None."""
        return text if text in self._exact else self._folded.get(fold(text))
