"""The rule by which two texts name the same class or folder.

Two names match if they are equal in Unicode's composed form (NFC), ignoring case, with underscores, hyphens and white space
read as single spaces. An exactly equal name is preferred to one that matches by this rule. If a text matches two known names
by this rule, it matches neither.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_SEPARATORS = re.compile(r"[_\-\s]+")
_INVISIBLE = dict.fromkeys((0x00AD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF))


def clean(text: str) -> str:
    """Return a name in composed form (NFC), without invisible characters, with single spaces between words."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text.translate(_INVISIBLE))).split())


@lru_cache(maxsize=1 << 16)
def fold(text: str) -> str:
    """Return the normal form of a name; texts with the same normal form name the same class."""
    folded = clean(unicodedata.normalize("NFC", clean(text).casefold()))
    return " ".join(_SEPARATORS.split(folded)).strip() or folded


class Known:
    """Finds the known name that another text means."""

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
        """Return the known name that `text` means, or None."""
        return text if text in self._exact else self._folded.get(fold(text))
