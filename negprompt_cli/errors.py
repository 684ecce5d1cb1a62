"""The errors of the package that a person may see. Any other exception that reaches a person is a bug.

    NegPromptError          exit code 1: the job failed while it ran (disk full, out of memory, no network)
    +-- UsageError          exit code 2: the request cannot be met (bad option, bad input, missing file)

Every message says what happened, where, and what to do, because nothing else is shown without --debug. The code that raises
an error does not know whether the command line called it, so its message names settings and files, never options. If an
option helps, the error has the name of a remedy and the facts for it, and `cli.remedies` writes the sentence.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class NegPromptError(Exception):
    """The job failed at run time; `str(error)` is the message for every caller.

    Args:
        message: what happened, where, and what to do.
        remedy: key in `cli.remedies.REMEDIES` of more advice for a person at the command line, or empty.
        facts: values by name, which the advice inserts.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "", **facts: object) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.facts = facts


class UsageError(NegPromptError):
    """The request or its input is wrong; the message says what to change."""

    exit_code = 2


class SeveralErrors(UsageError):
    """Several mistakes of one request, reported together.

    Args:
        errors: the mistakes, at least one.
    """

    def __init__(self, errors: Iterable[UsageError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return ` Did you mean 'a', 'b'?` with the known names nearest to `name`, or every known name if none is near.

    Args:
        name: what was asked for.
        known: the names that exist.
        most: how many near names to offer. Names that are much less alike than the nearest are not offered.
    """
    names = sorted(set(known))
    ratios = sorted(((_likeness(name, n), n) for n in names), key=lambda pair: (-pair[0], pair[1]))
    near = [n for ratio, n in ratios[:most] if ratio >= 0.6 and ratio >= ratios[0][0] - 0.1]
    if near:
        return " Did you mean " + ", ".join(map(repr, near)) + "?"
    return " Known names: " + ", ".join(names) + "." if names else ""


def _likeness(name: str, known: str) -> float:
    """How alike two names are, 0 to 1, without case; a match with a long part between dashes counts almost as much."""
    asked, whole = name.casefold(), known.casefold()
    parts = [part for part in whole.split("-") if len(part) >= 4] if "-" in whole else []
    alike = difflib.SequenceMatcher(None, asked, whole).ratio()
    return max([alike, *(0.95 * difflib.SequenceMatcher(None, asked, part).ratio() for part in parts)])


def first_fault(error: "ValidationError") -> str:
    """The place and description of the first error that pydantic found, such as `rows.0.auroc: Field required`."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'top level'}: {first['msg']}"


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
