"""The errors a person can meet, as one small tree; anything else that escapes is a bug.

    NegPromptError          exit code 1: the job failed while it ran (disk full, out of memory, no network)
    +-- UsageError          exit code 2: what was asked for cannot be done (bad option, bad input, missing file)

Every message names the thing that is wrong and the fix, because it is all that is shown without --debug.
"""

import difflib
from collections.abc import Iterable


class NegPromptError(Exception):
    """The job failed at run time; `str(error)` is the whole message for the user."""

    exit_code = 1


class UsageError(NegPromptError):
    """The request or its input is wrong; the message says what to change."""

    exit_code = 2


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return ` Did you mean 'a', 'b'?` with the known names nearest to `name`, or every known name if none is near.

    Args:
        name: what was asked for.
        known: the names that exist.
        most: how many near names to offer.
    """
    names = sorted(set(known))
    folded = {n.casefold(): n for n in names}
    near = [folded[n] for n in difflib.get_close_matches(name.casefold(), list(folded), n=most, cutoff=0.6)]
    if near:
        return " Did you mean " + ", ".join(repr(n) for n in near) + "?"
    return " Known names: " + ", ".join(names) + "." if names else ""
